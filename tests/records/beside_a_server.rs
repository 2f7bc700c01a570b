//! While a server owns the store, and after it was killed.

use std::os::unix::fs::PermissionsExt;

use onlyonce::storage::{ClaimOutcome, Store};
use serde_json::json;
use tempfile::TempDir;

use super::program::{Server, on_terminal, records};
use super::store::{self, key, open, request};

const OF_ALICE: &[&str] = &["--principal", "alice", "--key"];

async fn served() -> (TempDir, Server) {
    let folder = TempDir::new().unwrap();
    store::make(folder.path()).await;
    let server = Server::start(folder.path()).await;
    (folder, server)
}

fn show(key: &str) -> Vec<&str> {
    [&["show", "--json"], OF_ALICE, &[key]].concat()
}

/// The token of a key that is in doubt.
async fn token_of(folder: &TempDir, key: &str) -> String {
    let shown = records(folder, &show(key)).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let view = shown.json();
    assert_eq!(view["state"], "in-doubt", "{view}");
    view["record"]["token"].as_str().unwrap().to_owned()
}

/// I3, I6: nor anything that would move a terminal's cursor.
#[tokio::test]
async fn an_operator_sees_what_a_running_server_has_in_doubt_and_no_answer() {
    let (folder, server) = served().await;
    let listed = records(&folder, &["list", "--json"]).await;
    assert_eq!((listed.code, listed.words.as_str()), (0, ""), "{listed:?}");
    let page = listed.json();
    let keys = page["records"].as_array().unwrap().iter();
    let keys: Vec<_> = keys.map(|record| record["key"].as_str().unwrap()).collect();
    // The oldest doubts first; `lost` is one since the server took the store over.
    assert_eq!(keys, ["doubted", "odd", "lost"]);
    assert_eq!(page["next"], json!(null));
    assert_eq!(page["records"][0]["answer"]["bytes"], 18);
    assert_eq!(page["records"][1]["principal"], store::ODD);
    assert_eq!(
        page["records"][2]["reason"],
        "the owner is gone before it finished"
    );
    assert!(!listed.printed.contains("secrets"));

    let table = records(&folder, &["list"]).await;
    assert_eq!(table.code, 0, "{table:?}");
    assert!(table.printed.contains("in doubt"), "{}", table.printed);
    let visible = |text: &str| {
        text.bytes()
            .all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
    };
    assert!(visible(&table.printed), "{}", table.printed);
    assert_eq!(table.printed.lines().count(), 5, "{}", table.printed);

    for (filter, keys) in [
        (&["--state", "in-progress"][..], 0),
        (&["--state", "in-doubt", "--principal", "alice"], 2),
        (&["--operation", "transfer"], 0),
        (&["--older-than", "1h"], 0),
        (&["--limit", "1"], 1),
    ] {
        let listed = records(&folder, &[&["list", "--json"], filter].concat()).await;
        let page = listed.json();
        assert_eq!(
            page["records"].as_array().unwrap().len(),
            keys,
            "{filter:?}"
        );
        let Some(next) = page["next"].as_str() else {
            continue;
        };
        let more = records(&folder, &["list", "--json", "--after", next]).await;
        assert_eq!(more.json()["records"].as_array().unwrap().len(), 2);
    }
    // `lost` was put in doubt by the server, not by looking: its owner's token stands.
    assert_eq!(token_of(&folder, "lost").await, "1.4");
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn an_answer_is_given_to_who_asks_for_it_in_a_file_of_their_own() {
    let (folder, server) = served().await;
    let unasked = records(&folder, &show("doubted")).await.json();
    let answer = json!({ "format": 1, "bytes": 18, "content": null });
    assert_eq!(unasked["record"]["answer"], answer);
    let file = folder.path().join("answer");
    let path = file.to_str().unwrap();
    let shown = records(
        &folder,
        &[&show("doubted")[..], &["--answer-to", path]].concat(),
    )
    .await;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(!shown.printed.contains("secrets"), "{}", shown.printed);
    assert_eq!(std::fs::read(&file).unwrap(), b"a 500 with secrets");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nothing that is there is written over.
    let again = records(
        &folder,
        &[&show("doubted")[..], &["--answer-to", path]].concat(),
    )
    .await;
    assert_eq!(again.code, 2, "{again:?}");
    let lost = folder.path().join("other");
    let path = lost.to_str().unwrap();
    let none = records(
        &folder,
        &[&show("lost")[..], &["--answer-to", path]].concat(),
    )
    .await;
    assert_eq!(none.code, 1, "{none:?}");
    assert!(!lost.exists());
    drop(server);
}

#[tokio::test]
async fn what_an_operator_resolves_through_a_server_is_there_after_it_was_killed_with_their_name() {
    let (folder, server) = served().await;
    let token = token_of(&folder, "doubted").await;
    let file = folder.path().join("answer");
    std::fs::write(&file, "paid after all").unwrap();
    let resolve = |more: &[&str]| {
        let token = ["--token", token.as_str(), "--applied", "--answer-file"];
        let answer = [file.to_str().unwrap()];
        let head = [&["resolve", "--json"], OF_ALICE, &["doubted"]].concat();
        let all = [&head[..], &token, &answer, more].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = async |more: &[&str]| {
        let arguments = resolve(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        records(&folder, &arguments).await
    };
    // Nobody can be asked, and nobody said that nothing needs to be asked.
    let unasked = run(&[]).await;
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert!(unasked.words.contains("--yes"), "{}", unasked.words);
    assert_eq!(token_of(&folder, "doubted").await, token);

    let resolved = run(&["--yes"]).await;
    assert_eq!(resolved.code, 0, "{resolved:?}");
    let view = resolved.json();
    assert_eq!(view["state"], "completed");
    let id = rustix::process::geteuid().as_raw();
    let by = view["record"]["resolved_by"].as_str().unwrap();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = users
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&id.to_string()));
    assert!(
        user.is_none_or(|line| line.starts_with(&format!("{by}:"))),
        "{by}"
    );
    let when = view["record"]["completed_at_ms"].clone();

    // The same again, by somebody who has the old token.
    let late = run(&["--yes", "--by", "mallory"]).await;
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.words.contains("Nothing was changed"), "{}", late.words);
    assert_eq!(late.json()["record"]["resolved_by"], by);
    server.kill().await;

    let server = Server::start(folder.path()).await;
    let shown = records(&folder, &show("doubted")).await.json();
    assert_eq!(shown["record"]["resolved_by"], by);
    assert_eq!(shown["record"]["completed_at_ms"], when);
    assert!(server.stop().await.success());
    let store = open(folder.path()).await;
    let outcome = store
        .claim(request(&key("alice", "doubted")))
        .await
        .unwrap();
    let ClaimOutcome::Completed(completion) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(completion.answer.body(), "paid after all");
}

/// B8, B9 of the operators' own making.
#[tokio::test]
async fn of_two_operators_at_once_one_resolves_and_the_other_is_told() {
    let (folder, server) = served().await;
    for key in ["doubted", "lost"] {
        let token = token_of(&folder, key).await;
        let head = [
            &["resolve", "--json", "--yes", "--not-applied"],
            OF_ALICE,
            &[key],
        ]
        .concat();
        let resolve = async |by: &str| {
            records(
                &folder,
                &[&head[..], &["--token", &token, "--by", by]].concat(),
            )
            .await
        };
        let (one, other) = tokio::join!(resolve("carol"), resolve("dave"));
        let mut codes = [one.code, other.code];
        codes.sort_unstable();
        assert_eq!(codes, [0, 1], "{one:?} {other:?}");
        let told = if one.code == 1 { one } else { other };
        assert!(told.words.contains("Nothing was changed"), "{told:?}");
        assert_eq!(told.json()["state"], "absent");
    }
    drop(server);
}

#[tokio::test]
async fn a_seal_makes_an_absent_key_impossible_and_leaves_a_used_one_as_it_is() {
    let (folder, server) = served().await;
    let seal = async |key: &str, more: &[&str]| {
        let head = [&["seal", "--json"], OF_ALICE, &[key]].concat();
        records(&folder, &[&head[..], more].concat()).await
    };
    assert_eq!(seal("never", &[]).await.code, 2, "nobody was asked");
    assert_eq!(
        records(&folder, &show("never")).await.json()["state"],
        "absent"
    );
    let sealed = seal("never", &["--yes"]).await;
    assert_eq!(
        (sealed.code, &sealed.json()["state"]),
        (0, &json!("sealed"))
    );
    let used = seal("done", &["--yes"]).await;
    assert_eq!((used.code, &used.json()["state"]), (1, &json!("completed")));
    drop(server);
}

#[tokio::test]
async fn figures_and_sweeps_come_from_the_server() {
    let (folder, server) = served().await;
    let stats = records(&folder, &["stats", "--json"]).await;
    assert_eq!(stats.code, 0, "{stats:?}");
    let stats = stats.json();
    assert_eq!(
        (&stats["in_doubt"], &stats["in_progress"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(
        (&stats["settled"], &stats["incarnation"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(stats["scopes"][0]["principal"], "alice");
    assert_eq!(stats["buckets"].as_array().unwrap().len(), 1);
    assert!(stats["disk_bytes"].as_u64().unwrap() > 4_096, "{stats}");
    assert_eq!(stats["poisoned"], json!(null));
    let table = records(&folder, &["stats"]).await;
    assert!(table.printed.contains("in doubt"), "{}", table.printed);
    let swept = records(&folder, &["sweep", "--json", "--confirm-clock"]).await;
    assert_eq!(swept.code, 0, "{swept:?}");
    assert_eq!(swept.json()["paused"], json!(null));
    drop(server);
}

#[tokio::test]
async fn the_socket_is_its_users_alone_goes_with_the_server_and_survives_a_dead_one() {
    let (folder, server) = served().await;
    let socket = folder.path().join("store/ADMIN");
    let mode = std::fs::symlink_metadata(&socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    server.kill().await;
    assert!(socket.exists(), "a killed server tidies nothing up");
    let refused = records(&folder, &["list"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.words.contains("--open"), "{}", refused.words);

    let server = Server::start(folder.path()).await;
    assert_eq!(records(&folder, &["list"]).await.code, 0);
    assert!(server.stop().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn on_a_terminal_a_change_is_asked_back_and_only_yes_makes_it() {
    let (folder, server) = served().await;
    let token = token_of(&folder, "lost").await;
    let resolve = [
        &["resolve", "--not-applied", "--token", &token],
        OF_ALICE,
        &["lost"],
    ]
    .concat();
    for (answer, code) in [("no\n", 2), ("y\n", 2), ("\n", 2), ("yes\n", 0)] {
        assert_eq!(
            token_of(&folder, "lost").await,
            token,
            "nothing was changed yet"
        );
        let (ended, shown) = on_terminal(&folder, &resolve, answer).await;
        assert_eq!(ended, code, "{answer:?}: {shown}");
        assert!(shown.contains("Type yes to go on"), "{shown}");
        assert!(shown.contains("the owner is gone"), "{shown}");
    }
    assert_eq!(
        records(&folder, &show("lost")).await.json()["state"],
        "absent"
    );
    drop(server);
}

#[tokio::test]
async fn a_server_that_stands_still_is_said_to_be_silent_and_nothing_hangs() {
    let (folder, server) = served().await;
    server.signal("STOP").await;
    let asked = records(&folder, &["stats"]).await;
    assert_eq!(asked.code, 3, "{asked:?}");
    assert!(asked.words.contains("says nothing"), "{}", asked.words);
    server.signal("CONT").await;
    assert_eq!(records(&folder, &["stats"]).await.code, 0);
}
