//! The executor over a proxy that knows the native protocol's frames.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
use onlyonce_chaos::fault::{Fault, Phase, Place, What};
use onlyonce_chaos::goals::situations;
use onlyonce_chaos::history::{Fired, Happened, RunRecord};
use onlyonce_chaos::proxy::{FrameProxy, Framing, Naming};
use onlyonce_chaos::scenario::Scenario;
use tokio::time::timeout;

use super::real::{self, Run, Wire, Work};
use crate::rpc::overheard;

/// Loses, doubles, delays and cuts frames between real clients and a server in a process of its own,
/// which can also be killed.
#[derive(Clone, Debug, Default)]
pub struct ProxyExecutor {
    program: Option<PathBuf>,
}

/// A proxy between clients and server.
struct Proxied;

// === impl ProxyExecutor ===

impl ProxyExecutor {
    /// With another program than this one as server: the same one, for a test.
    #[must_use]
    pub const fn with_program(program: PathBuf) -> Self {
        Self {
            program: Some(program),
        }
    }
}

impl Executor for ProxyExecutor {
    fn name(&self) -> &'static str {
        "proxy"
    }

    fn can(&self, _: &Scenario) -> Result<(), NotRun> {
        Ok(())
    }

    fn can_fault(&self, scenario: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        if fault.place != Place::Wire {
            return real::can_server_fault(scenario, fault);
        }
        if matches!(fault.what, What::Corrupt) {
            return Err(NotRun::because(
                "a byte that is changed behind TCP's checksum is what a client said, for all that \
                 a server can tell: the promise is not about that",
            ));
        }
        FrameProxy::can(fault)
    }

    fn can_reach(&self, scenario: &Scenario, goal: &str) -> Result<(), NotRun> {
        let copies = |fault: &Fault| {
            let early = matches!(fault.when.phase, None | Some(Phase::RequestSent));
            early && matches!(fault.what, What::Duplicate { .. })
        };
        if goal == situations::ACKNOWLEDGED && !scenario.faults.iter().any(copies) {
            return Err(NotRun::because("only of copies it is known when they come"));
        }
        real::can_reach(scenario, goal)
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        Run {
            executor: self.name(),
            program: &real::program(self.program.as_ref())?,
            scenario,
            seed,
            wire: Proxied,
        }
        .run()
    }
}

impl Wire for Proxied {
    async fn work(
        &self,
        work: Work,
        calm: impl Future<Output = Result<(), HarnessError>> + Send,
    ) -> Result<BTreeMap<String, Fired>, HarnessError> {
        let faults = work
            .faults
            .iter()
            .filter(|fault| fault.place == Place::Wire);
        let teller = work.teller();
        let proxy = FrameProxy::builder(work.server, Framing::onlyonce())
            .seed(work.options.seed)
            .naming(naming())
            .faults(faults.cloned())?
            .on_strike(move |strike| {
                let (name, what) = (strike.fault.name.clone(), strike.fault.what.name());
                let (what, phase) = (what.to_owned(), strike.subject.phase);
                let struck = Happened::Fault { name, what, phase };
                teller(strike.subject.call, strike.subject.attempt, struck);
            })
            .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .map_err(|error| HarnessError::io("the proxy cannot listen", error))?;
        let healed = async {
            // OK because a copy that takes longer never comes, and is not counted.
            let _ = timeout(COPIES, proxy.twins_came()).await;
            proxy.calm();
            calm.await
        };
        work.call_and_resume(proxy.addr(), healed).await?;
        let fired = proxy.stats().fired;
        proxy.stop().await;
        Ok(fired)
    }
}

/// How frames of the orders tell their calls.
fn naming() -> Naming {
    let named = |frame: &[u8]| {
        let call = overheard::call(frame)?;
        real::call_and_attempt(&call.arguments, call.attempt)
    };
    Naming::by(named).tied(
        |frame| Some(overheard::call(frame)?.id),
        overheard::replied_to,
    )
}

/// How frames of the native protocol tell their calls, whatever they call: by their keys.
#[must_use]
pub fn native_naming() -> Naming {
    let key = |frame: &[u8]| overheard::call(frame)?.key;
    Naming::keyed(key).tied(
        |frame| Some(overheard::call(frame)?.id),
        overheard::replied_to,
    )
}

/// Longer than scenarios let a copy be late.
const COPIES: Duration = Duration::from_secs(30);
