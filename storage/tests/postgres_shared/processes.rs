//! Several processes on one store: started from this very binary, stopped and killed in turn.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::{ClaimOutcome, DoubtReason, Store as _};
use rustix::process::{Pid, Signal, kill_process};

use crate::calls::{answer, given, key, leased, replayed, request, run};
use crate::postgres_rig;

/// Of what a process has claimed that will be stopped or killed.
pub const SHORT_LEASE: Duration = Duration::from_millis(600);
const KEYS: usize = 30;

/// A process that was started as a test of its own, and does what its environment says.
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A2: three processes are asked for the same calls at once: each is executed once, and all three get
/// the same answer.
#[test]
fn of_three_processes_on_one_store_one_executes_and_all_get_its_answer() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        PostgresStore::migrate(&options).await.unwrap();
        let url = server.url();
        let mut processes: Vec<_> = (0..3)
            .map(|number| Process::start("crowd", &url, &schema, number))
            .collect();
        let mut effects: HashMap<String, u32> = HashMap::new();
        let mut answers: HashMap<String, Vec<String>> = HashMap::new();
        for process in &mut processes {
            process.say("go");
        }
        for process in &mut processes {
            while let Some(line) = process.next() {
                let words: Vec<_> = line.split(' ').collect();
                match words[..] {
                    ["effect", key] => *effects.entry(key.to_owned()).or_default() += 1,
                    ["answer", key, body] => {
                        answers
                            .entry(key.to_owned())
                            .or_default()
                            .push(body.to_owned());
                    }
                    ["done"] => break,
                    _ => panic!("{line}"),
                }
            }
        }
        assert_eq!(effects.len(), KEYS);
        assert!(effects.values().all(|&count| count == 1), "{effects:?}");
        for (key, bodies) in &answers {
            assert_eq!(bodies.len(), 3 * 8, "{key}");
            assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
        }
        assert_eq!(answers.len(), KEYS);
    });
}

/// The owner is stopped for five leases; what it says afterwards changes nothing.
#[test]
fn a_process_that_stood_still_for_five_leases_is_fenced() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let mut owner = Process::start("owner", &server.url(), &schema, 0);
        owner.say("go");
        assert_eq!(owner.next().as_deref(), Some("claimed"));
        owner.signal(Signal::STOP);
        let outcome = store.claim(request(&key("owned"))).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::InProgress { .. }),
            "{outcome:?}"
        );
        tokio::time::sleep(SHORT_LEASE * 5).await;
        let ClaimOutcome::InDoubt(doubt) = store.claim(request(&key("owned"))).await.unwrap()
        else {
            panic!("its lease has lapsed");
        };
        assert_eq!(doubt.reason, DoubtReason::LeaseLapsed);
        assert!(
            !doubt.reason.is_owner_known_gone(),
            "it may still be at work"
        );
        // Who knows more than the store runs it again.
        let mut rerun = request(&key("owned"));
        rerun.rerun_of = Some(doubt.token);
        let claim = given(store.claim(rerun).await.unwrap());
        assert!(claim.token() > doubt.token);
        owner.signal(Signal::CONT);
        owner.say("go");
        assert_eq!(owner.next().as_deref(), Some("renew Err(Fenced)"));
        assert_eq!(owner.next().as_deref(), Some("complete Err(Fenced)"));
        assert_eq!(store.complete(claim, answer("second")).await, Ok(()));
        assert_eq!(replayed(&store, &key("owned")).await, answer("second"));
    });
}

/// Nothing but the lapse of the lease says that a process is gone.
#[test]
fn what_a_killed_process_was_executing_is_in_doubt_when_its_lease_has_lapsed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let mut owner = Process::start("owner", &server.url(), &schema, 0);
        owner.say("go");
        assert_eq!(owner.next().as_deref(), Some("claimed"));
        owner.kill();
        let mut waits = 0;
        let doubt = loop {
            match store.claim(request(&key("owned"))).await.unwrap() {
                ClaimOutcome::InDoubt(doubt) => break doubt,
                ClaimOutcome::InProgress { retry_after } => {
                    waits += 1;
                    tokio::time::sleep(retry_after).await;
                }
                other => panic!("{other:?}"),
            }
        };
        assert!((1..=3).contains(&waits), "the store says how long to wait");
        assert_eq!(doubt.reason, DoubtReason::LeaseLapsed);
    });
}

/// What a process does that a test of this file has started. By itself it does nothing.
#[test]
fn a_process_of_these_tests() {
    let Ok(work) = std::env::var("ONLYONCE_TEST_WORK") else {
        return;
    };
    let told = |name: &str| std::env::var(name).unwrap();
    let options =
        PostgresOptions::new(told("ONLYONCE_TEST_URL")).schema(told("ONLYONCE_TEST_SCHEMA"));
    let number = told("ONLYONCE_TEST_NUMBER");
    run(async {
        let store = PostgresStore::open(options).await.unwrap();
        wait_for_go();
        match work.as_str() {
            "crowd" => crowd(store, &number).await,
            "journaled" => crate::journals::owner(&store).await,
            _ => owner(&store).await,
        }
    });
}

async fn crowd(store: PostgresStore, number: &str) {
    let store = std::sync::Arc::new(store);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (store, name) = (store.clone(), format!("{number}-{task}"));
            tokio::spawn(async move {
                for call in 0..KEYS {
                    let key = key(&format!("call-{call}"));
                    let body = execute(&store, &key, &name).await;
                    say(&format!("answer call-{call} {body}"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    say("done");
}

async fn execute(store: &PostgresStore, key: &onlyonce_storage::ScopedKey, name: &str) -> String {
    loop {
        match store.claim(request(key)).await.unwrap() {
            ClaimOutcome::Claimed(claim) => {
                say(&format!("effect {}", key.key().as_str()));
                let completed = store.complete(claim, answer(name.to_owned())).await;
                assert_eq!(completed, Ok(()));
            }
            ClaimOutcome::Completed(completion) => {
                return String::from_utf8(completion.answer.body().to_vec()).unwrap();
            }
            ClaimOutcome::InProgress { .. } => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn owner(store: &PostgresStore) {
    let mut claim = given(
        store
            .claim(leased(&key("owned"), SHORT_LEASE))
            .await
            .unwrap(),
    );
    say("claimed");
    wait_for_go();
    let renewed = store.renew(&mut claim, SHORT_LEASE).await;
    say(&format!("renew {renewed:?}"));
    let completed = store.complete(claim, answer("first")).await;
    say(&format!("complete {completed:?}"));
}

pub fn say(words: &str) {
    println!("{SAID}{words}");
}

pub fn wait_for_go() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

const SAID: &str = "said: ";

impl Process {
    pub fn start(work: &str, url: &str, schema: &str, number: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "processes::a_process_of_these_tests",
                "--nocapture",
            ])
            .env("ONLYONCE_TEST_WORK", work)
            .env("ONLYONCE_TEST_URL", url)
            .env("ONLYONCE_TEST_SCHEMA", schema)
            .env("ONLYONCE_TEST_NUMBER", number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    pub fn say(&mut self, words: &str) {
        writeln!(self.input, "{words}").unwrap();
    }

    /// What it says next; `None` once it has ended.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.unwrap();
            if let Some((_, said)) = line.split_once(SAID) {
                return Some(said.to_owned());
            }
        }
    }

    /// With -9, until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // OK to ignore because it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
