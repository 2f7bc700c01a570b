//! Frames are lost, doubled, delayed and cut between real clients and a real server.

use onlyonce::chaos::{Executor, ProxyExecutor};
use onlyonce_chaos::history::Happened;
use onlyonce_chaos::scenario::Scenario;

use super::judged::{program, run};
use super::sizes;

fn scenario(calls: u64, faults: &str) -> Scenario {
    Scenario::parse(&format!(
        "name = \"proxy\"\nworkload = \"transfers\"\ncalls = {calls}\nclients = 64\nmode = \"transactional\"\n\
         attempt_ms = 400\ndeadline_ms = 20000\n{faults}"
    ))
    .unwrap()
}

fn fault(name: &str, what: &str, when: &str) -> String {
    format!("[[fault]]\nname = \"{name}\"\nwhere = \"wire\"\nwhat = {what}\nwhen = {{ {when} }}\n")
}

#[test]
fn every_fault_of_a_frame_at_once_doubles_nothing_and_loses_nothing() {
    let calls = sizes::calls(60) * 10;
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
    for kill in 1..=KILLS {
        let (call, phase) = (kill * calls / (KILLS + 1), both_ends_of_the_server(kill));
        faults += &format!(
            "[[fault]]\nname = \"kill {kill}\"\nwhere = \"server\"\n\
             what = {{ crash = {{ back_after_ms = 20 }} }}\n\
             when = {{ phase = \"{phase}\", call = {call}, attempt = 1 }}\n"
        );
    }
    let scenario = scenario(calls, &faults);
    let executor = ProxyExecutor::with_program(program());
    for fault in &scenario.faults {
        executor.can_fault(&scenario, fault).unwrap();
    }
    let (judged, record) = run(&executor, &scenario, 1);
    for (name, fired) in &record.fired {
        // A kill has one call and attempt to strike, which another fault may lose before.
        assert!(
            fired.struck > 0 || name.starts_with("kill"),
            "{name} never struck"
        );
    }
    assert!(judged.killed >= KILLS / 4, "{judged:?}");
    assert_eq!(
        (judged.calls, judged.resolved),
        (calls, calls),
        "{judged:?}"
    );
    assert_eq!(
        (judged.duplicated, judged.wrong, judged.in_doubt),
        (0, 0, 0),
        "{judged:?}"
    );
    assert!(judged.sent > calls + calls / 10, "{judged:?}");
    let (naive, _) = run(&executor, &scenario.naive(), 1);
    assert!(naive.duplicated > 10, "{naive:?}");
}

/// Faults of the wire strike many of the requests that these wait for; most of the rest happen.
const KILLS: u64 = 14;

fn both_ends_of_the_server(kill: u64) -> &'static str {
    match kill % 2 {
        0 => "request-received",
        _ => "reply-sent",
    }
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
