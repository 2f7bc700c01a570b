//! One connection of a channel: who waits for which reply, and what was written of whom.
//!
//! A single task reads and writes, so that when either fails what was written is known to the
//! byte. A call counts as sent from its first byte that the socket took.
//!
//! ```text
//! open -> retired   the server goes away, the channel is gone, an attempt was dropped in silence,
//!                   or the server's clock was set back: no new calls, those under way may finish
//! open | retired -> ended   the connection is lost, or nobody waits any more
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use onlyonce_storage::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::ChannelOptions;
use crate::rpc::frame::{Batch, Frame, FrameError, FrameReader, after_others, payload_bytes_max};
use crate::rpc::handshake::Welcome;
use crate::rpc::wire::{self, FromServer};
use crate::rpc::{NotSent, ProtocolError, Reply, Status, TransportError};

#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<State>,
    /// Wakes the task when there is something to write or nothing left to wait for.
    wake: Notify,
    /// Wakes the task when a call ended or the connection is retired, also while it is writing.
    ended: Notify,
    /// One permit for each call that may be in flight. Closed when the connection is retired, so
    /// that whoever waits for a permit goes on to the next connection.
    permits: Arc<Semaphore>,
    /// Whole frames that came in since the handshake.
    received: Arc<AtomicU64>,
    /// Bytes that the socket took since the handshake.
    written: AtomicU64,
    welcome: Welcome,
    welcomed_at: Instant,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// In the order of their numbers, so that what ends them all ends them in an order.
    calls: BTreeMap<u64, Waiting>,
    /// Bounded by the permits: a call leaves the queue when its future is dropped.
    queue: VecDeque<(u64, Frame)>,
    last_id: u64,
    /// Bytes that were handed to the writer since the handshake.
    handed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Retired,
    Ended,
}

#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Result<Reply, TransportError>>,
    /// Where its frame begins among all bytes that are written; `None` while it is queued.
    starts_at: Option<u64>,
    /// What had come in when it was queued.
    received_before: u64,
}

/// The caller's end of a call. Dropping it before the reply forgets the call.
#[derive(Debug)]
pub(super) struct CallInFlight {
    reply: oneshot::Receiver<Result<Reply, TransportError>>,
    /// Whether it has ended: then the connection has forgotten it already.
    ended: bool,
    connection: Arc<Connection>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

/// Ends the connection also when its task is dropped together with its runtime.
struct EndOnDrop(Arc<Connection>, TransportError);

// === impl Connection ===

impl Connection {
    /// The connection whose handshake has just ended with `welcome`; `buffer` holds what came
    /// behind it. Its task runs in the background.
    pub(super) fn start(
        read: impl AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
        buffer: BytesMut,
        welcome: Welcome,
        options: &ChannelOptions,
    ) -> Arc<Self> {
        let reader = FrameReader::new(read, buffer, payload_bytes_max(options.frame_bytes_max));
        let in_flight_max = options.in_flight_max.clamp(1, welcome.in_flight_max);
        // OK because the semaphore takes any `u32` on the platforms that we run on; a smaller one
        // gets its own maximum.
        let permits = usize::try_from(in_flight_max).unwrap_or(Semaphore::MAX_PERMITS);
        let connection = Arc::new(Self {
            state: Mutex::new(State {
                phase: Phase::Open,
                calls: BTreeMap::new(),
                queue: VecDeque::new(),
                last_id: 0,
                handed: 0,
            }),
            wake: Notify::new(),
            ended: Notify::new(),
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            received: reader.received(),
            written: AtomicU64::new(0),
            welcome,
            welcomed_at: Instant::now(),
        });
        tokio::spawn(drive(Arc::clone(&connection), reader, write));
        connection
    }

    /// Whether new calls may be sent on it.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// The right to one call in flight, later. `None` when the connection takes no new calls.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// The right to one call in flight, if there is one now.
    pub(super) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    pub(super) const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The server's clock now: what it said in the handshake, and what has passed since.
    pub(super) fn server_now(&self) -> Timestamp {
        self.welcome.now.plus(self.welcomed_at.elapsed())
    }

    /// Queues the call whose frame `make` makes of its number. `make` runs only when the call
    /// is really queued.
    pub(super) fn submit(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        make: impl FnOnce(u64) -> Frame,
    ) -> Result<CallInFlight, NotSent> {
        let (sender, reply) = oneshot::channel();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(NotSent::ConnectionEnded);
        }
        state.last_id += 1;
        let id = state.last_id;
        state.queue.push_back((id, make(id)));
        state.calls.insert(
            id,
            Waiting {
                reply: sender,
                starts_at: None,
                received_before: self.received.load(Ordering::Acquire),
            },
        );
        drop(state);
        self.wake.notify_one();
        Ok(CallInFlight {
            reply,
            ended: false,
            connection: Arc::clone(self),
            id,
            _permit: permit,
        })
    }

    /// Queues a frame that nobody replies to. At most one a second is given.
    pub(super) fn say(&self, frame: Frame) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        // No call has this number.
        state.queue.push_back((0, frame));
        drop(state);
        self.wake.notify_one();
    }

    /// No new calls; those under way may finish.
    pub(super) fn retire(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Retired;
        }
        drop(state);
        self.permits.close();
        self.look_around();
    }

    /// Wakes the task to see whether anybody still waits. While the connection is open, nobody needs
    /// to: the task goes on in any case.
    fn look_around(&self) {
        self.wake.notify_one();
        self.ended.notify_one();
    }

    /// Nobody waits for call `id` any more.
    fn forget(&self, id: u64) {
        let mut state = self.state.lock();
        let Some(waiting) = state.calls.remove(&id) else {
            return;
        };
        if waiting.starts_at.is_none() {
            // It is never written.
            state.queue.retain(|(queued, _)| *queued != id);
        }
        let is_open = state.phase == Phase::Open;
        drop(state);
        // Silence since it was queued: perhaps the peer is gone and the network has not said so, or a
        // wrong length makes us wait for the rest of a frame that swallows all that comes behind it.
        // The next attempt must not go the same way.
        if self.received.load(Ordering::Acquire) == waiting.received_before {
            self.retire();
        } else if !is_open {
            self.look_around();
        }
    }

    /// Moves queued frames to `batch`, as many as fit.
    fn hand_over(&self, batch: &mut Batch) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        while batch.has_room() {
            let Some((id, frame)) = state.queue.pop_front() else {
                return;
            };
            if let Some(waiting) = state.calls.get_mut(&id) {
                waiting.starts_at = Some(state.handed);
            }
            state.handed += frame.bytes() as u64;
            batch.push(frame);
        }
    }

    fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.phase != Phase::Open && state.calls.is_empty()
    }

    async fn read(
        &self,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
    ) -> Result<(), FrameError> {
        while let Some(payload) = reader.next().await? {
            self.take(wire::from_server(&payload)?)?;
        }
        Ok(())
    }

    fn take(&self, message: FromServer) -> Result<(), ProtocolError> {
        match message {
            FromServer::GoAway { last_id, reason } => {
                self.retire();
                let mut guard = self.state.lock();
                let state = &mut *guard;
                state.queue.retain(|(id, _)| *id <= last_id);
                let gone = state.calls.split_off(&last_id.saturating_add(1));
                for (_, waiting) in gone {
                    let reason = Arc::clone(&reason);
                    // OK because a caller who is gone needs no answer.
                    let _ = waiting.reply.send(Err(TransportError::GoneAway { reason }));
                }
                drop(guard);
                self.look_around();
            }
            FromServer::Reply { id, reply } => {
                let mut state = self.state.lock();
                let unsent = |waiting: &Waiting| waiting.starts_at.is_none();
                if id > state.last_id || state.calls.get(&id).is_some_and(unsent) {
                    return Err(ProtocolError::UnsentCall { id });
                }
                let status = reply.status;
                // Nobody may wait any more: the reply came too late.
                let id = match onlyonce_storage::planted!(AnswersMixedUp) {
                    true => state.calls.keys().next().copied().unwrap_or(id),
                    false => id,
                };
                if let Some(waiting) = state.calls.remove(&id) {
                    let _ = waiting.reply.send(Ok(reply));
                }
                let is_open = state.phase == Phase::Open;
                drop(state);
                // The server's clock is not where the handshake said: it was set back. The next
                // connection learns it anew; on this one every call would be refused.
                // And a session that has ended is followed by another.
                if let Status::FirstSentAhead | Status::SessionExpired | Status::UnknownSession =
                    status
                {
                    self.retire();
                } else if !is_open {
                    self.look_around();
                }
            }
        }
        Ok(())
    }

    /// Writes what is queued, until the connection is retired and nobody waits any more.
    async fn write(&self, io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut batch = Batch::default();
        let wrote = |count| {
            self.written.fetch_add(count as u64, Ordering::AcqRel);
        };
        loop {
            self.hand_over(&mut batch);
            if !batch.is_empty() {
                // Without a time limit: whoever waits has a deadline, and drops its future.
                batch.write_to(io, None, wrote).await?;
            } else if self.is_done() {
                batch.push(wire::goodbye());
                batch.write_to(io, Some(FAREWELL), |_| {}).await?;
                return io.shutdown().await;
            } else {
                self.wake.notified().await;
                // Others are about to call too, woken by the replies that were read together.
                if self.has_many() {
                    after_others().await;
                }
            }
        }
    }

    /// Whether more than one call is under way.
    fn has_many(&self) -> bool {
        self.state.lock().calls.len() > 1
    }

    /// Ends when nobody has waited for a while, and the farewell is still not written: the peer
    /// takes nothing.
    async fn abandoned(&self) {
        while !self.is_done() {
            self.ended.notified().await;
        }
        sleep(FAREWELL * 2).await;
    }

    /// Fails everybody who waits: with `cause` if any byte was written, otherwise as not sent.
    fn end(&self, cause: &TransportError) {
        let written = self.written.load(Ordering::Acquire);
        let mut state = self.state.lock();
        state.phase = Phase::Ended;
        state.queue.clear();
        for waiting in std::mem::take(&mut state.calls).into_values() {
            let sent = !onlyonce_storage::planted!(LostAnswerNotExecuted)
                && waiting.starts_at.is_some_and(|start| start < written);
            let error = match sent {
                true => cause.clone(),
                false => NotSent::ConnectionEnded.into(),
            };
            // OK because a caller who is gone needs no answer.
            let _ = waiting.reply.send(Err(error));
        }
        drop(state);
        self.permits.close();
    }
}

/// Reads and writes until the connection ends.
async fn drive(
    connection: Arc<Connection>,
    mut reader: FrameReader<impl AsyncRead + Unpin>,
    mut io: impl AsyncWrite + Unpin,
) {
    let mut end = EndOnDrop(
        Arc::clone(&connection),
        lost(io::ErrorKind::Interrupted.into()),
    );
    let result = tokio::select! {
        biased;
        result = connection.read(&mut reader) => result,
        () = connection.abandoned() => return,
        result = connection.write(&mut io) => match result {
            Ok(()) => return,
            Err(error) => {
                // The peer has closed; what it said before that counts.
                connection.retire();
                match timeout(FAREWELL, connection.read(&mut reader)).await {
                    Ok(Err(error @ FrameError::Protocol(_))) => Err(error),
                    Ok(_) | Err(_) => Err(FrameError::Io(error)),
                }
            }
        },
    };
    end.1 = match result {
        Ok(()) => lost(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "peer closed the connection",
        )),
        Err(FrameError::Io(error)) => lost(error),
        Err(FrameError::Protocol(ProtocolError::Truncated)) => lost(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            ProtocolError::Truncated,
        )),
        Err(FrameError::Protocol(error)) => error.into(),
    };
}

fn lost(error: io::Error) -> TransportError {
    TransportError::Lost(Arc::new(error))
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(&self.1);
    }
}

impl Future for CallInFlight {
    type Output = Result<Reply, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.reply).poll(cx));
        self.ended = true;
        // A connection answers everybody before it is dropped.
        Poll::Ready(ended.unwrap_or_else(|_| Err(NotSent::ConnectionEnded.into())))
    }
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.forget(self.id);
        }
    }
}

/// How long a peer that is being left may keep us.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use onlyonce_middleware::client::Executed;
    use tokio::io::{AsyncReadExt, duplex, split};

    use super::*;

    fn welcome() -> Welcome {
        Welcome {
            now: Timestamp::from_millis(1),
            store: None,
            session: None,
            frame_bytes_max: 4096,
            in_flight_max: 8,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_does_not_keep_a_connection_that_nobody_wants() {
        let (ours, _theirs) = duplex(4);
        let (read, write) = split(ours);
        let options = ChannelOptions::default();
        let connection = Connection::start(read, write, BytesMut::new(), welcome(), &options);
        let permit = connection.try_permit().unwrap();
        let frame = Frame::new(vec![0; 10], bytes::Bytes::new());
        let call = connection.submit(permit, |_| frame).unwrap();
        while connection.written.load(Ordering::Acquire) < 4 {
            tokio::task::yield_now().await;
        }
        drop(call);
        let kept = Arc::downgrade(&connection);
        drop(connection);
        sleep(FAREWELL * 3).await;
        assert!(kept.upgrade().is_none());
    }

    /// Found by the simulation: a damaged length made all later answers the rest of one frame.
    #[tokio::test]
    async fn a_connection_whose_frames_got_out_of_step_takes_no_other_attempt() {
        let (ours, mut theirs) = duplex(32);
        let (read, write) = split(ours);
        let options = ChannelOptions::default();
        let connection = Connection::start(read, write, BytesMut::new(), welcome(), &options);
        let permit = connection.try_permit().unwrap();
        let frame = Frame::new(vec![0; 10], bytes::Bytes::new());
        let call = connection.submit(permit, |_| frame).unwrap();
        // A length of 64 KiB and some of it: more than the pipe holds, so that it was taken.
        let mut answer = vec![0; 100];
        answer[..4].copy_from_slice(&65_536_u32.to_le_bytes());
        theirs.write_all(&answer).await.unwrap();
        drop(call);
        assert!(!connection.is_open());
    }

    #[tokio::test]
    async fn what_was_written_of_whom_is_known_to_the_byte() {
        // Three frames of ten bytes go out together; the peer takes this many bytes.
        for (taken, sent) in [(9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (29, 3)] {
            let (ours, mut theirs) = duplex(taken);
            let (read, write) = split(ours);
            let options = ChannelOptions::default();
            let connection = Connection::start(read, write, BytesMut::new(), welcome(), &options);
            let frame = || Frame::new(vec![0; 10], bytes::Bytes::new());
            let mut calls = Vec::new();
            for _ in 0..3 {
                let permit = connection.try_permit().unwrap();
                calls.push(connection.submit(permit, |_| frame()).unwrap());
            }
            // The task runs when this one waits: it fills the pipe before anything is read.
            while connection.written.load(Ordering::Acquire) < taken as u64 {
                tokio::task::yield_now().await;
            }
            theirs.shutdown().await.unwrap();
            let mut executed = Vec::new();
            for call in &mut calls {
                let error = (&mut call.reply).await.unwrap().unwrap_err();
                executed.push(error.executed());
            }
            assert!(
                executed[..sent].iter().all(|e| *e == Executed::Unknown),
                "{taken}"
            );
            assert!(
                executed[sent..]
                    .iter()
                    .all(|e| *e == Executed::NotThisAttempt),
                "{taken}"
            );
            let mut first = [0; 4];
            theirs.read_exact(&mut first).await.unwrap();
            assert_eq!(first, 6_u32.to_le_bytes());
        }
    }
}
