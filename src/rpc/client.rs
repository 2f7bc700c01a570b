//! Calls typed methods.

use std::fmt;
use std::sync::Arc;

use onlyonce_middleware::client::{Stopped, Ticket};
use onlyonce_middleware::stack::{self, BoxClient, ClientStack};
use onlyonce_storage::IdempotencyKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::{Service, ServiceExt};

use super::channel::Place;
use super::failed::{CallFailure, Failed, Unanswered};
use super::wire::printable;
use super::{
    Channel, ChannelOptions, ClientAdapter, Method, Reply, Request, Status, Told, TransportError,
    Verb, state, value,
};

/// A client of one server: calls its methods so that their effects happen at most once.
///
/// It connects when it is first used, and again when its connection was lost. Cloning it is cheap;
/// clones share the connection and the retry budget.
///
/// A call ends with the handler's reply, with the handler's fault, or with a [`CallFailure`] that
/// says what is known. A failure has the call's [`Ticket`], with which [`resume`](Self::resume)
/// goes on under the same key, also from another process.
///
/// # Cancellation
///
/// Dropping the future of a call leaves its outcome unknown to the caller, and the key with it: a
/// caller who may drop a call chooses the key itself, with [`call_as`](Self::call_as).
#[derive(Clone)]
pub struct Client {
    stack: BoxClient<Request, Reply, TransportError>,
    /// Where new calls get their numbers, for a client in sessions.
    channel: Option<Channel>,
}

// === impl Client ===

impl Client {
    /// A client of the server at `address` (`host:port`), with all defaults: no credential, three
    /// attempts, 10 s for each, 30 s for a call.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        let channel = Channel::new(address, ChannelOptions::default());
        Self::with_stack(channel, stack::client(ClientAdapter))
    }

    /// A client over `transport`, usually a [`Channel`], with the layers of `stack`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use onlyonce::middleware::client::EnforceDeadlineLayer;
    /// use onlyonce::middleware::stack;
    /// use onlyonce::rpc::{Channel, ChannelOptions, Client, ClientAdapter};
    ///
    /// let channel = Channel::new("127.0.0.1:7411", ChannelOptions::default());
    /// let deadline = EnforceDeadlineLayer::new().with_timeout(Duration::from_secs(5));
    /// let client = Client::with_stack(channel, stack::client(ClientAdapter).with_deadline(deadline));
    /// # drop(client);
    /// ```
    pub fn with_stack<T>(transport: T, stack: ClientStack<ClientAdapter>) -> Self
    where
        T: Service<Request, Response = Reply, Error = TransportError>
            + Clone
            + Send
            + Sync
            + 'static,
        T::Future: Send + 'static,
    {
        Self {
            stack: stack.around(transport),
            channel: None,
        }
    }

    /// A client of the server that `channel` names, in sessions of its own: the server forgets each
    /// [`call`](Self::call) as soon as its caller has the answer, so that it keeps what is in flight
    /// and not a day of calls. It makes its own connection.
    ///
    /// Only [`call`](Self::call) goes in a session: its key is new, and nobody else has it. Calls
    /// under a key of the caller's own, and resumed ones, are remembered as by any other client,
    /// because the caller may use the key again. So is everything where the server, or a version of
    /// it, has no sessions. A call that ends without its answer is never acknowledged: its ticket
    /// can be resumed, peeked at and sealed as usual.
    ///
    /// A call waits while as many as the window has
    /// ([`session_window`](ChannelOptions::session_window)) lie between the first one that is not
    /// answered and it.
    ///
    /// ```
    /// use onlyonce::middleware::stack;
    /// use onlyonce::rpc::{Channel, ChannelOptions, Client, ClientAdapter};
    ///
    /// let channel = Channel::new("127.0.0.1:7411", ChannelOptions::default());
    /// let client = Client::in_sessions(&channel, stack::client(ClientAdapter));
    /// # drop(client);
    /// ```
    pub fn in_sessions(channel: &Channel, stack: ClientStack<ClientAdapter>) -> Self {
        let channel = channel.in_sessions();
        Self {
            stack: stack.around(channel.clone()),
            channel: Some(channel),
        }
    }

    /// [`in_sessions`](Self::in_sessions) over what `wrap` makes of the channel: for who must see what
    /// passes.
    #[cfg(feature = "cli")]
    pub(crate) fn in_sessions_through<T>(
        channel: &Channel,
        stack: ClientStack<ClientAdapter>,
        wrap: impl FnOnce(Channel) -> T,
    ) -> Self
    where
        T: Service<Request, Response = Reply, Error = TransportError>
            + Clone
            + Send
            + Sync
            + 'static,
        T::Future: Send + 'static,
    {
        let channel = channel.in_sessions();
        Self {
            stack: stack.around(wrap(channel.clone())),
            channel: Some(channel),
        }
    }

    /// Calls `method` under a new key.
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer.
    pub async fn call<A, R, F>(
        &self,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let ticket = Ticket::never_sent(IdempotencyKey::unique());
        let Some(channel) = &self.channel else {
            return self.resume(ticket, method, arguments).await;
        };
        let Ok(place) = channel.number().await else {
            return Err(CallFailure::NotExecuted(Failed {
                ticket,
                attempts: 0,
                status: None,
                stopped: Stopped::Deadline,
                last: "session had no room: too many calls behind the first unanswered".to_owned(),
            }));
        };
        self.make_placed(ticket, method, arguments, place).await
    }

    /// [`call`](Self::call) under a key that the caller has made for this one call: for simulations,
    /// in which nothing is random.
    #[cfg(feature = "cli")]
    pub(crate) async fn call_once_as<A, R, F>(
        &self,
        ticket: Ticket,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let place = match &self.channel {
            Some(channel) => channel.number().await.ok().flatten(),
            None => None,
        };
        self.make_placed(ticket, method, arguments, place).await
    }

    async fn make_placed<A, R, F>(
        &self,
        ticket: Ticket,
        method: &Method<A, R, F>,
        arguments: &A,
        place: Option<Arc<Place>>,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let ended = self.make(ticket, method, arguments, place.clone()).await;
        // What ends otherwise leaves a ticket, and may come back.
        if let (Some(channel), Some(place), Ok(_) | Err(CallFailure::Fault(_))) =
            (&self.channel, &place, &ended)
        {
            channel.answered(place);
        }
        ended
    }

    /// Calls `method` under a key of the caller's own: one that it has written down before, or
    /// derives from its business identifier.
    ///
    /// This is a call that is first sent now. If the key was used before, it gets the answer as
    /// long as that is kept (24 h by default), then it is refused as stale until the store's horizon
    /// (7 days). After that nothing is left to tell it from a new call, and **it is executed**. To
    /// be safe past the horizon, go on with the [`Ticket`] of the first failure through
    /// [`resume`](Self::resume): it carries when the call was first sent.
    ///
    /// The key may have been sent before, by whoever: a call that cannot be sent ends in
    /// [`CallFailure::OutcomeUnknown`]. Who knows that it never was sent resumes
    /// [`Ticket::never_sent`].
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer.
    pub async fn call_as<A, R, F>(
        &self,
        key: IdempotencyKey,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.resume(Ticket::new(key), method, arguments).await
    }

    /// Goes on with the call that `ticket` names: gets its answer if it has one, waits for it if
    /// it is being executed, and executes it if it never was.
    ///
    /// The arguments must be the same, to the byte: a type whose values do not always encode alike
    /// (a `HashMap`, a type that was changed in between) is refused as another request.
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer.
    pub async fn resume<A, R, F>(
        &self,
        ticket: Ticket,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.make(ticket, method, arguments, None).await
    }

    async fn make<A, R, F>(
        &self,
        ticket: Ticket,
        method: &Method<A, R, F>,
        arguments: &A,
        place: Option<Arc<Place>>,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let arguments = value::encode(arguments).map_err(|error| CallFailure::Refused {
            status: Status::ArgumentsMalformed,
            text: error.to_string(),
            ticket: ticket.clone(),
        })?;
        let mut request = Request::new(method.name(), arguments).ticket(ticket.clone());
        request.place = place;
        let call = request.call();
        let reply = self
            .stack
            .clone()
            .oneshot(request)
            .await
            .map_err(CallFailure::from_stack)?;
        // The ticket as it is now: it knows when the call was first sent, and to which store.
        let ticket = call.get().map_or(ticket, |call| call.ticket());
        let unreadable = |text| CallFailure::Unreadable {
            text,
            ticket: ticket.clone().maybe_executed(),
        };
        if reply.status == Status::State {
            return Err(unreadable("it is the answer to a question".to_owned()));
        }
        if !reply.status.carries_answer() {
            return Err(CallFailure::refused(&reply, ticket));
        }
        match value::decode_result(&reply.body) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(fault)) => Err(CallFailure::Fault(fault)),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// What the server knows of the call that `ticket` names. Executes nothing.
    ///
    /// # Errors
    ///
    /// What kept the question from being answered.
    pub async fn peek<A, R, F>(
        &self,
        ticket: impl Into<Ticket>,
        method: &Method<A, R, F>,
    ) -> Result<Known<R, F>, Unanswered>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.ask(Verb::Peek, ticket.into(), method).await
    }

    /// Makes the call that `ticket` names impossible if nobody has executed it; otherwise changes
    /// nothing and says what is known.
    ///
    /// For ever for every attempt of a call that was first sent before the seal, and says so in
    /// its ticket. A call that is first sent afterwards under the same key, as by
    /// [`call_as`](Self::call_as), is refused until the horizon (7 days after the seal by default).
    ///
    /// # Errors
    ///
    /// What kept the question from being answered. The key may be sealed then.
    pub async fn seal<A, R, F>(
        &self,
        ticket: impl Into<Ticket>,
        method: &Method<A, R, F>,
    ) -> Result<Known<R, F>, Unanswered>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.ask(Verb::Seal, ticket.into(), method).await
    }

    async fn ask<A, R, F>(
        &self,
        verb: Verb,
        ticket: Ticket,
        method: &Method<A, R, F>,
    ) -> Result<Known<R, F>, Unanswered>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let request = Request::new(method.name(), Vec::new())
            .verb(verb)
            .ticket(ticket.clone());
        let reply = match self.stack.clone().oneshot(request).await {
            Ok(reply) => reply,
            Err(error) => return Err(Unanswered::from_stack(&error, ticket)),
        };
        let unreadable = |text: String| Unanswered::unreadable(text, ticket.clone());
        if reply.status != Status::State {
            return Err(Unanswered::refused(&reply, ticket));
        }
        let Some(told) = state::decode(&reply.body) else {
            return Err(unreadable("key's state is malformed".to_owned()));
        };
        Ok(match told {
            Told::Absent => Known::Absent,
            Told::Completed(answer) => match value::decode_result(&answer) {
                Ok(answer) => Known::Completed(answer),
                Err(error) => return Err(unreadable(error.to_string())),
            },
            Told::InDoubt(reason) => Known::InDoubt(printable(&reason)),
            Told::InProgress => Known::InProgress,
            Told::Sealed => Known::Sealed,
            Told::Stale => Known::Stale,
            Told::Tombstone => Known::Tombstone,
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What a server knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Known<R, F> {
    /// Nobody has used it, as far as the server remembers; a call with it would be executed.
    Absent,
    /// It has an answer.
    Completed(Result<R, F>),
    /// Its outcome is unknown, for this reason.
    InDoubt(String),
    /// Somebody is executing it.
    InProgress,
    /// It has not happened, and no call that was first sent before the seal ever will; one that is
    /// first sent later is refused until the horizon.
    Sealed,
    /// Nothing is left by which the server could tell whether the call was executed. Where the ticket
    /// says when it was first sent, it is older than what the server remembers, and never will be
    /// executed again. Where it says no more than the key, the principal has acknowledged calls in a
    /// session, of which nothing is left; after a [`seal`](Client::seal) it is impossible from now on.
    Stale,
    /// It was answered, and the answer is no longer kept.
    Tombstone,
}
