//! Sessions, transactions, doubts, seals, resolutions, re-runs, sweeps, expiry and openings, all over
//! the same keys and in an order that chance comes up with: what clients were told is compared with
//! what has happened.
//!
//! `ONLYONCE_TOGETHER_SEED=7` repeats one run, `ONLYONCE_TOGETHER_RUNS=100` makes many.
#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::transaction::{
    CommitError, RowRange, Table, Transaction, TransactionalStore,
};
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, DoubtReason, FencingToken,
    Fingerprint, FingerprintAlgorithm, Fingerprints, IdempotencyKey, Inspect, KeyState,
    ManualClock, Operator, Question, Resolution, Scope, ScopedKey, SessionCall, SessionRequest,
    SessionState, SettleError, Store, StoreLimits, Timestamp,
};

const ROWS: Table = Table::new("rows");
const STEPS: usize = 500;
const HOUR: Duration = Duration::from_secs(60 * 60);
const LEASE: Duration = Duration::from_secs(30);

/// A call as its client and the world know it.
struct Call {
    key: ScopedKey,
    transactional: bool,
    first_sent: Timestamp,
    place: Option<(u64, u64)>,
    /// What it has done, and the answer of the run that did it.
    effects: u32,
    answer: Option<String>,
    /// Its caller has the answer.
    delivered: bool,
    sealed: bool,
    /// Handlers that are at work.
    at_work: usize,
    runs: u32,
}

/// A handler at work.
struct Run {
    call: usize,
    claim: Claim,
    /// Of which opening of the store.
    transaction: Option<Transaction>,
    opening: u32,
}

struct World {
    store: Arc<SledStore>,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    path: PathBuf,
    opening: u32,
    calls: Vec<Call>,
    runs: Vec<Run>,
    /// Sessions of the client, and their next numbers; the last is the one in use.
    sessions: Vec<(u64, u64)>,
    doubts: BTreeMap<usize, FencingToken>,
    draw: Draw,
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A1, B2, B8, D2, E7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_meets_on_a_key_it_has_one_effect_and_one_answer() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("ONLYONCE_TOGETHER_SEED");
    let runs = number("ONLYONCE_TOGETHER_RUNS").unwrap_or(30);
    let seeds = seed.map_or(1..=runs, |seed| seed..=seed);
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        world.end().await;
    }
}

impl World {
    async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let path = folder.path().join("0");
        let store = open(&path, &clock);
        clock.advance(HOUR);
        let mut world = Self {
            store,
            clock,
            folder,
            path,
            opening: 0,
            calls: Vec::new(),
            runs: Vec::new(),
            sessions: Vec::new(),
            doubts: BTreeMap::new(),
            draw: Draw(seed),
        };
        world.new_session().await;
        world
    }

    async fn step(&mut self) {
        match self.draw.below(100) {
            0..30 => self.new_call().await,
            30..50 => {
                let call = self.some_call();
                self.send(call).await;
            }
            50..80 => self.go_on().await,
            80..84 => self.ask().await,
            84..89 => self.resolve().await,
            89..92 => self.acknowledge().await,
            92..97 => {
                let seconds = [1, 5, 40, 4_000][self.draw.below(4) as usize];
                self.clock.advance(Duration::from_secs(seconds));
                if self.draw.one_in(20) {
                    self.clock
                        .advance(HOUR * 24 * (1 + self.draw.below(8) as u32));
                }
                self.store.confirm_clock().await.unwrap();
                self.store.sweep().await.unwrap();
            }
            97..98 => self.new_session().await,
            _ if self.draw.one_in(4) => self.reopen().await,
            _ => {}
        }
    }

    fn some_call(&mut self) -> usize {
        let calls = self.calls.len() as u64;
        if calls == 0 {
            return 0;
        }
        // Mostly a young one.
        let back = match self.draw.one_in(4) {
            true => self.draw.below(calls),
            false => self.draw.below(calls.min(12)),
        };
        (calls - 1 - back) as usize
    }

    async fn new_session(&mut self) {
        let opened = self.store.session(scope(), SessionRequest::Open).await;
        match opened.unwrap() {
            SessionState::Live { session, .. } => {
                let before = self.sessions.iter().all(|(before, _)| *before < session);
                assert!(before, "session {session} is given twice");
                self.sessions.push((session, 1));
            }
            SessionState::TooMany { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    async fn new_call(&mut self) {
        let number = self.calls.len();
        let place = if self.draw.one_in(3) {
            None
        } else {
            let (session, next) = self.sessions.last_mut().unwrap();
            *next += 1;
            Some((*session, *next - 1))
        };
        self.calls.push(Call {
            key: ScopedKey::new(
                scope(),
                IdempotencyKey::parse(&format!("k-{number}")).unwrap(),
            ),
            transactional: self.draw.one_in(2),
            first_sent: self.store.now(),
            place,
            effects: 0,
            answer: None,
            delivered: false,
            sealed: false,
            at_work: 0,
            runs: 0,
        });
        self.send(number).await;
    }

    fn first_unanswered(&self, session: u64) -> u64 {
        let undelivered = self.calls.iter().filter(|call| !call.delivered);
        let first = undelivered
            .filter_map(|call| call.place)
            .filter(|(of, _)| *of == session)
            .map(|(_, number)| number)
            .min();
        let next = self.sessions.iter().find(|(of, _)| *of == session);
        first.unwrap_or_else(|| next.map_or(1, |(_, next)| *next))
    }

    fn request(&mut self, call: usize) -> ClaimRequest {
        let Call {
            key,
            first_sent,
            place,
            ..
        } = &self.calls[call];
        let body = match self.draw.one_in(20) {
            true => "another body",
            false => "the body",
        };
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1))
            .field("body", body.as_bytes())
            .finish();
        let mut request = ClaimRequest::new(key.clone(), Fingerprints::new(print), LEASE);
        request.first_sent = Some(*first_sent);
        request.session = place.map(|(session, sequence)| SessionCall {
            session,
            sequence,
            // Of an attempt that was long on its way: what was answered then.
            first_unanswered: self.first_unanswered(session).min(sequence),
        });
        // Never sent with another body first, so that "mismatch" is what it is told.
        if body == "another body" && self.calls[call].runs == 0 {
            return self.request(call);
        }
        request
    }

    async fn send(&mut self, call: usize) {
        if self.calls.is_empty() {
            return;
        }
        let mut request = self.request(call);
        let is_other = request.fingerprints != self.own_fingerprints();
        let rerun = self.draw.one_in(3) && self.is_over(call) && self.calls[call].effects == 0;
        if rerun && let Some(token) = self.doubts.get(&call) {
            request.rerun_of = Some(*token);
        }
        let transactional = self.calls[call].transactional && !self.draw.one_in(10);
        let outcome = match transactional {
            true => self.store.begin(request).await.unwrap(),
            false => self.store.claim(request).await.unwrap(),
        };
        let known = &mut self.calls[call];
        match outcome {
            ClaimOutcome::Claimed(claim) => {
                // Who has another body may use a key that nothing is left of.
                if is_other {
                    assert_eq!(known.effects, 0, "{:?} is executed again", known.key);
                    self.store.release(claim).await.unwrap();
                    return;
                }
                assert_eq!(known.effects, 0, "{:?} is executed again", known.key);
                assert!(!known.sealed, "{:?} was sealed", known.key);
                known.at_work += 1;
                known.runs += 1;
                self.doubts.remove(&call);
                self.runs.push(Run {
                    call,
                    transaction: transactional.then(|| self.store.start(&claim)),
                    claim,
                    opening: self.opening,
                });
            }
            ClaimOutcome::Completed(completion) => {
                assert!(!is_other, "the answer of another request");
                let said = std::str::from_utf8(completion.answer.body()).unwrap();
                assert_eq!(known.answer.as_deref(), Some(said), "{:?}", known.key);
                known.delivered = true;
            }
            ClaimOutcome::InDoubt(doubt) => {
                assert!(!is_other, "the doubt of another request");
                self.doubts.insert(call, doubt.token);
            }
            ClaimOutcome::Mismatch => assert!(is_other, "{:?}", known.key),
            ClaimOutcome::InProgress { .. } => assert!(known.at_work > 0, "{:?}", known.key),
            ClaimOutcome::Stale
            | ClaimOutcome::SessionExpired
            | ClaimOutcome::WindowFull
            | ClaimOutcome::OverQuota => {}
            other => panic!("{:?}: {other:?}", known.key),
        }
    }

    fn own_fingerprints(&self) -> Fingerprints {
        Fingerprints::new(
            Fingerprint::builder(FingerprintAlgorithm::new(1))
                .field("body", b"the body")
                .finish(),
        )
    }

    /// Whether no handler of it is at work.
    fn is_over(&self, call: usize) -> bool {
        self.calls[call].at_work == 0
    }

    /// A handler comes to something.
    async fn go_on(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let at = self.draw.below(self.runs.len() as u64) as usize;
        let run = self.runs.swap_remove(at);
        let call = run.call;
        self.calls[call].at_work -= 1;
        let body = format!("{call} by {}", run.claim.token());
        let answer = Answer::new(AnswerFormat::new(3), body.clone());
        match run.transaction {
            Some(transaction) => {
                if self.draw.one_in(5) {
                    return;
                }
                let name = format!("{call:06}");
                let found = transaction.get(&ROWS, name.as_bytes()).await;
                let Ok(found) = found else {
                    assert!(run.opening < self.opening, "{found:?}");
                    return;
                };
                // Of another run of it, after the lease of this one.
                let is_late = found.is_some();
                assert!(
                    !is_late || self.calls[call].effects > 0,
                    "the row of {call}"
                );
                transaction
                    .put(&ROWS, name.as_bytes(), body.as_bytes())
                    .unwrap();
                let work = transaction.end().unwrap();
                match self.store.commit(run.claim, work, answer).await {
                    Ok(()) => {
                        assert_eq!(run.opening, self.opening);
                        self.applied(call, body);
                    }
                    Err(CommitError::Fenced) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            None => match self.draw.below(10) {
                0 => match self.store.release(run.claim).await {
                    Ok(()) | Err(SettleError::Fenced) => {}
                    Err(other) => panic!("{other}"),
                },
                1 => drop(run.claim),
                2 => {
                    // The effect, and no word of it.
                    self.calls[call].effects += 1;
                    let doubted = self
                        .store
                        .doubt(run.claim, DoubtReason::Ambiguous, Some(answer));
                    match doubted.await {
                        Ok(()) | Err(SettleError::Fenced) => {}
                        Err(other) => panic!("{other}"),
                    }
                    assert_eq!(self.calls[call].effects, 1);
                }
                _ => {
                    self.calls[call].effects += 1;
                    let effects = self.calls[call].effects;
                    assert_eq!(effects, 1, "{call} has happened again");
                    // An owner whose claim has lapsed may be fenced only by who knows better.
                    let settled = self.store.complete(run.claim, answer).await;
                    assert_eq!(settled, Ok(()), "{call}");
                    self.calls[call].answer = Some(body);
                    self.calls[call].delivered = true;
                    self.doubts.remove(&call);
                }
            },
        }
    }

    fn applied(&mut self, call: usize, body: String) {
        let call = &mut self.calls[call];
        call.effects += 1;
        assert_eq!(call.effects, 1, "{:?} has happened again", call.key);
        call.answer = Some(body);
        call.delivered = true;
    }

    async fn ask(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.some_call();
        let question = match self.draw.one_in(3) {
            true => Question::Seal,
            false => Question::Peek,
        };
        let (key, first_sent) = (self.calls[call].key.clone(), self.calls[call].first_sent);
        let state = self.store.ask(question, key, Some(first_sent)).await;
        let known = &mut self.calls[call];
        match state.unwrap() {
            // A call in a session that was acknowledged is none that anybody asks about.
            KeyState::Absent if !known.delivered => assert_eq!(known.effects, 0, "{call}"),
            KeyState::Sealed { .. } if !known.delivered => {
                assert_eq!(known.effects, 0, "{call}");
                known.sealed = true;
            }
            KeyState::Completed(completion) => {
                let said = std::str::from_utf8(completion.answer.body()).unwrap();
                assert_eq!(known.answer.as_deref(), Some(said), "{call}");
            }
            KeyState::InDoubt(doubt) => {
                self.doubts.insert(call, doubt.token);
            }
            KeyState::InProgress { .. } => assert!(known.at_work > 0, "{call}"),
            _ => {}
        }
    }

    /// An operator finds out what has happened.
    async fn resolve(&mut self) {
        let Some((&call, &token)) = self.doubts.first_key_value() else {
            return;
        };
        if !self.is_over(call) {
            return;
        }
        self.doubts.remove(&call);
        let body = format!("{call} by an operator");
        let resolution = match self.calls[call].effects {
            0 => Resolution::NotApplied,
            _ => Resolution::Applied(Answer::new(AnswerFormat::new(3), body.clone())),
        };
        let is_applied = matches!(resolution, Resolution::Applied(_));
        let by = Operator::parse("operator").unwrap();
        let key = self.calls[call].key.clone();
        match self.store.resolve(key, token, resolution, by).await {
            Ok(()) if is_applied => self.calls[call].answer = Some(body),
            Ok(()) | Err(SettleError::Fenced) => {}
            Err(other) => panic!("{other}"),
        }
    }

    async fn acknowledge(&mut self) {
        let at = self.draw.below(self.sessions.len() as u64) as usize;
        let (session, _) = self.sessions[at];
        let request = SessionRequest::Acknowledge {
            session,
            first_unanswered: self.first_unanswered(session),
        };
        match self.store.session(scope(), request).await.unwrap() {
            SessionState::Live { .. } => {}
            SessionState::Expired => {
                if at + 1 == self.sessions.len() {
                    self.new_session().await;
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Closed, or as a crash leaves it.
    async fn reopen(&mut self) {
        self.opening += 1;
        if self.draw.one_in(2) {
            self.store.close().await.unwrap();
        } else {
            // Everything that was acknowledged is on the disk, and nothing is under way.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let copy = self.folder.path().join(self.opening.to_string());
            copy_of(&self.path, &copy);
            self.store.close().await.unwrap();
            self.path = copy;
        }
        self.store = open(&self.path, &self.clock);
        self.compare_rows().await;
    }

    /// Each row is there exactly if its call was committed.
    async fn compare_rows(&self) {
        for (number, call) in self.calls.iter().enumerate() {
            let name = format!("{number:06}");
            let row = RowRange::of_key(&ROWS, name.as_bytes());
            let rows = self.store.read(row).await.unwrap();
            if call.transactional && call.runs > 0 && !rows.is_empty() {
                assert_eq!(call.effects, 1, "the row of {number}");
            }
            if call.effects == 0 {
                assert!(rows.is_empty(), "the row of {number}");
            }
        }
    }

    async fn end(mut self) {
        while !self.runs.is_empty() {
            self.go_on().await;
        }
        self.compare_rows().await;
        let effects: u32 = self.calls.iter().map(|call| call.effects).sum();
        println!(
            "{} calls, {effects} effects, {} openings",
            self.calls.len(),
            self.opening
        );
        self.store.close().await.unwrap();
    }
}

fn open(path: &Path, clock: &Arc<ManualClock>) -> Arc<SledStore> {
    let limits = StoreLimits::default().sessions_max(20);
    let options = SledOptions::new()
        .clock(Arc::clone(clock) as _)
        .log_bytes(64 * 1024)
        .limits(limits);
    Arc::new(SledStore::open(path, options).unwrap())
}

fn scope() -> Scope {
    Scope::principal("alice").unwrap()
}

fn copy_of(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy_of(&from, &to),
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}
