//! The executor over real packets: server and clients in private network namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
use onlyonce_chaos::fault::{Fault, Place, What};
use onlyonce_chaos::goals::situations;
use onlyonce_chaos::history::{Fired, RunRecord};
use onlyonce_chaos::kernel::{Namespaces, Rules, SERVER_ADDRESS, Side};
use onlyonce_chaos::scenario::Scenario;
use tokio::time::sleep;

use super::real::{self, ClientsProcess, Run, Wire, Work};

/// Loses real packets between namespaces of its own.
#[derive(Clone, Debug, Default)]
pub struct KernelExecutor {
    program: Option<PathBuf>,
    /// Where rules are tried out, made when it is first asked for.
    tried: Arc<OnceLock<Result<Namespaces, NotRun>>>,
}

/// Two namespaces.
struct Packets(Arc<Namespaces>);

// === impl KernelExecutor ===

impl KernelExecutor {
    /// With another program than this one as server and clients: the same one, for a test.
    #[must_use]
    pub fn with_program(program: PathBuf) -> Self {
        Self {
            program: Some(program),
            ..Self::default()
        }
    }

    fn namespaces(&self) -> Result<&Namespaces, NotRun> {
        let tried = self.tried.get_or_init(Namespaces::pair);
        tried.as_ref().map_err(NotRun::clone)
    }
}

impl Executor for KernelExecutor {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn can(&self, _: &Scenario) -> Result<(), NotRun> {
        self.namespaces().map(drop)
    }

    fn can_fault(&self, scenario: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        if fault.place != Place::Wire {
            return real::can_server_fault(scenario, fault);
        }
        if matches!(fault.what, What::Corrupt) {
            return Err(NotRun::because(
                "the kernel makes the checksum fit, so that the byte arrives as if it had been \
                 sent: no protocol without a checksum of its own can tell",
            ));
        }
        // What this kernel does not know it refuses now.
        self.namespaces()?.apply(&Rules::of([fault], PORT)?)
    }

    fn can_reach(&self, scenario: &Scenario, goal: &str) -> Result<(), NotRun> {
        match goal {
            situations::ACKNOWLEDGED | situations::REQUEST_LOST => Err(NotRun::because(
                "packets do not say which request is in them",
            )),
            _ => real::can_reach(scenario, goal),
        }
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        Run {
            executor: self.name(),
            program: &real::program(self.program.as_ref())?,
            scenario,
            seed,
            wire: Packets(Arc::new(Namespaces::pair()?)),
        }
        .run()
    }
}

impl Wire for Packets {
    fn listen(&self) -> SocketAddr {
        SocketAddr::from((SERVER_ADDRESS, PORT))
    }

    fn enter(&self, program: &Path) -> std::process::Command {
        self.0.command(Side::Server, program)
    }

    async fn work(
        &self,
        work: Work,
        calm: impl Future<Output = Result<(), HarnessError>> + Send,
    ) -> Result<BTreeMap<String, Fired>, HarnessError> {
        let faults = work
            .faults
            .iter()
            .filter(|fault| fault.place == Place::Wire);
        let faults: Vec<Fault> = faults.cloned().collect();
        let seed = Seed::new(work.options.seed);
        self.apply(&faults, seed, work.elapsed()).await?;
        let (namespaces, program) = (Arc::clone(&self.0), work.program.clone());
        let enter = Box::new(move || namespaces.command(Side::Client, &program));
        let mut clients = ClientsProcess::start(enter, &work, &work.options)?;
        tokio::select! {
            ended = clients.until_all_ended(&work) => ended?,
            failed = self.follow(&faults, seed, &work) => failed?,
        }
        self.rules(Rules::none()).await?;
        calm.await?;
        clients.resume(&work).await?;
        let struck = self.0.struck()?;
        was_felt(&faults, &struck, work.elapsed())?;
        let again = work.tried_again();
        let fired = |struck: u64| Fired {
            struck,
            affected: again.min(struck),
        };
        Ok(struck
            .into_iter()
            .map(|(name, struck)| (name, fired(struck)))
            .collect())
    }
}

// === impl Packets ===

impl Packets {
    /// The rules of the faults whose window it is.
    async fn apply(&self, faults: &[Fault], seed: Seed, at: Duration) -> Result<(), HarnessError> {
        let now: Vec<_> = faults.iter().filter(|fault| is_on(fault, at)).collect();
        self.rules(Rules::of(now, PORT)?.with_seed(seed)).await
    }

    async fn rules(&self, rules: Rules) -> Result<(), HarnessError> {
        let namespaces = Arc::clone(&self.0);
        let applied = tokio::task::spawn_blocking(move || namespaces.apply(&rules)).await;
        applied
            .map_err(HarnessError::other)?
            .map_err(HarnessError::from)
    }

    /// Begins and ends windows at their times. Comes back only with an error.
    async fn follow(&self, faults: &[Fault], seed: Seed, work: &Work) -> Result<(), HarnessError> {
        for change in changes(faults) {
            sleep(change.saturating_sub(work.elapsed())).await;
            self.apply(faults, seed, change).await?;
            for fault in faults {
                let ms = u64::try_from(change.as_millis()).unwrap_or(u64::MAX);
                if fault.when.from_ms == Some(ms) {
                    work.lifecycle(&fault.name, "began");
                }
                if fault.when.until_ms == Some(ms) {
                    work.lifecycle(&fault.name, "ended");
                }
            }
        }
        std::future::pending().await
    }
}

/// Refuses a run in which no packet was struck although some should have been: it proves nothing.
fn was_felt(
    faults: &[Fault],
    struck: &BTreeMap<String, u64>,
    lasted: Duration,
) -> Result<(), HarnessError> {
    let begins = |fault: &&Fault| Duration::from_millis(fault.when.from_ms.unwrap_or(0));
    let was_due = faults.iter().any(|fault| begins(&fault) < lasted);
    if was_due && struck.values().all(|&struck| struck == 0) {
        return Err(HarnessError::other(
            "no packet was struck, so that the run proves nothing: more calls or larger shares help",
        ));
    }
    Ok(())
}

fn is_on(fault: &Fault, at: Duration) -> bool {
    let at_ms = at.as_millis();
    fault
        .when
        .from_ms
        .is_none_or(|from| at_ms >= u128::from(from))
        && fault
            .when
            .until_ms
            .is_none_or(|until| at_ms < u128::from(until))
}

/// When a window begins or ends.
fn changes(faults: &[Fault]) -> BTreeSet<Duration> {
    let ends = faults
        .iter()
        .flat_map(|fault| [fault.when.from_ms, fault.when.until_ms]);
    ends.flatten().map(Duration::from_millis).collect()
}

/// Nobody else is in the namespace.
const PORT: u16 = 7411;

#[cfg(test)]
mod tests {
    use onlyonce_chaos::fault::When;

    use super::*;

    #[test]
    fn a_run_in_which_no_packet_was_lost_is_refused_unless_none_was_to_be() {
        let loss = |from_ms| {
            let when = When {
                from_ms,
                ..When::default()
            };
            [Fault::new("loss", Place::Wire, What::PacketLoss).when(when)]
        };
        let struck = |times| BTreeMap::from([("loss".to_owned(), times)]);
        let second = Duration::from_secs(1);
        let refused = was_felt(&loss(None), &struck(0), second).unwrap_err();
        assert!(
            refused.to_string().contains("no packet was struck"),
            "{refused}"
        );
        assert!(was_felt(&loss(None), &struck(1), second).is_ok());
        assert!(was_felt(&loss(Some(2_000)), &struck(0), second).is_ok());
        assert!(was_felt(&[], &BTreeMap::new(), second).is_ok());
    }
}
