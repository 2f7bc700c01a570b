//! What the checker remembers of a run: a row a call, a row an effect, and which share a key.

use std::collections::HashMap;

use super::judge::Told;
use super::report::Figures;
use super::sum::sum;

/// A row that is not there.
pub(super) const NONE: u32 = u32::MAX;

/// A time that never came.
pub(super) const NEVER: u64 = u64::MAX;

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

#[derive(Debug)]
pub(super) struct Call {
    pub(super) payload: u64,
    pub(super) invoked_us: u64,
    /// When the client first had a definitive answer.
    settled_us: u64,
    /// When the client has asked for the last time, as far as it shows: when it began, came back, or
    /// went on after an ending.
    asked_us: u64,
    /// The first definitive answer.
    pub(super) definitive: u64,
    /// The last one of its effects; they are a chain.
    pub(super) effect: u32,
    pub(super) attempts: u32,
    /// The last one of its denials; they are a chain.
    denial: u32,
    pub(super) flags: u16,
}

/// An ending that says of a call that nobody knows, or that it was not executed.
#[derive(Debug)]
pub(super) struct Denial {
    /// Since when what it says of the key can have been asked at the earliest; [`ASKED_NOTHING`] where
    /// it says nothing of the key.
    pub(super) asked_us: u64,
    pub(super) ended_us: u64,
    /// Whether the same call had been given a recorded answer before.
    pub(super) answered: bool,
    /// The denial of the same call before it.
    next: u32,
}

#[derive(Debug)]
pub(super) struct Effect {
    pub(super) payload: u64,
    pub(super) answer: u64,
    pub(super) index: u64,
    /// When it was committed; [`NEVER`] where that is not known.
    committed_us: u64,
    /// The effect of the same call before it.
    next: u32,
    call: u32,
}

/// Calls that share a key, and effects without a call.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By the first call of a key that has several: all of them.
    twins: HashMap<u32, Vec<u32>>,
    /// Effects of keys that no call has, in the order of the keys.
    phantoms: Vec<Vec<u32>>,
}

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
        call.flags &= !Call::GAVE_UP;
        match told {
            Told::Answered(answer) => self.settle(row, at_us, (true, answer)),
            Told::Declined(answer) => self.settle(row, at_us, (false, answer)),
            // It speaks of the attempts of this call alone, also where another call was answered.
            Told::Refused => self.deny(row, ASKED_NOTHING, at_us, Call::REFUSED),
            Told::InDoubt => self.deny(row, asked_us, at_us, Call::IN_DOUBT),
            Told::Unknown => {
                let nobody_knows = (self.replaced.last()).is_some_and(|&us| us >= call.invoked_us);
                call.flags |= match faults_ended && !nobody_knows {
                    true => Call::UNKNOWN,
                    false => Call::UNKNOWN | Call::GAVE_UP,
                };
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

    /// Finds out which calls share a key, and gives stray effects and sweeps to the calls of their
    /// keys.
    ///
    /// By parts of about as many keys as fit into a processor's own memory: one table of all of
    /// them would be waited for at every key.
    pub(super) fn join(&mut self) -> Groups {
        let mut groups = Groups::default();
        let calls = self.calls.len();
        let mut digests = Vec::with_capacity(self.keys.len() + self.stray.len() + self.swept.len());
        digests.extend(self.keys.iter().map(|&key| sum(self.bytes(key))));
        digests.extend(self.stray.iter().map(|&(_, key)| sum(self.bytes(key))));
        digests.extend(self.swept.iter().map(|&(key, _)| sum(self.bytes(key))));
        let bits = (digests.len() / PART_KEYS)
            .next_power_of_two()
            .trailing_zeros();
        let part_of = |digest: u64| (digest.checked_shr(64 - bits).unwrap_or(0)) as usize;
        let mut starts = vec![0_u32; (1 << bits) + 1];
        for &digest in &digests {
            starts[part_of(digest) + 1] += 1;
        }
        for part in 1..starts.len() {
            starts[part] += starts[part - 1];
        }
        let mut filled = starts.clone();
        // Within a part, which the upper bits name, the lower half tells keys apart well enough.
        let mut items = vec![(0_u32, 0_u32); digests.len()];
        for (item, &digest) in digests.iter().enumerate() {
            let at = &mut filled[part_of(digest)];
            items[*at as usize] = (digest as u32, item as u32);
            *at += 1;
        }
        let mut table = Vec::new();
        let mut late = Vec::new();
        let mut phantoms: Vec<(u32, Vec<u32>)> = Vec::new();
        for part in starts.windows(2) {
            let part = &items[part[0] as usize..part[1] as usize];
            table.clear();
            table.resize((part.len() * 2).next_power_of_two(), NONE);
            let mask = table.len() - 1;
            for (own, &(digest, item)) in part.iter().enumerate() {
                let mut at = digest as usize & mask;
                // Items are in their order within a part: the first one of a key is its first call.
                let first = loop {
                    let Some(&(other_digest, other)) = part.get(table[at] as usize) else {
                        table[at] = own as u32;
                        break None;
                    };
                    if other_digest == digest && self.item_key(other) == self.item_key(item) {
                        break Some(other);
                    }
                    at = (at + 1) & mask;
                };
                let first_call = first.filter(|&first| (first as usize) < calls);
                let stray = (item as usize).checked_sub(calls);
                match (stray, first_call) {
                    (None, None) => {}
                    (None, Some(first)) => {
                        groups
                            .twins
                            .entry(first)
                            .or_insert_with(|| vec![first])
                            .push(item);
                    }
                    (Some(stray), Some(first)) => late.push((stray, first)),
                    (Some(stray), None) if stray < self.stray.len() => match first {
                        None => phantoms.push((item, vec![self.stray[stray].0])),
                        Some(first) => {
                            if let Some((_, of)) = phantoms.iter_mut().find(|(at, _)| *at == first)
                            {
                                of.push(self.stray[stray].0);
                            }
                        }
                    },
                    // The sweep of a key that nobody ever used.
                    (Some(_), None) => {}
                }
            }
        }
        phantoms.sort_unstable_by_key(|&(item, _)| item);
        groups.phantoms = phantoms.into_iter().map(|(_, effects)| effects).collect();
        for (stray, first) in late {
            self.give(stray, first);
        }
        for (first, members) in &groups.twins {
            for &member in members {
                self.calls[member as usize].flags |= Call::TWIN;
            }
            self.calls[*first as usize].flags |= Call::FIRST;
        }
        groups
    }

    fn give(&mut self, stray: usize, first: u32) {
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

    fn item_key(&self, item: u32) -> &[u8] {
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

// === impl Groups ===

impl Groups {
    /// Goes through all keys: its calls, and the effects of a key without calls.
    pub(super) fn each(&self, rows: &Rows, mut key: impl FnMut(&[u32], &[u32])) {
        for (row, call) in rows.calls.iter().enumerate() {
            let row = row as u32;
            if call.flags & Call::TWIN == 0 {
                key(&[row], &[]);
            } else if call.flags & Call::FIRST != 0 {
                key(&self.twins[&row], &[]);
            }
        }
        for effects in &self.phantoms {
            key(&[], effects);
        }
    }
}

// === impl Call ===

impl Call {
    pub(super) const ANSWERED: u16 = 1;
    pub(super) const DECLINED: u16 = 1 << 1;
    pub(super) const REFUSED: u16 = 1 << 2;
    pub(super) const IN_DOUBT: u16 = 1 << 3;
    pub(super) const UNKNOWN: u16 = 1 << 4;
    /// Two of its definitive answers differ.
    pub(super) const DIVERGED: u16 = 1 << 5;
    /// The first definitive answer is a refusal for good.
    pub(super) const DECLINED_FIRST: u16 = 1 << 6;
    /// The client gave up while faults were still striking, or because the store that knew of it is gone,
    /// and nothing was heard of it since.
    pub(super) const GAVE_UP: u16 = 1 << 7;
    /// Other calls have its key.
    pub(super) const TWIN: u16 = 1 << 8;
    /// It is the first one of them.
    pub(super) const FIRST: u16 = 1 << 9;
    /// The answer that its client is about to be told was not recorded.
    pub(super) const UNRECORDED: u16 = 1 << 10;
    /// Its first definitive answer was not recorded.
    const UNRECORDED_FIRST: u16 = 1 << 11;

    const fn new(payload: u64, invoked_us: u64) -> Self {
        Self {
            payload,
            invoked_us,
            settled_us: NEVER,
            asked_us: invoked_us,
            definitive: 0,
            effect: NONE,
            attempts: 0,
            denial: NONE,
            flags: 0,
        }
    }

    pub(super) const fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// The first definitive answer: whether it promises an effect, and its digest.
    pub(super) fn definitive(&self) -> Option<(bool, u64)> {
        self.has(Self::ANSWERED | Self::DECLINED)
            .then(|| (!self.has(Self::DECLINED_FIRST), self.definitive))
    }

    /// The client has handed an attempt to the wire.
    pub(super) fn sent(&mut self, attempt: u32) {
        if attempt > self.attempts {
            self.attempts = attempt;
            // Something was heard of the client: if it had given up, it has not.
            self.flags &= !Self::GAVE_UP;
        }
    }

    /// The client asks again, and waits for nothing that it had asked before.
    pub(super) const fn came_back(&mut self, at_us: u64) {
        self.flags &= !Self::GAVE_UP;
        self.asked_us = at_us;
    }

    /// Counts a call once, by the most that its client got to know.
    pub(super) fn count(&self, figures: &mut Figures) {
        figures.attempts += u64::from(self.attempts);
        let counter = if self.has(Self::ANSWERED) {
            &mut figures.answered
        } else if self.has(Self::DECLINED) {
            &mut figures.declined
        } else if self.has(Self::REFUSED) {
            &mut figures.refused
        } else if self.has(Self::IN_DOUBT) {
            &mut figures.in_doubt
        } else if self.has(Self::UNKNOWN) {
            &mut figures.unknown
        } else {
            &mut figures.open
        };
        *counter += 1;
    }
}

// === impl Effect ===

impl Effect {
    /// An effect of nobody's, until [`Rows::effect`] knows better.
    pub(super) fn new(payload: &[u8], answer: &[u8], index: u64, at_us: Option<u64>) -> Self {
        Self {
            payload: sum(payload),
            answer: sum(answer),
            index,
            committed_us: at_us.unwrap_or(NEVER),
            next: NONE,
            call: NONE,
        }
    }

    /// When it was committed, if that is known.
    pub(super) fn at_us(&self) -> Option<u64> {
        (self.committed_us != NEVER).then_some(self.committed_us)
    }

    /// The call that it belongs to.
    pub(super) fn call(&self) -> Option<u32> {
        (self.call != NONE).then_some(self.call)
    }
}

/// As many keys as a part of the join has about: what a table of them takes fits into 64 KiB.
const PART_KEYS: usize = 4_096;

/// Before everything.
const ASKED_NOTHING: u64 = 0;

/// A key has less than 2^24 bytes, all keys of a run less than 2^40.
const TEXT_BITS: u32 = 24;

/// How far ordinals may run ahead of their calls before they are kept one by one.
const PLACES_SPARE: u64 = 1_024;
