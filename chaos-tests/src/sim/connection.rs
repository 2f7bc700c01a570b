//! One connection: it carries messages both ways, and lets faults strike them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::protocol::{About, Cut, Protocol, Way};
use super::run::{GIVEN_UP_AFTER, Order, Strike, lost_for};
use super::wire::{SERVER, Wire, latency};
use crate::fault::{Phase, Place, What};
use crate::history::Happened;
use crate::seed::Draw;

/// One connection.
pub(super) struct Connection {
    wire: Arc<Wire>,
    ordinal: u64,
    client: Arc<str>,
    /// Of the server's process.
    epoch: u64,
    protocol: Mutex<Box<dyn Protocol>>,
    /// What the client said first: a message that comes again on another path begins with it.
    hello: Mutex<Bytes>,
    lanes: [Lane; 2],
    silent: AtomicBool,
    disowned: AtomicBool,
    dead: AtomicBool,
    died: Notify,
    /// An end of it may be gone.
    look: Notify,
}

/// One direction of it, with the end that messages are handed to.
pub(super) struct Lane {
    to: tokio::sync::Mutex<Option<WriteHalf<DuplexStream>>>,
}

// === impl Connection ===

impl Connection {
    /// The connection of this ordinal that this client has just made, with the server's process of
    /// now; the lanes are those up and down.
    pub(super) fn new(
        wire: Arc<Wire>,
        (ordinal, client): (u64, Arc<str>),
        protocol: Box<dyn Protocol>,
        lanes: [Lane; 2],
    ) -> Arc<Self> {
        let epoch = wire.born();
        Arc::new(Self {
            wire,
            ordinal,
            client,
            epoch,
            protocol: Mutex::new(protocol),
            hello: Mutex::new(Bytes::new()),
            lanes,
            silent: AtomicBool::new(false),
            disowned: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            look: Notify::new(),
        })
    }

    /// Whether this client has made it.
    pub(super) fn is_of(&self, client: &str) -> bool {
        *self.client == *client
    }

    /// Wakes it: an end of it may be gone.
    pub(super) fn look_again(&self) {
        self.look.notify_one();
    }

    /// Carries what comes from both ends, until they are through or it is broken.
    pub(super) async fn carry_until_it_ends(
        self: &Arc<Self>,
        from_client: ReadHalf<DuplexStream>,
        from_server: ReadHalf<DuplexStream>,
    ) {
        let looking = async {
            loop {
                self.look.notified().await;
            }
        };
        let both = async {
            tokio::join!(
                biased;
                carry(Arc::clone(self), Way::Up, from_client),
                carry(Arc::clone(self), Way::Down, from_server),
            )
        };
        tokio::select! {
            biased;
            () = self.died.notified() => {}
            () = looking => {}
            _ = both => {}
        }
    }

    /// Hands nothing over any more, and closes both directions.
    pub(super) async fn cut_off(&self) {
        self.dead.store(true, Ordering::Relaxed);
        for lane in &self.lanes {
            lane.to.lock().await.take();
        }
    }

    fn is_silenced(&self) -> bool {
        self.wire.is_silenced(self.epoch)
    }

    /// Carries one message, or does to it what strikes it.
    async fn pass(
        self: &Arc<Self>,
        way: Way,
        number: u64,
        message: Bytes,
        head: usize,
        about: Option<About>,
    ) {
        let run = self.wire.run();
        if way == Way::Up && number == 1 {
            *self.hello.lock() = message.clone();
        }
        // What opens a connection is a call's no more than another's.
        let subject = about.map_or((0, ordinal_of(self.ordinal)), |about| {
            (about.call, about.attempt)
        });
        let (sent, received) = match way {
            Way::Up => (Phase::RequestSent, Phase::RequestReceived),
            Way::Down => (Phase::ReplySent, Phase::ReplyReceived),
        };
        if about.is_some() {
            let what = if way == Way::Up {
                Happened::Sent
            } else {
                Happened::Replied
            };
            run.note(subject.0, subject.1, what);
        }
        let draw = run.seed().draw(&[PASSES, self.ordinal, way as u64, number]);
        sleep(latency(draw)).await;
        if self.silent.load(Ordering::Relaxed) || self.wire.is_parted(way) {
            return;
        }
        let mut again = Vec::new();
        for phase in [sent, received] {
            let possible = |place, what| can_strike(place, what, phase, about.is_some());
            for strike in run.strikes(phase, subject, possible) {
                if let What::Duplicate { later_ms } = strike.what {
                    again.push((Duration::from_millis(later_ms), strike.draw));
                }
                if self.strike(way, &message, head, &strike).await {
                    return;
                }
            }
        }
        // Only what arrives can arrive again.
        for (later, draw) in again {
            let (connection, message) = (Arc::clone(self), message.clone());
            tokio::spawn(async move {
                sleep(later).await;
                match way {
                    Way::Up => connection.by_another_path(message, draw).await,
                    Way::Down => connection.deliver(way, &message).await,
                }
            });
        }
        if about.is_some() && way == Way::Up {
            run.note(subject.0, subject.1, Happened::Received);
            let hello = self.hello.lock().clone();
            self.wire
                .keep(hello, message.clone(), run.seed().draw(&[KEEPS, subject.0]));
        }
        self.deliver(way, &message).await;
    }

    /// Does what strikes a message; says whether it is gone.
    async fn strike(
        self: &Arc<Self>,
        way: Way,
        message: &Bytes,
        head: usize,
        strike: &Strike,
    ) -> bool {
        let draw = strike.draw;
        match strike.what {
            What::Drop => {}
            What::Duplicate { .. } => return false,
            What::Delay { .. } => {
                // What comes behind it on this connection waits, as TCP keeps an order; what comes on
                // another one overtakes it.
                sleep(strike.what.delay(draw).unwrap_or_default()).await;
                return false;
            }
            What::PacketLoss => match lost_for(draw, strike.share) {
                // What comes behind it on this connection waits for it.
                Some(late) => {
                    sleep(late).await;
                    return false;
                }
                None => {
                    sleep(GIVEN_UP_AFTER).await;
                    self.end();
                }
            },
            What::Corrupt => {
                // Half of the damage is in what the receiver itself can tell, and half is found by
                // the sum that TLS and TCP have over everything, which ends the connection.
                if draw.bits() & 1 == 0 && head > 0 {
                    let mut damaged = message.to_vec();
                    let at = (draw.bits() >> 1) as usize % head.min(damaged.len());
                    damaged[at] ^= ((draw.bits() >> 32) as u8).max(1);
                    self.deliver(way, &damaged).await;
                } else {
                    self.end();
                }
            }
            What::Truncate => {
                let length = draw.within(0..=message.len() as u64 - 1) as usize;
                self.deliver(way, &message[..length]).await;
                self.end();
            }
            What::Reset => self.end(),
            What::Close => self.close(way).await,
            What::Blackhole => self.silent.store(true, Ordering::Relaxed),
            What::Partition => self.wire.part(way, strike),
            What::Crash { back_after_ms } => {
                let host = match strike.place {
                    Place::Client => self.client.to_string(),
                    _ => SERVER.to_owned(),
                };
                let back_after = Duration::from_millis(back_after_ms);
                self.wire.run().order(Order::Crash { host, back_after });
            }
            What::PowerCut => self.wire.run().order(Order::CutPower { draw: draw.bits() }),
            What::ClockJump { by_ms } => {
                self.wire.run().jump_clock(by_ms);
                return false;
            }
            _ => return false,
        }
        true
    }

    async fn deliver(&self, way: Way, bytes: &[u8]) {
        if self.dead.load(Ordering::Relaxed) || way == Way::Down && self.is_silenced() {
            return;
        }
        let lane = &self.lanes[way as usize];
        if let Some(to) = &mut *lane.to.lock().await {
            // OK because a receiver that is gone gets nothing.
            let _ = to.write_all(bytes).await;
        }
    }

    /// A message that comes again, on a connection of its own.
    async fn by_another_path(&self, message: Bytes, draw: Draw) {
        if self.disowned.load(Ordering::Relaxed) {
            return;
        }
        let hello = self.hello.lock().clone();
        let stays = Duration::from_millis(draw.within(0..=500));
        Arc::clone(&self.wire)
            .replay(vec![hello, message], stays)
            .await;
    }

    /// Ends one direction.
    async fn close(&self, way: Way) {
        if let Some(mut to) = self.lanes[way as usize].to.lock().await.take() {
            let _ = to.shutdown().await;
        }
    }

    /// Ends both.
    fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_one();
    }
}

/// Which faults the wire can let strike at this moment of a message.
fn can_strike(place: Place, what: What, phase: Phase, of_a_call: bool) -> bool {
    match place {
        Place::Wire => {
            what.fits(Place::Wire) && matches!(phase, Phase::RequestSent | Phase::ReplySent)
        }
        Place::Server => of_a_call && matches!(what, What::Crash { .. }),
        Place::Client => {
            of_a_call
                && matches!(what, What::Crash { .. })
                && matches!(phase, Phase::RequestSent | Phase::ReplyReceived)
        }
        Place::Disk => of_a_call && what == What::PowerCut,
        Place::Clock => of_a_call && phase == Phase::RequestReceived,
    }
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(to: WriteHalf<DuplexStream>) -> Self {
        Self {
            to: tokio::sync::Mutex::new(Some(to)),
        }
    }
}

async fn carry(connection: Arc<Connection>, way: Way, mut from: ReadHalf<DuplexStream>) {
    let mut buffer = BytesMut::new();
    let mut number = 0;
    loop {
        let cut = match buffer.is_empty() {
            true => Cut::More,
            false => connection.protocol.lock().cut(way, &buffer),
        };
        match cut {
            Cut::Message {
                bytes,
                head,
                about,
                disowns,
            } if bytes <= buffer.len() => {
                let message = buffer.split_to(bytes).freeze();
                number += 1;
                if disowns {
                    connection.disowned.store(true, Ordering::Relaxed);
                }
                connection.pass(way, number, message, head, about).await;
            }
            Cut::Message { .. } | Cut::More => match from.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => break,
            },
        }
    }
    // What is cut off in the middle goes on as it is.
    if !buffer.is_empty() {
        connection.deliver(way, &buffer).await;
    }
    if connection.is_silenced() || connection.silent.load(Ordering::Relaxed) {
        // The other end is not told.
        std::future::pending::<()>().await;
    }
    connection.close(way).await;
}

fn ordinal_of(connection: u64) -> u32 {
    u32::try_from(connection).unwrap_or(u32::MAX)
}

// Which decision is drawn.
const PASSES: u64 = 12;
const KEEPS: u64 = 13;
