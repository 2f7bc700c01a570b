//! The layer that speaks [`fault`](crate::fault): strikes before and after the inner call.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::{pending, poll_fn};
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::error::FaultError;
use super::service::ResponseFuture;
use crate::executor::NotRun;
use crate::fault::{Fault, Phase, Place, Subject, What};
use crate::history::Fired;
use crate::seed::Seed;

/// Lets faults strike a tower service, before *and after* what is inside.
///
/// ```text
///   caller -> request-sent, request-received -> inner -> effect-durable, reply-sent, reply-received -> caller
/// ```
///
/// What is dropped, or falls into a blackhole, is silence: the call stays pending until its caller
/// gives up. What is reset or closed is an error at once. Behind a partition calls wait until its
/// window ends. A request that is duplicated is called twice, and the second answer is thrown away;
/// that call ends with the layer and its services.
///
/// Where to put it: closest to the transport, inside of retries and timeouts. Outside of them one
/// attempt is one call, and nothing is retried.
///
/// A naive client, found out:
///
/// ```
/// use std::convert::Infallible;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
/// use onlyonce_chaos::layer::ChaosLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # async fn example() {
/// // A stranger's service, which executes whatever it gets.
/// let effects = Arc::new(AtomicU64::new(0));
/// let counting = Arc::clone(&effects);
/// let shop = service_fn(move |(_order, _attempt): (u64, u32)| {
///     counting.fetch_add(1, Ordering::Relaxed);
///     std::future::ready(Ok::<_, Infallible>("paid"))
/// });
///
/// // The answer of every first attempt is lost, after the effect.
/// let lost = Fault::new("answer lost", Place::Wire, What::Reset)
///     .when(When::phase(Phase::ReplySent).attempt(1));
/// let chaos = ChaosLayer::new(42, [lost], |&(order, attempt): &(u64, u32)| (order, attempt)).unwrap();
/// let shop = chaos.layer(shop);
///
/// for order in 1..=10 {
///     let mut attempt = 1;
///     while shop.clone().oneshot((order, attempt)).await.is_err() {
///         attempt += 1;
///     }
/// }
/// assert_eq!(chaos.fired()["answer lost"].struck, 10);
/// // Ten orders were paid twice.
/// assert_eq!(effects.load(Ordering::Relaxed), 20);
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example());
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is around a service"]
pub struct ChaosLayer<F> {
    shared: Arc<Shared>,
    subject: F,
}

/// A service whose requests and answers faults strike. Made by [`ChaosLayer`].
///
/// Dropping the future of a call drops the inner call where it stands.
#[derive(Clone)]
pub struct ChaosService<S, F> {
    inner: S,
    shared: Arc<Shared>,
    subject: F,
}

struct Shared {
    seed: Seed,
    faults: Vec<Fault>,
    began: Instant,
    calm: watch::Sender<bool>,
    counted: Mutex<Counted>,
    twins: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Counted {
    fired: BTreeMap<String, Fired>,
    affected: HashSet<(usize, u64)>,
}

/// Whether a message goes on.
#[derive(PartialEq, Eq)]
enum Goes {
    Lost,
    On,
}

/// A copy of a request that is to come: the ordinal of its fault, and when.
type Twin = (usize, Duration);

// === impl ChaosLayer ===

impl<F> ChaosLayer<F> {
    /// A layer that draws from this seed. `subject` tells the call and the attempt that a request
    /// is, both from 1; where a request does not say its attempt, count outside and put it in.
    ///
    /// Windows of time count from now, on tokio's clock.
    ///
    /// # Errors
    ///
    /// The first fault that a service cannot have, with the reason.
    pub fn new(
        seed: impl Into<Seed>,
        faults: impl IntoIterator<Item = Fault>,
        subject: F,
    ) -> Result<Self, NotRun> {
        let faults: Vec<_> = faults.into_iter().collect();
        let mut counted = Counted::default();
        for fault in &faults {
            can(fault).map_err(|reason| {
                NotRun::because(format!("fault \"{}\": {}", fault.name, reason.reason()))
            })?;
            counted.fired.insert(fault.name.clone(), Fired::default());
        }
        let shared = Shared {
            seed: seed.into(),
            faults,
            began: Instant::now(),
            calm: watch::Sender::new(false),
            counted: Mutex::new(counted),
            twins: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            subject,
        })
    }

    /// Whether it can let this fault strike.
    ///
    /// # Errors
    ///
    /// With the reason, if not.
    pub fn can(fault: &Fault) -> Result<(), NotRun> {
        can(fault)
    }

    /// Ends all faults for good: nothing strikes any more, and what a partition holds goes on. What
    /// is silent stays so: its message is gone.
    pub fn calm(&self) {
        self.shared.calm.send_replace(true);
    }

    /// How often each fault struck, and how many calls felt it (counted up to a million). One that
    /// never did is there with zeros. A request that comes twice is struck when it has.
    #[must_use]
    pub fn fired(&self) -> BTreeMap<String, Fired> {
        self.shared.counted.lock().fired.clone()
    }
}

impl<S, F: Clone> Layer<S> for ChaosLayer<F> {
    type Service = ChaosService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        ChaosService {
            inner,
            shared: Arc::clone(&self.shared),
            subject: self.subject.clone(),
        }
    }
}

impl<F> fmt::Debug for ChaosLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosLayer")
            .field("faults", &self.shared.faults)
            .finish_non_exhaustive()
    }
}

// === impl ChaosService ===

impl<S, F, Request> Service<Request> for ChaosService<S, F>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    F: Fn(&Request) -> (u64, u32),
    Request: Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = FaultError<S::Error>;
    type Future = ResponseFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(FaultError::Inner))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let about = (self.subject)(&request);
        // The instance that said it was ready is the one to call: a clone has not been asked.
        let unasked = self.inner.clone();
        let ready = mem::replace(&mut self.inner, unasked);
        ResponseFuture::of(attempt(ready, request, about, Arc::clone(&self.shared)))
    }
}

async fn attempt<S, Request>(
    mut inner: S,
    request: Request,
    about: (u64, u32),
    shared: Arc<Shared>,
) -> Result<S::Response, FaultError<S::Error>>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
    Request: Clone + Send + 'static,
{
    for phase in [Phase::RequestSent, Phase::RequestReceived] {
        let mut twins = Vec::new();
        if shared.strike(about, phase, &mut twins).await == Goes::Lost {
            return Err(FaultError::RequestLost);
        }
        for twin in twins {
            call_again(&shared, inner.clone(), request.clone(), (twin, about.0));
        }
    }
    let answer = inner.call(request).await;
    for phase in [Phase::EffectDurable, Phase::ReplySent, Phase::ReplyReceived] {
        if shared.strike(about, phase, &mut Vec::new()).await == Goes::Lost {
            return Err(FaultError::AnswerLost);
        }
    }
    answer.map_err(FaultError::Inner)
}

impl<S: fmt::Debug, F> fmt::Debug for ChaosService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Whether a service can have it.
fn can(fault: &Fault) -> Result<(), NotRun> {
    let because = |reason: &str| Err(NotRun::because(reason));
    if fault.place != Place::Wire {
        return because("a layer is on the wire");
    }
    if fault.when.after_bytes.is_some() {
        return because("a service has no bytes; the proxy has");
    }
    let after = matches!(
        fault.when.phase,
        Some(Phase::EffectDurable | Phase::ReplySent | Phase::ReplyReceived)
    );
    match fault.what {
        What::Duplicate { .. } if after => because("a call has one answer"),
        What::Blackhole
        | What::Close
        | What::Delay { .. }
        | What::Drop
        | What::Duplicate { .. }
        | What::Partition
        | What::Reset => Ok(()),
        What::Corrupt | What::Truncate => because("a service has no bytes; the proxy has"),
        What::PacketLoss => because("a service has no packets; the kernel has"),
        _ => because("nothing on the wire does that"),
    }
}

// === impl Shared ===

impl Shared {
    /// Lets everything strike that does at this moment, one after another. A copy has struck when it
    /// comes.
    async fn strike(
        &self,
        (call, attempt): (u64, u32),
        phase: Phase,
        twins: &mut Vec<Twin>,
    ) -> Goes {
        let at = self.began.elapsed();
        let subject = Subject {
            call,
            attempt,
            phase,
            at,
        };
        for (index, fault) in self.faults.iter().enumerate() {
            if *self.calm.borrow() {
                break;
            }
            let twin_of_an_answer = matches!(fault.what, What::Duplicate { .. })
                && !matches!(phase, Phase::RequestSent | Phase::RequestReceived);
            let Some(draw) = fault
                .strikes(self.seed, subject)
                .filter(|_| !twin_of_an_answer)
            else {
                continue;
            };
            if let What::Duplicate { later_ms } = fault.what {
                twins.push((index, Duration::from_millis(later_ms)));
                continue;
            }
            self.count(index, fault, call);
            match fault.what {
                What::Delay { .. } => sleep(fault.what.delay(draw).unwrap_or_default()).await,
                What::Partition => self.hold(fault.when.until_ms).await,
                What::Close | What::Reset => return Goes::Lost,
                // The rest is silence.
                _ => pending().await,
            }
        }
        Goes::On
    }

    fn count(&self, index: usize, fault: &Fault, call: u64) {
        let mut counted = self.counted.lock();
        let first = counted.affected.len() < AFFECTED_MAX && counted.affected.insert((index, call));
        let fired = counted.fired.entry(fault.name.clone()).or_default();
        fired.struck += 1;
        fired.affected += u64::from(first);
    }

    async fn hold(&self, until_ms: Option<u64>) {
        let mut calm = self.calm.subscribe();
        let window = async {
            match until_ms {
                Some(until) => sleep_until(self.began + Duration::from_millis(until)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = window => {}
            // OK because the sender lives as long as this does.
            _ = calm.wait_for(|calm| *calm) => {}
        }
    }
}

fn call_again<S, Request>(
    shared: &Arc<Shared>,
    mut inner: S,
    request: Request,
    ((index, later), call): (Twin, u64),
) where
    S: Service<Request> + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
    Request: Send + 'static,
{
    // It must not keep alive what keeps it.
    let counting = Arc::downgrade(shared);
    let mut twins = shared.twins.lock();
    while twins.try_join_next().is_some() {}
    if twins.len() >= TWINS_MAX {
        return;
    }
    twins.spawn(async move {
        sleep(later).await;
        if poll_fn(|cx| inner.poll_ready(cx)).await.is_ok() {
            let answer = inner.call(request);
            if let Some(shared) = counting.upgrade() {
                shared.count(index, &shared.faults[index], call);
            }
            // OK because nobody waits for the second answer.
            drop(answer.await);
        }
    });
}

/// Some dozen MiB.
const AFFECTED_MAX: usize = 1_000_000;

/// Calls that nobody waits for. More at once are not made.
const TWINS_MAX: usize = 1_024;
