//! The workers of a column, and the clients that they call by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use onlyonce_chaos::Seed;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DemoError;
use super::bank::Transfer;
use super::clients::{KeyedClient, NaiveClient};
use super::log::Log;
use super::workload;

#[derive(Clone)]
pub(super) enum AnyClient {
    Keyed(KeyedClient),
    Naive(NaiveClient),
}

/// The calls of a column, which workers take one after the other.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) transfers: Arc<Vec<Transfer>>,
    pub(super) log: Arc<Log>,
    pub(super) next: Arc<AtomicU64>,
    /// How many calls may have begun by now.
    pub(super) gate: watch::Receiver<u64>,
}

/// Does `killing` while the workers work, and waits for both. A worker that panics never ends its
/// calls, so that waiting for their number alone would last for ever.
pub(super) async fn beside<T>(
    mut workers: JoinSet<()>,
    killing: impl Future<Output = Result<T, DemoError>>,
) -> Result<T, DemoError> {
    let working = async {
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        Ok(())
    };
    let (done, ()) = tokio::try_join!(killing, working)?;
    Ok(done)
}

/// One worker: takes the next transfer until there is none. Some are sent by two clients at once,
/// as a network that doubles messages does; the naive client has no key that would tell the second
/// from another intent, so there it is not sent twice on purpose.
pub(super) async fn work_through(
    (client, twin): (AnyClient, AnyClient),
    mut work: Work,
    seed: Seed,
) {
    loop {
        let index = work.next.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(index).ok();
        let Some(transfer) = place.and_then(|place| work.transfers.get(place)) else {
            return;
        };
        if work.gate.wait_for(|open| index < *open).await.is_err() {
            // Whoever opens it has failed, and the column with it.
            return;
        }
        let began = Instant::now();
        let endings = match (&client, &twin) {
            (AnyClient::Naive(client), _) => vec![client.transfer(transfer).await],
            (AnyClient::Keyed(client), AnyClient::Keyed(twin))
                if workload::is_doubled(seed, transfer.operation) =>
            {
                join_all([client.transfer(transfer), twin.transfer(transfer)]).await
            }
            (AnyClient::Keyed(client), _) => vec![client.transfer(transfer).await],
        };
        work.log.ended(transfer.operation, endings, began.elapsed());
    }
}

/// Resumes every call that is open, until each has an answer or is known to be in doubt, or
/// patience ends. Answers how many calls had to be resumed.
pub(super) async fn resume(client: &KeyedClient, transfers: &[Transfer], log: &Log) -> u64 {
    let give_up_at = Instant::now() + PATIENCE;
    let mut resumed = 0;
    for transfer in transfers {
        while let Some(ticket) = log.open(transfer.operation) {
            if Instant::now() >= give_up_at {
                return resumed;
            }
            let ended = client.resume(ticket, transfer).await;
            resumed += u64::from(log.resumed(transfer.operation, ended));
        }
    }
    resumed
}

/// Asks once more about each call that was named in doubt, for a server that asks an outside system:
/// it may not have answered just then. Answers how many calls were asked about.
pub(super) async fn ask_about_doubts(
    client: &KeyedClient,
    transfers: &[Transfer],
    log: &Log,
) -> u64 {
    let mut asked = 0;
    for _ in 0..DOUBT_ROUNDS {
        for transfer in transfers {
            if let Some(ticket) = log.in_doubt(transfer.operation) {
                let ended = client.resume(ticket, transfer).await;
                asked += u64::from(log.resumed(transfer.operation, ended));
            }
        }
    }
    asked
}

/// Enough to have calls in flight at every kill.
pub(super) const WORKERS: u64 = 32;

/// More than one, because what has just been asked about may be executed at the moment.
const DOUBT_ROUNDS: u32 = 3;

/// A healed network and a running server answer all open calls within seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_ends_the_column() {
        let mut workers = JoinSet::new();
        workers.spawn(pending());
        workers.spawn(async { panic!("on purpose") });
        let ended = beside(workers, pending::<Result<(), DemoError>>()).await;
        assert!(matches!(ended, Err(DemoError::WorkerFailed(_))));
    }
}
