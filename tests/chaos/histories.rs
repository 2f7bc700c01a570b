//! `chaos check` and `chaos replay`.

use std::fs;

use super::{chaos, ends_with, stderr, stdout, text};

#[test]
fn a_history_is_judged_again_and_a_wrong_line_is_refused_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let run = [
        "run",
        "lost-answers",
        "--exec",
        "tower",
        "--seeds",
        "3",
        "--history",
        text(&path),
    ];
    ends_with(&chaos(&run), 0);
    let output = chaos(&["check", text(&path)]);
    ends_with(&output, 0);
    assert!(stdout(&output).contains("valid: "), "{}", stdout(&output));

    let history = fs::read_to_string(&path).unwrap();
    // One effect more than there was.
    let effect = history
        .lines()
        .find(|line| line.contains("\"effect\""))
        .unwrap();
    let again = effect.replacen("\"index\":1,", "\"index\":999999,", 1);
    let doubled = history.replacen(effect, &format!("{effect}\n{again}"), 1);
    fs::write(&path, doubled).unwrap();
    let output = chaos(&["check", text(&path)]);
    ends_with(&output, 1);
    assert!(
        stdout(&output).contains("double-apply"),
        "{}",
        stdout(&output)
    );

    // What the executor has seen, and no event shows.
    let (events, end) = history.trim_end().rsplit_once('\n').unwrap();
    let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
    end["end"]["defects"] =
        serde_json::json!([{ "name": "damaged-store", "text": "a sum differs" }]);
    fs::write(&path, format!("{events}\n{end}\n")).unwrap();
    let output = chaos(&["check", text(&path)]);
    ends_with(&output, 1);
    let told = stdout(&output);
    assert!(told.contains("damaged-store: a sum differs"), "{told}");

    // It stops early.
    let half: Vec<&str> = history.lines().take(40).collect();
    fs::write(&path, half.join("\n")).unwrap();
    ends_with(&chaos(&["check", text(&path)]), 3);

    let mut lines: Vec<&str> = history.lines().collect();
    lines[6] = "{\"event\":{}}";
    fs::write(&path, lines.join("\n")).unwrap();
    let output = chaos(&["check", text(&path)]);
    ends_with(&output, 2);
    assert!(
        stderr(&output).contains("line 7 of the history"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_simulated_run_goes_the_same_way_again_and_another_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let run = [
        "run",
        "bad-network",
        "--exec",
        "sim",
        "--seeds",
        "5",
        "--history",
        text(&path),
    ];
    ends_with(&chaos(&run), 0);
    let output = chaos(&["replay", text(&path)]);
    ends_with(&output, 0);
    assert!(
        stdout(&output).starts_with("the same trace: "),
        "{}",
        stdout(&output)
    );

    // The same events, and another account at the end.
    let history = fs::read_to_string(&path).unwrap();
    let (events, end) = history.trim_end().rsplit_once('\n').unwrap();
    let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
    end["end"]["accounts"]["account-3"] = 123_456_789.into();
    fs::write(&path, format!("{events}\n{end}\n")).unwrap();
    let output = chaos(&["replay", text(&path)]);
    ends_with(&output, 3);
    let told = stdout(&output);
    let then = "\n  then the end, accounts, account-3: 123456789\n";
    assert!(told.contains(then), "{told}");
    fs::write(&path, &history).unwrap();

    // Another seed than the one that it was made from.
    let history = fs::read_to_string(&path)
        .unwrap()
        .replacen("\"seed\":5", "\"seed\":6", 1);
    fs::write(&path, history).unwrap();
    let output = chaos(&["replay", text(&path)]);
    ends_with(&output, 3);
    let told = stdout(&output);
    assert!(
        told.starts_with("it differs at event ") && told.contains("\n  now  {"),
        "{told}"
    );
}
