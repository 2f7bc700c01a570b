//! Who has asked for a key, as far as this process has seen. A store keeps who claimed a key and how its
//! call ended, and nothing of those who came in between.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::principal::Principal;
use crate::http::server::ScopeOf;
use crate::http::{Body, Status, read_key};
use crate::storage::{Clock, IdempotencyKey, KeyDigest, Scope, ScopedKey, SystemClock, Timestamp};

/// The attempts that this process has seen of the keys that were asked for last.
pub(super) struct Attempts {
    since: Timestamp,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    keys: HashMap<KeyDigest, Seen>,
    /// The same, the one that was asked for longest ago first.
    order: BTreeMap<u64, KeyDigest>,
    next: u64,
    /// Of keys that are not in here any more attempts may have been seen until then.
    forgotten_until: Option<Timestamp>,
}

/// What was seen of one key.
struct Seen {
    place: u64,
    count: u64,
    first: Timestamp,
    latest: VecDeque<Attempt>,
}

/// One attempt that has ended.
#[derive(Clone, Copy)]
struct Attempt {
    at: Timestamp,
    took: Duration,
    /// None where its client had gone before.
    told: Option<(StatusCode, Option<Status>)>,
}

/// An attempt that is under way. It is noted when it ends, or is dropped.
pub(super) struct UnderWay {
    attempts: Arc<Attempts>,
    key: IdempotencyKey,
    scope: Arc<OnceLock<Scope>>,
    at: Timestamp,
    began: Instant,
    told: Option<(StatusCode, Option<Status>)>,
}

/// Where the scope of a request is noted, among its extensions.
#[derive(Clone)]
struct Asking(Arc<OnceLock<Scope>>);

/// Says whose key it is, and lets the attempt under way know.
#[derive(Clone)]
pub(super) struct Noted(pub(super) Principal);

// === impl Noted ===

impl ScopeOf for Noted {
    fn scope_of(&self, request: &Parts) -> Option<Scope> {
        let scope = self.0.scope_of(request)?;
        if let Some(Asking(noted)) = request.extensions.get() {
            // OK because it is asked once a request.
            let _ = noted.set(scope.clone());
        }
        Some(scope)
    }
}

// === impl Attempts ===

impl Attempts {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            since: SystemClock.now(),
            table: Mutex::default(),
        })
    }

    /// An attempt begins, where `request` has a key.
    pub(super) fn begin(self: &Arc<Self>, request: &mut Request<Body>) -> Option<UnderWay> {
        let key = read_key(request.headers()).ok().flatten()?;
        let scope = Arc::<OnceLock<Scope>>::default();
        request.extensions_mut().insert(Asking(Arc::clone(&scope)));
        Some(UnderWay {
            attempts: Arc::clone(self),
            key,
            scope,
            at: SystemClock.now(),
            began: Instant::now(),
            told: None,
        })
    }

    /// What was seen of `key`, for the page.
    pub(super) fn of(&self, key: &ScopedKey) -> Value {
        let table = self.table.lock();
        let seen = table.keys.get(&key.digest());
        let latest = seen.map_or_else(Vec::new, |seen| {
            seen.latest.iter().map(Attempt::shown).collect()
        });
        let since = table
            .forgotten_until
            .map_or(self.since, |until| until.max(self.since));
        json!({
            "since_ms": since.as_millis(),
            "count": seen.map_or(0, |seen| seen.count),
            "first_ms": seen.map(|seen| seen.first.as_millis()),
            "latest": latest,
        })
    }

    fn note(&self, key: KeyDigest, attempt: Attempt) {
        let mut table = self.table.lock();
        let place = table.next;
        table.next += 1;
        if let Some(seen) = table.keys.get_mut(&key) {
            let before = std::mem::replace(&mut seen.place, place);
            seen.count += 1;
            if seen.latest.len() >= LATEST_MAX {
                seen.latest.pop_front();
            }
            seen.latest.push_back(attempt);
            table.order.remove(&before);
        } else {
            if table.keys.len() >= KEYS_MAX
                && let Some((_, oldest)) = table.order.pop_first()
            {
                let gone = table.keys.remove(&oldest);
                let latest = gone.and_then(|gone| gone.latest.back().copied());
                table.forgotten_until = table.forgotten_until.max(latest.map(|latest| latest.at));
            }
            let seen = Seen {
                place,
                count: 1,
                first: attempt.at,
                latest: VecDeque::from([attempt]),
            };
            table.keys.insert(key, seen);
        }
        table.order.insert(place, key);
    }
}

// === impl Attempt ===

impl Attempt {
    fn shown(&self) -> Value {
        let (code, status) = self.told.unzip();
        json!({
            "at_ms": self.at.as_millis(),
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "code": code.map(|code| code.as_u16()),
            "status": status.flatten().map(Status::as_str),
        })
    }
}

// === impl UnderWay ===

impl UnderWay {
    /// Its client is told this.
    pub(super) fn told(mut self, response: &Response<Body>) {
        self.told = Some((response.status(), Status::of(response.headers())));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Without one its client is nobody, and there is no such key.
        let Some(scope) = self.scope.get().cloned() else {
            return;
        };
        let attempt = Attempt {
            at: self.at,
            took: self.began.elapsed(),
            told: self.told,
        };
        let key = ScopedKey::new(scope, self.key.clone());
        self.attempts.note(key.digest(), attempt);
    }
}

/// With all their attempts some megabytes.
const KEYS_MAX: usize = 4_096;
const LATEST_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> ScopedKey {
        let key = IdempotencyKey::parse(&number.to_string()).unwrap();
        ScopedKey::new(Scope::global(), key)
    }

    fn attempt(millis: u64) -> Attempt {
        Attempt {
            at: Timestamp::from_millis(millis),
            took: Duration::from_millis(3),
            told: Some((StatusCode::CONFLICT, Some(Status::InDoubt))),
        }
    }

    // F4
    #[test]
    fn the_keys_that_were_asked_for_last_are_known_and_of_each_the_latest_attempts() {
        let attempts = Attempts::new();
        let later = u64::MAX / 2;
        for number in 0..=KEYS_MAX {
            let at = if number == 1 { later } else { 1 };
            attempts.note(key(number).digest(), attempt(at));
            // Stays, since it is asked for.
            attempts.note(key(0).digest(), attempt(2));
        }
        assert_eq!(attempts.table.lock().keys.len(), KEYS_MAX);
        assert_eq!(attempts.table.lock().order.len(), KEYS_MAX);
        // What was forgotten is not said not to have been.
        let forgotten = attempts.of(&key(1));
        assert_eq!(forgotten["count"], 0);
        assert!(forgotten["since_ms"].as_u64().unwrap() > SystemClock.now().as_millis());
        let seen = attempts.of(&key(0));
        assert_eq!(seen["count"], KEYS_MAX + 2);
        assert_eq!(seen["first_ms"], 1);
        assert_eq!(seen["latest"].as_array().unwrap().len(), LATEST_MAX);
        assert_eq!(seen["latest"][0]["status"], "in-doubt");
        assert_eq!(seen["latest"][0]["code"], 409);
    }

    #[test]
    fn an_attempt_is_noted_for_its_principal_also_where_its_client_goes_before_it_is_told() {
        let attempts = Attempts::new();
        let header = http::HeaderName::from_static("x-tenant");
        let principal = Noted(Principal::Header(header));
        let asked = |tenant: Option<&str>| {
            let mut request = Request::post("/").header("idempotency-key", "7");
            if let Some(tenant) = tenant {
                request = request.header("x-tenant", tenant);
            }
            let mut request = request.body(Body::default()).unwrap();
            let under_way = attempts.begin(&mut request).unwrap();
            let _ = principal.scope_of(&request.into_parts().0);
            under_way
        };
        asked(Some("ann")).told(&Response::new(Body::default()));
        drop(asked(Some("ann")));
        asked(None).told(&Response::new(Body::default()));
        let of = |tenant: &str| {
            let key = IdempotencyKey::parse("7").unwrap();
            attempts.of(&ScopedKey::new(Scope::principal(tenant).unwrap(), key))
        };
        assert_eq!(of("bob")["count"], 0);
        let seen = of("ann");
        assert_eq!(seen["count"], 2);
        assert_eq!(seen["latest"][0]["code"], 200);
        assert!(seen["latest"][1]["code"].is_null());
        assert_eq!(attempts.table.lock().keys.len(), 1);
    }
}
