//! What clients ask for, over real sockets: each workload does its work, and shows what it is for.

use onlyonce::chaos::{CrashExecutor, Executor, KernelExecutor, ProxyExecutor, scenario};
use onlyonce_chaos::history::{Happened, RunRecord};
use onlyonce_chaos::ledger::{Verdict, judge};
use onlyonce_chaos::scenario::Scenario;

use super::judged::{Judged, not_run, program, run};

fn of(workload: &str, mode: &str, faults: &str) -> Scenario {
    Scenario::parse(&format!(
        "name = \"{workload}\"\nworkload = \"{workload}\"\ncalls = 120\nclients = 4\nmode = \"{mode}\"\n\
         attempt_ms = 400\ndeadline_ms = 20000\n{faults}"
    ))
    .unwrap()
}

const LOST_ANSWERS: &str = "[[fault]]\nname = \"answers\"\nwhere = \"wire\"\nwhat = \"drop\"\n\
                            when = { phase = \"reply-sent\", share = 0.1 }\n";

fn is_valid(record: &RunRecord) {
    let report = judge(record);
    assert_eq!(
        report.verdict(),
        Verdict::Valid,
        "{:?}",
        report.violations()
    );
}

/// How often the history has this in the payload of a call that has an effect.
fn effects(record: &RunRecord, word: &str) -> usize {
    let is_one = |what: &Happened| match what {
        Happened::Effect { payload, .. } => String::from_utf8_lossy(payload).contains(word),
        _ => false,
    };
    record
        .events
        .iter()
        .filter(|event| is_one(&event.what))
        .count()
}

#[test]
fn a_charge_is_refunded_once_although_answers_get_lost() {
    let executor = ProxyExecutor::with_program(program());
    for mode in ["claimed", "transactional"] {
        let scenario = of("refunds", mode, LOST_ANSWERS);
        executor.can(&scenario).unwrap();
        let (judged, record) = run(&executor, &scenario, 1);
        is_valid(&record);
        assert_eq!((judged.resolved, judged.duplicated), (120, 0), "{judged:?}");
        assert!(record.fired["answers"].struck > 3, "{:?}", record.fired);
        assert!(effects(&record, " charge ") > 40 && effects(&record, " refund ") > 10);
        assert!(record.accounts.as_ref().unwrap()["shop"] > 0);
    }
    let naive = of("refunds", "claimed", LOST_ANSWERS).naive();
    let (judged, _) = run(&executor, &naive, 1);
    assert!(judged.duplicated > 0, "{judged:?}");
}

#[test]
fn a_line_is_appended_once_although_answers_get_lost() {
    let executor = ProxyExecutor::with_program(program());
    for mode in ["claimed", "transactional"] {
        let (judged, record) = run(&executor, &of("mailbox", mode, LOST_ANSWERS), 1);
        is_valid(&record);
        assert_eq!((judged.resolved, judged.duplicated), (120, 0), "{judged:?}");
        // Each line has its place, and there are as many places as lines.
        let accounts = record.accounts.as_ref().unwrap();
        let boxes = accounts.iter().filter(|(name, _)| name.starts_with("box-"));
        assert_eq!(
            boxes.map(|(_, lines)| lines).sum::<i64>(),
            120,
            "{accounts:?}"
        );
    }
    let naive = of("mailbox", "claimed", LOST_ANSWERS).naive();
    let (judged, record) = run(&executor, &naive, 1);
    assert!(
        judged.duplicated > 0 && effects(&record, " append ") > 120,
        "{judged:?}"
    );
}

fn comes_back(judged: &Judged, record: &RunRecord, calls: u64) {
    is_valid(record);
    let who = |what: &Happened| matches!(what, Happened::Lifecycle { who, event } if who == "clients" && event == "killed");
    let killed = record
        .events
        .iter()
        .filter(|event| who(&event.what))
        .count();
    assert!(killed >= 2, "{judged:?}");
    assert!(record.goals.count("a client came back with an open call") > 0);
    assert_eq!(
        (judged.calls, judged.resolved),
        (calls, calls),
        "{judged:?}"
    );
    assert_eq!((judged.duplicated, judged.wrong), (0, 0), "{judged:?}");
}

#[test]
fn clients_that_are_killed_come_back_with_their_outbox_and_do_nothing_twice() {
    let scenario = scenario("outbox").unwrap();
    let executor = ProxyExecutor::with_program(program());
    executor.can(&scenario).unwrap();
    let (judged, record) = run(&executor, &scenario, 1);
    comes_back(&judged, &record, scenario.calls);
    assert!(record.goals.count("a reply was lost after its effect") > 0);
    // Clients that write down what is over, and no key, do it again when they come back.
    let (naive, _) = run(&executor, &scenario.quiet().naive(), 1);
    assert!(naive.killed >= 2 && naive.duplicated > 0, "{naive:?}");
}

#[test]
fn clients_with_an_outbox_survive_their_crashes_and_those_of_the_server() {
    let kill = "[[fault]]\nname = \"kill\"\nwhere = \"server\"\nwhat = { crash = { back_after_ms = 20 } }\n\
                when = { phase = \"reply-sent\", share = 0.02, first_attempts = 1 }\n";
    let scenario = of("outbox", "transactional", kill);
    let (judged, record) = run(&CrashExecutor::with_program(program()), &scenario, 1);
    assert!(record.fired["kill"].struck > 0, "{:?}", record.fired);
    comes_back(&judged, &record, 120);
}

#[test]
fn clients_with_an_outbox_come_back_where_packets_get_lost() {
    let scenario = of("outbox", "transactional", LOST_ANSWERS);
    let executor = KernelExecutor::with_program(program());
    if let Err(reason) = executor.can(&scenario) {
        return not_run("ONLYONCE_REQUIRE_KERNEL", "packets in the kernel", &reason);
    }
    let (judged, record) = run(&executor, &scenario, 1);
    comes_back(&judged, &record, 120);
}
