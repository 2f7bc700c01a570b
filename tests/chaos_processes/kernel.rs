//! Packets are lost between a real server and real clients.

use onlyonce::chaos::{Executor, KernelExecutor};
use onlyonce_chaos::scenario::Scenario;

use super::judged::{not_run, program, run};
use super::sizes::calls;

fn scenario(calls: u64, faults: &str) -> Scenario {
    Scenario::parse(&format!(
        "name = \"kernel\"\nworkload = \"transfers\"\ncalls = {calls}\nclients = 64\n\
         mode = \"transactional\"\nattempt_ms = 1200\ndeadline_ms = 20000\n{faults}"
    ))
    .unwrap()
}

/// None, with the reason said, where the machine cannot.
fn executor(scenario: &Scenario) -> Option<KernelExecutor> {
    let executor = KernelExecutor::with_program(program());
    match executor.can(scenario) {
        Ok(()) => Some(executor),
        Err(reason) => {
            not_run("ONLYONCE_REQUIRE_KERNEL", "packets in the kernel", &reason);
            None
        }
    }
}

const LOSS: &str = "[[fault]]\nname = \"loss\"\nwhere = \"wire\"\nwhat = \"packet-loss\"\n";
const ANSWERS: &str = "[[fault]]\nname = \"answers\"\nwhere = \"wire\"\nwhat = \"drop\"\n\
                       when = { phase = \"reply-sent\", share = 0.1 }\n";

#[test]
fn lost_packets_and_lost_answers_double_nothing_and_lose_nothing() {
    for (share, otherwise) in [("0.05", 300), ("0.3", 150)] {
        let calls = calls(otherwise);
        let scenario = scenario(
            calls,
            &format!("{LOSS}when = {{ share = {share} }}\n{ANSWERS}"),
        );
        let Some(executor) = executor(&scenario) else {
            return;
        };
        let (judged, record) = run(&executor, &scenario, 1);
        assert!(record.fired["loss"].struck > 30, "{:?}", record.fired);
        assert!(record.fired["answers"].struck > 5, "{:?}", record.fired);
        assert_eq!(
            (judged.calls, judged.resolved),
            (calls, calls),
            "{judged:?}"
        );
        assert_eq!((judged.duplicated, judged.wrong), (0, 0), "{judged:?}");
        assert!(record.goals.count("a reply was lost after its effect") > 0);
        let (naive, _) = run(&executor, &scenario.naive(), 1);
        assert!(naive.duplicated > 0, "{naive:?}");
    }
}

#[test]
fn a_partition_lasts_as_long_as_its_window() {
    // Long enough for processes to start on a machine that has much to do.
    let cut = "[[fault]]\nname = \"cut\"\nwhere = \"wire\"\nwhat = \"partition\"\n\
               when = { from_ms = 0, until_ms = 6000 }\n";
    let scenario = scenario(300, cut);
    let Some(executor) = executor(&scenario) else {
        return;
    };
    let (judged, record) = run(&executor, &scenario, 2);
    assert!(record.fired["cut"].struck > 0);
    assert_eq!(
        (judged.resolved, judged.duplicated, judged.wrong),
        (300, 0, 0),
        "{judged:?}"
    );
    let ended = record.events.iter().map(|event| event.at_us).max();
    assert!(ended > Some(6_000_000), "nothing was held up: {ended:?}");
}
