//! One connection of a server: calls come in, each runs in a task of its own, replies go out.
//!
//! ```text
//! handshake -> serving -> (draining ->) ended
//! ```
//!
//! Bounds: a connection has at most `in_flight_max` calls, each with at most one frame of
//! arguments and one of answer, and one batch of frames that is being written. A call has its place
//! until its reply is about to be written, so a client that does not listen soon has none left.
//! The arguments of all connections together have a bound as well, `in_flight_bytes_max`.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use onlyonce_storage::SessionRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tower_service::Service;

use super::handshake::{Client, LAST_WORD, turn_away, welcome};
use super::serving::{Shared, semaphore, until_draining};
use super::writer::{Outbound, Place, UnderWay, write_replies};
use crate::rpc::frame::{Frame, FrameError, FrameReader, payload_bytes_max};
use crate::rpc::wire::{self, Call, FromClient};
use crate::rpc::{HandshakeError, Incoming, ProtocolError, RefusalCode, Reply, Status};

/// Serves one connection until it ends. `handshake` is given back as soon as that is over.
pub(super) async fn connection<S, R, W>(
    (mut read, mut write): (R, W),
    handshake: OwnedSemaphorePermit,
    mut shared: Shared<S>,
) where
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let mut buffer = BytesMut::new();
    let server = Arc::clone(&shared.server);
    let within = server.options.handshake_timeout;
    let welcomed = tokio::select! {
        biased;
        welcomed = timeout(within, welcome(&mut read, &mut write, &mut buffer, &server)) => {
            welcomed.unwrap_or(Err(HandshakeError::TimedOut { within }))
        }
        () = until_draining(&mut shared.phase) => {
            Err(HandshakeError::Refused {
                code: RefusalCode::ShuttingDown,
                text: SHUTTING_DOWN.into(),
            })
        }
    };
    let client = match welcomed {
        Ok(client) => client,
        Err(error) => {
            tracing::debug!(%error, "connection refused");
            turn_away(&mut read, &mut write, &error).await;
            return;
        }
    };
    drop(handshake);
    onlyonce_storage::kill_point!("server: client welcomed, nothing read");

    let frame_max = payload_bytes_max(server.options.frame_bytes_max);
    let (out, replies) = mpsc::channel(QUEUED_FRAMES_MAX);
    let mut writer = JoinSet::new();
    let places = semaphore(server.options.in_flight_max);
    let under_way = UnderWay::of(&places);
    writer.spawn(write_replies(
        write,
        replies,
        under_way,
        server.options.write_timeout,
    ));
    Session {
        reader: FrameReader::new(read, buffer, frame_max),
        client,
        shared,
        calls: JoinSet::new(),
        places,
        out,
        writer,
        last_id: 0,
        draining: false,
    }
    .run()
    .await;
}

/// A connection after its handshake. Dropping it drops its calls.
struct Session<R, S> {
    reader: FrameReader<R>,
    client: Client,
    shared: Shared<S>,
    calls: JoinSet<()>,
    /// One permit for each call in flight: given back before the reply is written, since the next
    /// call may come as soon as the client has it.
    places: Arc<Semaphore>,
    out: mpsc::Sender<Outbound>,
    writer: JoinSet<io::Result<()>>,
    /// The highest number of a call that was taken.
    last_id: u64,
    draining: bool,
}

/// Why a session ends.
enum End {
    /// Every call that was taken has its reply in the queue.
    Drained,
    /// Nobody is there to be answered.
    Gone,
    /// The client does not keep to the protocol.
    Protocol(ProtocolError),
}

enum Event {
    Drain,
    Frame(Result<Option<Bytes>, FrameError>),
}

impl<R, S> Session<R, S>
where
    R: AsyncRead + Unpin,
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn run(mut self) {
        match self.serve().await {
            End::Drained => self.farewell().await,
            End::Gone => {}
            End::Protocol(error) => {
                tracing::debug!(%error, "client broke the protocol");
                // What it cannot say properly was not executed; what runs has lost its caller.
                let _ = self
                    .go_away(&format!("client broke the protocol: {error}"))
                    .await;
                self.calls.abort_all();
                self.farewell().await;
            }
        }
    }

    async fn serve(&mut self) -> End {
        while !(self.draining && self.calls.is_empty()) {
            let event = tokio::select! {
                // What a client that never pauses must not put off comes before its frames.
                biased;
                () = self.out.closed() => return End::Gone,
                () = until_draining(&mut self.shared.phase), if !self.draining => Event::Drain,
                Some(_) = self.calls.join_next() => continue,
                frame = self.reader.next() => Event::Frame(frame),
            };
            let step = match event {
                Event::Drain => {
                    self.draining = true;
                    onlyonce_storage::kill_point!("server: shutting down, client not told");
                    self.go_away(SHUTTING_DOWN).await
                }
                Event::Frame(Ok(Some(payload))) => self.hear_all(&payload).await,
                Event::Frame(Ok(None) | Err(FrameError::Io(_))) => Err(End::Gone),
                Event::Frame(Err(FrameError::Protocol(error))) => Err(End::Protocol(error)),
            };
            if let Err(end) = step {
                return end;
            }
        }
        End::Drained
    }

    /// Hears a frame, and those that have come with it.
    async fn hear_all(&mut self, first: &Bytes) -> Result<(), End> {
        self.hear(first).await?;
        for _ in 1..FRAMES_AT_ONCE {
            match self.reader.buffered() {
                Ok(Some(payload)) => self.hear(&payload).await?,
                Ok(None) => break,
                Err(error) => return Err(End::Protocol(error)),
            }
        }
        Ok(())
    }

    async fn hear(&mut self, payload: &Bytes) -> Result<(), End> {
        onlyonce_storage::kill_point!("server: frame read, not decoded");
        match wire::from_client(payload) {
            Ok(FromClient::Call(call)) => {
                onlyonce_storage::kill_point!("server: call decoded, not begun");
                self.take(call).await
            }
            Ok(FromClient::Acknowledge {
                session,
                first_unanswered,
            }) => {
                self.acknowledge(session, first_unanswered);
                Ok(())
            }
            Ok(FromClient::Goodbye) => Err(End::Gone),
            Err(error) => Err(End::Protocol(error)),
        }
    }

    /// Lets the store forget what was answered. Nobody waits for it, and one that is lost is made
    /// good by the next call's: where there is no place for it, it is left out.
    fn acknowledge(&mut self, session: u64, first_unanswered: u64) {
        let Some(executions) = self.shared.server.executions.clone() else {
            return;
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return;
        };
        while self.calls.try_join_next().is_some() {}
        let scope = self.client.scope.clone();
        self.calls.spawn(async move {
            let request = SessionRequest::Acknowledge {
                session,
                first_unanswered,
            };
            if let Err(error) = executions.session(scope, request).await {
                tracing::debug!(%error, "acknowledgement lost");
            }
            drop(place);
        });
    }

    /// Takes a call, or says why not.
    async fn take(&mut self, call: Call) -> Result<(), End> {
        let (id, last) = (call.id, self.last_id);
        if id <= last {
            return Err(End::Protocol(ProtocolError::IdNotRising { id, last }));
        }
        self.last_id = id;
        match self.place(&call) {
            Err(refusal) => self.write(wire::reply(id, &refusal)).await,
            Ok(place) => {
                self.begin(call, place);
                Ok(())
            }
        }
    }

    /// A place for `call`, or why it gets none.
    fn place(&self, call: &Call) -> Result<Place, Reply> {
        let server = &self.shared.server;
        let limit = server.options.arguments_bytes_max;
        if self.draining {
            return Err(Reply::refusal(Status::NotExecuted, SHUTTING_DOWN));
        }
        if call.arguments.len() > limit {
            let why = format!("arguments are larger than {limit} bytes");
            return Err(Reply::refusal(Status::TooLarge, why));
        }
        // Also where this server has no store at all: the first attempt met one that remembers,
        // and here nobody would.
        let bound_elsewhere = call.store.is_some() && call.store != server.store;
        if bound_elsewhere && !onlyonce_storage::planted!(StoreIdIgnored) {
            let why = "call is bound to another store than this server's";
            return Err(Reply::refusal(Status::Misdirected, why));
        }
        let call_permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let why = "connection has as many calls in flight as it may have";
            Reply::refusal(Status::Unavailable, why)
        })?;
        // OK because the length was just found to be within a limit of frames, which are small.
        let bytes = u32::try_from(call.arguments.len()).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.shared.bytes).try_acquire_many_owned(bytes);
        let bytes_permit = bytes.map_err(|_| {
            let why = "server holds as many bytes of arguments as it may";
            Reply::refusal(Status::Unavailable, why)
        })?;
        Ok(Place {
            _call: call_permit,
            _bytes: bytes_permit,
        })
    }

    fn begin(&mut self, call: Call, place: Place) {
        // Tasks that have ended would pile up while frames come in without a pause.
        while self.calls.try_join_next().is_some() {}

        let id = call.id;
        let in_flight = self.shared.in_flight.one();
        let out = self.out.clone();
        let service = self.shared.service.clone();
        let incoming = incoming(&self.client, call);
        let answer_max = self.shared.server.options.answer_bytes_max;
        let frame_max = self.client.frame_bytes_max;
        self.calls.spawn(async move {
            onlyonce_storage::kill_point!("server: call begun, service not called");
            let reply = AssertUnwindSafe(async { service.oneshot(incoming).await });
            let reply = match reply.catch_unwind().await {
                Ok(Ok(reply)) => reply,
                Err(_) => Reply::refusal(Status::InDoubt, "the service panicked"),
            };
            onlyonce_storage::kill_point!("server: service answered, reply not queued");
            let frame = fitting(id, &reply, answer_max, frame_max);
            let call = Some((in_flight, place));
            // OK because without a writer the connection is gone, and nobody waits.
            let _ = out.send(Outbound { frame, call }).await;
            onlyonce_storage::kill_point!("server: reply queued, call not over");
        });
    }

    async fn go_away(&mut self, reason: &str) -> Result<(), End> {
        self.write(wire::go_away(self.last_id, reason)).await
    }

    async fn write(&mut self, frame: Frame) -> Result<(), End> {
        let call = None;
        self.out
            .send(Outbound { frame, call })
            .await
            .map_err(|_| End::Gone)
    }

    /// Lets the writer finish, and the client hear it.
    async fn farewell(mut self) {
        // The calls that are left hold senders too.
        self.calls.shutdown().await;
        onlyonce_storage::kill_point!("server: calls over, connection not ended");
        drop(self.out);
        let written = self.writer.join_next().await;
        if matches!(written, Some(Ok(Ok(())))) {
            let _ = timeout(LAST_WORD, self.reader.discard()).await;
        }
    }
}

fn incoming(client: &Client, call: Call) -> Incoming {
    Incoming {
        scope: client.scope.clone(),
        verb: call.verb,
        method: call.method,
        key: call.key,
        first_sent: call.first_sent,
        attempt: call.attempt,
        // A deadline so far away that there is no such time is none.
        deadline: call
            .deadline
            .and_then(|left| Instant::now().checked_add(left)),
        session: call.session,
        store: call.store,
        arguments: call.arguments,
        execution: None,
        transaction: None,
        steps: None,
        goes_on_from: None,
    }
}

/// The frame of a reply, or of why it does not fit.
fn fitting(id: u64, reply: &Reply, answer_max: usize, frame_max: usize) -> Frame {
    let frame = wire::reply(id, reply);
    if reply.body.len() <= answer_max && frame.payload_bytes() <= frame_max {
        return frame;
    }
    let bytes = reply.body.len();
    let small = if reply.status.carries_answer() || reply.status == Status::State {
        let why = format!("answer of {bytes} bytes is larger than this connection carries");
        Reply::refusal(Status::AnswerTooLarge, why)
    } else {
        // The status says it all; the text is only for people.
        Reply::new(reply.status, Bytes::new()).retry_after(reply.retry_after)
    };
    wire::reply(id, &small)
}

const SHUTTING_DOWN: &str = "server is shutting down";

/// Frames that are heard before anything else is looked after; a few, so that a client that never pauses
/// puts nothing off for long.
const FRAMES_AT_ONCE: usize = 64;

/// Replies that wait for the socket; enough, so that many small ones are written at once. Those that find
/// no room wait in their tasks.
const QUEUED_FRAMES_MAX: usize = 256;
