//! Clients that crash and come back with what they had not finished: all that they know is on disk.
//!
//! ```text
//!   folder/client-3/outbox    the calls that are not over, with their keys
//!   folder/client-3/over      the calls that are, one a line
//! ```
//!
//! The executor kills their process with SIGKILL and starts it again over the same folder. A call is
//! written down as over before its outbox forgets it, so that a crash between the two finds it twice
//! and never not at all.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use onlyonce_chaos::history::{Ending, Happened};
use onlyonce_chaos::{Seed, sometimes};
use onlyonce_middleware::client::outbox::{Peer, TellPeer};
use onlyonce_storage::{OutboxOptions, RetentionOptions, Scope, SledOutbox};
use tokio::task::JoinSet;
use tower::Service;

use super::clients::{ChaosClientsOptions, Ears, REPLY_LOST, TRIED_AGAIN, channel, layers};
use super::naive::Naive;
use super::order::{Asked, Declined, ORDER, Receipt};
use crate::rpc::{Channel, Kept, Outbox, OutboxFailure, Reply, Request, Status, TransportError};

/// What goes wrong in a client itself.
pub(super) type Failed = Box<dyn Error + Send + Sync>;

/// All clients of a folder, whose calls have ended once.
pub(super) struct Open(Vec<One>);

/// Makes all calls that are not over, those first that an earlier life has left.
pub(super) async fn call_all(
    options: &ChaosClientsOptions,
    folder: &Path,
    ears: &Ears,
) -> Result<Open, Failed> {
    let mut working = JoinSet::new();
    for number in 1..=options.clients {
        let (options, ears) = (options.clone(), ears.clone());
        let home = folder.join(format!("client-{number}"));
        working.spawn(async move {
            let mut notes = Notes::open(&home)?;
            if options.naive {
                naive(number, &options, &ears, &mut notes).await?;
                return Ok(None);
            }
            let mut one = One::open(number, &options, &home, notes, &ears).await?;
            one.go_on().await?;
            for call in calls_of(number, &options) {
                one.call(call).await?;
            }
            Ok::<_, Failed>(Some(one))
        });
    }
    let mut open = Vec::new();
    while let Some(one) = working.join_next().await {
        open.extend(one??);
    }
    Ok(Open(open))
}

/// Goes on with what nobody knows yet, once, and closes the outboxes.
pub(super) async fn resume_all(open: Open) -> Result<(), Failed> {
    for mut one in open.0 {
        one.go_on().await?;
        one.kept.close().await?;
    }
    Ok(())
}

/// A client that keeps no keys: what it has not written down as over it makes again, as a new call.
async fn naive(
    number: u32,
    options: &ChaosClientsOptions,
    ears: &Ears,
    notes: &mut Notes,
) -> Result<(), Failed> {
    let client = Naive::new(number, options, ears);
    for call in calls_of(number, options) {
        if !notes.over.contains(&call) {
            let asked = Asked::of(Seed::new(options.seed), options.workload, call);
            client.call(call, asked).await;
            notes.note(call)?;
        }
    }
    Ok(())
}

/// Each client has its own calls: one that another client made is none of its business.
fn calls_of(number: u32, options: &ChaosClientsOptions) -> impl Iterator<Item = u64> + use<> {
    (u64::from(number)..=options.calls).step_by(options.clients.max(1) as usize)
}

/// One client with an outbox.
struct One {
    number: u32,
    options: ChaosClientsOptions,
    outbox: Outbox,
    kept: Arc<SledOutbox>,
    notes: Notes,
    /// The call that is under way: a client has one.
    current: Arc<AtomicU64>,
    /// The calls that this life has told of.
    told: BTreeSet<u64>,
    ears: Ears,
}

// === impl One ===

impl One {
    async fn open(
        number: u32,
        options: &ChaosClientsOptions,
        home: &Path,
        notes: Notes,
        ears: &Ears,
    ) -> Result<Self, Failed> {
        let place = home.join("outbox");
        let kept = SledOutbox::open_async(place, Scope::global(), OutboxOptions::new()).await?;
        let kept = Arc::new(kept);
        let current = Arc::new(AtomicU64::new(0));
        let transport = Heard {
            channel: channel(options),
            current: Arc::clone(&current),
            ears: ears.clone(),
        };
        let horizon = RetentionOptions::default().horizon;
        let store = Arc::<SledOutbox>::clone(&kept);
        Ok(Self {
            number,
            options: options.clone(),
            outbox: Outbox::with_stack(transport, layers(options), store, horizon),
            kept,
            notes,
            current,
            told: BTreeSet::new(),
            ears: ears.clone(),
        })
    }

    /// Goes on with every call that is in the outbox.
    async fn go_on(&mut self) -> Result<(), Failed> {
        for pending in self.outbox.pending().await? {
            let key = pending.call.key;
            let asked = self.outbox.arguments(&key, &ORDER).await;
            let asked = asked.map_err(|failure| format!("an outbox: {failure:?}"))?;
            let call = asked.call;
            if !self.notes.over.contains(&call) {
                self.begin(call, &asked);
                let ended = self.outbox.resume(&key, &ORDER).await;
                self.conclude(call, ended).await?;
            } else if pending.call.state.name() == "answered" {
                self.outbox.acknowledge(&key).await?;
            }
        }
        Ok(())
    }

    /// Makes a call of which nothing is known.
    async fn call(&mut self, call: u64) -> Result<(), Failed> {
        if self.notes.over.contains(&call) || self.told.contains(&call) {
            return Ok(());
        }
        let asked = Asked::of(Seed::new(self.options.seed), self.options.workload, call);
        self.begin(call, &asked);
        let ended = self.outbox.call(&ORDER, &asked).await;
        self.conclude(call, ended).await
    }

    /// Tells of it, once a life: to go on with an open call is not to come back with it.
    fn begin(&mut self, call: u64, asked: &Asked) {
        self.current.store(call, Ordering::Relaxed);
        if self.told.insert(call) {
            let invoked = Happened::Invoked {
                client: self.number,
                key: asked.key.clone(),
                payload: asked.order.clone(),
            };
            (self.ears.say)(call, 0, invoked);
        }
    }

    async fn conclude(
        &mut self,
        call: u64,
        ended: Result<Kept<Receipt>, OutboxFailure<Declined>>,
    ) -> Result<(), Failed> {
        let (ending, answered) = match ended {
            Ok(Kept { key, reply }) => (Ending::Answered(reply.answer()), Some(key)),
            Err(OutboxFailure::Fault { key, fault }) => (Ending::Declined(fault.why), Some(key)),
            Err(OutboxFailure::InDoubt(_)) => (Ending::InDoubt, None),
            // It stays in the outbox, and is made when it is resumed.
            Err(OutboxFailure::NotExecuted(_) | OutboxFailure::OutcomeUnknown(_)) => {
                (Ending::Unknown, None)
            }
            Err(failure) => return Err(format!("call {call}: {failure:?}").into()),
        };
        let is_over = ending != Ending::Unknown;
        (self.ears.say)(call, 0, Happened::Ended { ending });
        if is_over {
            self.notes.note(call)?;
        }
        if let Some(key) = answered {
            self.outbox.acknowledge(&key).await?;
        }
        Ok(())
    }
}

/// A channel that says what passes.
#[derive(Clone)]
struct Heard {
    channel: Channel,
    current: Arc<AtomicU64>,
    ears: Ears,
}

impl Service<Request> for Heard {
    type Response = Reply;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Reply, TransportError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let attempt = request.stamp.as_ref();
        let attempt = attempt.map_or(1, |stamp| stamp.attempt.get());
        let ears = self.ears.clone();
        (ears.say)(
            self.current.load(Ordering::Relaxed),
            attempt,
            Happened::Sent,
        );
        sometimes!(ears.goals, attempt > 1, TRIED_AGAIN);
        let answer = self.channel.call(request);
        Box::pin(async move {
            let reply = answer.await?;
            let known = attempt > 1 && reply.status == Status::Replayed;
            sometimes!(ears.goals, known, REPLY_LOST);
            Ok(reply)
        })
    }
}

impl TellPeer for Heard {
    fn peer(&self) -> Option<Peer> {
        self.channel.peer()
    }
}

/// What a client has written down: the calls that are over.
struct Notes {
    file: File,
    over: BTreeSet<u64>,
}

// === impl Notes ===

impl Notes {
    fn open(home: &Path) -> io::Result<Self> {
        fs::create_dir_all(home)?;
        let path = home.join("over");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        // A line that was not finished says nothing, and must not become part of the next one.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.set_len(whole as u64)?;
        let over = text[..whole].lines().filter_map(|line| line.parse().ok());
        Ok(Self {
            file,
            over: over.collect(),
        })
    }

    fn note(&mut self, call: u64) -> io::Result<()> {
        self.file.write_all(format!("{call}\n").as_bytes())?;
        self.file.sync_data()?;
        self.over.insert(call);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_as_over_is_over_after_a_crash_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut notes = Notes::open(folder.path()).unwrap();
        notes.note(3).unwrap();
        notes.file.write_all(b"1").unwrap();
        let mut notes = Notes::open(folder.path()).unwrap();
        assert_eq!(notes.over, [3].into());
        notes.note(7).unwrap();
        assert_eq!(Notes::open(folder.path()).unwrap().over, [3, 7].into());
    }
}
