//! What each fault does, claimed of the simulation.
//!
//! Each claim is held against two runs from one seed: one with the fault, of which it must be true,
//! and one in which the fault does nothing, of which it must not be. So no claim can be true of a
//! fault that does nothing, and that a fault was counted is no part of any.

use onlyonce::chaos::Executor;
use onlyonce::chaos::sim::SimExecutor;
use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::history::{Ending, Event, Happened, RunRecord};
use onlyonce_chaos::ledger::{Verdict, judge};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};

/// One call of one client, which waits 300 milliseconds for an answer before it asks again.
fn one_call() -> Scenario {
    let text = "name = \"one call\"\nworkload = \"transfers\"\ncalls = 1\nclients = 1\n\
                deadline_ms = 3000\nattempt_ms = 300";
    Scenario::parse(text).unwrap()
}

/// As long at least passes on the wire between two attempts of which the first was waited for: the
/// client began to wait before its connection was made.
const WAITED_US: u64 = 270_000;

/// The fault at this moment of the first attempt of the call.
fn first(place: Place, what: What, phase: Phase) -> Fault {
    Fault::new("it", place, what).when(When::phase(phase).call(1).attempt(1))
}

/// Holds a claim about a run with the fault, and the same run without it, from some seeds. Of a call
/// that meets chance as well nothing is claimed.
#[track_caller]
fn does(scenario: &Scenario, fault: Fault, claim: impl Fn(&Told, &Told) -> bool) {
    does_to(Told::is_plain, scenario, fault, claim);
}

/// The same, of runs that are like this without the fault.
#[track_caller]
fn does_to(
    which: impl Fn(&Told) -> bool,
    scenario: &Scenario,
    fault: Fault,
    claim: impl Fn(&Told, &Told) -> bool,
) {
    let mut with = scenario.clone();
    with.faults.push(fault);
    assert!(SimExecutor.can_fault(&with, &with.faults[0]).is_ok());
    let mut claimed = 0;
    for seed in (1..=24).map(Seed::new) {
        let without = Told(SimExecutor.run(scenario, seed).unwrap());
        if !which(&without) {
            continue;
        }
        let with = Told(SimExecutor.run(&with, seed).unwrap());
        if scenario.mode != Mode::Naive {
            let report = judge(&with.0);
            assert_ne!(report.verdict(), Verdict::Violated, "seed {seed}: {report}");
        }
        assert!(
            claim(&with, &without),
            "seed {seed}\nwith {:#?}\nwithout {:#?}",
            with.0.events,
            without.0.events
        );
        assert!(
            !claim(&without, &without),
            "seed {seed}: it is true of a fault that does nothing"
        );
        claimed += 1;
    }
    assert!(claimed >= 3, "{claimed} runs");
}

struct Told(RunRecord);

impl Told {
    fn at(&self, what: impl Fn(&Event) -> bool) -> Vec<u64> {
        let events = self.0.events.iter().filter(|event| what(event));
        events.map(|event| event.at_us).collect()
    }

    fn sent(&self, attempt: u32) -> Option<u64> {
        let sent = |event: &Event| event.attempt == attempt && event.what == Happened::Sent;
        self.at(sent).first().copied()
    }

    fn received(&self, attempt: u32) -> Option<u64> {
        let received = |event: &Event| event.attempt == attempt && event.what == Happened::Received;
        self.at(received).first().copied()
    }

    /// Whether another attempt than the first came to the server.
    fn is_received_again(&self) -> bool {
        let again = |event: &Event| event.attempt > 1 && event.what == Happened::Received;
        !self.at(again).is_empty()
    }

    fn invoked(&self) -> usize {
        let invoked = |event: &Event| matches!(event.what, Happened::Invoked { .. });
        self.at(invoked).len()
    }

    fn effects(&self) -> usize {
        let effect = |event: &Event| matches!(event.what, Happened::Effect { .. });
        self.at(effect).len()
    }

    fn answered(&self) -> Vec<u64> {
        let answered = |event: &Event| {
            let Happened::Ended { ending } = &event.what else {
                return false;
            };
            matches!(ending, Ending::Answered(_))
        };
        self.at(answered)
    }

    fn resolved(&self) -> Option<u64> {
        let resolved = |event: &Event| matches!(&event.what, Happened::Ended { ending } if *ending != Ending::Unknown);
        self.at(resolved).first().copied()
    }

    /// When this became of somebody.
    fn became(&self, who: &str, what: &str) -> Vec<u64> {
        self.at(|event| {
            let Happened::Lifecycle { who: own, event } = &event.what else {
                return false;
            };
            own == who && event == what
        })
    }

    /// How long the server was down, the first time, if it ended so.
    fn down_us(&self, what: &str) -> Option<u64> {
        let ended_us = *self.became("server", what).first()?;
        let started = self.became("server", "started");
        let back_us = started.into_iter().find(|at_us| *at_us > ended_us)?;
        Some(back_us - ended_us)
    }

    /// How long the client waited until it asked again.
    fn asked_again_after_us(&self) -> Option<u64> {
        Some(self.sent(2)?.saturating_sub(self.sent(1)?))
    }

    /// One attempt, one effect, answered at once.
    fn is_plain(&self) -> bool {
        self.sent(2).is_none() && self.effects() == 1 && !self.answered().is_empty()
    }
}

#[test]
fn a_request_that_is_dropped_never_arrives_and_is_sent_again_when_it_was_waited_for() {
    let drop = first(Place::Wire, What::Drop, Phase::RequestSent);
    does(&one_call(), drop, |run, _| {
        run.received(1).is_none()
            && run.is_received_again()
            && run.asked_again_after_us() >= Some(WAITED_US)
    });
}

#[test]
fn an_answer_that_is_dropped_is_asked_for_again_and_has_one_effect() {
    let drop = first(Place::Wire, What::Drop, Phase::ReplySent);
    does(&one_call(), drop, |run, _| {
        run.received(1).is_some()
            && run.asked_again_after_us() >= Some(WAITED_US)
            && run.effects() == 1
            && !run.answered().is_empty()
    });
}

#[test]
fn a_request_that_comes_twice_has_two_effects_where_nobody_dedupes() {
    let twice = first(
        Place::Wire,
        What::Duplicate { later_ms: 5 },
        Phase::RequestSent,
    );
    // Other calls come behind it, so that the run goes on until the second request has come.
    let mut naive = one_call().naive();
    naive.calls = 12;
    let mut with = naive.clone();
    with.faults.push(twice);
    let effects = |scenario: &Scenario, seed: Seed| {
        let run = SimExecutor.run(scenario, seed).unwrap();
        let effects = run
            .events
            .iter()
            .filter(|event| matches!(&event.what, Happened::Effect { key, .. } if key == "call-1"));
        effects.count()
    };
    // Not of all: the bank declines some transfers.
    let more = (1..=24)
        .map(Seed::new)
        .filter(|&seed| effects(&with, seed) > effects(&naive, seed))
        .count();
    assert!(more >= 6, "{more} of 24");
}

#[test]
fn a_message_that_is_delayed_comes_that_much_later() {
    let delay = What::Delay {
        min_ms: 120,
        max_ms: 120,
    };
    let request = first(Place::Wire, delay, Phase::RequestSent);
    does(&one_call(), request, |run, quiet| {
        run.received(1) >= quiet.received(1).map(|at_us| at_us + 120_000)
    });
    let answer = first(Place::Wire, delay, Phase::ReplySent);
    does(&one_call(), answer, |run, quiet| {
        run.received(1) == quiet.received(1) && run.answered()[0] >= quiet.answered()[0] + 120_000
    });
}

#[test]
fn a_request_whose_bytes_are_wrong_is_not_executed_and_is_sent_again() {
    let corrupt = first(Place::Wire, What::Corrupt, Phase::RequestSent);
    does(&one_call(), corrupt, |run, _| {
        run.received(1).is_none() && run.is_received_again() && run.effects() == 1
    });
}

#[test]
fn a_message_that_ends_early_is_asked_for_again() {
    for phase in [Phase::RequestSent, Phase::ReplySent] {
        let truncate = first(Place::Wire, What::Truncate, phase);
        does(&one_call(), truncate, |run, _| {
            run.is_received_again() && run.effects() == 1
        });
    }
}

#[test]
fn who_is_reset_or_cut_off_asks_again_before_its_patience_ends_and_who_hears_nothing_does_not() {
    for what in [What::Reset, What::Close] {
        let noticed = first(Place::Wire, what, Phase::ReplySent);
        does(&one_call(), noticed, |run, _| {
            run.asked_again_after_us()
                .is_some_and(|after_us| after_us < WAITED_US)
                && run.effects() == 1
        });
    }
    let silent = first(Place::Wire, What::Blackhole, Phase::ReplySent);
    does(&one_call(), silent, |run, _| {
        run.asked_again_after_us() >= Some(WAITED_US) && run.effects() == 1
    });
}

#[test]
fn while_the_way_is_parted_nothing_arrives() {
    let mut parted = first(Place::Wire, What::Partition, Phase::RequestSent);
    parted.when.until_ms = Some(900);
    does(&one_call(), parted, |run, _| {
        let received = run.at(|event| event.what == Happened::Received);
        received.first().is_some_and(|at_us| *at_us >= 900_000)
    });
}

#[test]
fn a_server_that_crashes_is_away_for_so_long_and_the_call_goes_on_with_the_next_one() {
    let crash = What::Crash { back_after_ms: 70 };
    for phase in [Phase::RequestReceived, Phase::EffectDurable] {
        does(&one_call(), first(Place::Server, crash, phase), |run, _| {
            run.down_us("killed") >= Some(70_000) && run.is_received_again()
        });
    }
}

#[test]
fn a_client_that_crashes_comes_back_with_its_call() {
    let mut outbox = one_call();
    outbox.workload = Workload::Outbox;
    let crash = What::Crash { back_after_ms: 90 };
    // Its next life goes on with the second attempt.
    let crash = first(Place::Client, crash, Phase::ReplyReceived);
    does(&outbox, crash, |run, _| {
        run.became("client-1", "killed").len() == 1 && run.invoked() == 2 && run.effects() == 1
    });
}

#[test]
fn a_power_cut_ends_the_server_and_takes_what_was_not_yet_durable() {
    let mut committed_together = one_call();
    committed_together.mode = Mode::Transactional;
    let cut = first(Place::Disk, What::PowerCut, Phase::RequestReceived);
    does(&committed_together, cut, |run, _| {
        run.down_us("power cut").is_some() && run.is_received_again() && run.effects() == 1
    });
}

#[test]
fn a_store_whose_sync_fails_is_opened_again_and_says_nothing_that_is_not_so() {
    let fails = Fault::new("it", Place::Disk, What::SyncFails)
        .when(When::phase(Phase::EffectDurable).call(3).attempt(1));
    does(&one_call(), fails, |run, _| {
        run.down_us("killed").is_some() && run.resolved().is_some()
    });
}

#[test]
fn an_answer_waits_for_a_sync_that_is_slow() {
    let slow = Fault::new("it", Place::Disk, What::SyncSlow { for_ms: 100 });
    let mut patient = one_call();
    patient.attempt_ms = 2_000;
    for mode in [Mode::Claimed, Mode::Transactional] {
        patient.mode = mode;
        does(&patient, slow.clone(), |run, quiet| {
            run.sent(2).is_none() && run.answered()[0] >= quiet.answered()[0] + 100_000
        });
    }
}

#[test]
fn a_store_whose_disk_is_full_refuses_and_the_call_ends_when_there_is_room_again() {
    let full = first(Place::Disk, What::DiskFull, Phase::RequestReceived);
    // An effect that lies elsewhere has happened: the record of it is what finds no room.
    does(&one_call(), full.clone(), |run, _| {
        run.down_us("killed").is_some() && run.resolved().is_some()
    });
    // One that lies in the store has not, and nobody is answered until there is room.
    let mut committed_together = one_call();
    committed_together.mode = Mode::Transactional;
    does(&committed_together, full, |run, _| {
        let killed_us = run.became("server", "killed").first().copied();
        killed_us.is_some() && run.answered().first().copied() > killed_us
    });
}

#[test]
fn an_answer_is_kept_for_as_long_as_the_clock_says_and_a_clock_that_jumps_ends_that() {
    // Longer than an answer is kept, and shorter than the key is.
    let two_days = What::ClockJump {
        by_ms: 2 * 24 * 60 * 60 * 1_000,
    };
    let when = When::phase(Phase::RequestReceived).call(1);
    let jump = Fault::new("it", Place::Clock, two_days).when(when);
    let asks_twice = |quiet: &Told| quiet.effects() == 1 && quiet.answered().len() == 2;
    does_to(asks_twice, &one_call(), jump, |run, _| {
        run.answered().len() == 1 && run.effects() == 1
    });
}
