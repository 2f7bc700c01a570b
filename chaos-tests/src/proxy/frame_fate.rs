//! What becomes of one frame: decided here, done in [`frame_pipe`](super::frame_pipe).

use std::time::Duration;

use super::naming::Named;
use crate::executor::NotRun;
use crate::fault::{Fault, Phase, Place, Subject, What};
use crate::seed::{Draw, Seed};

/// Everything that strikes one frame.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) delay: Duration,
    /// Until when nothing passes, since the proxy began; `None` within is for ever.
    pub(super) held: Option<Option<Duration>>,
    pub(super) corrupt: Option<Draw>,
    /// The copies that are to come: each has struck when it comes, and not before.
    pub(super) twins: Vec<Twin>,
    pub(super) end: Option<End>,
    /// The ordinals of the faults that struck, those of the copies aside.
    pub(super) struck: Vec<usize>,
}

/// The frame once more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Twin {
    /// The ordinal of the fault that sends it.
    pub(super) fault: usize,
    pub(super) later: Duration,
}

/// How the frame, and perhaps its connection, ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) what: What,
    /// How many bytes of the frame pass before.
    pub(super) after_bytes: Option<u64>,
    pub(super) draw: Draw,
}

/// Whether a proxy that knows frames can let it strike.
///
/// # Errors
///
/// With the reason, if not.
pub(super) fn can(fault: &Fault) -> Result<(), NotRun> {
    let because = |reason: &str| Err(NotRun::because(reason));
    if fault.place != Place::Wire {
        return because("a proxy is on the wire");
    }
    if !matches!(
        fault.when.phase,
        None | Some(Phase::RequestSent | Phase::ReplySent)
    ) {
        return because("a proxy sees what is sent, at no other phase");
    }
    let cuts = matches!(
        fault.what,
        What::Blackhole | What::Close | What::Reset | What::Truncate
    );
    if fault.when.after_bytes.is_some() && !cuts {
        return because(
            "frames are struck as a whole; truncate, reset, close and blackhole cut them",
        );
    }
    match fault.what {
        What::Blackhole
        | What::Close
        | What::Corrupt
        | What::Delay { .. }
        | What::Drop
        | What::Duplicate { .. }
        | What::Partition
        | What::Reset
        | What::Truncate => Ok(()),
        What::PacketLoss => because("a proxy sees no packets; the kernel does"),
        _ => because("nothing on the wire does that"),
    }
}

// === impl Fate ===

impl Fate {
    pub(super) fn of(
        faults: &[Fault],
        seed: Seed,
        named: Named,
        phase: Phase,
        at: Duration,
    ) -> Self {
        let Named { call, attempt } = named;
        let subject = Subject {
            call,
            attempt,
            phase,
            at,
        };
        let mut fate = Self::default();
        for (index, fault) in faults.iter().enumerate() {
            // What the first one ends no other one meets.
            if fate.end.is_some() {
                break;
            }
            let Some(draw) = fault.strikes(seed, subject) else {
                continue;
            };
            if let What::Duplicate { later_ms } = fault.what {
                fate.twins.push(Twin {
                    fault: index,
                    later: Duration::from_millis(later_ms),
                });
                continue;
            }
            fate.struck.push(index);
            match fault.what {
                What::Corrupt => fate.corrupt = Some(draw),
                What::Delay { .. } => fate.delay += fault.what.delay(draw).unwrap_or_default(),
                What::Partition => fate.held = Some(fault.when.until_ms.map(Duration::from_millis)),
                what => {
                    let after_bytes = fault.when.after_bytes;
                    fate.end = Some(End {
                        what,
                        after_bytes,
                        draw,
                    });
                }
            }
        }
        fate
    }
}

// === impl End ===

impl End {
    /// How many bytes of a frame of this length pass.
    pub(super) fn passes(&self, frame_bytes: usize) -> usize {
        let longest = frame_bytes.saturating_sub(1) as u64;
        let passes = match (self.what, self.after_bytes) {
            (What::Drop, _) => 0,
            (_, Some(said)) => said.min(longest),
            // At least a byte, so that its receiver waits for the rest.
            (What::Truncate, None) => self.draw.within(1.min(longest)..=longest),
            _ => 0,
        };
        usize::try_from(passes).unwrap_or(0)
    }
}
