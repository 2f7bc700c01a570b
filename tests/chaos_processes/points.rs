//! The server's process is killed at named points of its code.

use std::fs;
use std::path::{Path, PathBuf};

use onlyonce::chaos::{CrashExecutor, Executor, kill_points, scenario};
use onlyonce_chaos::scenario::Scenario;

use super::judged::{program, run};

fn at(mode: &str, points: &[(&str, u64)]) -> Scenario {
    let mut text = format!(
        "name = \"points\"\nworkload = \"transfers\"\ncalls = 400\nclients = 8\nmode = \"{mode}\"\n\
         attempt_ms = 400\ndeadline_ms = 20000\n"
    );
    for (point, passing) in points {
        text += &format!(
            "[[fault]]\nname = \"{point}\"\nwhere = \"server\"\nwhat = {{ crash = {{ back_after_ms = 20 }} }}\n\
             when = {{ point = \"{point}\", passing = {passing} }}\n"
        );
    }
    Scenario::parse_with_points(&text, kill_points()).unwrap()
}

#[cfg(feature = "points")]
mod with_points {
    use super::*;

    #[test]
    fn a_server_that_is_killed_at_each_point_of_the_scenario_loses_and_doubles_nothing() {
        let scenario = scenario("kill-points").unwrap();
        let executor = CrashExecutor::with_program(program());
        executor.can(&scenario).unwrap();
        for fault in &scenario.faults {
            executor.can_fault(&scenario, fault).unwrap();
        }
        let (judged, record) = run(&executor, &scenario, 1);
        for (point, fired) in &record.fired {
            assert_eq!(fired.struck, 1, "{point}");
        }
        assert_eq!(judged.killed, scenario.faults.len() as u64, "{judged:?}");
        assert_eq!(judged.resolved, scenario.calls, "{judged:?}");
        assert_eq!((judged.duplicated, judged.wrong), (0, 0), "{judged:?}");
        // Calls that were under way had to be asked again.
        assert!(judged.sent > judged.calls, "{judged:?}");
        let (naive, _) = run(&executor, &scenario.naive(), 1);
        assert!(naive.killed > 0 && naive.duplicated > 0, "{naive:?}");
    }

    #[test]
    fn where_a_point_lies_decides_what_becomes_of_the_call() {
        // Between claim and effect, and between effect and record, a claimed call is in doubt.
        let points = [
            ("dedupe: claimed, handler not called", 50),
            ("dedupe: handler returned, answer not encoded", 50),
        ];
        let (judged, record) = run(
            &CrashExecutor::with_program(program()),
            &at("claimed", &points),
            1,
        );
        assert!(
            record.fired.values().all(|fired| fired.struck == 1),
            "{judged:?}"
        );
        assert!(judged.killed == 2 && judged.in_doubt >= 2, "{judged:?}");
        assert_eq!((judged.duplicated, judged.wrong), (0, 0), "{judged:?}");
        // In front of the claim nothing is: whoever asks again is executed for the first time.
        let points = [("server: call decoded, not begun", 50)];
        let (judged, _) = run(
            &CrashExecutor::with_program(program()),
            &at("transactional", &points),
            1,
        );
        assert_eq!((judged.killed, judged.in_doubt), (1, 0), "{judged:?}");
        assert_eq!((judged.resolved, judged.duplicated), (400, 0), "{judged:?}");
    }

    #[test]
    fn a_point_that_is_not_passed_kills_nobody_and_is_not_counted() {
        let points = [("sweep: let go, not answered", 1)];
        let (judged, record) = run(
            &CrashExecutor::with_program(program()),
            &at("transactional", &points),
            1,
        );
        assert_eq!(record.fired["sweep: let go, not answered"].struck, 0);
        assert_eq!((judged.killed, judged.resolved), (0, 400), "{judged:?}");
    }
}

#[cfg(not(feature = "points"))]
#[test]
fn a_program_without_points_says_so() {
    let scenario = at("claimed", &[("dedupe: claimed, handler not called", 1)]);
    let executor = CrashExecutor::with_program(program());
    let reason = executor.can_fault(&scenario, &scenario.faults[0]);
    let reason = reason.unwrap_err().to_string();
    assert!(reason.contains("feature `points`"), "{reason}");
}

#[test]
fn the_points_that_a_scenario_may_name_are_those_of_the_code() {
    let mut found = Vec::new();
    for folder in ["storage/src", "middleware/src", "src/rpc"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for file in sources(&folder) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let code: Vec<_> = code.collect();
            let code = code.join("\n");
            let names = code.split("kill_point!(").skip(1);
            let names =
                names.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
    // A doubt that somebody ends, and a client's outbox: no server of a run passes those.
    found.retain(|name| !name.starts_with("doubt") && !name.starts_with("outbox"));
    // Nor what only a call with a journal passes, the larger of which lie in parts: runs have none.
    found.retain(|name| !name.starts_with("journal") && !name.contains("parts of a record"));
    found.sort_unstable();
    assert!(found.len() > 60, "only {} points were found", found.len());
    assert_eq!(found, kill_points());
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(sources(&path)),
            false => files.push(path),
        }
    }
    files
}
