//! The power is cut while a store serves, then while it is opened, and again while it is opened
//! after that: the last opening finds what was acknowledged before the first cut.

use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};

use crate::child::{self, Child};
use crate::device::{Cache, Cut, Drive};
use crate::neighbour::{has_neighbour, neighbour};
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::{cuts, draw, seed};
use crate::store::{Judged, judge, serve_and_cut};

/// How far an opening had come when its power was cut.
#[derive(Debug, Default)]
struct Openings {
    cut: usize,
    finished: usize,
}

// B21
#[test]
fn a_recovery_that_is_cut_twice_loses_nothing() {
    let test = "recovery::a_recovery_that_is_cut_twice_loses_nothing";
    in_own_namespaces(test, |rig| {
        let drive = Drive::new(rig, Cache::Kept);
        let mut openings = Openings::default();
        let mut judged = Judged::default();
        let mut left = (cuts() / 5).max(10);
        for run in 0.. {
            if left == 0 {
                break;
            }
            let name = format!("{}-recovery-{run}", seed());
            for (number, (cut, ledger)) in serve_and_cut(rig, &drive, &name, left.min(5))
                .into_iter()
                .enumerate()
            {
                left -= 1;
                let name = format!("{name}-{number}");
                let first = open_and_cut(rig, &drive, &cut, (&name, 1), &mut openings);
                drop(cut);
                let second = open_and_cut(rig, &drive, &first, (&name, 2), &mut openings);
                drop(first);
                let after = second.turn_on(rig);
                judged.add(judge(&after.at().join("calls"), &ledger));
            }
        }
        let Openings { cut, finished } = openings;
        tell(&format!(
            "seed {}: {cut} openings cut on their way and {finished} just \
             after, {} claims and {} endings judged, none lost",
            seed(),
            judged.claims,
            judged.endings
        ));
        assert!(cut > 0, "no opening was cut on its way");
    });
}

/// Opens what a cut has left, and cuts again after some of the writes that an opening does.
fn open_and_cut(
    rig: &Rig,
    drive: &Drive,
    cut: &Cut,
    (name, turn): (&str, u32),
    openings: &mut Openings,
) -> Cut {
    let disk = drive.disk_after(rig, cut);
    let before = disk.writes();
    let child = Child::start(OPEN, &disk.at().join("calls"), name);
    let writes_max = if has_neighbour(name) {
        WRITES_BESIDE
    } else {
        WRITES_ALONE
    };
    let after = draw(&format!("opening {turn} of {name}"), writes_max);
    while disk.writes() - before < after && child.count() == 0 && !child.has_ended() {
        std::thread::park_timeout(POLL);
    }
    // Freezing takes as long as an opening does. So most of them are stopped first, which leaves
    // the disk at the end of a call to the kernel; the others are cut wherever it comes to be.
    if draw(&format!("stop {turn} of {name}"), 4) > 0 {
        child.stop();
    }
    let to = rig.path(&format!("opening-{turn}.img"));
    let (cut, opened) = drive.cut(&disk, &to, || child.count() > 0);
    assert!(!child.has_ended(), "the store could not be opened");
    if opened {
        openings.finished += 1;
    } else {
        openings.cut += 1;
    }
    cut
}

#[test]
fn opens_until_its_power_is_cut_when_it_is_the_child() {
    child::work(OPEN, |path, run| {
        neighbour(path, run);
        let store = SledStore::open(path, SledOptions::new()).unwrap();
        child::say("opened");
        // Open until the end: closing would write what this is not about.
        std::mem::forget(store);
        child::wait_for_the_end();
    });
}

const OPEN: &str = "recovery::opens_until_its_power_is_cut_when_it_is_the_child";

/// How often a device is asked how much it has written. Not a time that anything depends on.
const POLL: Duration = Duration::from_micros(100);

/// As many writes as an opening was seen to do, alone and beside a neighbour that writes too.
const WRITES_ALONE: u64 = 40;
const WRITES_BESIDE: u64 = 800;
