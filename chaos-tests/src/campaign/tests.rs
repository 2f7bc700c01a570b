use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::campaign::toy::Toy;
use crate::executor::Executor;
use crate::fault::Phase;
use crate::goals::situations;
use crate::history::RunRecord;
use crate::ledger::Verdict;
use crate::scenario::{Scenario, Workload};
use crate::seed::Seed;

fn scenario(extra: &str) -> Scenario {
    let text = format!(
        "name = \"t\"\nworkload = \"transfers\"\ncalls = 40\n{extra}\n\
         [[fault]]\nname = \"lost\"\nwhere = \"wire\"\nwhat = \"drop\"\nwhen = {{ share = 0.2 }}\n"
    );
    Scenario::parse(&text).unwrap()
}

fn options(to: u64) -> Options {
    Options {
        seeds_from: 1,
        seeds_to: to,
        jobs: 3,
        control: true,
    }
}

fn campaign(scenario: &Scenario, toy: &Toy) -> Campaign {
    run(scenario, &[toy as &dyn Executor], &options(30), &|_, _| {
        true
    })
}

#[test]
fn a_service_that_dedupes_is_valid_and_its_control_shows_duplicates() {
    let scenario = scenario("goals = [\"a reply was lost after its effect\"]");
    let campaign = campaign(&scenario, &Toy::default());
    assert_eq!(
        campaign.verdict(),
        Verdict::Valid,
        "{:?}",
        campaign.reasons()
    );
    assert_eq!(campaign.exit_code(), 0);
    let part = &campaign.parts[0];
    assert_eq!((part.runs, part.repeated, part.differing.len()), (30, 1, 0));
    assert_eq!(part.survived["lost"], part.felt["lost"]);
    assert!(part.goals.count(situations::REPLY_LOST) > 0);
    assert!(matches!(
        part.control,
        Control::Ran {
            duplicated: 5..,
            ..
        }
    ));
    assert_eq!(
        campaign.bound(),
        "0 violations in 30 seeds: fewer than 10.0 % of all seeds would show one (95 %)."
    );
}

#[test]
fn a_service_that_does_not_is_violated_and_the_lives_of_its_keys_are_told() {
    let toy = Toy {
        broken: true,
        ..Toy::default()
    };
    let campaign = campaign(&scenario(""), &toy);
    assert_eq!(
        (campaign.verdict(), campaign.exit_code()),
        (Verdict::Violated, 1)
    );
    let part = &campaign.parts[0];
    assert_eq!(part.violated, 30);
    assert_eq!(part.findings.len(), 10);
    let finding = &part.findings[0];
    assert_eq!(finding.seed, 1);
    assert!(
        finding.violations[0].starts_with("I1 double-apply"),
        "{:?}",
        finding.violations
    );
    let story = &finding.stories[0];
    let effects = story
        .events
        .iter()
        .filter(|event| event.what.name() == "effect");
    assert!(effects.count() > 1, "{story:?}");
    assert_eq!(part.survived["lost"], 0);
    assert_eq!(part.timeline.as_ref().unwrap().0, 1);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let scenario = scenario("");
    let of_jobs = |jobs| {
        let options = Options {
            jobs,
            ..options(30)
        };
        let mut campaign = run(&scenario, &[&Toy::default()], &options, &|_, _| true);
        let part = campaign.parts.remove(0);
        (part.trace_hash, part.figures, part.fired, part.latencies)
    };
    assert_eq!(of_jobs(1), of_jobs(4));
}

#[test]
fn a_goal_that_is_missed_and_a_control_that_is_silent_make_it_unknown() {
    let missed = scenario("goals = [\"a clock jumped\"]");
    let campaign_of = |scenario: &Scenario| campaign(scenario, &Toy::default());
    let campaign = campaign_of(&missed);
    assert_eq!(campaign.exit_code(), 3);
    assert_eq!(
        campaign.reasons(),
        ["toy: it never arose that a clock jumped"]
    );

    let harmless = Scenario::parse("name = \"t\"\nworkload = \"transfers\"\ncalls = 5").unwrap();
    let campaign = campaign_of(&harmless);
    assert_eq!(campaign.exit_code(), 3);
    assert_eq!(
        campaign.reasons(),
        ["toy: the naive control shows no duplicates"]
    );
    let mut without = harmless;
    without.control = false;
    assert_eq!(campaign_of(&without).exit_code(), 0);
}

#[test]
fn a_control_that_cannot_be_run_is_no_pass_where_a_fault_could_double() {
    let toy = Toy {
        never_naive: true,
        ..Toy::default()
    };
    let found = campaign(&scenario(""), &toy);
    assert_eq!((found.verdict(), found.exit_code()), (Verdict::Unknown, 3));
    assert_eq!(
        found.reasons(),
        ["toy: the naive control: not run: it always dedupes"]
    );
    // A request that is lost is not executed: no control is needed to see that nothing doubles.
    let mut requests = scenario("");
    requests.faults[0].when.phase = Some(Phase::RequestSent);
    assert_eq!(campaign(&requests, &toy).exit_code(), 0);
    let mut all_at_once = requests;
    all_at_once.workload = Workload::HotKey;
    assert_eq!(campaign(&all_at_once, &toy).exit_code(), 3);
}

#[test]
fn a_fault_that_never_struck_proves_nothing_and_is_named() {
    let mut never = scenario("");
    let mut idle = never.faults[0].clone();
    idle.name = "idle".into();
    idle.when.call = Some(1_000_000);
    never.faults.push(idle);
    let toy = Toy::default();
    let found = campaign(&never, &toy);
    assert_eq!(found.exit_code(), 3);
    assert_eq!(found.never_struck()[0].fault, "idle");
    assert_eq!(
        found.reasons(),
        ["toy: the fault `idle` never struck: more seeds, or a larger share"]
    );
    // One that strikes in one run of many has struck.
    never.faults[1].when.call = Some(7);
    never.faults[1].when.share = Some(0.2);
    assert_eq!(campaign(&never, &toy).exit_code(), 0);
}

#[test]
fn each_executor_has_to_reach_the_goals_and_let_the_faults_strike_that_it_can() {
    let lost = scenario("goals = [\"a reply was lost after its effect\", \"power was cut\"]");
    let (good, numb) = (
        Toy::default(),
        Toy {
            numb: true,
            name: Some("numb"),
            ..Toy::default()
        },
    );
    let options = Options {
        control: false,
        ..options(30)
    };
    let both: [&dyn Executor; 2] = [&good, &numb];
    let found = run(&lost, &both, &options, &|_, _| true);
    // What the one has reached does not stand for the other.
    assert_eq!(found.exit_code(), 3);
    let in_vain = found.parts[1].in_vain["lost"];
    assert!(in_vain > 100, "{in_vain}");
    assert_eq!(
        found.reasons(),
        [
            "numb: it never arose that a reply was lost after its effect".to_owned(),
            "it never arose that power was cut: nobody who ran could bring it about".to_owned(),
            format!("numb: the fault `lost` did nothing in {in_vain} tries: more seeds"),
        ]
    );
    let told = &found.parts[0].goals_not_asked["power was cut"];
    assert_eq!(told.reason(), "it needs a power cut");
    let mut only = lost;
    only.goals.pop();
    assert_eq!(
        run(&only, &both[..1], &options, &|_, _| true).exit_code(),
        0
    );
}

#[test]
fn a_run_that_cannot_be_judged_has_not_survived_its_faults() {
    let toy = Toy {
        unread: true,
        ..Toy::default()
    };
    let found = campaign(&scenario(""), &toy);
    assert_eq!(found.exit_code(), 3);
    let part = &found.parts[0];
    assert_eq!((part.unknown, part.felt["lost"]), (15, 30));
    assert_eq!((part.survived["lost"], part.unjudged["lost"]), (15, 15));
}

#[test]
fn what_an_executor_cannot_do_is_taken_out_and_told() {
    let disk = "[[fault]]\nname = \"cut\"\nwhere = \"disk\"\nwhat = \"power-cut\"\n";
    let both = Scenario::parse(&format!(
        "name = \"t\"\nworkload = \"transfers\"\ncalls = 40\n{disk}[[fault]]\nname = \"lost\"\nwhere = \"wire\"\nwhat = \"drop\"\nwhen = {{ share = 0.2 }}"
    ))
    .unwrap();
    let toy = Toy::default();
    let campaign_of_both = campaign(&both, &toy);
    let part = &campaign_of_both.parts[0];
    assert_eq!(
        part.faults_not_run["cut"].to_string(),
        "not run: it has no disk"
    );
    assert!(!part.fired.contains_key("cut"));
    assert_eq!(campaign_of_both.exit_code(), 0);

    let only = format!("name = \"t\"\nworkload = \"transfers\"\n{disk}");
    let nothing = campaign(&Scenario::parse(&only).unwrap(), &toy);
    assert_eq!(nothing.exit_code(), 3);
    assert_eq!(nothing.reasons(), ["no executor could run it"]);
}

#[test]
fn a_run_that_does_not_repeat_is_told_with_the_event_in_which_it_differs() {
    let runs = AtomicU64::new(0);
    let toy = Toy {
        drifts: Some(runs),
        ..Toy::default()
    };
    let found = campaign(&scenario(""), &toy);
    assert_eq!(found.exit_code(), 3);
    let differing = &found.parts[0].differing[0];
    assert_ne!(differing.one, differing.other);

    let toy = Toy {
        drifts: Some(AtomicU64::new(0)),
        ..Toy::default()
    };
    let record = toy.run(&scenario(""), Seed::new(1)).unwrap();
    let differing = replay(&scenario(""), &toy, &record).unwrap().unwrap();
    assert_eq!(differing.event, 1);
    assert!(differing.one.contains("\"at_us\":1"), "{differing:?}");
    let steady = Toy::default();
    let record = steady.run(&scenario(""), Seed::new(1)).unwrap();
    assert_eq!(replay(&scenario(""), &steady, &record).unwrap(), None);
}

#[test]
fn a_run_of_the_same_events_that_ends_otherwise_is_told_with_what_differs() {
    let toy = Toy::default();
    let record = toy.run(&scenario(""), Seed::new(1)).unwrap();
    let ends_otherwise = |change: &dyn Fn(&mut RunRecord)| {
        let mut changed = record.clone();
        change(&mut changed);
        replay(&scenario(""), &toy, &changed).unwrap().unwrap()
    };
    let (account, held) = record.accounts.as_ref().unwrap().iter().next().unwrap();
    let richer = ends_otherwise(&|record| {
        *record.accounts.as_mut().unwrap().get_mut(account).unwrap() += 1;
    });
    assert_eq!(richer.event, record.events.len() as u64 + 1);
    assert_eq!(
        richer.one,
        format!("the end, accounts, {account}: {}", held + 1)
    );
    assert_eq!(
        richer.other,
        format!("the end, accounts, {account}: {held}")
    );
    let fault = record.fired.keys().next().unwrap();
    let never = ends_otherwise(&|record| {
        record.fired.remove(fault);
    });
    assert_eq!(never.one, format!("the end, fired, {fault}: null"));
    let goal = ends_otherwise(&|record| record.goals.add("another", 1));
    assert!(goal.one.starts_with("the end, goals"), "{goal:?}");
    let unread = ends_otherwise(&|record| record.complete = false);
    assert_eq!(unread.one, "the end, complete: false");
}

#[test]
fn a_run_that_fails_is_no_verdict_and_is_told() {
    let toy = Toy {
        fails: true,
        ..Toy::default()
    };
    let campaign = campaign(&scenario(""), &toy);
    assert_eq!(campaign.exit_code(), 3);
    assert_eq!(campaign.parts[0].failed, 30);
    assert_eq!(campaign.parts[0].failures[0].why, "out of order");
}

#[test]
fn who_is_told_to_stop_begins_no_further_run() {
    let told = AtomicU64::new(0);
    let options = Options {
        jobs: 1,
        ..options(1_000)
    };
    let stopping = |_: &str, done| {
        told.store(done, Ordering::Relaxed);
        done < 5
    };
    let campaign = run(&scenario(""), &[&Toy::default()], &options, &stopping);
    assert_eq!(campaign.runs(), 5);
    assert_eq!(told.load(Ordering::Relaxed), 5);
}
