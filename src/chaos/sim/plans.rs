//! Scenarios of our own: everything at once.

use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};

/// Every fault that the simulation can do, on so many calls.
///
/// The shares are such that most calls meet something, and most come to an end all the same: a run
/// in which nothing gets through finds nothing.
#[must_use]
pub fn everything(mode: Mode, calls: u64) -> Scenario {
    Scenario {
        name: format!("everything at once, {}", mode.name()),
        about: "every fault of the wire, crashes, power cuts and a failing disk, all together"
            .into(),
        workload: Workload::Transfers,
        calls,
        clients: 3,
        mode,
        deadline_ms: 2_500,
        attempt_ms: 250,
        faults: faults(),
        control: true,
        goals: Vec::new(),
    }
}

/// The same with clients that crash and come back.
#[must_use]
pub fn crashing_clients(mode: Mode, calls: u64) -> Scenario {
    let mut scenario = everything(mode, calls);
    scenario.name = format!("crashing clients, {}", mode.name());
    scenario.workload = Workload::Outbox;
    for (name, phase) in [
        ("clients crash before they send", Phase::RequestSent),
        ("clients crash before they hear", Phase::ReplyReceived),
    ] {
        let crash = What::Crash { back_after_ms: 90 };
        scenario
            .faults
            .push(fault(name, Place::Client, crash, phase, 0.01));
    }
    scenario
}

/// Every fault of the wire and no other: nothing is ever in doubt there but what the service itself
/// cannot say.
#[must_use]
pub fn only_the_wire(mode: Mode, calls: u64) -> Scenario {
    let mut scenario = everything(mode, calls);
    scenario.name = format!("everything that a wire can do, {}", mode.name());
    scenario.about = "every fault of the wire, while servers, disks and clocks are well".into();
    scenario.faults.retain(|fault| fault.place == Place::Wire);
    scenario
}

/// What a seed is run in: claimed and transactional in turn, every fifth one with clients that
/// crash, and every fifth one with nothing but a bad wire.
#[must_use]
pub fn of_seed(seed: u64, calls: u64) -> Scenario {
    let mode = match seed % 2 {
        0 => Mode::Claimed,
        _ => Mode::Transactional,
    };
    match seed % 5 {
        4 => crashing_clients(mode, calls),
        3 => only_the_wire(mode, calls),
        _ => everything(mode, calls),
    }
}

fn faults() -> Vec<Fault> {
    let (sent, reply) = (Phase::RequestSent, Phase::ReplySent);
    let wire = |name, what, phase, share| fault(name, Place::Wire, what, phase, share);
    let delay = What::Delay {
        min_ms: 5,
        max_ms: 600,
    };
    let crash = What::Crash { back_after_ms: 40 };
    let server = |name, phase, share| fault(name, Place::Server, crash, phase, share);
    let power = |name, phase, share| fault(name, Place::Disk, What::PowerCut, phase, share);
    let any = |name: &str, place, what, share| {
        Fault::new(name, place, what).when(When::default().share(share))
    };
    vec![
        wire("requests get lost", What::Drop, sent, 0.03),
        wire("answers get lost", What::Drop, reply, 0.06),
        wire(
            "requests come again",
            What::Duplicate { later_ms: 30 },
            sent,
            0.06,
        ),
        wire(
            "requests come again late",
            What::Duplicate { later_ms: 900 },
            sent,
            0.04,
        ),
        wire(
            "answers come again",
            What::Duplicate { later_ms: 20 },
            reply,
            0.03,
        ),
        wire("requests come late", delay, sent, 0.05),
        wire("answers come late", delay, reply, 0.05),
        any("bytes are damaged", Place::Wire, What::Corrupt, 0.02),
        any("messages are cut off", Place::Wire, What::Truncate, 0.015),
        any("connections are reset", Place::Wire, What::Reset, 0.02),
        any("connections end", Place::Wire, What::Close, 0.01),
        any("connections go silent", Place::Wire, What::Blackhole, 0.008),
        any("nothing passes", Place::Wire, What::Partition, 0.006),
        server(
            "the server dies before it begins",
            Phase::RequestReceived,
            0.008,
        ),
        server(
            "the server dies after the effect",
            Phase::EffectDurable,
            0.02,
        ),
        server("the server dies before it answers", reply, 0.01),
        power(
            "power fails before it begins",
            Phase::RequestReceived,
            0.004,
        ),
        power("power fails after the effect", Phase::EffectDurable, 0.008),
        power("power fails after the answer", reply, 0.012),
        any("a sync fails", Place::Disk, What::SyncFails, 0.006),
        any(
            "a sync is slow",
            Place::Disk,
            What::SyncSlow { for_ms: 120 },
            0.02,
        ),
        any("the disk is full", Place::Disk, What::DiskFull, 0.004),
        any(
            "the clock jumps ahead",
            Place::Clock,
            What::ClockJump { by_ms: 1_500 },
            0.006,
        ),
        any(
            "the clock jumps back",
            Place::Clock,
            What::ClockJump { by_ms: -1_500 },
            0.006,
        ),
    ]
}

fn fault(name: &str, place: Place, what: What, phase: Phase, share: f64) -> Fault {
    Fault::new(name, place, what).when(When::phase(phase).share(share))
}
