//! What the checker remembers of a run: a row a call, a row an effect, and their keys.

use std::collections::HashMap;

use super::call::{Call, Denial, Effect, NEVER, NONE};
use super::groups::Groups;
use super::sum::sum;
use super::taking::Told;

#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) calls: Vec<Call>,
    pub(super) effects: Vec<Effect>,
    /// The key of each call.
    keys: Vec<Text>,
    /// The bytes of all keys, one after the other.
    texts: Vec<u8>,
    /// The row of a call by its ordinal, as long as ordinals are about as dense as calls.
    places: Vec<u32>,
    /// The rows of all other calls.
    far: HashMap<u64, u32>,
    /// Effects whose call is not known, or has another key, with their keys.
    stray: Vec<(u32, Text)>,
    swept: Vec<(Text, u64)>,
    /// When the server was first allowed to forget a call, by its row.
    forgotten: HashMap<u32, u64>,
    /// Endings that say of a call that nobody knows, or that it was not executed.
    denials: Vec<Denial>,
    /// When a call that was declined first was answered after all, by its row.
    answered_late: HashMap<u32, u64>,
    /// When a call was first given an answer that was recorded, by its row, where the first answer of
    /// all was not.
    recorded: HashMap<u32, u64>,
    /// When the server came back with another store.
    replaced: Vec<u64>,
    /// Whether a key has several effects.
    several: bool,
}

/// A key in [`Rows::texts`]: where it begins, and in the lower bits how long it is. Every call has
/// one, so that it is kept small, and apart from what else is known of calls: to find out which calls
/// share a key, nothing else is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text(u64);

// === impl Rows ===

impl Rows {
    pub(super) fn invoke(&mut self, ordinal: u64, key: &[u8], payload: u64, at_us: u64) {
        // OK because a row takes far more memory than there is for 2^32 of them.
        let row = u32::try_from(self.calls.len()).expect("fewer calls than 2^32");
        let dense = 2 * self.calls.len() as u64 + PLACES_SPARE;
        if ordinal < dense {
            let place = ordinal as usize;
            if self.places.len() <= place {
                self.places.resize(place + 1, NONE);
            }
            self.places[place] = row;
        } else {
            self.far.insert(ordinal, row);
        }
        let key = self.text(key);
        self.keys.push(key);
        self.calls.push(Call::new(payload, at_us));
    }

    pub(super) fn call_mut(&mut self, ordinal: u64) -> Option<&mut Call> {
        let row = self.row(ordinal)?;
        Some(&mut self.calls[row as usize])
    }

    pub(super) fn key_of(&self, ordinal: u64) -> Option<&[u8]> {
        let row = self.row(ordinal)?;
        Some(self.call_key(row))
    }

    pub(super) fn effect(&mut self, ordinal: u64, key: &[u8], mut effect: Effect) {
        // OK for the same reason as above.
        let at = u32::try_from(self.effects.len()).expect("fewer effects than 2^32");
        let own = self.row(ordinal).filter(|&row| self.call_key(row) == key);
        if let Some(row) = own {
            let call = &mut self.calls[row as usize];
            effect.next = call.effect;
            self.several |= call.effect != NONE;
            effect.call = row;
            call.effect = at;
        } else {
            let key = self.text(key);
            self.several = true;
            self.stray.push((at, key));
        }
        self.effects.push(effect);
    }

    /// A client was told how its call ended.
    pub(super) fn end(&mut self, ordinal: u64, at_us: u64, told: Told, faults_ended: bool) -> bool {
        let Some(row) = self.row(ordinal) else {
            return false;
        };
        let call = &mut self.calls[row as usize];
        let asked_us = std::mem::replace(&mut call.asked_us, at_us);
        call.flags &= !(Call::GAVE_UP | Call::NOBODY_LEFT);
        match told {
            Told::Answered(answer) => self.settle(row, at_us, (true, answer)),
            Told::Declined(answer) => self.settle(row, at_us, (false, answer)),
            // It speaks of the attempts of this call alone, also where another call was answered.
            Told::Refused => self.deny(row, ASKED_NOTHING, at_us, Call::REFUSED),
            Told::InDoubt => self.deny(row, asked_us, at_us, Call::IN_DOUBT),
            Told::Unknown => {
                call.flags |= Call::UNKNOWN;
                if !faults_ended {
                    call.flags |= Call::GAVE_UP;
                }
                if call.has(Call::TOLD_OF_OTHER_STORE) {
                    call.flags |= Call::NOBODY_LEFT;
                }
            }
        }
        true
    }

    fn settle(&mut self, row: u32, at_us: u64, (promises, answer): (bool, u64)) {
        let call = &mut self.calls[row as usize];
        let unrecorded = call.has(Call::UNRECORDED);
        call.flags &= !Call::UNRECORDED;
        match call.definitive() {
            None => {
                call.definitive = answer;
                call.settled_us = at_us;
                call.flags |= match promises {
                    true => 0,
                    false => Call::DECLINED_FIRST,
                };
                if unrecorded {
                    call.flags |= Call::UNRECORDED_FIRST;
                }
            }
            Some(first) if first != (promises, answer) => call.flags |= Call::DIVERGED,
            Some(_) => {}
        }
        call.flags |= match promises {
            true => Call::ANSWERED,
            false => Call::DECLINED,
        };
        if promises && call.has(Call::DECLINED_FIRST) {
            self.answered_late.entry(row).or_insert(at_us);
        }
        if !unrecorded && call.has(Call::UNRECORDED_FIRST) {
            self.recorded.entry(row).or_insert(at_us);
        }
    }

    fn deny(&mut self, row: u32, asked_us: u64, ended_us: u64, how: u16) {
        // OK for the same reason as above.
        let at = u32::try_from(self.denials.len()).expect("fewer denials than 2^32");
        let answered = self.recorded_us(row) != NEVER;
        let call = &mut self.calls[row as usize];
        call.flags |= how;
        self.denials.push(Denial {
            asked_us,
            ended_us,
            answered,
            next: call.denial,
        });
        call.denial = at;
    }

    /// The denials of a call, the last one first.
    pub(super) fn denials_of(&self, call: u32) -> impl Iterator<Item = &Denial> {
        let at = |place: u32| self.denials.get(place as usize);
        let first = at(self.calls[call as usize].denial);
        std::iter::successors(first, move |denial| at(denial.next))
    }

    /// When the client of a call first had an answer that promises the effect.
    pub(super) fn answered_us(&self, row: u32) -> u64 {
        let call = &self.calls[row as usize];
        if !call.has(Call::DECLINED_FIRST) {
            return call.settled_us;
        }
        self.answered_late.get(&row).copied().unwrap_or(NEVER)
    }

    /// When the client of a call first had an answer that was recorded.
    pub(super) fn recorded_us(&self, row: u32) -> u64 {
        let call = &self.calls[row as usize];
        if !call.has(Call::UNRECORDED_FIRST) {
            return call.settled_us;
        }
        self.recorded.get(&row).copied().unwrap_or(NEVER)
    }

    /// When the client of a call first knew what there is to know.
    pub(super) fn resolved_us(&self, row: u32) -> u64 {
        let denied_us = self.denials_of(row).map(|denial| denial.ended_us);
        let settled_us = self.calls[row as usize].settled_us;
        denied_us.fold(settled_us, u64::min)
    }

    /// From now on the server has another store.
    pub(super) fn replaced(&mut self, at_us: u64) {
        self.replaced.push(at_us);
    }

    /// Whether the server came by another store in this time.
    pub(super) fn is_replaced_within(&self, from_us: u64, until_us: u64) -> bool {
        let mut within = self.replaced.iter();
        within.any(|&at_us| (from_us..=until_us).contains(&at_us))
    }

    pub(super) fn swept(&mut self, key: &[u8], at_us: u64) {
        let key = self.text(key);
        self.swept.push((key, at_us));
    }

    pub(super) fn forget(&mut self, ordinal: u64, at_us: u64) -> bool {
        let row = self.row(ordinal);
        if let Some(row) = row {
            let forgotten = self.forgotten.entry(row).or_insert(at_us);
            *forgotten = (*forgotten).min(at_us);
        }
        row.is_some()
    }

    /// When the server was first allowed to forget a call.
    pub(super) fn forgotten_us(&self, call: u32) -> u64 {
        if self.forgotten.is_empty() {
            return NEVER;
        }
        self.forgotten.get(&call).copied().unwrap_or(NEVER)
    }

    /// Whether every key has one call and one effect at most.
    pub(super) fn is_plain(&self, groups: &Groups) -> bool {
        !self.several && groups.twins.is_empty()
    }

    /// The ordinal of a call. It is looked for: only what is wrong is asked for it.
    pub(super) fn ordinal(&self, row: u32) -> u64 {
        let near = self.places.iter().position(|&other| other == row);
        let far = || self.far.iter().find(|(_, other)| **other == row);
        near.map(|place| place as u64)
            .or_else(|| far().map(|(&ordinal, _)| ordinal))
            .unwrap_or(0)
    }

    pub(super) fn call_key(&self, row: u32) -> &[u8] {
        self.bytes(self.keys[row as usize])
    }

    /// The key of an effect that is none of a call's.
    pub(super) fn stray_key(&self, effect: u32) -> &[u8] {
        // They are in the order of the effects.
        match self.stray.binary_search_by_key(&effect, |&(at, _)| at) {
            Ok(place) => self.bytes(self.stray[place].1),
            Err(_) => &[],
        }
    }

    /// The effects of a call, the last one first.
    pub(super) fn effects_of(&self, call: u32) -> impl Iterator<Item = u32> {
        let first = self.calls[call as usize].effect;
        let next = |&effect: &u32| self.effects.get(effect as usize).map(|row| row.next);
        std::iter::successors(Some(first), next).take_while(|&effect| effect != NONE)
    }

    /// Gives an effect or a sweep whose call is not known to the first call of its key.
    pub(super) fn give(&mut self, stray: usize, first: u32) {
        let call = &mut self.calls[first as usize];
        if let Some(&(effect, _)) = self.stray.get(stray) {
            let row = &mut self.effects[effect as usize];
            row.call = first;
            row.next = call.effect;
            call.effect = effect;
        } else {
            let (_, at_us) = self.swept[stray - self.stray.len()];
            let forgotten = self.forgotten.entry(first).or_insert(at_us);
            *forgotten = (*forgotten).min(at_us);
        }
    }

    /// How many items have keys: the calls, then the effects without a call, then the sweeps.
    pub(super) fn items(&self) -> usize {
        self.keys.len() + self.stray.len() + self.swept.len()
    }

    pub(super) fn digest_of(&self, item: u32) -> u64 {
        sum(self.item_key(item))
    }

    /// The effect of an item behind the calls, if it is none of the sweeps.
    pub(super) fn stray_effect(&self, stray: usize) -> Option<u32> {
        self.stray.get(stray).map(|&(effect, _)| effect)
    }

    pub(super) fn item_key(&self, item: u32) -> &[u8] {
        let item = item as usize;
        let key = match item.checked_sub(self.calls.len()) {
            None => self.keys[item],
            Some(stray) => match stray.checked_sub(self.stray.len()) {
                None => self.stray[stray].1,
                Some(swept) => self.swept[swept].0,
            },
        };
        self.bytes(key)
    }

    fn row(&self, ordinal: u64) -> Option<u32> {
        let near = usize::try_from(ordinal)
            .ok()
            .and_then(|place| self.places.get(place).copied())
            .filter(|&row| row != NONE);
        near.or_else(|| self.far.get(&ordinal).copied())
    }

    fn text(&mut self, text: &[u8]) -> Text {
        let start = self.texts.len() as u64;
        // OK because a line of a history is shorter, and no memory holds so many of them.
        assert!(text.len() < 1 << TEXT_BITS && start < 1 << (64 - TEXT_BITS));
        self.texts.extend_from_slice(text);
        Text(start << TEXT_BITS | text.len() as u64)
    }

    fn bytes(&self, text: Text) -> &[u8] {
        let start = (text.0 >> TEXT_BITS) as usize;
        let bytes = (text.0 & ((1 << TEXT_BITS) - 1)) as usize;
        &self.texts[start..start + bytes]
    }
}

/// Before everything.
const ASKED_NOTHING: u64 = 0;

/// A key has less than 2^24 bytes, all keys of a run less than 2^40.
const TEXT_BITS: u32 = 24;

/// How far ordinals may run ahead of their calls before they are kept one by one.
const PLACES_SPARE: u64 = 1_024;
