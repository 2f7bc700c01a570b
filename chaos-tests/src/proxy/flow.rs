//! Where one direction of a connection stands in its script. Pure: bytes are only counted here.

use std::time::Duration;

use super::plan::{Fault, Step};

/// One direction's place in its script.
#[derive(Debug)]
pub(super) struct Flow {
    steps: std::vec::IntoIter<Step>,
    upcoming: Option<Step>,
    /// Bytes that came in so far, delivered or swallowed: offsets count both, so that a fault
    /// after a drop still has its place.
    seen: u64,
    delay: Option<Step>,
    chunks_delayed: u64,
    slice_bytes_max: usize,
    swallows: bool,
}

/// What to do with the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This fault starts, before any further byte.
    Fire(Fault),
    /// The next so many bytes go on.
    Forward(usize),
    /// The next so many bytes are thrown away.
    Swallow(usize),
}

// === impl Flow ===

impl Flow {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        let mut steps = steps.into_iter();
        Self {
            upcoming: steps.next(),
            steps,
            seen: 0,
            delay: None,
            chunks_delayed: 0,
            slice_bytes_max: usize::MAX,
            swallows: false,
        }
    }

    /// What to do first when `available` bytes (at least one) have arrived.
    ///
    /// The caller does that, and asks again with what is left.
    pub(super) fn next(&mut self, available: usize) -> Next {
        let mut count = available;
        if let Some(step) = self.upcoming {
            let ahead = step.after_bytes().saturating_sub(self.seen);
            if ahead == 0 {
                self.upcoming = self.steps.next();
                self.start(step);
                return Next::Fire(step.fault());
            }
            count = count.min(usize::try_from(ahead).unwrap_or(usize::MAX));
        }
        if !self.swallows {
            count = count.min(self.slice_bytes_max);
        }
        self.seen = self.seen.saturating_add(count as u64);
        if self.swallows {
            Next::Swallow(count)
        } else {
            Next::Forward(count)
        }
    }

    /// How long the chunk that just arrived has to wait. Zero without a delay.
    pub(super) fn chunk_delay(&mut self) -> Duration {
        let Some(step) = self.delay else {
            return Duration::ZERO;
        };
        let Fault::Delay { base, jitter } = step.fault() else {
            return Duration::ZERO;
        };
        let chunk = self.chunks_delayed;
        self.chunks_delayed += 1;
        step.jittered(base, jitter, chunk)
    }

    /// Whether nothing of this direction reaches the receiver any more, not even its end.
    pub(super) fn swallows(&self) -> bool {
        self.swallows
    }

    fn start(&mut self, step: Step) {
        match step.fault() {
            Fault::Close | Fault::DropRest => self.swallows = true,
            Fault::Delay { .. } => {
                self.delay = Some(step);
                self.chunks_delayed = 0;
            }
            Fault::Slice { bytes_max } => self.slice_bytes_max = bytes_max.max(1),
            // The connection ends or stands still as a whole: the caller's part.
            Fault::Blackhole | Fault::Reset => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::plan::{Direction, Plan, Rule};
    use crate::seed::Seed;

    /// What happens to `total` bytes that arrive in chunks of `chunk`: the faults with their
    /// offsets, and how many bytes were delivered.
    fn run(plan: &Plan, total: usize, chunk: usize) -> (Vec<(usize, Fault)>, usize) {
        let mut flow = Flow::new(plan.script(Seed::new(1), 1).to_client);
        let (mut fired, mut seen, mut delivered) = (Vec::new(), 0, 0);
        while seen < total {
            let mut rest = chunk.min(total - seen);
            while rest > 0 {
                match flow.next(rest) {
                    Next::Fire(fault) => fired.push((seen, fault)),
                    Next::Forward(count) => {
                        (rest, seen, delivered) = (rest - count, seen + count, delivered + count);
                    }
                    Next::Swallow(count) => (rest, seen) = (rest - count, seen + count),
                }
            }
        }
        (fired, delivered)
    }

    #[test]
    fn faults_start_at_their_byte_however_the_stream_is_chunked() {
        let slice = Fault::Slice { bytes_max: 3 };
        let plan = Plan::none()
            .rule(Rule::answer_lost(11))
            .rule(Rule::new(Direction::ToClient, slice).after_bytes(4))
            .rule(Rule::new(Direction::ToClient, Fault::Reset).after_bytes(20));
        for chunk in 1..=40 {
            let (fired, delivered) = run(&plan, 40, chunk);
            assert_eq!(
                fired,
                [(4, slice), (11, Fault::DropRest), (20, Fault::Reset)]
            );
            assert_eq!(delivered, 11);
        }
    }

    #[test]
    fn a_fault_past_the_end_of_the_stream_never_starts() {
        let plan = Plan::none().rule(Rule::answer_lost(40));
        assert_eq!(run(&plan, 40, 7), (Vec::new(), 40));
    }

    #[test]
    fn slices_are_never_longer_than_asked_and_never_empty() {
        for bytes_max in [0, 1, 5] {
            let slice = Fault::Slice { bytes_max };
            let plan = Plan::none().rule(Rule::new(Direction::ToClient, slice));
            let mut flow = Flow::new(plan.script(Seed::new(1), 1).to_client);
            assert_eq!(flow.next(100), Next::Fire(slice));
            assert_eq!(flow.next(100), Next::Forward(bytes_max.max(1)));
        }
    }

    #[test]
    fn only_chunks_after_the_delay_starts_wait() {
        let (base, jitter) = (Duration::from_millis(5), Duration::ZERO);
        let delay = Fault::Delay { base, jitter };
        let plan = Plan::none().rule(Rule::new(Direction::ToClient, delay).after_bytes(1));
        let mut flow = Flow::new(plan.script(Seed::new(1), 1).to_client);
        assert_eq!(flow.next(9), Next::Forward(1));
        assert_eq!(flow.chunk_delay(), Duration::ZERO);
        assert_eq!(flow.next(8), Next::Fire(delay));
        assert_eq!(flow.chunk_delay(), base);
    }
}
