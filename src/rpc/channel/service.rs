//! The channel as a tower service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use onlyonce_middleware::client::outbox::{Peer, TellPeer};
use onlyonce_storage::{IdempotencyKey, planted};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, SetOnce};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use super::ChannelOptions;
use super::connection::{CallInFlight, Connection};
use super::dial::{Connector, dial};
use super::session::{Numbered, Place as NumberedPlace, Sessions};
use crate::rpc::wire::{self, Outgoing};
use crate::rpc::{METHOD_BYTES_MAX, NotSent, Reply, Request, Stamp, TransportError, Verb};

/// A multiplexed connection to one server, made when it is first needed and again when it was
/// lost.
///
/// It never retries: a request is written at most once, and a lost connection fails all that wait
/// on it at once. Clones share the connection.
///
/// # Readiness
///
/// `poll_ready` connects and takes one of the places for calls in flight, both on behalf of this
/// instance; `call` uses them up. So an attempt that times out before the channel is ready has
/// sent nothing. A clone is never ready. Dropping an instance while it is becoming ready leaks no
/// place, and a connection that is being made is kept for whoever comes next.
///
/// `poll_ready` never fails, because layers such as `Buffer` give a service up for good that
/// does; a failure to connect is what `call` then answers.
///
/// # Dropping a response
///
/// The call may be executed all the same. A call that was not yet written never is. If no whole
/// frame has come in on the connection since the call was queued, the peer may be gone without the
/// network having said so, or its frames have got out of step: the connection is retired, which
/// means that calls under way may finish and new ones get a new connection.
///
/// # Time
///
/// A request with a stamp notes in its call when it was first sent, on the server's clock, and
/// binds it to the server's store, if it has one. A later attempt carries what was noted first,
/// also to another server, which then answers
/// [`Status::Misdirected`](crate::rpc::Status::Misdirected).
///
/// The server's clock is learned in the handshake. A server that says
/// [`Status::FirstSentAhead`](crate::rpc::Status::FirstSentAhead) has set it back since: the
/// connection is retired, and the next one learns it anew.
pub struct Channel {
    shared: Arc<Shared>,
    readiness: Readiness,
}

/// The reply to one request, later.
#[derive(Debug)]
#[must_use = "a request whose future is dropped may still be executed"]
pub struct ResponseFuture(Response);

#[derive(Debug)]
enum Response {
    Done,
    Failed(TransportError),
    InFlight(CallInFlight),
}

/// Idle => (Acquiring | Ready) => (Ready | Failed) => Idle
#[derive(Default)]
enum Readiness {
    Acquiring(Pin<Box<dyn Future<Output = Result<Place, TransportError>> + Send + Sync>>),
    Failed(TransportError),
    #[default]
    Idle,
    Ready(Place),
}

/// A place for one call on a connection.
struct Place {
    connection: Arc<Connection>,
    permit: OwnedSemaphorePermit,
}

struct Shared {
    address: Arc<str>,
    options: ChannelOptions,
    connector: Option<Connector>,
    current: Mutex<Current>,
    sessions: Option<Arc<Sessions>>,
    /// Whether an acknowledgement is about to be sent.
    acknowledging: AtomicBool,
}

/// What a dial comes to, for all who wait for it, who are woken in the order in which they came.
type Dialled = SetOnce<Result<Arc<Connection>, TransportError>>;

/// The task that dials: its end is always told.
struct Dial(Arc<Dialled>);

#[derive(Debug)]
enum Current {
    Connected(Arc<Connection>),
    Connecting(Arc<Dialled>),
    Disconnected,
}

// === impl Channel ===

impl Channel {
    /// A channel to `address` (`host:port`, resolved at every connect). It connects when it is
    /// first needed.
    pub fn new(address: impl Into<Arc<str>>, options: ChannelOptions) -> Self {
        Self::with(address.into(), options, None, None)
    }

    /// A channel over what `connector` connects to.
    #[cfg(feature = "cli")]
    pub(crate) fn over(connector: Connector, options: ChannelOptions) -> Self {
        Self::with("simulated".into(), options, None, Some(connector))
    }

    /// A channel to the same server with the same options, which asks it for a session. It shares no
    /// connection with this one.
    pub(in crate::rpc) fn in_sessions(&self) -> Self {
        let options = self.shared.options.clone();
        let sessions = Arc::new(Sessions::new(options.session_window));
        let connector = self.shared.connector.clone();
        let address = Arc::clone(&self.shared.address);
        Self::with(address, options, Some(sessions), connector)
    }

    fn with(
        address: Arc<str>,
        options: ChannelOptions,
        sessions: Option<Arc<Sessions>>,
        connector: Option<Connector>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                address,
                options,
                connector,
                current: Mutex::new(Current::Disconnected),
                sessions,
                acknowledging: AtomicBool::new(false),
            }),
            readiness: Readiness::Idle,
        }
    }

    /// A number for a call that was never sent, as soon as the window has room. `None` where the
    /// server gives no sessions.
    pub(in crate::rpc) async fn number(&self) -> Result<Option<Arc<NumberedPlace>>, Elapsed> {
        let Some(sessions) = &self.shared.sessions else {
            return Ok(None);
        };
        let numbered = async {
            loop {
                let freed = sessions.freed();
                tokio::pin!(freed);
                // Before it looks, so that nothing that comes free in between is missed.
                freed.as_mut().enable();
                match sessions.number() {
                    Numbered::Without => return None,
                    Numbered::Place(place) => return Some(Arc::new(place)),
                    Numbered::Full => freed.await,
                    Numbered::Left => self.shared.retire(),
                }
            }
        };
        timeout(self.shared.options.session_wait, numbered).await
    }

    /// The answer of a call is handed to its caller now.
    pub(in crate::rpc) fn answered(&self, place: &NumberedPlace) {
        let idle = place.answered();
        if idle && !self.shared.acknowledging.swap(true, Ordering::AcqRel) {
            tokio::spawn(acknowledge(Arc::downgrade(&self.shared)));
        }
    }

    /// Where it connects to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    fn send(&self, place: Place, request: &Request) -> Result<CallInFlight, NotSent> {
        let length = request.method.len();
        if length == 0 || length > METHOD_BYTES_MAX {
            return Err(NotSent::MethodLength { length });
        }
        let Place { connection, permit } = place;
        let welcome = *connection.welcome();
        let frame_limit = welcome.frame_bytes_max.saturating_sub(NAMES_BYTES_MAX);
        let limit = self.shared.options.arguments_bytes_max.min(frame_limit);
        let size = request.arguments.len();
        if size > limit {
            return Err(NotSent::TooLarge { size, limit });
        }
        let Some(stamp) = &request.stamp else {
            return connection.submit(permit, |id| frame(id, request, None, None));
        };
        let left = time_left(stamp)?;
        let (now, store) = (connection.server_now(), welcome.store);
        if request.verb == Verb::Call && stamp.call.sent_before() && store.is_none() {
            return Err(NotSent::PeerDoesNotDedupe);
        }
        connection.submit(permit, |id| {
            if request.verb == Verb::Call {
                stamp.call.first_sent_or(now);
                if let Some(store) = store.filter(|_| !planted!(BoundToNoStore)) {
                    stamp.call.bind(store);
                }
            }
            let mut frame_of = stamp.clone();
            if let Some(place) = request
                .place
                .as_ref()
                .filter(|_| request.verb == Verb::Call)
            {
                frame_of.session = place.carried(welcome.session);
            }
            frame(id, request, Some(&frame_of), left)
        })
    }
}

/// What is left until the stamp's deadline, in whole milliseconds, rounded down: the server must
/// not work for a caller who has just gone.
fn time_left(stamp: &Stamp) -> Result<Option<Duration>, NotSent> {
    let Some(deadline) = stamp.deadline else {
        return Ok(None);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left < Duration::from_millis(1) {
        return Err(NotSent::DeadlinePassed);
    }
    Ok(Some(left))
}

fn frame(
    id: u64,
    request: &Request,
    stamp: Option<&Stamp>,
    deadline: Option<Duration>,
) -> crate::rpc::frame::Frame {
    let ticket = stamp.map(|stamp| stamp.call.ticket());
    let ticket = ticket.as_ref();
    let other_key = match (ticket, stamp) {
        (Some(ticket), Some(stamp)) if planted!(KeyInsideRetry) => {
            IdempotencyKey::parse(&format!("{}-{}", ticket.key.as_str(), stamp.attempt)).ok()
        }
        _ => None,
    };
    wire::call(&Outgoing {
        id,
        verb: request.verb,
        method: &request.method,
        key: other_key.as_ref().or(ticket.map(|ticket| &ticket.key)),
        first_sent: ticket
            .and_then(|ticket| ticket.first_sent)
            .filter(|_| !planted!(FirstSentNotSaid)),
        attempt: stamp.map_or(std::num::NonZeroU32::MIN, |stamp| stamp.attempt),
        deadline,
        session: stamp.and_then(|stamp| stamp.session),
        store: ticket.and_then(|ticket| ticket.store),
        arguments: &request.arguments,
    })
}

impl tower_service::Service<Request> for Channel {
    type Response = Reply;
    type Error = TransportError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        loop {
            match &mut self.readiness {
                Readiness::Acquiring(place) => {
                    self.readiness = match ready!(place.as_mut().poll(cx)) {
                        Ok(place) => Readiness::Ready(place),
                        Err(error) => Readiness::Failed(error),
                    };
                }
                Readiness::Failed(_) => return Poll::Ready(Ok(())),
                Readiness::Idle => {
                    self.readiness = match self.shared.place_now() {
                        Some(place) => Readiness::Ready(place),
                        None => Readiness::Acquiring(Box::pin(place(Arc::clone(&self.shared)))),
                    };
                }
                Readiness::Ready(place) if place.connection.is_open() => {
                    return Poll::Ready(Ok(()));
                }
                // It was lost or retired while nobody called.
                Readiness::Ready(_) => self.readiness = Readiness::Idle,
            }
        }
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        ResponseFuture(match std::mem::take(&mut self.readiness) {
            Readiness::Ready(place) => match self.send(place, &request) {
                Ok(call) => Response::InFlight(call),
                Err(error) => Response::Failed(error.into()),
            },
            Readiness::Failed(error) => Response::Failed(error),
            Readiness::Acquiring(_) | Readiness::Idle => Response::Failed(NotSent::NotReady.into()),
        })
    }
}

impl TellPeer for Channel {
    fn peer(&self) -> Option<Peer> {
        match &self.readiness {
            Readiness::Ready(place) => Some(Peer {
                now: place.connection.server_now(),
                store: place.connection.welcome().store,
            }),
            Readiness::Acquiring(_) | Readiness::Failed(_) | Readiness::Idle => None,
        }
    }
}

impl Clone for Channel {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            // A place belongs to one call.
            readiness: Readiness::Idle,
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("address", &self.shared.address)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Reply, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Response::InFlight(call) = &mut self.0 {
            let result = ready!(Pin::new(call).poll(cx));
            self.0 = Response::Done;
            return Poll::Ready(result);
        }
        match std::mem::replace(&mut self.0, Response::Done) {
            Response::Failed(error) => Poll::Ready(Err(error)),
            Response::Done | Response::InFlight(_) => Poll::Pending,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// A place on the connection that is there, if both are to be had at once.
    fn place_now(&self) -> Option<Place> {
        let Current::Connected(connection) = &*self.current.lock() else {
            return None;
        };
        let permit = connection.try_permit()?;
        let connection = Arc::clone(connection);
        Some(Place { connection, permit })
    }

    /// The connection that is there or being made; begins to make one if there is none.
    fn current(self: &Arc<Self>) -> Current {
        let mut current = self.current.lock();
        match &*current {
            Current::Connected(connection) if connection.is_open() => {
                return Current::Connected(Arc::clone(connection));
            }
            Current::Connecting(dialled) if !dialled.initialized() => {
                return Current::Connecting(Arc::clone(dialled));
            }
            Current::Connected(_) | Current::Connecting(_) | Current::Disconnected => {}
        }
        let dialled = Arc::new(Dialled::new());
        *current = Current::Connecting(Arc::clone(&dialled));
        let dial = Dial(Arc::clone(&dialled));
        drop(current);
        // In a task of its own: callers whose attempt times out first must not make every
        // attempt begin anew.
        let options = self.options.clone();
        let address = Arc::clone(&self.address);
        let connector = self.connector.clone();
        let weak = Arc::downgrade(self);
        tokio::spawn(connect(weak, address, options, connector, dial));
        Current::Connecting(dialled)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The next call goes on a new connection.
    fn retire(&self) {
        if let Current::Connected(connection) = &*self.current.lock() {
            connection.retire();
        }
    }

    /// Tells the server what was answered, if nothing is in flight that would say so.
    fn acknowledge(&self) {
        let Current::Connected(connection) = &*self.current.lock() else {
            return;
        };
        let session = connection.welcome().session;
        if let Some((id, first_unanswered)) = self.sessions.as_ref().and_then(|s| s.untold())
            && session == Some(id)
        {
            connection.say(wire::acknowledge(id, first_unanswered));
        }
    }
}

/// Waits for a pause, and tells the server what was answered before it.
async fn acknowledge(shared: Weak<Shared>) {
    sleep(ACKNOWLEDGE_AFTER).await;
    if let Some(shared) = shared.upgrade() {
        shared.acknowledging.store(false, Ordering::Release);
        shared.acknowledge();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Current::Connected(connection) = self.current.get_mut() {
            connection.retire();
        }
    }
}

async fn connect(
    shared: Weak<Shared>,
    address: Arc<str>,
    options: ChannelOptions,
    connector: Option<Connector>,
    dial_of: Dial,
) {
    let sessions = shared.upgrade().and_then(|shared| shared.sessions.clone());
    let result = dial(&address, &options, sessions.as_deref(), connector.as_ref()).await;
    let result = result.map_err(|source| TransportError::Connect { address, source });
    match (shared.upgrade(), &result) {
        (Some(shared), Ok(connection)) => {
            *shared.current.lock() = Current::Connected(Arc::clone(connection));
        }
        (Some(shared), Err(_)) => *shared.current.lock() = Current::Disconnected,
        (None, Ok(connection)) => connection.retire(),
        (None, Err(_)) => {}
    }
    // OK because nobody else says it.
    let _ = dial_of.0.set(result);
}

impl Drop for Dial {
    fn drop(&mut self) {
        // The task went down together with its runtime; where it has ended this changes nothing.
        let _ = self.0.set(Err(NotSent::ConnectionEnded.into()));
    }
}

/// A place on a connection, made if need be. At most one connection is made for it.
async fn place(shared: Arc<Shared>) -> Result<Place, TransportError> {
    loop {
        match shared.current() {
            Current::Connected(connection) => {
                if let Some(permit) = connection.permit().await {
                    return Ok(Place { connection, permit });
                }
            }
            Current::Connecting(dialled) => {
                let connection = dialled.wait().await.clone()?;
                let permit = connection.permit().await.ok_or(NotSent::ConnectionEnded)?;
                return Ok(Place { connection, permit });
            }
            // OK because `current` never says so; if it did, there would be no connection.
            Current::Disconnected => return Err(NotSent::ConnectionEnded.into()),
        }
    }
}

/// Calls acknowledge those before them on their way; only the last ones before a pause need a message
/// of their own, which costs the server a write.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(1);

/// Room for everything in a call's frame but its arguments: two names of 255 bytes and numbers.
const NAMES_BYTES_MAX: usize = 1024;
