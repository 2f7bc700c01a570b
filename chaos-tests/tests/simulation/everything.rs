//! Everything at once, from a few seeds; the command `chaos gate` runs thousands.

use std::process::Command;

use onlyonce::chaos::sim::{campaign, plans};
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::{Mode, Scenario};

#[test]
fn whatever_strikes_no_effect_happens_twice_and_no_answer_is_lost() {
    for seed in 1..=24 {
        let judged = campaign::judged(&plans::of_seed(seed, 40), seed).unwrap();
        assert_eq!(judged.verdict(), Verdict::Valid, "seed {seed}: {judged}");
    }
}

/// In processes of their own, in which other things have happened; see also `repeats.rs`.
#[test]
fn one_seed_is_one_trace_in_each_process() {
    if std::env::var_os(TELL).is_some() {
        for seed in 1..=8 {
            println!("trace {seed} {}", trace(&plans::of_seed(seed, 40), seed));
        }
        println!("trace 2 12 {}", trace(&plans::of_seed(2, 40), 12));
        return;
    }
    let told = || -> Vec<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "everything::one_seed_is_one_trace_in_each_process",
            ])
            .arg("--nocapture")
            .env(TELL, "1")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let traces = text.lines().filter_map(|line| {
            let at = line.find("trace ")?;
            Some(line[at..].to_owned())
        });
        traces.collect()
    };
    let (first, second) = (told(), told());
    assert_eq!(first.len(), 9, "{first:?}");
    assert_eq!(first, second);
    let hash = |line: &str| line.rsplit(' ').next().map(str::to_owned);
    assert_ne!(
        hash(&first[1]),
        hash(&first[8]),
        "another seed is another run"
    );
}

fn trace(scenario: &Scenario, seed: u64) -> u64 {
    campaign::judged(scenario, seed)
        .unwrap()
        .run
        .record
        .trace_hash
}

#[test]
fn without_dedupe_the_same_faults_are_effects_that_happen_twice() {
    let naive = plans::everything(Mode::Claimed, 100).naive();
    let duplicated: u64 = (1..=3)
        .map(|seed| {
            campaign::judged(&naive, seed)
                .unwrap()
                .report
                .figures()
                .duplicated
        })
        .sum();
    assert!(duplicated > 0);
}

/// Says to a process that it is to tell its traces.
const TELL: &str = "ONLYONCE_TELL_TRACES";
