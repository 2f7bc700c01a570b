//! The server's process is killed and paused.

use onlyonce::chaos::{CrashExecutor, Executor};
use onlyonce_chaos::scenario::Scenario;

use super::judged::{Judged, program, run};

fn scenario(mode: &str, fault: &str) -> Scenario {
    Scenario::parse(&format!(
        "name = \"crash\"\nworkload = \"transfers\"\ncalls = 300\nclients = 8\nmode = \"{mode}\"\n\
         attempt_ms = 400\ndeadline_ms = 10000\n[[fault]]\nname = \"it\"\nwhere = \"server\"\n{fault}\n"
    ))
    .unwrap()
}

const KILL: &str = "what = { crash = { back_after_ms = 20 } }\n";

#[test]
fn a_server_that_is_killed_after_the_effect_leaves_the_call_in_doubt_and_never_does_it_twice() {
    let when = "when = { phase = \"effect-durable\", share = 0.01, first_attempts = 1 }";
    let claimed = scenario("claimed", &format!("{KILL}{when}"));
    let executor = CrashExecutor::with_program(program());
    executor.can(&claimed).unwrap();
    executor.can_fault(&claimed, &claimed.faults[0]).unwrap();
    let (judged, record) = run(&executor, &claimed, 1);
    assert!(
        judged.killed > 0 && record.fired["it"].struck == judged.killed,
        "{judged:?}"
    );
    assert!(judged.in_doubt >= judged.killed, "{judged:?}");
    assert_eq!(
        (judged.duplicated, judged.wrong, judged.unknown),
        (0, 0, 0),
        "{judged:?}"
    );
    // The same kills do harm where nothing dedupes.
    let (naive, _) = run(&executor, &claimed.naive(), 1);
    assert!(naive.killed > 0 && naive.duplicated > 0, "{naive:?}");
}

#[test]
fn a_server_that_is_killed_at_any_phase_loses_and_doubles_nothing() {
    for phase in ["request-received", "reply-sent"] {
        let when = format!("when = {{ phase = \"{phase}\", share = 0.01, first_attempts = 1 }}");
        let scenario = scenario("transactional", &format!("{KILL}{when}"));
        let (judged, record) = run(&CrashExecutor::with_program(program()), &scenario, 2);
        assert!(record.fired["it"].struck > 0, "{phase}");
        assert_eq!(
            judged,
            Judged {
                calls: 300,
                resolved: 300,
                sent: judged.sent,
                killed: record.fired["it"].struck,
                ..Judged::default()
            }
        );
        assert!(judged.sent > 300, "{judged:?}");
    }
}

#[test]
fn a_server_can_be_killed_at_a_time_of_the_seed_s() {
    let when = "when = { from_ms = 30, until_ms = 120 }";
    let (judged, record) = run(
        &CrashExecutor::with_program(program()),
        &scenario("transactional", &format!("{KILL}{when}")),
        3,
    );
    assert_eq!((record.fired["it"].struck, judged.killed), (1, 1));
    assert_eq!(
        (judged.resolved, judged.duplicated, judged.wrong),
        (300, 0, 0)
    );
}

#[test]
fn a_server_that_stands_still_is_waited_for_and_answers_once() {
    let pause = "what = { pause = { for_ms = 600 } }\nwhen = { phase = \"request-received\", call = 100, attempt = 1 }";
    let (judged, record) = run(
        &CrashExecutor::with_program(program()),
        &scenario("transactional", pause),
        4,
    );
    assert_eq!(record.fired["it"].struck, 1);
    // Longer than an attempt: everybody under way had to ask again.
    assert!(judged.sent >= 308, "{judged:?}");
    assert_eq!(
        (judged.resolved, judged.duplicated, judged.wrong),
        (300, 0, 0)
    );
}

#[test]
fn a_server_is_restarted_three_times_on_the_way_without_harm() {
    let text = "name = \"rolling\"\nworkload = \"rolling-restarts\"\ncalls = 300\nclients = 8\n\
                mode = \"transactional\"\nattempt_ms = 400\ndeadline_ms = 10000\n";
    let scenario = Scenario::parse(text).unwrap();
    let executor = CrashExecutor::with_program(program());
    executor.can(&scenario).unwrap();
    let (judged, _) = run(&executor, &scenario, 5);
    assert_eq!((judged.killed, judged.resolved), (3, 300), "{judged:?}");
    assert_eq!((judged.duplicated, judged.wrong), (0, 0), "{judged:?}");
}

#[test]
fn what_cannot_be_done_to_a_process_is_not_run() {
    let executor = CrashExecutor::with_program(program());
    let reason = |mode, fault: &str| {
        let scenario = scenario(mode, fault);
        executor
            .can_fault(&scenario, &scenario.faults[0])
            .unwrap_err()
            .to_string()
    };
    let when = "when = { phase = \"effect-durable\" }";
    assert!(reason("transactional", &format!("{KILL}{when}")).contains("commit together"));
    let when = "when = { phase = \"reply-received\" }";
    assert!(reason("claimed", &format!("{KILL}{when}")).contains("knows nothing of that phase"));
    let when = "when = { share = 0.5 }";
    assert!(reason("claimed", &format!("{KILL}{when}")).contains("strikes once"));
}
