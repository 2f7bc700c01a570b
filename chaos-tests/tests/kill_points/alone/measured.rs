//! One run: a script is played, its server is killed at one passing of a point, and what became of
//! the call is looked at before its caller comes back.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_chaos::Proxy;
use onlyonce_chaos::ledger::Ending;
use onlyonce_storage::points::KILL_AT;

use super::child::Shop;
use super::outcome::{Outcome, effects};
use super::scripts::{Check, Script, client};
use crate::child::{self, FOLDER};
use crate::folder::{Beginning, Prepared};
use crate::process::{End, Passed, Process};

/// The points that a script passes after its server listens and before it is told to stop.
pub struct Served {
    pub opened: Passed,
    pub served: Passed,
}

/// What an undisturbed run of a script passes.
pub async fn passed(script: Script, prepared: &Prepared) -> Served {
    let folder = prepared.folder(Beginning::Old);
    let mut server = start(folder.path(), "");
    let client = client(server.address().await.unwrap());
    script.play(&client, folder.path()).await;
    // What comes behind the answer is passed as well.
    tokio::time::sleep(SETTLES).await;
    assert_eq!(server.stop().await, End::Stopped);
    Served {
        opened: server.opened,
        served: server.served,
    }
}

/// What is found of each call of a script after a kill. Panics where it is told otherwise later.
pub async fn measure(script: Script, kill_at: &str, prepared: &Prepared) -> Vec<Outcome> {
    let what = format!("{script:?}, {kill_at:?}");
    let folder = prepared.folder(Beginning::Old);
    let mut server = start(folder.path(), kill_at);
    let address = server.address().await;
    let address = address.unwrap_or_else(|end| panic!("{what}: {end:?} while opening"));
    let proxy = Proxy::builder(address).listen("127.0.0.1:0").await.unwrap();
    let (client, path) = (client(proxy.addr()), folder.path().to_owned());
    let mut playing = tokio::spawn(async move {
        let told = script.play(&client, &path).await;
        (told, client)
    });
    let mut told = None;
    let end = tokio::select! {
        end = server.end() => end,
        // Some points come after the answer has left.
        ended = &mut playing => {
            told = Some(ended.unwrap());
            server.stop().await
        }
    };
    assert_eq!(end, End::Killed, "not reached: {what}");

    let store = child::open(folder.path()).await;
    let mut found = Vec::new();
    for operation in script.operations() {
        found.push(Outcome::of(operation, &store, folder.path()).await);
    }
    let shop = Shop::open(Arc::clone(&store), folder.path()).await;
    proxy.set_upstream(shop.address());
    let (told, client) = match told {
        Some(told) => told,
        None => playing.await.unwrap(),
    };
    for ((operation, found), told) in script.operations().into_iter().zip(&found).zip(&told) {
        let effects = effects(operation, &store, folder.path()).await;
        assert!(
            agrees(script, *found, told, effects),
            "{what}: operation {operation} was found as {found}, has {effects} effects and ended {told:?}"
        );
    }
    // A server that is told to stop waits for its clients.
    drop(client);
    shop.leave(folder);
    found
}

/// Whether a caller who comes back is told what the store says, and the effect is as it must be.
fn agrees(script: Script, found: Outcome, told: &Ending, effects: usize) -> bool {
    let answered = matches!(told, Ending::Answered(_)) && effects == 1;
    match (script, found) {
        (Script::Seal, _) => effects == 0,
        (Script::Doubted(Check::Resolved), Outcome::InDoubtEffectMade) => false,
        // Whoever ends a doubt finds out what is true.
        (Script::Doubted(_), _) => answered,
        (Script::Doubtful, Outcome::Runs) => *told == Ending::InDoubt && effects == 1,
        (_, Outcome::Answered | Outcome::Runs) => answered,
        (_, Outcome::InDoubtEffectMade) => *told == Ending::InDoubt && effects == 1,
        (_, Outcome::InDoubtNoEffect) => *told == Ending::InDoubt && effects == 0,
        (_, Outcome::Sealed) => false,
    }
}

/// Starts a server for one script.
pub fn start(folder: &std::path::Path, kill_at: &str) -> Process {
    let told = [(FOLDER, folder.to_str().unwrap()), (KILL_AT, kill_at)];
    Process::spawn(TEST, &told)
}

const SETTLES: Duration = Duration::from_millis(250);

pub const TEST: &str = "alone::child::serves_alone_until_it_is_killed_when_it_is_the_child";
