//! What comes for a call after its client has acknowledged the answer.

use onlyonce::chaos::ProxyExecutor;
use onlyonce_chaos::history::{Happened, RunRecord, Seen};
use onlyonce_chaos::ledger::{Verdict, judge};
use onlyonce_chaos::scenario::Scenario;

use super::judged::{program, run};

/// A third of the requests come again when their calls are over for long.
fn late_copies(mode: &str) -> Scenario {
    Scenario::parse(&format!(
        "name = \"late copies\"\nworkload = \"transfers\"\ncalls = 240\nclients = 4\nmode = \"{mode}\"\n\
         attempt_ms = 2000\ndeadline_ms = 20000\n[[fault]]\nname = \"again\"\nwhere = \"wire\"\n\
         what = {{ duplicate = {{ later_ms = 250 }} }}\nwhen = {{ phase = \"request-sent\", share = 0.3 }}\n"
    ))
    .unwrap()
}

fn came_late(record: &RunRecord) -> u64 {
    let goals = &record.goals;
    goals.count("a duplicate came after its call was acknowledged")
}

// E1
#[test]
fn a_copy_that_comes_after_its_call_was_acknowledged_has_no_effect() {
    for mode in ["claimed", "transactional"] {
        let (judged, record) = run(
            &ProxyExecutor::with_program(program()),
            &late_copies(mode),
            1,
        );
        assert!(came_late(&record) > 10, "{:?}", record.goals);
        let report = judge(&record);
        assert_eq!(report.verdict(), Verdict::Valid, "{mode}: {report}");
        assert_eq!((judged.resolved, judged.duplicated), (240, 0), "{judged:?}");
        // When each effect happened is known, so that one which comes late can be told.
        let timed = |what: &Happened| {
            let Happened::Effect { seen, .. } = what else {
                return false;
            };
            *seen == Seen::AtCommit
        };
        let timed = record.events.iter().filter(|event| timed(&event.what));
        assert_eq!(timed.count() as u64, report.figures().effects, "{mode}");
    }
}

/// A program whose server has this bug.
#[cfg(feature = "mutants")]
fn with_bug(folder: &std::path::Path, bug: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("onlyonce");
    let program = program();
    let text = format!(
        "#!/bin/sh\nexport ONLYONCE_PLANT={bug}\nexec '{}' \"$@\"\n",
        program.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(feature = "mutants")]
#[test]
fn a_server_that_runs_an_acknowledged_call_again_is_found() {
    use onlyonce_chaos::ledger::Violation;
    let folder = tempfile::tempdir().unwrap();
    let broken = with_bug(folder.path(), "AcknowledgedRunsAgain");
    for mode in ["claimed", "transactional"] {
        let executor = ProxyExecutor::with_program(broken.clone());
        let (judged, record) = run(&executor, &late_copies(mode), 1);
        assert!(came_late(&record) > 10, "{:?}", record.goals);
        let report = judge(&record);
        let names: Vec<_> = report.violations().iter().map(Violation::name).collect();
        assert!(names.contains(&"zombie"), "{mode}: {names:?}");
        assert!(judged.duplicated > 0, "{mode}: {judged:?}");
    }
}
