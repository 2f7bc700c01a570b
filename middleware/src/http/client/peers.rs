//! What is known of peers: whether they dedupe, by which store, and what time it is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use onlyonce_storage::{StoreId, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::{Body, ServingStore, Status};

/// A word that was not said again for so long is not relied on: servers are deployed anew.
const RELIED_ON_FOR: Duration = Duration::from_secs(600);

/// Where a call may have been executed already, so long: what was deployed anew meanwhile, without
/// the layer, would execute it again. About as long as an attempt, so that a retry seldom asks.
const RELIED_ON_AGAIN_FOR: Duration = Duration::from_secs(10);

/// A peer that said nothing is not asked again for so long: most that say nothing never will.
const NOT_ASKED_FOR: Duration = Duration::from_secs(60);

/// Of routes with longer names nothing is kept, so that the table is bounded in bytes too.
const ROUTE_BYTES_MAX: usize = 2048;

/// What is known of each route. Bounded: the one that was not used for the longest is forgotten, and
/// asked about anew.
#[derive(Debug)]
pub(super) struct Peers {
    routes: Mutex<HashMap<Route, Entry>>,
    routes_max: usize,
}

/// Method, authority and path: what a server protects or does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route(String);

/// What a route's peer has said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Dedupes(Known),
    /// It was asked, and said nothing.
    Nothing,
}

/// A peer that dedupes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) store: StoreId,
    said: Option<Timestamp>,
    at: Instant,
}

/// Held by whoever asks, so that only one does. Says when the last question ended that came to nothing:
/// whoever waited for that one need not ask it again.
pub(super) type Asking = Arc<tokio::sync::Mutex<Option<Instant>>>;

#[derive(Debug)]
struct Entry {
    word: Option<(Word, Instant)>,
    asking: Asking,
    /// It leaves questions open, so that asking again would tell nothing.
    silent: bool,
    used: Instant,
}

// === impl Peers ===

impl Peers {
    pub(super) fn new(routes_max: usize) -> Self {
        Self {
            routes: Mutex::default(),
            routes_max,
        }
    }

    /// What is known of `route`, if it may still be relied on: for a call that is sent `again` after
    /// it may have been executed, less long.
    pub(super) fn word(&self, route: &Route, again: bool) -> Option<Word> {
        let mut routes = self.routes.lock();
        let entry = routes.get_mut(route)?;
        let (word, at) = entry.word?;
        entry.used = Instant::now();
        let good_for = match word {
            Word::Dedupes(_) if again && !entry.silent => RELIED_ON_AGAIN_FOR,
            Word::Dedupes(_) => RELIED_ON_FOR,
            Word::Nothing => NOT_ASKED_FOR,
        };
        (at.elapsed() < good_for).then_some(word)
    }

    /// What whoever asks about `route` has to hold.
    pub(super) fn asking(&self, route: &Route) -> Asking {
        let mut routes = self.routes.lock();
        Arc::clone(&self.entry(&mut routes, route).asking)
    }

    /// Notes what a peer said when it was asked.
    pub(super) fn note(&self, route: &Route, word: Word) {
        let mut routes = self.routes.lock();
        let entry = self.entry(&mut routes, route);
        entry.silent = matches!(word, Word::Nothing);
        entry.word = Some((word, Instant::now()));
    }

    /// Notes that the peer had no chance to answer the question: somebody in between did, or the call
    /// that asked could not wait. It says nothing of the peer, which is asked again when that counts.
    pub(super) fn note_not_asked(&self, route: &Route) {
        let mut routes = self.routes.lock();
        self.entry(&mut routes, route).word = Some((Word::Nothing, Instant::now()));
    }

    /// Notes what an answer says of its route. What it does not say takes nothing back:
    /// [`note_silence`](Self::note_silence) does.
    pub(super) fn note_answer(&self, route: &Route, response: &Response<Body>) {
        if let Some(known) = Known::of(response) {
            let mut routes = self.routes.lock();
            self.entry(&mut routes, route).word = Some((Word::Dedupes(known), Instant::now()));
        }
    }

    /// Notes that the server itself answered and said nothing of a store.
    pub(super) fn note_silence(&self, route: &Route) {
        if let Some(entry) = self.routes.lock().get_mut(route) {
            entry.word = Some((Word::Nothing, Instant::now()));
        }
    }

    fn entry<'a>(&self, routes: &'a mut HashMap<Route, Entry>, route: &Route) -> &'a mut Entry {
        if !routes.contains_key(route) && routes.len() >= self.routes_max {
            let oldest = routes.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(route, _)| route.clone());
            oldest.map(|route| routes.remove(&route));
        }
        let entry = routes.entry(route.clone()).or_insert_with(|| Entry {
            word: None,
            asking: Arc::default(),
            silent: false,
            used: Instant::now(),
        });
        entry.used = Instant::now();
        entry
    }
}

// === impl Route ===

impl Route {
    /// The route of `request`, unless its name is too long to be kept.
    pub(super) fn of(request: &Request<Body>) -> Option<Self> {
        let uri = request.uri();
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let route = format!("{} {scheme}://{authority}{}", request.method(), uri.path());
        (route.len() <= ROUTE_BYTES_MAX).then_some(Self(route))
    }
}

// === impl Known ===

impl Known {
    /// What `response` says of the store that its route dedupes by.
    pub(super) fn of(response: &Response<Body>) -> Option<Self> {
        let headers = response.headers();
        if Status::of(headers) == Some(Status::Unprotected) {
            return None;
        }
        Self::told(response)
    }

    /// What `response` says of a store, whatever it says of itself: an answer to `OPTIONS` speaks of
    /// its route.
    pub(super) fn told(response: &Response<Body>) -> Option<Self> {
        let serving = ServingStore::of(response.headers())?;
        Some(Self {
            store: serving.id,
            said: serving.now,
            at: Instant::now(),
        })
    }

    /// What the store's clock shows now, or a little less.
    ///
    /// Less by the way of that answer, which is not added: a call that says that it was first sent
    /// later than it was might outlive the memory of its first attempt, and one that says earlier only
    /// ends a little sooner.
    pub(super) fn now(&self) -> Option<Timestamp> {
        Some(self.said?.plus(self.at.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn route(path: &str) -> Route {
        let uri = format!("http://peer{path}");
        Route::of(&Request::post(uri).body(Body::default()).unwrap()).unwrap()
    }

    fn answer(code: u16, store: Option<u8>) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        if let Some(byte) = store {
            let store = ServingStore {
                id: StoreId::from_bytes([byte; 16]),
                now: Some(Timestamp::from_millis(1_000)),
            };
            let value = store.header_value();
            response
                .headers_mut()
                .insert(crate::http::names::STORE, value);
        }
        response
    }

    fn store(peers: &Peers, path: &str) -> Option<StoreId> {
        match peers.word(&route(path), false) {
            Some(Word::Dedupes(known)) => Some(known.store),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_a_peer_goes_on_from_what_it_said() {
        let known = Known::of(&answer(200, Some(1))).unwrap();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(known.now(), Some(Timestamp::from_millis(1_250)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_is_relied_on_until_it_is_taken_back_or_old() {
        let peers = Peers::new(4);
        peers.note_answer(&route("/a"), &answer(200, Some(1)));
        assert_eq!(store(&peers, "/a"), Some(StoreId::from_bytes([1; 16])));
        assert!(store(&peers, "/a").is_some());
        peers.note_answer(&route("/a"), &answer(502, None));
        assert!(store(&peers, "/a").is_some());
        peers.note_silence(&route("/a"));
        assert!(matches!(
            peers.word(&route("/a"), false),
            Some(Word::Nothing)
        ));
        tokio::time::advance(NOT_ASKED_FOR).await;
        assert!(peers.word(&route("/a"), false).is_none());

        peers.note_answer(&route("/b"), &answer(200, Some(1)));
        tokio::time::advance(RELIED_ON_FOR).await;
        assert!(peers.word(&route("/b"), false).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_does_not_say_so_is_not_known_by_another_of_its_server() {
        let peers = Peers::new(4);
        peers.note_answer(&route("/protected"), &answer(200, Some(1)));
        assert!(peers.word(&route("/other"), false).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_keeps_the_routes_that_were_used_last() {
        let peers = Peers::new(2);
        for path in ["/a", "/b", "/c"] {
            peers.note_answer(&route(path), &answer(200, Some(1)));
            tokio::time::advance(Duration::from_millis(1)).await;
            // Stays, since it is used.
            let _ = peers.word(&route("/a"), false);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(peers.routes.lock().len(), 2);
        assert!(store(&peers, "/a").is_some());
        assert!(store(&peers, "/b").is_none());
    }
}
