//! `chaos run`.

use std::fs;

use super::{chaos, ends_with, stderr, stdout, text};

#[test]
fn a_scenario_that_comes_along_is_valid_and_its_naive_control_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let run = ["run", "lost-answers", "--exec", "tower", "--seeds", "1..5"];
    let output = chaos(&[&run[..], &["--json", "--junit", text(&junit)]].concat());
    ends_with(&output, 0);
    let lines: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["verdict"], "valid");
    assert_eq!(lines[1]["runs"], 5);
    assert!(lines[1]["control"]["duplicated"].as_u64().unwrap() > 0);
    assert!(stderr(&output).contains("0 violations in 5 seeds: fewer than 60.0 % of all seeds"));
    assert!(
        fs::read_to_string(junit)
            .unwrap()
            .contains("failures=\"0\" errors=\"0\"")
    );

    let naive = chaos(&[&run[..], &["--naive"]].concat());
    ends_with(&naive, 1);
    assert!(
        stdout(&naive).contains("I1 double-apply"),
        "{}",
        stdout(&naive)
    );
}

#[test]
fn every_scenario_runs_on_threads_side_by_side() {
    for scenario in [
        "bad-network",
        "charge-refund",
        "mailbox",
        "outbox",
        "everything",
    ] {
        let run = [
            "run", scenario, "--exec", "tower", "--seeds", "1..6", "--jobs", "2",
        ];
        ends_with(&chaos(&run), 0);
    }
}

#[test]
fn ten_thousand_callers_of_one_key_get_one_effect_and_one_answer() {
    let output = chaos(&[
        "run", "hot-key", "--exec", "tower", "--seeds", "1", "--json",
    ]);
    ends_with(&output, 0);
    let part: serde_json::Value =
        serde_json::from_str(stdout(&output).lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&part["calls"], &part["effects"]),
        (&10_000.into(), &1.into())
    );
}

#[test]
fn a_wanted_situation_that_never_arose_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let scenario = "name = \"mine\"\nworkload = \"transfers\"\ncalls = 20\n\
                    goals = [\"power was cut\"]\n[[fault]]\nname = \"f\"\nwhere = \"wire\"\n\
                    what = \"drop\"\nwhen = { share = 0.2 }\n";
    fs::write(&path, scenario).unwrap();
    let output = chaos(&["run", text(&path), "--exec", "tower", "--seeds", "1..2"]);
    ends_with(&output, 3);
    assert!(stdout(&output).contains("unknown because it never arose that power was cut"));
}

#[test]
fn what_an_executor_cannot_do_is_not_run_and_not_passed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.toml");
    let scenario = "name = \"disk\"\nworkload = \"transfers\"\n[[fault]]\nname = \"cut\"\n\
                    where = \"disk\"\nwhat = \"power-cut\"\n";
    fs::write(&path, scenario).unwrap();
    let output = chaos(&["run", text(&path), "--exec", "tower", "--seeds", "1"]);
    ends_with(&output, 3);
    assert!(
        stdout(&output).contains("tower: not run: "),
        "{}",
        stdout(&output)
    );
}

#[test]
fn bad_usage_is_told_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.toml");
    fs::write(&path, "name = \"x\"\nworkload = \"transfers\"\n\n[[fault]]\nname = \"f\"\nwhere = \"wire\"\nwhat = \"power-cut\"\n").unwrap();
    for (arguments, told) in [
        (
            vec!["run", "no-such"],
            "neither a file nor one of bad-network",
        ),
        (
            vec!["run", text(&path)],
            "line 7: `what`: `power-cut` cannot happen to the wire",
        ),
        (
            vec!["run", "mailbox", "--exec", "moon"],
            "no executor `moon`: it is one of sim, tower, proxy",
        ),
        (vec!["run", "mailbox", "--seeds", "5..1"], "5 is after 1"),
        (vec!["run", "mailbox", "--seeds", "few"], "`few` is no seed"),
        (
            vec!["run", "mailbox", "--history", "h"],
            "--history is of one executor",
        ),
    ] {
        let output = chaos(&arguments);
        ends_with(&output, 2);
        assert!(
            stderr(&output).contains(told),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}
