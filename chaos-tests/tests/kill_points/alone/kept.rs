//! Points at which no call is: while a store is opened or closed, while its log is carried over,
//! while it sweeps. What earlier lives have left must stay as it was.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::rpc::Client;
use onlyonce::storage::SledStore;
use onlyonce_chaos::Proxy;
use onlyonce_chaos::ledger::{self, Ending, Verdict};
use onlyonce_storage::points::KILL_AT;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::child::{SWEEPS, Shop};
use super::measured::{TEST, start};
use super::outcome::Outcome;
use super::scripts::{self, Script};
use crate::booked;
use crate::child::{self, FOLDER};
use crate::clients::{self, Habits, Told, effects};
use crate::folder::{Beginning, Prepared, copy};
use crate::process::{End, Passed, Process};
use crate::till::Till;

/// A store that an earlier life has left: with an answer of each kind, with a call that is in doubt
/// because its handler said so, and with one because its server was killed.
pub struct Left(TempDir);

/// When a point is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it serves, over what an earlier life has left.
    Opening,
    /// Before it serves, over an empty folder.
    OpeningFirst,
    /// While it serves a crowd and sweeps, or while it is closed.
    Working,
    /// The same, over an empty folder.
    WorkingFirst,
}

/// A life that serves a crowd and sweeps.
struct Busy {
    server: Process,
    proxy: Proxy,
    told: Arc<Told>,
    working: JoinHandle<Vec<(Client, Client)>>,
}

/// What lives pass: one over what was left, and one over nothing.
pub struct Lives {
    left: (Passed, Passed),
    nothing: (Passed, Passed),
}

// === impl Lives ===

impl Lives {
    /// When a point is passed. Nothing that comes up in the second life is left out, and only what
    /// does not is killed at in the first.
    pub fn when(&self, name: &str) -> Vec<When> {
        let count = |passed: &Passed| passed.get(name).copied().unwrap_or(0);
        let passed = |(opened, ended): &(Passed, Passed)| {
            let (opened, ended) = (count(opened), count(ended));
            (opened > 0, ended > opened)
        };
        let (left, nothing) = (passed(&self.left), passed(&self.nothing));
        let when = [
            (left.0, When::Opening),
            (left.1, When::Working),
            (left == (false, false) && nothing.0, When::OpeningFirst),
            (left == (false, false) && nothing.1, When::WorkingFirst),
        ];
        let when = when.into_iter().filter(|(passed, _)| *passed);
        when.map(|(_, when)| when).collect()
    }

    fn opened(&self, when: When) -> &Passed {
        match when {
            When::Opening | When::Working => &self.left.0,
            When::OpeningFirst | When::WorkingFirst => &self.nothing.0,
        }
    }
}

// === impl Left ===

impl Left {
    pub async fn new(prepared: &Prepared) -> Self {
        let folder = prepared.folder(Beginning::Old);
        let mut server = start(folder.path(), "");
        let client = scripts::client(server.address().await.unwrap());
        for script in [Script::Pay, Script::Book, Script::Doubtful] {
            script.play(&client, folder.path()).await;
        }
        assert_eq!(server.stop().await, End::Stopped);
        let mut server = start(folder.path(), "handler: effect durable, not returned#1");
        let client = scripts::client(server.address().await.unwrap());
        let playing = tokio::spawn(async move {
            let nowhere = Path::new("");
            Script::Slow.play(&client, nowhere).await
        });
        assert_eq!(server.end().await, End::Killed);
        playing.abort();
        Self(folder)
    }

    fn folder(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy(self.0.path(), folder.path());
        folder
    }

    /// What a life over it passes, and one over nothing.
    pub async fn lives(&self) -> Lives {
        let (folder, nothing) = (self.folder(), tempfile::tempdir().unwrap());
        let life = async |folder: &Path| {
            let mut busy = Busy::begin(folder, "").await;
            assert_eq!(busy.end().await, End::Stopped);
            (busy.server.opened, busy.server.ended)
        };
        let (left, nothing) = tokio::join!(life(folder.path()), life(nothing.path()));
        Lives { left, nothing }
    }

    /// Kills a life at the first passing of `name`, and panics where anything is not as it was left.
    pub async fn is_kept(&self, name: &str, when: When, lives: &Lives) {
        let passing = match when {
            When::Opening | When::OpeningFirst => 1,
            When::Working | When::WorkingFirst => {
                lives.opened(when).get(name).copied().unwrap_or(0) + 1
            }
        };
        let kill_at = format!("{name}#{passing}");
        let folder = match when {
            When::OpeningFirst | When::WorkingFirst => tempfile::tempdir().unwrap(),
            When::Opening | When::Working => self.folder(),
        };
        let path = folder.path();
        let mut crowd = None;
        match when {
            When::Opening | When::OpeningFirst => {
                let end = start(path, &kill_at).address().await.unwrap_err();
                assert_eq!(end, End::Killed, "{kill_at}");
            }
            When::Working | When::WorkingFirst => {
                let mut busy = Busy::begin(path, &kill_at).await;
                assert_eq!(busy.end().await, End::Killed, "{kill_at}");
                crowd = Some(busy);
            }
        }
        let store = child::open(path).await;
        if matches!(when, When::Opening | When::Working) {
            for (operation, left) in LEFT {
                let found = Outcome::of(operation, &store, path).await;
                assert_eq!(found, left, "{kill_at}: operation {operation}");
            }
        }
        let shop = Shop::open(Arc::clone(&store), path).await;
        match crowd {
            Some(crowd) => crowd.go_on(shop.address(), path, &store).await,
            None => {
                let told = Script::Pay
                    .play(&scripts::client(shop.address()), path)
                    .await;
                assert!(matches!(told[..], [Ending::Answered(_)]), "{kill_at}");
            }
        }
        shop.leave(folder);
    }
}

// === impl Busy ===

impl Busy {
    async fn begin(folder: &Path, kill_at: &str) -> Self {
        let folder = folder.to_str().unwrap();
        let variables = [(FOLDER, folder), (KILL_AT, kill_at), (SWEEPS, "")];
        let mut server = Process::spawn(TEST, &variables);
        let address = server.address().await.unwrap();
        let proxy = Proxy::builder(address).listen("127.0.0.1:0").await.unwrap();
        let told = Arc::new(Told::default());
        let work = clients::work(proxy.addr(), Arc::clone(&told), Habits::Usual);
        Self {
            server,
            proxy,
            told,
            working: tokio::spawn(work),
        }
    }

    /// Until it is killed, or was told to stop after the crowd was done.
    async fn end(&mut self) -> End {
        loop {
            tokio::select! {
                end = self.server.end() => return end,
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.working.is_finished() {
                return self.server.stop().await;
            }
        }
    }

    /// Lets the crowd go on with who follows. Panics where the promise is broken.
    async fn go_on(self, address: SocketAddr, folder: &Path, store: &SledStore) {
        self.proxy.set_upstream(address);
        let clients = self.working.await.unwrap();
        clients::ask_again(&clients[0].0, &self.told).await;
        let mut found = Till::read(folder);
        found.extend(booked::read_in(store).await);
        let report = ledger::check(&self.told.history(), &effects(found));
        assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    }
}

/// What [`Left`] has, beside what is past its horizon.
const LEFT: [(u64, Outcome); 4] = [
    (1, Outcome::Answered),
    (10, Outcome::Answered),
    (7, Outcome::InDoubtEffectMade),
    (4, Outcome::InDoubtEffectMade),
];

const LOOK: Duration = Duration::from_millis(5);
