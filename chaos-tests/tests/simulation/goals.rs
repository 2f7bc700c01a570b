//! Goals of the simulation: they are reached by faults and can be missed.

use onlyonce::chaos::sim::{SimExecutor, plans};
use onlyonce_chaos::campaign::{Campaign, Options, run};
use onlyonce_chaos::goals::situations;
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};

/// What does not arise by itself, nor out of what clients ask for.
const OF_FAULTS: [&str; 9] = [
    situations::REQUEST_LOST,
    situations::REPLY_LOST,
    situations::RETRIED,
    situations::RETRY_ANSWERED,
    situations::IN_DOUBT,
    situations::KILLED,
    situations::POWER_CUT,
    situations::CAME_BACK,
    situations::LATE_DUPLICATE,
];

fn campaign(scenario: &Scenario) -> Campaign {
    let options = Options {
        seeds_from: 1,
        seeds_to: 8,
        jobs: 1,
        control: false,
    };
    run(scenario, &[&SimExecutor], &options, &|_, _| true)
}

fn wanting(mut scenario: Scenario) -> Scenario {
    scenario.goals = OF_FAULTS.map(str::to_owned).to_vec();
    scenario.control = false;
    scenario
}

/// The harness cuts the power at the end of each run, sends late duplicates, and has a bank that is
/// slow and does not know now and then: none of that is a goal.
#[test]
fn a_scenario_without_faults_reaches_none_of_the_goals_that_faults_are_for() {
    for mode in [Mode::Claimed, Mode::Transactional] {
        // Somebody goes down as part of the other two workloads.
        for workload in [
            Workload::HotKey,
            Workload::Mailbox,
            Workload::Refunds,
            Workload::Transfers,
        ] {
            let mut calm = wanting(plans::everything(mode, 60));
            calm.workload = workload;
            calm.faults.clear();
            let campaign = campaign(&calm);
            let name = workload.name();
            let goals = campaign.goals();
            let arose = OF_FAULTS.map(|goal| (goal, goals.count(goal)));
            let arose: Vec<_> = arose.iter().filter(|(_, count)| *count > 0).collect();
            assert!(arose.is_empty(), "{name}, {}: {arose:?}", mode.name());
            assert_eq!(campaign.exit_code(), 3, "{name}");
        }
    }
}

#[test]
fn each_goal_is_reached_with_the_faults_that_are_for_it() {
    let mut all = wanting(plans::crashing_clients(Mode::Claimed, 60));
    // No fault makes time pass so that records are swept: what comes late here comes from the harness.
    all.goals.retain(|goal| goal != situations::LATE_DUPLICATE);
    let campaign = campaign(&all);
    assert!(
        campaign.goals_missed().is_empty(),
        "{:?}",
        campaign.goals_missed()
    );
}
