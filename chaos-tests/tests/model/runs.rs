//! Explores the worlds, and shows for each mutant that it is caught.

use std::io::Write as _;
use std::sync::atomic::Ordering;

use stateright::{Checker, HasDiscoveries, Model};

use crate::mutant::Mutant;
use crate::state::Kind;
use crate::world::{Action, World};
use crate::worlds::{self, Bounds};

/// Every state of every world. What a run must have met is checked as well: a world in which
/// nothing happens keeps all promises.
#[test]
fn every_promise_holds_in_every_state_of_the_bounded_worlds() {
    let bounds = match std::env::var("ONLYONCE_MODEL") {
        Err(_) => Bounds::Short,
        Ok(mode) if mode == "long" => Bounds::Long,
        Ok(mode) => panic!("ONLYONCE_MODEL is `{mode}`: say `long`, or nothing"),
    };
    let states: usize = worlds::all(bounds).into_iter().map(explore).sum();
    say(&format!("model: {states} states in all"));
}

#[test]
fn without_fencing_a_zombie_breaks_a_promise() {
    let world = worlds::takeovers(Bounds::Short);
    caught(world, Mutant::FencingOff, &["at most once", "same answer"]);
}

#[test]
fn without_tombstones_a_late_duplicate_is_executed() {
    let world = without_seals(worlds::forgetting_unstamped(Bounds::Short));
    caught(world, Mutant::TombstoneOff, &["at most once"]);
}

#[test]
fn a_doubt_that_is_taken_for_an_absent_key_is_executed_twice() {
    for world in [worlds::retries, worlds::takeovers] {
        caught(
            world(Bounds::Short),
            Mutant::DoubtIsAbsent,
            &["at most once"],
        );
    }
}

#[test]
fn without_the_identity_of_stores_a_retry_meets_another_and_is_executed() {
    for world in [worlds::stores, worlds::stores_unstamped] {
        let world = without_seals(world(Bounds::Short));
        caught(world, Mutant::StoreIdentityOff, &["at most once"]);
    }
}

#[test]
fn what_is_told_before_it_is_durable_is_executed_again() {
    let world = worlds::retries(Bounds::Short);
    caught(world, Mutant::ToldBeforeDurable, &["at most once"]);
}

#[test]
fn a_claim_that_is_not_durable_is_given_twice() {
    let world = worlds::retries(Bounds::Short);
    caught(world, Mutant::ClaimNotDurable, &["at most once"]);
}

#[test]
fn a_seal_over_a_call_in_progress_is_executed_after_all() {
    let world = worlds::seals(Bounds::Short);
    let broken = "never both sealed and executed";
    caught(world, Mutant::SealTakesWhatIsInProgress, &[broken]);
}

#[test]
fn what_is_forgotten_without_a_note_is_executed_again() {
    let world = without_seals(worlds::forgetting(Bounds::Short));
    caught(world, Mutant::ForgottenWithoutNote, &["at most once"]);
}

#[test]
fn a_handler_that_panicked_and_freed_its_key_is_executed_again() {
    let world = worlds::retries(Bounds::Short);
    caught(world, Mutant::PanicReleases, &["at most once"]);
}

#[test]
fn an_owner_that_was_fenced_and_tells_its_own_answer_tells_another() {
    let world = worlds::takeovers(Bounds::Short);
    caught(world, Mutant::FencedAnswerTold, &["same answer"]);
}

#[test]
fn a_lease_that_never_lapses_leaves_a_key_stuck() {
    let world = worlds::retries(Bounds::Short);
    caught(world, Mutant::LeasesNeverLapse, &["no stuck key"]);
}

/// A broken world often breaks the promise of a seal first, which takes the fewest steps. Without
/// seals it shows what it does to calls.
fn without_seals(mut world: World) -> World {
    world.faults.seals = 0;
    world
}

/// Visits every state of a world, and answers how many there are.
fn explore(world: World) -> usize {
    let (name, meets) = (world.name, world.meets.clone());
    let met = world.met.clone();
    let checker = world
        .checker()
        .threads(THREADS)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    say(&format!(
        "model, {name}: {states} states, {depth} steps deep"
    ));
    // Prints a way to what is broken, on which alike callers and servers may change their numbers.
    checker.assert_properties();
    assert!(checker.is_done(), "{name}: not every state was visited");
    let met = Kind::set(met.load(Ordering::Relaxed));
    let missed: Vec<_> = meets.iter().filter(|kind| !met.contains(kind)).collect();
    assert!(missed.is_empty(), "{name} never meets {missed:?}");
    states
}

/// Shows that a mutant breaks one of these promises, and prints a shortest way to it.
fn caught(world: World, mutant: Mutant, broken: &[&str]) {
    let world = World { mutant, ..world };
    let mut found = None;
    // What is found first need not be what takes the fewest steps: the checker visits some more
    // before it stops.
    while let Some(shorter) = find(&world, found.as_ref().map(|(_, steps)| Vec::len(steps))) {
        found = Some(shorter);
    }
    let name = world.name;
    let (promise, steps) = found.unwrap_or_else(|| panic!("{mutant:?} in {name} breaks nothing"));
    let count = steps.len();
    println!("{mutant:?} in {name} breaks `{promise}` in {count} steps:");
    for step in steps {
        println!("  {step:?}");
    }
    assert!(
        broken.contains(&promise),
        "{mutant:?} in {name} breaks `{promise}`, not one of {broken:?}"
    );
}

/// A broken promise, and the way to it, in fewer steps than these.
fn find(world: &World, fewer_than: Option<usize>) -> Option<(&'static str, Vec<Action>)> {
    let mut checker = world
        .clone()
        .checker()
        .finish_when(HasDiscoveries::AnyFailures);
    if let Some(steps) = fewer_than {
        // A depth counts states, of which a way has one more than steps.
        checker = checker.target_max_depth(steps + 1);
    }
    let found = checker.spawn_bfs().join().discoveries();
    found
        .into_iter()
        .map(|(promise, path)| (promise, path.into_actions()))
        .min_by_key(|(_, steps)| steps.len())
}

/// Also where the test passes: the number of states belongs into the log of the gate.
fn say(line: &str) {
    // OK to ignore because nothing depends on the log.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The machines of the gate have two cores.
const THREADS: usize = 2;
