//! What the clients want, and what the network does to them: both follow from the seed.

use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};

use super::bank::Transfer;
use super::server::ACCOUNTS;

/// The transfers of a run: the same for both columns.
pub(super) fn transfers(seed: Seed, calls: u64) -> Vec<Transfer> {
    (0..calls)
        .map(|operation| transfer(seed, operation))
        .collect()
}

/// Whether a call is sent twice at the same time, as a network that doubles messages does.
pub(super) fn is_doubled(seed: Seed, operation: u64) -> bool {
    seed.draw(&[DOUBLED, operation]).happens(0.05)
}

/// After how many ended calls the server is killed, for each kill: spread over the run, and not at
/// round numbers.
pub(super) fn kills(seed: Seed, calls: u64, kills: u64) -> Vec<u64> {
    let stretch = calls / (kills + 1);
    let jitter = stretch / 4;
    (1..=kills)
        .map(|kill| kill * stretch - jitter / 2 + seed.draw(&[KILL, kill]).within(0..=jitter))
        .collect()
}

/// A network that loses answers and requests, resets within frames, goes silent, delays and cuts
/// what it carries into pieces. Offsets lie within what a connection carries in some dozen calls.
pub(super) fn lossy_network() -> Plan {
    let somewhere = 60..=4_000;
    let rule = |direction, fault, probability| {
        Rule::new(direction, fault)
            .after_bytes_within(somewhere.clone())
            .probability(probability)
    };
    let jitter = Fault::Delay {
        base: Duration::ZERO,
        jitter: Duration::from_millis(3),
    };
    Plan::none()
        .rule(rule(Direction::ToClient, Fault::DropRest, 0.25))
        .rule(rule(Direction::ToServer, Fault::DropRest, 0.15))
        .rule(rule(Direction::ToClient, Fault::Reset, 0.25))
        .rule(rule(Direction::ToServer, Fault::Reset, 0.15))
        .rule(rule(Direction::ToClient, Fault::Close, 0.10))
        .rule(rule(Direction::ToServer, Fault::Blackhole, 0.05))
        .rule(Rule::new(Direction::ToServer, jitter).probability(0.3))
        .rule(Rule::new(Direction::ToClient, jitter).probability(0.3))
        .rule(Rule::new(Direction::ToClient, Fault::Slice { bytes_max: 7 }).probability(0.2))
        .rule(Rule::new(Direction::ToServer, Fault::Slice { bytes_max: 7 }).probability(0.2))
}

fn transfer(seed: Seed, operation: u64) -> Transfer {
    let draw = |what, last: u32| {
        let drawn = seed.draw(&[what, operation]).within(0..=u64::from(last));
        u32::try_from(drawn).unwrap_or(last)
    };
    let from = draw(FROM, ACCOUNTS - 1);
    // Never to itself: one of the other accounts.
    let to = (from + 1 + draw(TO, ACCOUNTS - 2)) % ACCOUNTS;
    let amount = 1 + u64::from(draw(AMOUNT, 499));
    Transfer {
        operation,
        from,
        to,
        amount,
    }
}

const FROM: u64 = 1;
const TO: u64 = 2;
const AMOUNT: u64 = 3;
const DOUBLED: u64 = 4;
const KILL: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_for_the_same_transfers_and_kills() {
        let seed = Seed::new(7);
        assert_eq!(transfers(seed, 100), transfers(seed, 100));
        assert_ne!(transfers(seed, 100), transfers(Seed::new(8), 100));
        assert_eq!(kills(seed, 2_000, 3), kills(seed, 2_000, 3));
    }

    #[test]
    fn kills_are_spread_over_the_run_in_order() {
        for seed in 0..100 {
            let kills = kills(Seed::new(seed), 2_000, 3);
            assert!(kills.is_sorted());
            assert!(
                kills.iter().all(|kill| (200..1_900).contains(kill)),
                "{kills:?}"
            );
        }
    }

    #[test]
    fn no_transfer_goes_back_to_its_own_account() {
        for transfer in transfers(Seed::new(1), 5_000) {
            assert_ne!(transfer.from, transfer.to);
            assert!(transfer.to < ACCOUNTS && (1..=500).contains(&transfer.amount));
        }
    }
}
