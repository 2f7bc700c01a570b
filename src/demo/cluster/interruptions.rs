//! What befalls the servers and their database, and when: both follow from the seed.

use onlyonce_chaos::Seed;

use super::super::workload;

/// Something that happens while calls are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// The database ends as in a crash, and starts again.
    DatabaseRestart,
    /// The server of this number is killed with -9, and another one started in its place.
    Kill { server: usize },
    /// The server of this number stands still for longer than a lease, and goes on.
    Pause { server: usize },
}

/// `each` of every kind, in turns, with the number of ended calls after which each happens. No two in
/// a row befall the same server, where there are two.
pub(super) fn interruptions(
    seed: Seed,
    calls: u64,
    each: u64,
    servers: u64,
    restarts_database: bool,
) -> Vec<(u64, Interruption)> {
    let kinds = if restarts_database { 3 } else { 2 };
    let times = workload::kills(seed, calls, each * kinds);
    let server = |number: u64| usize::try_from(number % servers.max(1)).unwrap_or(0);
    let what = |place: u64| {
        let round = place / kinds;
        match place % kinds {
            0 => Interruption::Kill {
                server: server(2 * round),
            },
            1 => Interruption::Pause {
                server: server(2 * round + 1),
            },
            _ => Interruption::DatabaseRestart,
        }
    };
    times
        .into_iter()
        .zip(0..)
        .map(|(at, place)| (at, what(place)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Interruption::{DatabaseRestart, Kill, Pause};
    use super::*;

    #[test]
    fn servers_are_killed_and_paused_in_turn_and_the_database_restarted_where_it_is_ours() {
        let seed = Seed::new(7);
        let what = |restarts| {
            let all = interruptions(seed, 2_000, 2, 3, restarts);
            assert!(all.is_sorted_by_key(|(at, _)| *at));
            all.into_iter().map(|(_, what)| what).collect::<Vec<_>>()
        };
        let server = |kill, pause| [Kill { server: kill }, Pause { server: pause }];
        assert_eq!(what(false), [server(0, 1), server(2, 0)].concat());
        let both = [
            &server(0, 1)[..],
            &[DatabaseRestart],
            &server(2, 0),
            &[DatabaseRestart],
        ];
        assert_eq!(what(true), both.concat());
        assert_eq!(
            interruptions(seed, 2_000, 2, 3, true),
            interruptions(seed, 2_000, 2, 3, true)
        );
    }

    #[test]
    fn a_run_that_is_too_small_for_its_interruptions_has_all_of_them_in_order() {
        for calls in [0, 1, 10] {
            let all = interruptions(Seed::new(1), calls, 3, 1, true);
            assert_eq!(all.len(), 9);
            assert!(all.is_sorted_by_key(|(at, _)| *at));
            assert!(all.iter().all(|(at, _)| *at <= calls));
        }
    }
}
