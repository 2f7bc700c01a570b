//! The session of a channel, as its client knows it: who has which number, and what is answered.
//!
//! A number is taken before anything of the call is sent, and goes with every attempt. It counts as
//! answered only when the answer was handed to the caller. A call that ends otherwise is *given up*:
//! its caller may come back with its ticket, so it is never acknowledged. When the window is full
//! behind such a call, the session is left for a new one; its calls are then forgotten by the
//! server in their time, like others.
//!
//! A call is sent in its own session or in none, never in another. Once it went out in none, only
//! its record can recognise its duplicates: it is given up, so that its record stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce_storage::{SESSION_WINDOW, SessionCall, StoreId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::rpc::handshake::{NEW_SESSION, Welcome};

/// The session of a channel, and those before it that calls still have.
#[derive(Debug)]
pub(in crate::rpc) struct Sessions {
    window: u64,
    state: Mutex<State>,
    /// Numbers came free.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    current: Arc<Session>,
    /// Whether the server that was met last gives any.
    given: bool,
}

/// One session.
#[derive(Debug)]
pub(in crate::rpc) struct Session {
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    /// What the server calls it, and whose it is; once that is known.
    id: Option<(u64, StoreId)>,
    next: u64,
    first_unanswered: u64,
    /// The first unanswered number that the server was last told.
    told: u64,
    /// Answered out of turn.
    answered: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
    in_flight: usize,
}

/// The number of one call. Unless [`answered`](Self::answered) is said, its end gives it up.
#[derive(Debug)]
pub(in crate::rpc) struct Place {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    number: u64,
    ended: AtomicBool,
}

/// What becomes of a call that wants a number.
#[derive(Debug)]
pub(in crate::rpc) enum Numbered {
    /// It goes without a session: the server gives none.
    Without,
    Place(Place),
    /// It waits for earlier ones.
    Full,
    /// The session is left for a new one, which needs a new connection.
    Left,
}

// === impl Sessions ===

impl Sessions {
    /// No session yet. At most `window` numbers from the first unanswered one on.
    pub(super) fn new(window: u32) -> Self {
        Self {
            window: u64::from(window).clamp(1, SESSION_WINDOW),
            state: Mutex::new(State {
                current: Arc::new(Session::new(None)),
                given: true,
            }),
            freed: Notify::new(),
        }
    }

    /// What a hello asks for, and the session that it is for.
    pub(super) fn wanted(&self) -> (u64, Arc<Session>) {
        let current = Arc::clone(&self.state.lock().current);
        let id = current.numbers.lock().id;
        (id.map_or(NEW_SESSION, |(id, _)| id), current)
    }

    /// Takes in what the server says to it. Answers the session of the connection.
    pub(super) fn welcomed(&self, asked: &Arc<Session>, welcome: &Welcome) -> Option<u64> {
        let mut state = self.state.lock();
        let Some(given) = welcome.session.zip(welcome.store) else {
            state.given = false;
            self.freed.notify_waiters();
            return None;
        };
        state.given = true;
        let known = {
            let mut numbers = asked.numbers.lock();
            *numbers.id.get_or_insert(given)
        };
        if known == given {
            return Some(given.0);
        }
        // It has ended. Of another store's session of this number nothing is known: it may be
        // somebody else's of the same principal.
        let is_new = known.0 != given.0;
        if Arc::ptr_eq(&state.current, asked) {
            state.current = Arc::new(Session::new(is_new.then_some(given)));
            self.freed.notify_waiters();
            return is_new.then_some(given.0);
        }
        None
    }

    /// A number for a call that was never sent.
    pub(in crate::rpc) fn number(self: &Arc<Self>) -> Numbered {
        let mut state = self.state.lock();
        if !state.given {
            return Numbered::Without;
        }
        let mut numbers = state.current.numbers.lock();
        if numbers.next - numbers.first_unanswered < self.window {
            let number = numbers.next;
            numbers.next += 1;
            numbers.in_flight += 1;
            drop(numbers);
            return Numbered::Place(Place {
                sessions: Arc::clone(self),
                session: Arc::clone(&state.current),
                number,
                ended: AtomicBool::new(false),
            });
        }
        if !numbers.given_up.contains(&numbers.first_unanswered) {
            return Numbered::Full;
        }
        drop(numbers);
        state.current = Arc::new(Session::new(None));
        Numbered::Left
    }

    /// Ends when a number may have come free.
    pub(in crate::rpc) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// What the server has not been told of a session in which nothing is in flight. It is taken
    /// for told.
    pub(super) fn untold(&self) -> Option<(u64, u64)> {
        let state = self.state.lock();
        let mut numbers = state.current.numbers.lock();
        let (id, _) = numbers.id?;
        if numbers.in_flight > 0 || numbers.told >= numbers.first_unanswered {
            return None;
        }
        numbers.told = numbers.first_unanswered;
        Some((id, numbers.told))
    }
}

// === impl Session ===

impl Session {
    const fn new(id: Option<(u64, StoreId)>) -> Self {
        Self {
            numbers: Mutex::new(Numbers {
                id,
                next: 1,
                first_unanswered: 1,
                told: 1,
                answered: BTreeSet::new(),
                given_up: BTreeSet::new(),
                in_flight: 0,
            }),
        }
    }
}

// === impl Place ===

impl Place {
    /// What an attempt carries on a connection of this session. It is about to be queued.
    pub(super) fn carried(&self, connection: Option<u64>) -> Option<SessionCall> {
        let mut numbers = self.session.numbers.lock();
        let mine = numbers.id.map(|(id, _)| id);
        let left = numbers.given_up.contains(&self.number);
        match mine.filter(|_| mine == connection && !left) {
            Some(session) => {
                numbers.told = numbers.told.max(numbers.first_unanswered);
                Some(SessionCall {
                    session,
                    sequence: self.number,
                    first_unanswered: numbers.first_unanswered,
                })
            }
            None => {
                numbers.given_up.insert(self.number);
                None
            }
        }
    }

    /// The call's answer is handed to its caller now. Says whether nothing else is in flight.
    pub(in crate::rpc) fn answered(&self) -> bool {
        if self.ended.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut numbers = self.session.numbers.lock();
        numbers.in_flight -= 1;
        let idle = numbers.in_flight == 0;
        if !numbers.given_up.contains(&self.number) {
            numbers.answered.insert(self.number);
        }
        let mut first = numbers.first_unanswered;
        while numbers.answered.remove(&first) {
            first += 1;
        }
        numbers.first_unanswered = first;
        drop(numbers);
        self.sessions.freed.notify_waiters();
        idle
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        if onlyonce_storage::planted!(GivenUpAcknowledged) {
            self.answered();
            return;
        }
        let mut numbers = self.session.numbers.lock();
        numbers.in_flight -= 1;
        numbers.given_up.insert(self.number);
        drop(numbers);
        self.sessions.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use onlyonce_storage::Timestamp;

    use super::*;

    const STORE: StoreId = StoreId::from_bytes([1; 16]);

    fn welcome(session: Option<u64>, store: StoreId) -> Welcome {
        Welcome {
            now: Timestamp::from_millis(1),
            store: Some(store),
            session,
            frame_bytes_max: 4096,
            in_flight_max: 8,
        }
    }

    fn connected(window: u32) -> Arc<Sessions> {
        let sessions = Arc::new(Sessions::new(window));
        let (wanted, asked) = sessions.wanted();
        assert_eq!(wanted, NEW_SESSION);
        let given = sessions.welcomed(&asked, &welcome(Some(7), STORE));
        assert_eq!(given, Some(7));
        sessions
    }

    fn place(sessions: &Arc<Sessions>) -> Place {
        match sessions.number() {
            Numbered::Place(place) => place,
            other => panic!("{other:?}"),
        }
    }

    fn first_unanswered(sessions: &Arc<Sessions>) -> u64 {
        sessions
            .state
            .lock()
            .current
            .numbers
            .lock()
            .first_unanswered
    }

    #[test]
    fn only_what_was_handed_to_its_caller_is_acknowledged() {
        let sessions = connected(8);
        let [one, two, three] = std::array::from_fn(|_| place(&sessions));
        assert!(!three.answered());
        assert_eq!(first_unanswered(&sessions), 1);
        assert!(!one.answered());
        let carried = two.carried(Some(7)).unwrap();
        assert_eq!((carried.sequence, carried.first_unanswered), (2, 2));
        assert!(two.answered());
        assert_eq!(sessions.untold(), Some((7, 4)));
        assert_eq!(sessions.untold(), None);
    }

    #[test]
    fn a_call_that_ends_without_its_answer_is_never_acknowledged() {
        let sessions = connected(3);
        drop(place(&sessions));
        assert!(place(&sessions).answered());
        assert!(place(&sessions).answered());
        assert_eq!(first_unanswered(&sessions), 1);
        // Nobody answers it any more: the session is left.
        assert!(matches!(sessions.number(), Numbered::Left));
        assert_eq!(sessions.wanted().0, NEW_SESSION);
        assert!(place(&sessions).carried(Some(7)).is_none());
    }

    #[test]
    fn a_full_window_waits_for_its_first_call() {
        let sessions = connected(2);
        let (one, two) = (place(&sessions), place(&sessions));
        assert!(matches!(sessions.number(), Numbered::Full));
        two.answered();
        assert!(matches!(sessions.number(), Numbered::Full));
        one.answered();
        assert_eq!(place(&sessions).number, 3);
    }

    #[test]
    fn a_call_that_went_out_in_no_session_never_goes_in_one() {
        let sessions = connected(8);
        let one = place(&sessions);
        assert!(one.carried(Some(7)).is_some());
        assert!(one.carried(None).is_none());
        assert!(one.carried(Some(7)).is_none());
        one.answered();
        assert_eq!(first_unanswered(&sessions), 1, "its record must stay");
    }

    #[test]
    fn a_session_is_resumed_and_another_is_never_taken_for_it() {
        let sessions = connected(8);
        let old = place(&sessions);
        let (wanted, asked) = sessions.wanted();
        assert_eq!(wanted, 7);
        let resumed = sessions.welcomed(&asked, &welcome(Some(7), STORE));
        assert_eq!(resumed, Some(7));
        assert_eq!(place(&sessions).number, 2);
        // The same number at another store is not ours.
        let other = StoreId::from_bytes([2; 16]);
        let given = sessions.welcomed(&asked, &welcome(Some(7), other));
        assert_eq!(given, None);
        assert_eq!(sessions.wanted().0, NEW_SESSION);
        assert!(old.carried(None).is_none());
    }

    #[test]
    fn an_expired_session_is_followed_by_a_new_one() {
        let sessions = connected(8);
        let old = place(&sessions);
        let (_, asked) = sessions.wanted();
        let given = sessions.welcomed(&asked, &welcome(Some(9), STORE));
        assert_eq!(given, Some(9));
        assert!(old.carried(given).is_none(), "it is of the old one");
        let new = place(&sessions);
        assert_eq!(new.carried(given).unwrap().session, 9);
    }

    #[test]
    fn a_server_without_sessions_is_called_without() {
        let sessions = Arc::new(Sessions::new(8));
        let early = place(&sessions);
        let (_, asked) = sessions.wanted();
        assert_eq!(sessions.welcomed(&asked, &welcome(None, STORE)), None);
        assert!(early.carried(None).is_none());
        assert!(matches!(sessions.number(), Numbered::Without));
    }
}
