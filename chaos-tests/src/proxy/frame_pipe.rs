//! One direction of a connection, frame by frame.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::sleep;

use super::frame_fate::{End, Fate};
use super::frame_proxy::Shared;
use super::framing::{Framing, From, Piece, Splitter};
use super::http1;
use super::naming::Exchanges;
use crate::fault::{Phase, What};

/// What both directions of a connection share.
#[derive(Debug, Default)]
pub(super) struct Talk {
    exchanges: Exchanges,
    /// What the client opened the connection with, for twins.
    opening: Option<Bytes>,
    /// For HTTP: whether the responses to come have bodies, in order.
    bodiless: std::collections::VecDeque<bool>,
}

/// Why a connection as a whole is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// In silence.
    Blackhole,
    /// With an end for both.
    Closed,
    /// With a reset for both.
    Reset,
}

/// One direction.
pub(super) struct FramePipe {
    from: From,
    splitter: Splitter,
    framing: Framing,
    talk: Arc<Mutex<Talk>>,
    shared: Arc<Shared>,
}

// === impl FramePipe ===

impl FramePipe {
    pub(super) fn new(from: From, talk: Arc<Mutex<Talk>>, shared: Arc<Shared>) -> Self {
        let framing = shared.framing;
        Self {
            from,
            splitter: Splitter::new(framing, from),
            framing,
            talk,
            shared,
        }
    }

    /// Runs until the sender has no more, or the connection as a whole is over.
    pub(super) async fn run(
        mut self,
        mut source: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Halt> {
        let mut buffer = BytesMut::new();
        loop {
            loop {
                let bodiless = self.talk.lock().bodiless.front().copied().unwrap_or(false);
                match self.splitter.next(&mut buffer, bodiless) {
                    Ok(None) => break,
                    Ok(Some(Piece::Opening(opening))) => {
                        write(&mut to, &opening).await?;
                        if self.from == From::Client {
                            self.talk.lock().opening = Some(opening);
                        }
                    }
                    Ok(Some(Piece::Frame(frame))) => {
                        if !self.frame(frame, &mut to).await? {
                            return self.swallow(source).await;
                        }
                    }
                    Err(_) => {
                        self.shared.count_unreadable();
                        return Err(Halt::Reset);
                    }
                }
            }
            buffer.reserve(READ_BYTES);
            match source.read_buf(&mut buffer).await {
                Ok(0) => {
                    // What is no frame yet ends with its sender.
                    write(&mut to, &buffer).await?;
                    return to.shutdown().await.map_err(|_| Halt::Reset);
                }
                Ok(_) => {}
                Err(_) => return Err(Halt::Reset),
            }
        }
    }

    /// Whether the direction goes on behind it.
    async fn frame(&mut self, frame: Bytes, to: &mut WriteHalf<'_>) -> Result<bool, Halt> {
        let (named, phase) = self.name(&frame);
        self.shared.count(phase);
        let fate = match named {
            Some(named) => self.shared.fate(named, phase),
            None => Fate::default(),
        };
        if !fate.delay.is_zero() {
            sleep(fate.delay).await;
        }
        if let Some(until) = fate.held {
            self.shared.until(until).await;
        }
        let frame = match fate.corrupt {
            Some(draw) => corrupted(&frame, self.splitter.content(&frame), draw),
            None => frame,
        };
        if let Some(end) = fate.end {
            return self.end(end, &frame, to).await;
        }
        write(to, &frame).await?;
        for twin in fate.twins {
            // OK because only a frame that is some call's has a fate.
            let Some(named) = named else { continue };
            if phase == Phase::RequestSent {
                let opening = self.talk.lock().opening.clone();
                self.shared.send_twin(opening, frame.clone(), twin, named);
            } else {
                sleep(twin.later).await;
                write(to, &frame).await?;
                self.shared.strike(twin.fault, named, phase);
            }
        }
        Ok(true)
    }

    async fn end(&self, end: End, frame: &[u8], to: &mut WriteHalf<'_>) -> Result<bool, Halt> {
        let passes = end.passes(frame.len());
        if passes > 0 {
            write(to, &frame[..passes]).await?;
        }
        match end.what {
            What::Drop => {
                if self.from == From::Client {
                    let mut talk = self.talk.lock();
                    talk.exchanges.forget_last();
                    talk.bodiless.pop_back();
                }
                Ok(true)
            }
            What::Blackhole => Err(Halt::Blackhole),
            What::Reset => Err(Halt::Reset),
            What::Truncate => {
                // OK because a receiver that is gone has no more to be told.
                let _ = to.shutdown().await;
                Err(Halt::Closed)
            }
            _ => {
                let _ = to.shutdown().await;
                Ok(false)
            }
        }
    }

    fn name(&self, frame: &[u8]) -> (Option<super::naming::Named>, Phase) {
        let mut talk = self.talk.lock();
        let http = self.framing == Framing::Http1;
        match self.from {
            From::Client => {
                if http {
                    talk.bodiless.push_back(http1::asks_for_head(frame));
                }
                let named = self.shared.naming.request(frame, &mut talk.exchanges);
                (named, Phase::RequestSent)
            }
            From::Server if http && http1::is_interim(frame) => (None, Phase::ReplySent),
            From::Server => {
                talk.bodiless.pop_front();
                let named = self.shared.naming.reply(frame, &mut talk.exchanges);
                (named, Phase::ReplySent)
            }
        }
    }

    /// Its receiver believes that it has ended.
    async fn swallow(&self, mut source: ReadHalf<'_>) -> Result<(), Halt> {
        let mut nothing = vec![0; READ_BYTES];
        while matches!(source.read(&mut nothing).await, Ok(length) if length > 0) {}
        Ok(())
    }
}

async fn write(to: &mut WriteHalf<'_>, bytes: &[u8]) -> Result<(), Halt> {
    to.write_all(bytes).await.map_err(|_| Halt::Reset)
}

/// One byte of its content is another one. A frame without content stays as it is but for its last
/// byte.
fn corrupted(frame: &Bytes, content: usize, draw: crate::seed::Draw) -> Bytes {
    let mut bytes = frame.to_vec();
    let last = bytes.len().saturating_sub(1);
    let at = draw.within(content.min(last) as u64..=last as u64);
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
        // Never by nothing: 1 to 255.
        *byte ^= u8::try_from(1 + draw.bits() % 255).unwrap_or(1);
    }
    bytes.into()
}

/// Reads no more at a time, so that many connections cost little.
const READ_BYTES: usize = 16 * 1024;

/// A twin's connection lasts no longer.
pub(super) const TWIN: Duration = Duration::from_secs(5);

/// A server that has said nothing for so long has answered a twin, or does not.
pub(super) const TWIN_QUIET: Duration = Duration::from_secs(1);
