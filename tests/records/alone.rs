//! Where no server runs, and where one runs without a socket.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::program::{records, run};
use super::store;

#[tokio::test]
async fn a_command_that_was_not_told_to_open_a_store_changes_nothing_of_it() {
    let folder = TempDir::new().unwrap();
    store::make(folder.path()).await;
    let before = content(folder.path());
    for arguments in [
        &["list"][..],
        &["stats"],
        &["sweep"],
        &["show", "--global", "--key", "k"],
        &["seal", "--global", "--key", "k", "--yes"],
        &[
            "resolve",
            "--global",
            "--key",
            "k",
            "--token",
            "1.1",
            "--not-applied",
            "--yes",
        ],
    ] {
        let refused = records(&folder, arguments).await;
        assert_eq!(
            (refused.code, refused.printed.as_str()),
            (2, ""),
            "{refused:?}"
        );
        assert!(refused.words.contains("--open"), "{}", refused.words);
    }
    assert_eq!(content(folder.path()), before);
}

#[tokio::test]
async fn a_command_that_was_told_to_opens_the_store_and_leaves_it_free() {
    let folder = TempDir::new().unwrap();
    store::make(folder.path()).await;
    for incarnation in 2..4 {
        let stats = records(&folder, &["stats", "--json", "--open"]).await;
        assert_eq!(stats.code, 0, "{stats:?}");
        let stats = stats.json();
        // What was left in progress is in doubt by that.
        assert_eq!(
            (&stats["in_doubt"], &stats["in_progress"]),
            (&json!(3), &json!(0))
        );
        assert_eq!(stats["incarnation"], incarnation);
    }
    let key = ["--principal", "alice", "--key", "lost", "--token", "1.4"];
    let free = ["resolve", "--not-applied", "--yes", "--json", "--open"];
    let resolved = records(&folder, &[&free[..], &key].concat()).await;
    assert_eq!(
        (resolved.code, &resolved.json()["state"]),
        (0, &json!("absent"))
    );
    // Shorter ones than the server's would forget what it promises to remember.
    let sweep = records(&folder, &["sweep", "--open"]).await;
    assert_eq!(sweep.code, 2, "{sweep:?}");
    let told = ["--retention-hours", "24", "--horizon-hours", "168"];
    let sweep = records(&folder, &[&["sweep", "--open"][..], &told].concat()).await;
    assert_eq!(sweep.code, 0, "{sweep:?}");
}

#[tokio::test]
async fn a_store_that_is_open_without_a_socket_is_refused_in_words_that_say_what_to_do() {
    let folder = TempDir::new().unwrap();
    let store = store::open(folder.path()).await;
    for arguments in [&["list"][..], &["list", "--open"]] {
        let refused = records(&folder, arguments).await;
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(
            refused.words.contains("AdminSocket::serve"),
            "{}",
            refused.words
        );
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn no_store_is_made_by_looking_for_one() {
    let folder = TempDir::new().unwrap();
    for more in [&[][..], &["--open"]] {
        let refused = records(&folder, &[&["list"], more].concat()).await;
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(
            refused.words.contains("there is no store"),
            "{}",
            refused.words
        );
    }
    assert!(!folder.path().join("store").exists());
}

#[tokio::test]
async fn bad_usage_ends_with_2_and_says_why() {
    for (arguments, words) in [
        (&["list", "--store", "memory:"][..], "memory"),
        (&["list", "--store", "mysql://x"], "sled:PATH"),
        (&["list", "--store", "sled:"], "needs a folder"),
        (
            &["list", "--store", "sled:x", "--older-than", "soon"],
            "an age",
        ),
        (&["list"], "--store"),
        // The scope is never guessed.
        (&["show", "--store", "sled:x", "--key", "k"], "--principal"),
        (
            &[
                "show",
                "--store",
                "sled:x",
                "--key",
                "k",
                "--global",
                "--principal",
                "p",
            ],
            "--global",
        ),
        // What became known is never guessed either.
        (
            &[
                "resolve", "--store", "sled:x", "--key", "k", "--global", "--token", "1.1",
            ],
            "--applied",
        ),
        (
            &[
                "resolve",
                "--store",
                "sled:x",
                "--key",
                "k",
                "--global",
                "--token",
                "1.1",
                "--applied",
            ],
            "--answer-file",
        ),
    ] {
        let refused = run(arguments).await;
        assert_eq!(refused.code, 2, "{arguments:?}: {refused:?}");
        assert!(
            refused.words.contains(words),
            "{arguments:?}: {}",
            refused.words
        );
        assert_eq!(refused.printed, "");
    }
}

#[tokio::test]
async fn a_key_a_token_a_name_or_a_place_that_is_none_is_bad_usage() {
    let folder = TempDir::new().unwrap();
    store::make(folder.path()).await;
    let global = ["--open", "--global", "--key"];
    let two_words = records(&folder, &[&["show"][..], &global, &["two words"]].concat()).await;
    assert_eq!(two_words.code, 2, "{two_words:?}");
    let place = records(&folder, &["list", "--open", "--after", "nowhere"]).await;
    assert_eq!(place.code, 2, "{place:?}");
    let of_alice = [
        "--open",
        "--principal",
        "alice",
        "--key",
        "lost",
        "--not-applied",
        "--yes",
    ];
    let token = ["resolve", "--token", "1.4", "--by", "a b"];
    let by = records(&folder, &[&token[..], &of_alice].concat()).await;
    assert_eq!(by.code, 2, "{by:?}");
    let token = ["resolve", "--token", "nothing"];
    let none = records(&folder, &[&token[..], &of_alice].concat()).await;
    assert_eq!(none.code, 1, "it is not the doubt's: {none:?}");
}

/// Every file with what is in it.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path.display().to_string(), bytes);
        }
    }
    found
}
