//! Opening an outbox, and refusing one that is not ours to open.

use std::time::Duration;

use super::options::PostgresOutboxOptions;
use super::rows::{self, Place, corrupt, only};
use crate::outbox::codec::encode;
use crate::outbox::{FirstSent, OutboxEntry, OutboxError, OutboxState, Unknown};
use crate::postgres::OpenError;
use crate::postgres::pool::Pool;
use crate::postgres::stored::get;
use crate::{Scope, StoreId, Timestamp};

/// Why an outbox on PostgreSQL could not be opened.
///
/// Whatever it is: an empty outbox in its place knows no key, and whoever then calls anew calls a
/// second time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxOpenError {
    /// What is kept is not what was written. Nothing was changed.
    #[error("outbox {name:?} is corrupt: {reason}; restore a copy of the database")]
    Corrupt {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The database fails while the outbox is opened.
    #[error("outbox {name:?} could not be opened: {reason}; try again")]
    Failed {
        /// Its name.
        name: String,
        /// What the database says.
        reason: String,
    },
    /// The database has failed over, or was restored, since the outbox was last opened.
    #[error(
        "the database of outbox {name:?} has failed over, or was restored, and may not know which \
         calls were sent; open it with `after_failover`, which takes none of them for unsent"
    )]
    Moved {
        /// Its name.
        name: String,
    },
    /// The name is none.
    #[error("an outbox has a name of 1 to 255 bytes without a zero byte")]
    Name,
    /// Its calls were made in another scope: by another principal. In this one their keys are new,
    /// and they would be executed again.
    #[error(
        "outbox {name:?} belongs to another scope; as this one its calls would be executed again"
    )]
    OtherScope {
        /// Its name.
        name: String,
    },
    /// Another process has it, or had it until a moment ago.
    #[error(
        "outbox {name:?} is open elsewhere, or was until a crash; it is free in {} ms unless it is \
         renewed; wait, or give each process an outbox of its own", free_in.as_millis()
    )]
    OwnedElsewhere {
        /// Its name.
        name: String,
        /// When its lease lapses.
        free_in: Duration,
    },
}

/// What an opening gives.
pub(super) struct Opened {
    pub(super) pool: Pool,
    pub(super) place: Place,
    pub(super) id: StoreId,
    pub(super) next: u64,
}

pub(super) async fn open(
    scope: &Scope,
    options: &PostgresOutboxOptions,
) -> Result<Opened, OutboxOpenError> {
    let name = &options.name;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err(OutboxOpenError::Name);
    }
    let pool = Pool::open(options.database.clone()).await?;
    let fresh = StoreId::random();
    let asked = pool.rows(|_| {
        pool.told(
            "SELECT outcome, id, epoch, next, calls, bytes, free_in, is_moved
            FROM {schema}.outbox_open($1, $2, $3, $4, $5, $6)",
        )
        .time(pool.options().told_now())
        .text(Some(name))
        .bytes(Some(fresh.as_bytes()))
        .bytes(Some(scope.digest().as_bytes()))
        .span(options.lease)
        .flag(options.after_failover)
    });
    let failed = |error: OutboxError| failed(name, error);
    let asked = asked.await.map_err(rows::unavailable).map_err(failed)?;
    let row = only(&asked).map_err(failed)?;
    let number = |column| get::<i64>(row, column).map_err(|error| failed(corrupt(error)));
    match get::<i32>(row, "outcome").map_err(|error| failed(corrupt(error)))? {
        0 => {}
        1 => {
            return Err(OutboxOpenError::OwnedElsewhere {
                name: name.clone(),
                free_in: Duration::from_millis(number("free_in")?.unsigned_abs()),
            });
        }
        2 => return Err(OutboxOpenError::OtherScope { name: name.clone() }),
        _ => return Err(OutboxOpenError::Moved { name: name.clone() }),
    }
    let place = Place {
        name: name.clone(),
        epoch: number("epoch")?.unsigned_abs(),
    };
    let id: Vec<u8> = get(row, "id").map_err(|error| failed(corrupt(error)))?;
    let id = <[u8; 16]>::try_from(id).map_err(|_| OutboxOpenError::Corrupt {
        name: name.clone(),
        reason: "its identity has another length than 16 bytes".to_owned(),
    })?;
    let told = (
        number("calls")?.unsigned_abs(),
        number("bytes")?.unsigned_abs(),
    );
    let next = number("next")?.unsigned_abs();
    let is_moved = get::<bool>(row, "is_moved").map_err(|error| failed(corrupt(error)))?;
    let opened = Opened {
        pool,
        place,
        id: StoreId::from_bytes(id),
        next,
    };
    let checked = match check(&opened, told).await {
        Ok(()) if is_moved => hold_all_possible(&opened).await,
        checked => checked,
    };
    if let Err(error) = checked {
        // Whoever sets right what was wrong and tries again is not to be told that it is open.
        release(&opened.pool, &opened.place).await;
        return Err(failed(error));
    }
    Ok(opened)
}

/// Lets others open it at once. Where the database does not answer they wait for the lease.
pub(super) async fn release(pool: &Pool, place: &Place) {
    // OK to ignore because the lease lapses also where nobody says so.
    let _ = renew(pool, place, Duration::ZERO).await;
}

/// Keeps it for longer; `false` where somebody else has it by now.
pub(super) async fn renew(
    pool: &Pool,
    place: &Place,
    lease: Duration,
) -> Result<bool, OutboxError> {
    let renewed = pool.rows(|_| {
        pool.told("SELECT {schema}.outbox_renew($1, $2, $3, $4) AS renewed")
            .time(pool.options().told_now())
            .text(Some(&place.name))
            .number(place.epoch)
            .span(lease)
    });
    let renewed = renewed.await.map_err(rows::unavailable)?;
    get(only(&renewed)?, "renewed").map_err(corrupt)
}

/// Reads every call: none is damaged, and none is missing.
async fn check(opened: &Opened, told: (u64, u64)) -> Result<(), OutboxError> {
    let entries = rows::all(&opened.pool, &opened.place).await?;
    let bytes: u64 = entries.iter().map(OutboxEntry::bytes).sum();
    let found = (entries.len() as u64, bytes);
    let largest = entries.last().map_or(0, |entry| entry.number);
    if found != told || largest >= opened.next {
        return Err(OutboxError::Corrupt(format!(
            "it has {} calls with {} bytes up to number {largest}, and {} with {} below {} were \
             acknowledged",
            found.0, found.1, told.0, told.1, opened.next
        )));
    }
    Ok(())
}

/// That a call was never sent is not believed of a database that may have lost that it was.
async fn hold_all_possible(opened: &Opened) -> Result<(), OutboxError> {
    let (pool, place) = (&opened.pool, &opened.place);
    for mut entry in rows::all(pool, place).await? {
        if entry.state != OutboxState::Unsent {
            continue;
        }
        let read = rows::find(pool, place, &entry.key).await?;
        entry.state = OutboxState::Unknown {
            sent: FirstSent {
                at: Timestamp::from_millis(0),
                store: None,
            },
            because: Unknown::Forgotten,
        };
        let bytes = encode(&entry);
        rows::change(pool, place, &read, Some(&bytes), None).await?;
    }
    let marked = rows::all(pool, place).await?;
    if marked
        .iter()
        .any(|entry| entry.state == OutboxState::Unsent)
    {
        let reason = "a call was changed by somebody else meanwhile; open it again";
        return Err(OutboxError::Unavailable(reason.to_owned()));
    }
    let sure = pool.rows(|_| {
        pool.told(
            "UPDATE {schema}.outboxes SET is_unsure = false
            WHERE name = $1 AND epoch = $2 RETURNING 1",
        )
        .text(Some(&place.name))
        .number(place.epoch)
    });
    only(&sure.await.map_err(rows::unavailable)?).map(drop)
}

fn failed(name: &str, error: OutboxError) -> OutboxOpenError {
    let name = name.to_owned();
    match error {
        OutboxError::Corrupt(reason) => OutboxOpenError::Corrupt { name, reason },
        OutboxError::Unavailable(reason) => OutboxOpenError::Failed { name, reason },
        other => OutboxOpenError::Failed {
            name,
            reason: other.to_string(),
        },
    }
}

const NAME_BYTES_MAX: usize = 255;
