//! The commands that reports print: somebody copies them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::{chaos, ends_with, stderr, stdout, text};

/// What a shell makes of it, in which `onlyonce` is this program.
fn in_a_shell(line: &str) -> Output {
    let folder = Path::new(env!("CARGO_BIN_EXE_onlyonce")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![folder.to_owned()];
    folders.extend(std::env::split_paths(&path));
    Command::new("sh")
        .args(["-c", line])
        .env("PATH", std::env::join_paths(folders).unwrap())
        .output()
        .unwrap()
}

fn commands(text: &str) -> Vec<String> {
    let unescaped = text
        .replace("&#39;", "'")
        .replace("<pre>", "\n")
        .replace("</pre>", "\n");
    let lines = unescaped.lines().map(str::trim);
    let commands = lines.filter(|line| line.starts_with("onlyonce chaos "));
    commands.map(str::to_owned).collect()
}

#[test]
fn every_command_that_a_report_prints_exists_and_shows_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("my scenario.toml");
    fs::write(
        &mine,
        "name = \"mine\"\nworkload = \"transfers\"\ncalls = 30\n[[fault]]\nname = \"lost\"\n\
         where = \"wire\"\nwhat = \"drop\"\nwhen = { phase = \"reply-sent\", share = 0.3 }\n",
    )
    .unwrap();
    let page = folder.path().join("page.html");
    let run = [
        "run",
        text(&mine),
        "--exec",
        "sim",
        "--seeds",
        "1..2",
        "--naive",
        "--calls",
        "25",
        "--report",
        text(&page),
    ];
    let output = chaos(&run);
    ends_with(&output, 1);
    let told = commands(&stdout(&output));
    let shown = commands(&fs::read_to_string(&page).unwrap());
    for what in [" run ", " shrink "] {
        assert!(told.iter().any(|line| line.contains(what)), "{told:?}");
        assert!(shown.iter().any(|line| line.contains(what)), "{shown:?}");
    }
    // The page has one more, for all of it.
    assert_eq!(shown.len(), told.len() + 1, "{shown:?}");
    for line in told.iter().chain(shown.last()) {
        let output = in_a_shell(line);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{line}\n{}{}",
            stdout(&output),
            stderr(&output)
        );
        assert!(stdout(&output).contains("double-apply"), "{line}");
    }
}

#[test]
fn a_history_has_all_that_its_replay_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let repeats = |command: &[&str]| {
        ends_with(&chaos(&[command, &["--history", text(&path)]].concat()), 0);
        // Whoever replays it has neither the scenario's file nor what was said to change it.
        let output = chaos(&["replay", text(&path)]);
        ends_with(&output, 0);
        assert!(stdout(&output).starts_with("the same trace: "));
    };
    for seed in ["3", "4"] {
        let gate = ["gate", "--from", seed, "--seeds", "1", "--calls", "30"];
        repeats(&gate);
    }
    let mine = folder.path().join("mine.toml");
    fs::write(
        &mine,
        "name = \"mine\"\nworkload = \"transfers\"\ncalls = 300\n[[fault]]\nname = \"lost\"\n\
         where = \"wire\"\nwhat = \"drop\"\nwhen = { share = 0.3 }\n",
    )
    .unwrap();
    repeats(&[
        "run",
        text(&mine),
        "--exec",
        "sim",
        "--seeds",
        "5",
        "--calls",
        "40",
    ]);
}

#[test]
fn a_history_is_of_a_run_that_is_asked_for_its_goals_and_its_control() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, path) = (folder.path().join("mine.toml"), folder.path().join("run"));
    let scenario = |goal: &str, fault: &str| {
        format!(
            "name = \"mine\"\nworkload = \"transfers\"\ncalls = 40\ngoals = [\"{goal}\"]\n\
             [[fault]]\nname = \"it\"\nwhere = \"wire\"\n{fault}\n"
        )
    };
    let lost = "what = \"drop\"\nwhen = { share = 0.2 }";
    let delayed = "what = { delay = { min_ms = 1, max_ms = 2 } }\nwhen = { share = 0.2 }";
    for (goal, fault, told) in [
        ("a call was tried again", lost, ""),
        ("somebody sang", lost, "it never arose that somebody sang"),
        (
            "a call was declined",
            delayed,
            "the naive control shows no duplicates",
        ),
    ] {
        fs::write(&mine, scenario(goal, fault)).unwrap();
        let run = ["run", text(&mine), "--exec", "tower", "--seeds", "3"];
        let output = chaos(&[&run[..], &["--history", text(&path)]].concat());
        ends_with(&output, if told.is_empty() { 0 } else { 3 });
        assert!(stdout(&output).contains(told), "{}", stdout(&output));
        ends_with(&chaos(&["check", text(&path)]), 0);
        fs::remove_file(&path).unwrap();
    }
}
