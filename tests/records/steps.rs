//! Calls that keep a journal: what an operator sees of their steps, and says of them.

use onlyonce::storage::journal::{Journal as _, Step};
use onlyonce::storage::{
    CallJournal, ClaimOutcome, DoubtReason, FencingToken, StepName, StepNote, Store as _,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Ended, Server, on_terminal, records};
use super::store::{key, open, request};

const OF_ALICE: &[&str] = &["--principal", "alice", "--key"];

fn name(name: &str) -> StepName {
    StepName::parse(name).unwrap()
}

/// Of alice, as a server that died has left it: `halfway` has finished a step, `charging` another one, and
/// has begun the next. Both have notes with a secret.
async fn make(folder: &TempDir) {
    let store = open(folder.path()).await;
    for text in ["halfway", "charging"] {
        let mut asked = request(&key("alice", text));
        asked.journal = Some("POST with secrets".into());
        let ClaimOutcome::Claimed(claim) = store.claim(asked).await.unwrap() else {
            panic!("a new key is claimed");
        };
        let note = |note| store.note(claim.digest(), claim.token(), note);
        let reserved = StepNote::done(name("reserve"), "seat with secrets".into());
        note(reserved).await.unwrap();
        if text == "charging" {
            note(StepNote::begun(name("charge"))).await.unwrap();
        }
        let reason = DoubtReason::OwnerGone;
        store.doubt(claim, reason, None).await.unwrap();
    }
    store.close().await.unwrap();
}

async fn shown(folder: &TempDir, key: &str) -> Value {
    let shown = records(folder, &[&["show", "--json"], OF_ALICE, &[key]].concat()).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    shown.json()
}

async fn token_of(folder: &TempDir, key: &str) -> String {
    let view = shown(folder, key).await;
    view["record"]["token"].as_str().unwrap().to_owned()
}

/// `resolve` of the step of a key.
async fn resolve(folder: &TempDir, key: &str, step: &str, word: &[&str]) -> Ended {
    let token = token_of(folder, key).await;
    let head = ["resolve", "--json", "--token", &token, "--step", step];
    records(folder, &[&head, OF_ALICE, &[key], word].concat()).await
}

// I3
#[tokio::test]
async fn an_operator_sees_which_steps_are_finished_which_calls_go_on_and_no_result() {
    let folder = TempDir::new().unwrap();
    make(&folder).await;
    let server = Server::start(folder.path()).await;
    let listed = records(&folder, &["list", "--json"]).await;
    let page = listed.json();
    // Those that were found in one instant are in the order of their digests.
    let seen = |key: &str| {
        let mut records = page["records"].as_array().unwrap().iter();
        let record = records.find(|record| record["key"] == key).unwrap();
        json!([record["steps"], record["steps_noted"], record["goes_on"]])
    };
    let reserve = json!({ "name": "reserve", "result_bytes": 17 });
    let charge = json!({ "name": "charge", "result_bytes": null });
    // In a list is what somebody has to look at.
    assert_eq!(seen("halfway"), json!([[], 1, true]));
    assert_eq!(seen("charging"), json!([[charge], 2, false]));
    let view = shown(&folder, "charging").await;
    assert_eq!(view["record"]["steps"], json!([reserve, charge]));

    let table = records(&folder, &["list"]).await;
    let gone = "the owner is gone before it finished";
    for words in [
        format!("halfway   {gone}; goes on with its next attempt\n"),
        format!("charging  {gone}; step charge is begun and not finished\n"),
    ] {
        assert!(table.printed.contains(&words), "{}", table.printed);
    }
    let of_key = records(&folder, &[&["show"], OF_ALICE, &["charging"]].concat()).await;
    for words in [
        "reserve: finished, 17 bytes\n",
        "charge: begun and not finished\n",
    ] {
        assert!(of_key.printed.contains(words), "{}", of_key.printed);
    }
    for ended in [listed, table, of_key] {
        assert!(!ended.printed.contains("secrets"), "{}", ended.printed);
    }
    assert!(server.stop().await.success());
}

// B2, B8
#[tokio::test]
async fn a_step_that_an_operator_resolves_lets_its_call_go_on() {
    for (word, steps) in [
        (&["--not-executed"][..], json!([])),
        (
            &["--result-file"],
            json!([{ "name": "charge", "result_bytes": 9 }]),
        ),
    ] {
        let folder = TempDir::new().unwrap();
        make(&folder).await;
        let server = Server::start(folder.path()).await;
        let file = folder.path().join("result");
        std::fs::write(&file, "receipt 7").unwrap();
        let path = file.to_str().unwrap();
        let word = match word {
            ["--result-file"] => vec!["--result-file", path],
            word => word.to_vec(),
        };
        // Nobody can be asked, and nobody said that nothing needs to be asked.
        let unasked = resolve(&folder, "charging", "charge", &word).await;
        assert_eq!(unasked.code, 2, "{unasked:?}");
        assert_eq!(shown(&folder, "charging").await["record"]["goes_on"], false);

        let yes = [&word[..], &["--yes"]].concat();
        let resolved = resolve(&folder, "charging", "charge", &yes).await;
        assert_eq!(resolved.code, 0, "{resolved:?}");
        let view = resolved.json();
        assert_eq!(
            (&view["state"], &view["record"]["goes_on"]),
            (&json!("in-doubt"), &json!(true))
        );
        let mut expected = vec![json!({ "name": "reserve", "result_bytes": 17 })];
        expected.extend(steps.as_array().unwrap().iter().cloned());
        assert_eq!(view["record"]["steps"], json!(expected));

        // Once, and only what was begun: whoever comes later is shown how it is now.
        for step in ["charge", "reserve", "ship"] {
            let late = resolve(&folder, "charging", step, &yes).await;
            assert_eq!(late.code, 1, "{late:?}");
            assert!(late.words.contains("Nothing was changed"), "{}", late.words);
            assert_eq!(late.json()["record"]["steps"], view["record"]["steps"]);
        }
        let token = view["record"]["token"].as_str().unwrap().to_owned();
        server.kill().await;

        // The call goes on behind it, or with it.
        let store = open(folder.path()).await;
        let mut asked = request(&key("alice", "charging"));
        asked.journal = Some("POST with secrets".into());
        let (incarnation, sequence) = token.split_once('.').unwrap();
        let token = FencingToken::new(incarnation.parse().unwrap(), sequence.parse().unwrap());
        asked.rerun_of = Some(token);
        let ClaimOutcome::Claimed(claim) = store.claim(asked).await.unwrap() else {
            panic!("the call goes on");
        };
        let found: Vec<_> = claim.journal().map(CallJournal::steps).unwrap().to_vec();
        let charged = Step::done(name("charge"), "receipt 7".into());
        assert_eq!(found.get(1), (steps != json!([])).then_some(&charged));
        drop(claim);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_said_of_a_step_is_bad_usage() {
    let folder = TempDir::new().unwrap();
    make(&folder).await;
    let server = Server::start(folder.path()).await;
    for (word, words) in [
        (&["--yes"][..], "--not-executed"),
        (
            &["--not-executed", "--result-file", "x", "--yes"],
            "--result-file",
        ),
        (
            &["--not-executed", "--not-applied", "--yes"],
            "--not-applied",
        ),
        (
            &["--result-file", "/nowhere/result", "--yes"],
            "cannot be read",
        ),
    ] {
        let refused = resolve(&folder, "charging", "charge", word).await;
        assert_eq!(
            (refused.code, refused.printed.as_str()),
            (2, ""),
            "{word:?}: {refused:?}"
        );
        assert!(refused.words.contains(words), "{word:?}: {}", refused.words);
    }
    // A word about a step says which.
    let token = token_of(&folder, "charging").await;
    let head = ["resolve", "--token", &token, "--not-executed", "--yes"];
    let refused = records(&folder, &[&head, OF_ALICE, &["charging"]].concat()).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.words.contains("--step"), "{}", refused.words);
    // A result that the server's store does not keep.
    let file = folder.path().join("result");
    std::fs::write(&file, vec![7; 2 * 1024 * 1024]).unwrap();
    let large = ["--result-file", file.to_str().unwrap(), "--yes"];
    let refused = resolve(&folder, "charging", "charge", &large).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.words.contains("1048576 bytes"), "{}", refused.words);
    assert_eq!(shown(&folder, "charging").await["record"]["goes_on"], false);
    assert!(server.stop().await.success());
}

/// Who frees the key of a call of which something has happened is told so before.
#[tokio::test]
async fn who_would_have_finished_steps_executed_again_is_asked_in_these_words() {
    let folder = TempDir::new().unwrap();
    make(&folder).await;
    let server = Server::start(folder.path()).await;
    let token = token_of(&folder, "halfway").await;
    let head = ["resolve", "--token", &token, "--not-applied"];
    let arguments = [&head, OF_ALICE, &["halfway"]].concat();
    let (code, told) = on_terminal(&folder, &arguments, "no\n").await;
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("1 of its steps is finished"), "{told}");
    assert_eq!(shown(&folder, "halfway").await["record"]["goes_on"], true);
    assert!(server.stop().await.success());
}

// B6: a script that ends doubts does not know of steps.
#[tokio::test]
async fn a_call_with_finished_steps_is_not_forgotten_unasked_unless_that_is_said() {
    let folder = TempDir::new().unwrap();
    make(&folder).await;
    let server = Server::start(folder.path()).await;
    for key in ["halfway", "charging"] {
        let token = token_of(&folder, key).await;
        let head = ["resolve", "--token", &token, "--not-applied", "--yes"];
        let arguments = [&head, OF_ALICE, &[key]].concat();
        let refused = records(&folder, &arguments).await;
        assert_eq!(refused.code, 2, "{refused:?}");
        for words in ["finished steps of this call: 1", "--repeat-steps"] {
            assert!(refused.words.contains(words), "{}", refused.words);
        }
        assert_eq!(shown(&folder, key).await["record"]["token"], token.as_str());

        let said = records(&folder, &[&arguments[..], &["--repeat-steps"]].concat()).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(shown(&folder, key).await["state"], "absent");
    }
    assert!(server.stop().await.success());
}
