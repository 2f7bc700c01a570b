//! One direction of a connection: reads, asks the script, writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::flow::{Flow, Next};
use super::plan::{Direction, Fault};
use super::stats::Stats;

/// One direction of a connection.
pub(super) struct Pipe<'a> {
    pub(super) direction: Direction,
    pub(super) flow: Flow,
    /// Set by this direction when it swallows; asked by the other one before it tells the sender
    /// that the receiver is gone, which would be news that this direction must not carry.
    pub(super) swallows: &'a AtomicBool,
    pub(super) opposite_swallows: &'a AtomicBool,
    pub(super) stats: &'a Mutex<Stats>,
}

/// Why the connection as a whole is over, though a direction may have more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    Blackhole,
    Reset,
}

impl Pipe<'_> {
    /// Runs until the sender has no more, or the connection as a whole is over.
    ///
    /// Dropping the future stops at an await; bytes that were read but not written are lost.
    pub(super) async fn run(
        mut self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Halt> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match from.read(&mut buffer).await {
                Ok(count) => count,
                // The sender's reset is also something that a swallowed direction does not carry.
                Err(_) if self.flow.swallows() => return Ok(()),
                Err(_) => return Err(Halt::Reset),
            };
            if count == 0 {
                return self.end(&mut to).await;
            }
            self.chunk(&buffer[..count], &mut to).await?;
        }
    }

    async fn end(&self, to: &mut WriteHalf<'_>) -> Result<(), Halt> {
        if self.flow.swallows() {
            return Ok(());
        }
        to.shutdown().await.or_else(|_| self.receiver_gone())
    }

    async fn chunk(&mut self, chunk: &[u8], to: &mut WriteHalf<'_>) -> Result<(), Halt> {
        let mut rest = chunk;
        let mut waited = Waited::NotYet;
        while !rest.is_empty() {
            match self.flow.next(rest.len()) {
                Next::Fire(fault) => {
                    self.fire(fault, to).await?;
                    if matches!(fault, Fault::Delay { .. }) {
                        waited = Waited::NotYet;
                    }
                }
                Next::Forward(count) => {
                    let (head, tail) = rest.split_at(count);
                    // Once for each chunk, however many slices it is cut into.
                    if waited == Waited::NotYet {
                        wait(self.flow.chunk_delay()).await;
                        waited = Waited::Done;
                    }
                    match to.write_all(head).await {
                        Ok(()) => self.stats.lock().count_delivered(self.direction, count),
                        Err(_) => {
                            self.receiver_gone()?;
                            self.stats.lock().bytes_swallowed += count as u64;
                        }
                    }
                    rest = tail;
                    if !rest.is_empty() {
                        // Gives the receiver a chance to see this slice by itself.
                        tokio::task::yield_now().await;
                    }
                }
                Next::Swallow(count) => {
                    self.stats.lock().bytes_swallowed += count as u64;
                    rest = &rest[count..];
                }
            }
        }
        Ok(())
    }

    async fn fire(&self, fault: Fault, to: &mut WriteHalf<'_>) -> Result<(), Halt> {
        self.stats.lock().count_fault(fault);
        // Before the FIN: from then on nothing more may be told.
        self.swallows.store(self.flow.swallows(), Ordering::Release);
        match fault {
            Fault::Blackhole => Err(Halt::Blackhole),
            Fault::Reset => Err(Halt::Reset),
            Fault::Close => to.shutdown().await.or_else(|_| self.receiver_gone()),
            Fault::Delay { .. } | Fault::DropRest | Fault::Slice { .. } => Ok(()),
        }
    }

    /// The receiver cannot be written to: the sender learns that by a reset, unless the direction
    /// back to the sender swallows everything.
    fn receiver_gone(&self) -> Result<(), Halt> {
        if self.opposite_swallows.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(Halt::Reset)
        }
    }
}

#[derive(PartialEq, Eq)]
enum Waited {
    Done,
    NotYet,
}

async fn wait(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// Large enough for throughput, small enough that a thousand connections cost 32 MiB.
const BUFFER_BYTES: usize = 16 * 1024;
