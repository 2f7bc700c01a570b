//! Money: nothing appears, nothing vanishes, and every account is the fold of its effects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::report::Verdict;

/// Accounts by name with what is on them, in the smallest unit.
pub type Balances = BTreeMap<String, i64>;

/// One effect on the books: an amount that left one account for another.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: harnesses build it.
pub struct Transfer {
    /// The account that has less afterwards.
    pub from: String,
    /// The account that has more afterwards.
    pub to: String,
    /// How much, in the smallest unit.
    pub amount: u64,
}

/// An account that is not what its effects make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountDifference {
    /// Its name.
    pub account: String,
    /// The opening balance with all transfers applied.
    pub expected: i128,
    /// What was read back; nothing if the account is gone.
    pub found: Option<i64>,
}

/// What the check of the books found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a check that nobody reads is no check"]
pub struct Money {
    total_opening: i128,
    total_final: i128,
    differences: Vec<AccountDifference>,
}

// === impl Money ===

impl Money {
    /// Applies the transfers (the effects on disk, in commit order) to the opening balances and
    /// compares with what was read back.
    ///
    /// An account that is new in the end began with nothing. The sums cannot overflow: they are
    /// kept in 128 bits.
    pub fn check<'a>(
        opening: &Balances,
        transfers: impl IntoIterator<Item = &'a Transfer>,
        closing: &Balances,
    ) -> Self {
        let mut expected: BTreeMap<&str, i128> = opening
            .iter()
            .map(|(account, &balance)| (account.as_str(), balance.into()))
            .collect();
        for Transfer { from, to, amount } in transfers {
            *expected.entry(from).or_default() -= i128::from(*amount);
            *expected.entry(to).or_default() += i128::from(*amount);
        }
        Self::of_sums(opening, &expected, closing)
    }

    /// The same where the opening balances and all effects are added up already.
    pub(super) fn of_sums(
        opening: &Balances,
        expected: &BTreeMap<&str, i128>,
        closing: &Balances,
    ) -> Self {
        let accounts: BTreeSet<&str> = expected
            .keys()
            .copied()
            .chain(closing.keys().map(String::as_str))
            .collect();
        let differences = accounts.into_iter().filter_map(|account| {
            let expected = expected.get(account).copied().unwrap_or(0);
            let found = closing.get(account).copied();
            (found.map(i128::from) != Some(expected)).then(|| AccountDifference {
                account: account.to_owned(),
                expected,
                found,
            })
        });
        Self {
            differences: differences.collect(),
            total_opening: total(opening),
            total_final: total(closing),
        }
    }

    /// Whether as much is there in the end as in the beginning.
    #[must_use]
    pub const fn conserved(&self) -> bool {
        self.total_opening == self.total_final
    }

    /// What was on all accounts in the beginning.
    #[must_use]
    pub const fn total_opening(&self) -> i128 {
        self.total_opening
    }

    /// What is on all accounts in the end.
    #[must_use]
    pub const fn total_final(&self) -> i128 {
        self.total_final
    }

    /// The accounts that differ from the fold of the effects, by name.
    #[must_use]
    pub fn differences(&self) -> &[AccountDifference] {
        &self.differences
    }

    /// Violated if an account differs. (If money is not conserved, one does.)
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        if self.differences.is_empty() {
            Verdict::Valid
        } else {
            Verdict::Violated
        }
    }
}

// === impl AccountDifference ===

impl fmt::Display for AccountDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            account,
            expected,
            found,
        } = self;
        match found {
            Some(found) => write!(f, "account {account} holds {found} instead of {expected}"),
            None => write!(f, "account {account} is gone instead of holding {expected}"),
        }
    }
}

fn total(balances: &Balances) -> i128 {
    balances.values().copied().map(i128::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    fn balances(of: &[(&str, i64)]) -> Balances {
        of.iter()
            .map(|&(account, balance)| (account.to_owned(), balance))
            .collect()
    }

    fn transfer(from: &str, to: &str, amount: u64) -> Transfer {
        Transfer {
            from: from.to_owned(),
            to: to.to_owned(),
            amount,
        }
    }

    #[test]
    fn books_that_follow_from_the_effects_are_valid() {
        let transfers = [transfer("a", "b", 30), transfer("b", "c", 5)];
        let opening = balances(&[("a", 100), ("b", 0)]);
        let money = Money::check(
            &opening,
            &transfers,
            &balances(&[("a", 70), ("b", 25), ("c", 5)]),
        );
        assert_eq!(money.verdict(), Verdict::Valid);
        assert!(money.conserved());
        assert_eq!((money.total_opening(), money.total_final()), (100, 100));
    }

    #[test]
    fn a_transfer_applied_twice_conserves_money_and_is_found_all_the_same() {
        let opening = balances(&[("a", 100), ("b", 0)]);
        let closing = balances(&[("a", 40), ("b", 60)]);
        let money = Money::check(&opening, &[transfer("a", "b", 30)], &closing);
        assert!(money.conserved());
        assert_eq!(money.verdict(), Verdict::Violated);
        let shown: Vec<_> = money
            .differences()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "account a holds 40 instead of 70",
                "account b holds 60 instead of 30"
            ]
        );
    }

    #[test]
    fn money_that_appears_is_not_conserved() {
        let opening = balances(&[("a", 100)]);
        let money = Money::check(&opening, &[], &balances(&[("a", 100), ("b", 1)]));
        assert!(!money.conserved());
        assert_eq!(money.differences().len(), 1);
    }

    #[test]
    fn an_account_that_is_gone_is_found_also_when_it_was_empty() {
        let money = Money::check(&balances(&[("a", 0)]), &[], &balances(&[]));
        assert!(money.conserved());
        assert_eq!(money.differences()[0].found, None);
        assert_eq!(money.verdict(), Verdict::Violated);
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        let opening = balances(&[("a", i64::MAX), ("b", i64::MAX)]);
        let transfers = [transfer("a", "b", u64::MAX), transfer("b", "a", u64::MAX)];
        assert_eq!(
            Money::check(&opening, &transfers, &opening).verdict(),
            Verdict::Valid
        );
    }

    #[test]
    fn any_transfer_that_is_skipped_or_repeated_is_found() {
        let names = ["a", "b", "c", "d"];
        for seed in (0..200).map(Seed::new) {
            let account = |ordinals: &[u64]| {
                names[usize::try_from(seed.draw(ordinals).within(0..=3)).unwrap()]
            };
            let transfers: Vec<_> = (0..20)
                .map(|i| {
                    let from = account(&[i, 0]);
                    let others: Vec<_> = names.into_iter().filter(|name| *name != from).collect();
                    let to = others[usize::try_from(seed.draw(&[i, 1]).within(0..=2)).unwrap()];
                    transfer(from, to, seed.draw(&[i, 2]).within(1..=50))
                })
                .collect();
            let opening = balances(&names.map(|name| (name, 1_000)));
            let fold = |transfers: &[Transfer]| {
                let mut closing = opening.clone();
                for Transfer { from, to, amount } in transfers {
                    *closing.get_mut(from).unwrap() -= i64::try_from(*amount).unwrap();
                    *closing.get_mut(to).unwrap() += i64::try_from(*amount).unwrap();
                }
                closing
            };
            let money = Money::check(&opening, &transfers, &fold(&transfers));
            assert_eq!(money.verdict(), Verdict::Valid, "seed {seed}");
            let victim = usize::try_from(seed.draw(&[99]).within(0..=19)).unwrap();
            let (mut skipped, mut repeated) = (transfers.clone(), transfers.clone());
            skipped.remove(victim);
            repeated.push(transfers[victim].clone());
            for wrong in [skipped, repeated] {
                let money = Money::check(&opening, &transfers, &fold(&wrong));
                assert_eq!(money.verdict(), Verdict::Violated, "seed {seed}");
            }
        }
    }
}
