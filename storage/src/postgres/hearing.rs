//! How a server hears at once that another one has settled a call.
//!
//! A word is a hint: whoever hears it asks the store. One that is lost costs no more than the time until
//! the next look, so nothing here is asked again, and nothing waits for it.
//!
//! Words are told after the change is durable, apart from it and many at once. PostgreSQL lets only one
//! transaction commit at a time of all that notify: said within each completion they would end the group
//! commit of all servers together.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Ended, Heard, connect_hearing};
use super::options::PostgresOptions;
use super::pool::Pool;
use super::statement::Told;
use crate::KeyDigest;

/// Who waits here for which key, and what is to be told to others.
#[derive(Debug)]
pub(super) struct Hearing {
    waiting: Arc<Waiting>,
    settled: mpsc::Sender<KeyName>,
}

/// The first half of a key's digest: enough for a hint.
type KeyName = [u8; 16];

#[derive(Debug, Default)]
struct Waiting {
    keys: Mutex<HashMap<KeyName, (Arc<Notify>, usize)>>,
}

/// One who waits. Dropping it forgets that.
struct Waiter {
    waiting: Arc<Waiting>,
    key: KeyName,
    told: Arc<Notify>,
}

// === impl Hearing ===

impl Hearing {
    /// Listens and tells until the store is dropped.
    pub(super) fn start(pool: &Arc<Pool>, runtime: &Handle) -> Self {
        let (settled, told) = mpsc::channel(TOLD_MAX);
        let waiting = Arc::new(Waiting::default());
        if pool.options().listens {
            runtime.spawn(keep_listening(
                Arc::downgrade(pool),
                Arc::downgrade(&waiting),
                told,
            ));
        }
        Self { waiting, settled }
    }

    /// Tells everybody who waits for the key, here and elsewhere.
    pub(super) fn tell(&self, key: KeyDigest) {
        let name = name(key);
        self.waiting.wake(&name);
        // OK to ignore because those who are not told look for themselves.
        let _ = self.settled.try_send(name);
    }

    /// Ends once somebody has said that the key was settled, since this was called.
    pub(super) fn settled(&self, key: KeyDigest) -> impl Future<Output = ()> + Send + use<> {
        let waiter = Waiter::new(Arc::clone(&self.waiting), name(key));
        // It hears from now on, and not from when it is first polled.
        let told = Arc::clone(&waiter.told).notified_owned();
        async move {
            told.await;
            drop(waiter);
        }
    }
}

/// One connection that hears and tells, made anew whenever it is lost.
async fn keep_listening(
    pool: Weak<Pool>,
    waiting: Weak<Waiting>,
    mut settled: mpsc::Receiver<KeyName>,
) {
    let mut pause = PAUSE;
    loop {
        let Some((options, channel)) = pool.upgrade().map(|pool| pool.listening()) else {
            return;
        };
        if let Some((connection, ended)) = listen(&options, &channel, &waiting).await {
            pause = PAUSE;
            // What was settled meanwhile was not heard.
            if let Some(waiting) = waiting.upgrade() {
                waiting.wake_all();
            }
            let told = tell(&connection, ended, &channel, &mut settled).await;
            if told.is_none() {
                return;
            }
        }
        // A store that is gone is noticed while nothing can be told, too.
        if settled.is_closed() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn listen(
    options: &PostgresOptions,
    channel: &str,
    waiting: &Weak<Waiting>,
) -> Option<(Connection, Ended)> {
    let waiting = Weak::clone(waiting);
    let heard: Heard = Box::new(move |payload: &str| {
        if let Some(waiting) = waiting.upgrade() {
            names(payload).for_each(|name| waiting.wake(&name));
        }
    });
    let listening = async {
        let (connection, ended) = connect_hearing(options, heard).await.ok()?;
        let listen = format!("LISTEN \"{channel}\"");
        connection.run(&listen).await.ok()?;
        Some((connection, ended))
    };
    timeout(options.answer_within, listening).await.ok()?
}

/// Tells what is settled, for as long as the connection lasts. `None`: the store is gone.
async fn tell(
    connection: &Connection,
    mut ended: Ended,
    channel: &str,
    settled: &mut mpsc::Receiver<KeyName>,
) -> Option<()> {
    let mut keys = Vec::new();
    loop {
        keys.clear();
        tokio::select! {
            count = settled.recv_many(&mut keys, AT_ONCE_MAX) => if count == 0 {
                return None;
            },
            // Otherwise nobody would notice until something is settled here.
            _ = &mut ended => return Some(()),
        }
        let payload: String = keys.iter().map(hex).collect();
        // Nobody waits for a hint to be durable; for this one transaction, since others may have the backend
        // after it.
        let told =
            Told::new("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)")
                .text(Some(channel))
                .text(Some(&payload));
        if !matches!(timeout(TELL_WITHIN, connection.ask(&told)).await, Ok(Ok(_))) {
            return Some(());
        }
        // So that a busy server tells many at once, and not each.
        sleep(TOGETHER).await;
    }
}

fn name(key: KeyDigest) -> KeyName {
    let [name @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *key.as_bytes();
    name
}

fn hex(name: &KeyName) -> String {
    uuid::Uuid::from_bytes(*name).simple().to_string()
}

/// The keys that are named in what somebody said; what is none is passed over.
fn names(payload: &str) -> impl Iterator<Item = KeyName> {
    let words = payload.as_bytes().chunks(32);
    words.filter_map(|word| Some(*uuid::Uuid::try_parse_ascii(word).ok()?.as_bytes()))
}

// === impl Waiting ===

impl Waiting {
    fn wake(&self, key: &KeyName) {
        if let Some((told, _)) = self.keys.lock().get(key) {
            told.notify_waiters();
        }
    }

    fn wake_all(&self) {
        for (told, _) in self.keys.lock().values() {
            told.notify_waiters();
        }
    }
}

// === impl Waiter ===

impl Waiter {
    fn new(waiting: Arc<Waiting>, key: KeyName) -> Self {
        let told = {
            let mut keys = waiting.keys.lock();
            let (told, count) = keys.entry(key).or_default();
            *count += 1;
            Arc::clone(told)
        };
        Self { waiting, key, told }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut keys = self.waiting.keys.lock();
        if let Some((_, count)) = keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

/// As fits into one notification, which has 8,000 bytes.
const AT_ONCE_MAX: usize = 240;

/// What waits to be told: more than a server settles while one notification is on its way.
const TOLD_MAX: usize = 4_096;

/// Far less than whoever is not told waits until the next look.
const TOGETHER: Duration = Duration::from_millis(5);

/// A word that comes later than that is of no use.
const TELL_WITHIN: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_and_what_is_no_key_is_passed_over() {
        let (one, two) = ([7; 16], [255; 16]);
        let payload = format!("{}{}", hex(&one), hex(&two));
        assert_eq!(names(&payload).collect::<Vec<_>>(), [one, two]);
        for other in [
            "",
            "x",
            "hello from somebody else who uses this channel",
            "\u{fe}",
        ] {
            assert_eq!(names(other).count(), 0, "{other}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_though_it_was_not_polled_and_leaves_nothing() {
        let waiting = Arc::new(Waiting::default());
        let (settled, _nobody) = mpsc::channel(1);
        let hearing = Hearing { waiting, settled };
        let key = KeyDigest::from_bytes([3; 32]);
        let (first, second) = (hearing.settled(key), hearing.settled(key));
        hearing.tell(KeyDigest::from_bytes([4; 32]));
        hearing.tell(key);
        first.await;
        second.await;
        assert!(hearing.waiting.keys.lock().is_empty());
    }
}
