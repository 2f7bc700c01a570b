//! Frames are lost, doubled, delayed and cut between real clients and a real server.

use onlyonce::chaos::{Executor, Happened, ProxyExecutor, Scenario};

use super::judged::{program, run};

fn scenario(calls: u64, faults: &str) -> Scenario {
    Scenario::parse(&format!(
        "name = \"proxy\"\nworkload = \"transfers\"\ncalls = {calls}\nclients = 16\nmode = \"transactional\"\n\
         attempt_ms = 400\ndeadline_ms = 20000\n{faults}"
    ))
    .unwrap()
}

fn fault(name: &str, what: &str, when: &str) -> String {
    format!("[[fault]]\nname = \"{name}\"\nwhere = \"wire\"\nwhat = {what}\nwhen = {{ {when} }}\n")
}

#[test]
fn every_fault_of_a_frame_at_once_doubles_nothing_and_loses_nothing() {
    let both = ["request-sent", "reply-sent"];
    let whats = [
        ("drop", "\"drop\""),
        ("duplicate", "{ duplicate = { later_ms = 3 } }"),
        ("delay", "{ delay = { min_ms = 1, max_ms = 30 } }"),
        ("truncate", "\"truncate\""),
        ("reset", "\"reset\""),
        ("close", "\"close\""),
        ("blackhole", "\"blackhole\""),
    ];
    let mut faults = String::new();
    for (name, what) in whats {
        for phase in both {
            let when = format!("phase = \"{phase}\", share = 0.03");
            faults += &fault(&format!("{name} {phase}"), what, &when);
        }
    }
    faults += "[[fault]]\nname = \"kill\"\nwhere = \"server\"\nwhat = { crash = { back_after_ms = 10 } }\n\
               when = { phase = \"reply-sent\", call = 200, attempt = 1 }\n";
    let scenario = scenario(600, &faults);
    let executor = ProxyExecutor::with_program(program());
    for fault in &scenario.faults {
        executor.can_fault(&scenario, fault).unwrap();
    }
    let (judged, record) = run(&executor, &scenario, 1);
    for (name, fired) in &record.fired {
        assert!(fired.struck > 0 || name == "kill", "{name} never struck");
    }
    assert_eq!((judged.calls, judged.resolved), (600, 600), "{judged:?}");
    assert_eq!(
        (judged.duplicated, judged.wrong, judged.in_doubt),
        (0, 0, 0),
        "{judged:?}"
    );
    assert!(judged.sent > 650, "{judged:?}");
    let (naive, _) = run(&executor, &scenario.naive(), 1);
    assert!(naive.duplicated > 10, "{naive:?}");
}

#[test]
fn a_fault_of_one_call_and_attempt_strikes_that_and_nothing_else() {
    let when = "phase = \"reply-sent\", call = 7, attempt = 1";
    let scenario = scenario(30, &fault("lost", "\"drop\"", when));
    let (judged, record) = run(&ProxyExecutor::with_program(program()), &scenario, 2);
    let struck = record
        .events
        .iter()
        .filter(|event| matches!(event.what, Happened::Fault { .. }));
    let struck: Vec<_> = struck.map(|event| (event.call, event.attempt)).collect();
    assert_eq!(struck, [(7, 1)]);
    assert_eq!(
        (judged.sent, judged.resolved, judged.duplicated),
        (31, 30, 0),
        "{judged:?}"
    );
    assert_eq!(record.goals.count("a reply was lost after its effect"), 1);
    // The same fault of the same seed, and nothing dedupes.
    let (naive, _) = run(
        &ProxyExecutor::with_program(program()),
        &scenario.naive(),
        2,
    );
    assert_eq!((naive.sent, naive.duplicated), (31, 1), "{naive:?}");
}
