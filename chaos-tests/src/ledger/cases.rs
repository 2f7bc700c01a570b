//! Everything about one key, held against the invariants.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::call::{Call, Effect, NEVER};
use super::groups::Groups;
use super::history::OperationKey;
use super::report::Violation;
use super::rows::Rows;

/// All calls of one key; or, where no call has it, its effects.
pub(super) struct Case<'a> {
    pub(super) rows: &'a Rows,
    pub(super) members: &'a [u32],
    /// The effects of a key that no call has.
    pub(super) effects: &'a [u32],
}

/// What is wrong about the order of commits.
#[derive(Default)]
pub(super) struct OutOfOrder {
    /// A place in the order that was given twice.
    pub(super) twice: Option<u64>,
    /// The first calls of keys whose effect is in the wrong place.
    pub(super) keys: BTreeSet<u32>,
}

/// How long calls may be open; times are in microseconds.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// When the faults ended.
    pub(super) ended_us: u64,
    /// How long a call may be open from then on.
    pub(super) within_us: u64,
    /// Until when the run was watched: what was not seen until then may have come later.
    pub(super) watched_us: u64,
}

/// Which keys took effect before they were asked for, after they were answered, or after a key that
/// was asked for only when they had been answered.
///
/// A key counts with its first effect: a second one is a double apply, wherever it stands.
pub(super) fn out_of_order(rows: &Rows, groups: &Groups) -> OutOfOrder {
    let mut found = OutOfOrder::default();
    let index = |effect: u32| rows.effects[effect as usize].index;
    let sorted = rows
        .effects
        .is_sorted_by(|one, other| one.index < other.index);
    let mut order: Vec<u32> = Vec::new();
    if !sorted {
        order = (0..rows.effects.len() as u32).collect();
        order.sort_by_key(|&effect| index(effect));
        let twice = order
            .windows(2)
            .find(|pair| index(pair[0]) == index(pair[1]));
        found.twice = twice.map(|pair| index(pair[0]));
    }
    let odd = match rows.is_plain(groups) {
        true => OddKeys::default(),
        false => OddKeys::of(rows, groups),
    };
    // The earliest time at which one of the keys whose effects come later had been answered.
    let mut answered_later_us = NEVER;
    for at in (0..rows.effects.len() as u32).rev() {
        let at = if sorted { at } else { order[at as usize] };
        let effect = &rows.effects[at as usize];
        let Some(row) = effect.call() else {
            continue;
        };
        if !odd.later_effects.is_empty() && odd.later_effects.contains(&at) {
            continue;
        }
        let own = (
            row,
            rows.calls[row as usize].invoked_us,
            rows.answered_us(row),
        );
        let (first, invoked_us, answered_us) = match odd.twins.is_empty() {
            true => own,
            false => odd.twins.get(&row).copied().unwrap_or(own),
        };
        let too_early = effect.at_us().is_some_and(|at_us| at_us < invoked_us);
        let too_late = effect.at_us().is_some_and(|at_us| at_us > answered_us);
        if too_early || too_late || answered_later_us < invoked_us {
            found.keys.insert(first);
        }
        answered_later_us = answered_later_us.min(answered_us);
    }
    found
}

/// What is only about keys with several calls or effects.
#[derive(Default)]
struct OddKeys {
    /// All effects of a key but its first one.
    later_effects: HashSet<u32>,
    /// By call: the first call of the key, when the key was first invoked, and first answered.
    twins: HashMap<u32, (u32, u64, u64)>,
}

// === impl OddKeys ===

impl OddKeys {
    fn of(rows: &Rows, groups: &Groups) -> Self {
        let mut odd = Self::default();
        groups.each(rows, |_, members, _| {
            let effects = || members.iter().flat_map(|&member| rows.effects_of(member));
            if effects().nth(1).is_some() {
                let first = effects().min_by_key(|&effect| rows.effects[effect as usize].index);
                odd.later_effects
                    .extend(effects().filter(|&effect| Some(effect) != first));
            }
            if let [first, _, ..] = members {
                let calls = || members.iter().map(|&member| &rows.calls[member as usize]);
                let invoked_us = calls().map(|call| call.invoked_us).min().unwrap_or(NEVER);
                let answered = members.iter().map(|&member| rows.answered_us(member));
                let answered_us = answered.min().unwrap_or(NEVER);
                let times = (*first, invoked_us, answered_us);
                odd.twins
                    .extend(members.iter().map(|&member| (member, times)));
            }
        });
        odd
    }
}

// === impl Case ===

impl<'a> Case<'a> {
    /// One call, one effect, one answer, and they belong together: most keys are like this.
    pub(super) fn is_plainly_fine(&self, limit: Option<Limit>) -> bool {
        let &[row] = self.members else {
            return false;
        };
        let call = &self.rows.calls[row as usize];
        let mut effects = self.rows.effects_of(row);
        let (Some(effect), None) = (effects.next(), effects.next()) else {
            return false;
        };
        let effect = &self.rows.effects[effect as usize];
        call.flags == Call::ANSWERED
            && call.attempts > 0
            && call.definitive == effect.answer
            && call.payload == effect.payload
            && self.rows.forgotten_us(row) >= effect.at_us().unwrap_or(0)
            && in_time(self.rows, row, limit)
    }

    pub(super) fn effects(&self) -> impl Iterator<Item = &'a Effect> {
        let rows = self.rows;
        let of_calls = self
            .members
            .iter()
            .flat_map(|&member| rows.effects_of(member));
        of_calls
            .chain(self.effects.iter().copied())
            .map(|effect| &rows.effects[effect as usize])
    }

    pub(super) fn lost(&self) -> bool {
        self.effects().next().is_none() && self.calls().any(|call| call.has(Call::ANSWERED))
    }

    pub(super) fn judge(
        &self,
        absence_proves: bool,
        limit: Option<Limit>,
        out_of_order: &BTreeSet<u32>,
        violations: &mut Vec<Violation>,
    ) {
        let key = || self.key();
        let effects = self.effects().count();
        if effects > 1 {
            violations.push(Violation::DoubleApply {
                key: key(),
                effects,
            });
        }
        if absence_proves && self.lost() {
            violations.push(Violation::LostAcked { key: key() });
        }
        if self.replies_diverge() || self.answer_taken_back() {
            violations.push(Violation::ReplyDivergence { key: key() });
        }
        if self.denied_in_vain() {
            violations.push(Violation::FalseNegative { key: key() });
        }
        if self.phantom() {
            // Its payload has nothing to be compared with, nor its time.
            violations.push(Violation::Phantom { key: key() });
            return;
        }
        if self.payloads_swapped() {
            violations.push(Violation::PayloadSwap { key: key() });
        }
        if self
            .members
            .first()
            .is_some_and(|first| out_of_order.contains(first))
        {
            violations.push(Violation::Order { key: key() });
        }
        if self.zombie() {
            violations.push(Violation::Zombie { key: key() });
        }
        let rows = self.rows;
        let is_stuck = |row: &&u32| !in_time(rows, **row, limit);
        let mut stuck = self.members.iter().filter(is_stuck);
        if let Some(&first) = stuck.next() {
            violations.push(Violation::Stuck {
                key: key(),
                call: rows.ordinal(first),
                calls: 1 + stuck.count(),
            });
        }
    }

    fn key(&self) -> OperationKey {
        let bytes = match (self.members, self.effects) {
            ([call, ..], _) => self.rows.call_key(*call),
            ([], [effect, ..]) => self.rows.stray_key(*effect),
            ([], []) => &[],
        };
        bytes.to_vec().into()
    }

    fn calls(&self) -> impl Iterator<Item = &'a Call> + use<'a> {
        let rows = self.rows;
        self.members
            .iter()
            .map(|&member| &rows.calls[member as usize])
    }

    fn first_effect(&self) -> Option<&'a Effect> {
        self.effects().min_by_key(|effect| effect.index)
    }

    fn replies_diverge(&self) -> bool {
        if self.calls().any(|call| call.has(Call::DIVERGED)) {
            return true;
        }
        let mut answers = self.calls().filter_map(Call::definitive);
        let Some((promises, answer)) = answers.next() else {
            return false;
        };
        if answers.any(|other| other != (promises, answer)) {
            return true;
        }
        // Where a refusal for good has an effect all the same, that is a false negative. With no
        // effect at all the answer is lost, not another one. With several (which is told by itself)
        // it is one of theirs.
        promises
            && self.effects().next().is_some()
            && self.effects().all(|effect| effect.answer != answer)
    }

    /// Whether somebody who asked when an answer was recorded and given was told that nobody knows; or
    /// whether a call that had that answer was told that it was not executed.
    ///
    /// Who had asked before may be told so: its attempt may have come first. So may who asks when the
    /// key was swept or acknowledged, and who meets another store. That nothing was executed is true
    /// of the attempts of a twin which never came to the server.
    fn answer_taken_back(&self) -> bool {
        let rows = self.rows;
        let payload = |member: u32| rows.calls[member as usize].payload;
        let denied = |member: u32| rows.denials_of(member).map(move |denial| (member, denial));
        self.members
            .iter()
            .flat_map(|&member| denied(member))
            .any(|(member, denial)| {
                let of_payload = self.members.iter().copied();
                let of_payload = of_payload.filter(|&other| payload(other) == payload(member));
                let recorded_us = of_payload.map(|other| rows.recorded_us(other));
                let recorded_us = recorded_us.min().unwrap_or(NEVER);
                (denial.answered || denial.asked_us > recorded_us)
                    && denial.ended_us < self.forgotten_us()
                    && !rows.is_replaced_within(recorded_us, denial.ended_us)
            })
    }

    /// Whether a call was told that it has no effect, and it has.
    ///
    /// A twin that may have been executed explains the effect as well, if it had been asked for by
    /// then: a refusal still speaks the truth about its own attempts. Not so an answer of the key as
    /// a whole.
    fn denied_in_vain(&self) -> bool {
        if self
            .calls()
            .all(|call| !call.has(Call::REFUSED | Call::DECLINED))
        {
            return false;
        }
        let applied: BTreeSet<u64> = self.effects().map(|effect| effect.payload).collect();
        // By payload: when the first call that may have been executed began.
        let mut executed: BTreeMap<u64, u64> = BTreeMap::new();
        for call in self.calls() {
            if call.attempts > 0 && !call.has(Call::REFUSED) {
                let first_us = executed.entry(call.payload).or_insert(NEVER);
                *first_us = call.invoked_us.min(*first_us);
            }
        }
        let unexplained: BTreeSet<u64> = self
            .effects()
            .filter(|effect| match executed.get(&effect.payload) {
                Some(&first_us) => effect.at_us().is_some_and(|at_us| at_us < first_us),
                None => true,
            })
            .map(|effect| effect.payload)
            .collect();
        self.calls().any(|call| {
            let declined_in_vain = call.has(Call::DECLINED) && applied.contains(&call.payload);
            let refused_in_vain =
                || call.has(Call::ANSWERED) || unexplained.contains(&call.payload);
            declined_in_vain || (call.has(Call::REFUSED) && refused_in_vain())
        })
    }

    fn phantom(&self) -> bool {
        self.effects().next().is_some() && self.calls().all(|call| call.attempts == 0)
    }

    /// Whether payloads of this key were mixed up: an effect of a payload that nobody sent, or a
    /// definitive answer for a payload other than the one that owns the key.
    fn payloads_swapped(&self) -> bool {
        let settled = || self.calls().filter(|call| call.definitive().is_some());
        let owner = self
            .first_effect()
            .map(|effect| effect.payload)
            .or_else(|| settled().next().map(|call| call.payload));
        let Some(owner) = owner else {
            return false;
        };
        let sent: BTreeSet<u64> = self
            .calls()
            .filter(|call| call.attempts > 0)
            .map(|call| call.payload)
            .collect();
        self.effects().any(|effect| !sent.contains(&effect.payload))
            || settled().any(|call| call.payload != owner)
    }

    /// Whether an effect happened after the server was allowed to forget the key.
    fn zombie(&self) -> bool {
        let forgotten_us = self.forgotten_us();
        self.effects()
            .any(|effect| effect.at_us().is_some_and(|at_us| at_us > forgotten_us))
    }

    /// When the server was first allowed to forget the key.
    fn forgotten_us(&self) -> u64 {
        let forgotten = self.members.iter();
        let forgotten = forgotten.map(|&member| self.rows.forgotten_us(member));
        forgotten.min().unwrap_or(NEVER)
    }
}

/// Whether a call that was open when the faults ended, or began later, was resolved in time.
fn in_time(rows: &Rows, row: u32, limit: Option<Limit>) -> bool {
    let Some(limit) = limit else {
        return true;
    };
    let (call, resolved_us) = (&rows.calls[row as usize], rows.resolved_us(row));
    let until_us = limit
        .ended_us
        .max(call.invoked_us)
        .saturating_add(limit.within_us);
    // Of a client that gave up before, and of which nothing was heard since, the history does not
    // show that it wants to know. Nor can it know where the store is gone that knew.
    let resolved = resolved_us != NEVER;
    call.has(Call::GAVE_UP | Call::NOBODY_LEFT)
        || resolved && resolved_us <= until_us
        || !resolved && limit.watched_us <= until_us
}
