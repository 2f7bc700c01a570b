//! Which calls share a key, and which effects have a key that no call has.

use std::collections::HashMap;

use super::call::{Call, NONE};
use super::rows::Rows;

/// Calls that share a key, and effects without a call.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By the first call of a key that has several: all of them.
    pub(super) twins: HashMap<u32, Vec<u32>>,
    /// Effects of keys that no call has, in the order of the keys.
    phantoms: Vec<Vec<u32>>,
}

/// One of the keys of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// That of this call, the first of those that have it.
    Asked(u32),
    /// One that no call has.
    Phantom(usize),
}

/// What was found out of some of the keys: none of the others is one of these.
#[derive(Debug, Default)]
struct Found {
    /// A call, and the first call of its key.
    twins: Vec<(u32, u32)>,
    /// An effect or a sweep whose call is not known, and the first call of its key.
    late: Vec<(usize, u32)>,
    /// An effect of a key that no call has, and the first item of that key.
    phantoms: Vec<(u32, u32)>,
}

/// The keys whose digests begin with these bits.
#[derive(Clone, Copy)]
struct Share {
    bits: u32,
    first: usize,
    parts: usize,
}

// === impl Groups ===

impl Groups {
    /// Finds out which calls share a key, and gives stray effects and sweeps to the calls of their
    /// keys.
    ///
    /// By parts of about as many keys as fit into a processor's own memory: one table of all of
    /// them would be waited for at every key. On so many threads, each of which takes its share of
    /// the parts.
    pub(super) fn join(rows: &mut Rows, threads: usize) -> Self {
        let digests = digests(rows, threads);
        let bits = (digests.len() / PART_KEYS)
            .next_power_of_two()
            .trailing_zeros();
        let parts = 1_usize << bits;
        let threads = threads.clamp(1, parts);
        let share = |thread: usize| Share {
            bits,
            first: parts * thread / threads,
            parts: parts * (thread + 1) / threads - parts * thread / threads,
        };
        let (all, keyed) = (&*digests, &*rows);
        let found: Vec<Found> = on_threads(threads, &|thread| share(thread).join(keyed, all));
        Self::of(rows, found)
    }

    fn of(rows: &mut Rows, found: Vec<Found>) -> Self {
        let mut groups = Self::default();
        let mut phantoms = Vec::new();
        let mut late = Vec::new();
        for found in found {
            for (item, first) in found.twins {
                let twins = groups.twins.entry(first).or_insert_with(|| vec![first]);
                twins.push(item);
            }
            phantoms.extend(found.phantoms);
            late.extend(found.late);
        }
        phantoms.sort_unstable();
        let keys = phantoms.chunk_by(|(one, _), (other, _)| one == other);
        let effects = keys.map(|of_key| of_key.iter().map(|&(_, effect)| effect).collect());
        groups.phantoms = effects.collect();
        for (stray, first) in late {
            rows.give(stray, first);
        }
        for (first, members) in &groups.twins {
            for &member in members {
                rows.calls[member as usize].flags |= Call::TWIN;
            }
            rows.calls[*first as usize].flags |= Call::FIRST;
        }
        groups
    }

    /// Goes through all keys: the calls of each, or the effects of one without calls.
    pub(super) fn each(&self, rows: &Rows, mut key: impl FnMut(Key, &[u32], &[u32])) {
        for (row, call) in rows.calls.iter().enumerate() {
            let row = row as u32;
            if call.flags & Call::TWIN == 0 {
                key(Key::Asked(row), &[row], &[]);
            } else if call.flags & Call::FIRST != 0 {
                key(Key::Asked(row), &self.twins[&row], &[]);
            }
        }
        for (place, effects) in self.phantoms.iter().enumerate() {
            key(Key::Phantom(place), &[], effects);
        }
    }

    /// The calls of a key, or the effects of one without calls.
    pub(super) fn with(&self, rows: &Rows, key: Key, take: impl FnOnce(&[u32], &[u32])) {
        match key {
            Key::Asked(row) if rows.calls[row as usize].flags & Call::TWIN == 0 => {
                take(&[row], &[]);
            }
            Key::Asked(row) => take(&self.twins[&row], &[]),
            Key::Phantom(place) => take(&[], &self.phantoms[place]),
        }
    }
}

// === impl Share ===

impl Share {
    fn join(self, rows: &Rows, digests: &[u64]) -> Found {
        let (items, starts) = self.items(digests);
        let mut found = Found::default();
        let mut table = Vec::new();
        for part in starts.windows(2) {
            let part = &items[part[0] as usize..part[1] as usize];
            join_part(rows, part, &mut table, &mut found);
        }
        found
    }

    /// The items of this share, part by part in their order, with where each part begins.
    fn items(self, digests: &[u64]) -> (Vec<(u32, u32)>, Vec<u32>) {
        let mut starts = vec![0_u32; self.parts + 1];
        for &digest in digests {
            if let Some(start) = self.part(digest).and_then(|part| starts.get_mut(part + 1)) {
                *start += 1;
            }
        }
        for part in 1..starts.len() {
            starts[part] += starts[part - 1];
        }
        let mut filled = starts.clone();
        // Within a part, which the upper bits name, the lower half tells keys apart well enough.
        let mut items = vec![(0_u32, 0_u32); starts[self.parts] as usize];
        for (item, &digest) in digests.iter().enumerate() {
            if let Some(part) = self.part(digest) {
                let at = &mut filled[part];
                items[*at as usize] = (digest as u32, item as u32);
                *at += 1;
            }
        }
        (items, starts)
    }

    fn part(self, digest: u64) -> Option<usize> {
        let part = digest.checked_shr(64 - self.bits).unwrap_or(0) as usize;
        let own = part.wrapping_sub(self.first);
        (own < self.parts).then_some(own)
    }
}

fn join_part(rows: &Rows, part: &[(u32, u32)], table: &mut Vec<u32>, found: &mut Found) {
    let calls = rows.calls.len();
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
            if other_digest == digest && rows.item_key(other) == rows.item_key(item) {
                break Some(other);
            }
            at = (at + 1) & mask;
        };
        let first_call = first.filter(|&first| (first as usize) < calls);
        let stray = (item as usize).checked_sub(calls);
        match (stray, first_call) {
            (None, None) => {}
            (None, Some(first)) => found.twins.push((item, first)),
            (Some(stray), Some(first)) => found.late.push((stray, first)),
            (Some(stray), None) => {
                // Or the sweep of a key that nobody ever used.
                let Some(effect) = rows.stray_effect(stray) else {
                    continue;
                };
                found.phantoms.push((first.unwrap_or(item), effect));
            }
        }
    }
}

/// The digest of the key of each item.
fn digests(rows: &Rows, threads: usize) -> Vec<u64> {
    let items = rows.items();
    let mut digests = vec![0_u64; items];
    let chunk = items.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let mut chunks = digests.chunks_mut(chunk).enumerate();
        let fill = |(at, digests): (usize, &mut [u64])| {
            for (item, digest) in (at * chunk..).zip(digests) {
                *digest = rows.digest_of(item as u32);
            }
        };
        let own = chunks.next();
        for chunk in chunks {
            scope.spawn(move || fill(chunk));
        }
        own.map(fill);
    });
    digests
}

/// What two make of something, the first of them on another thread where that is worth one.
pub(super) fn beside<A: Send, B>(
    apart: bool,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B,
) -> (A, B) {
    if !apart {
        return (one(), other());
    }
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        match one.join() {
            Ok(one) => (one, other),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What each of so many threads makes of its number. The first is this one.
fn on_threads<T: Send>(threads: usize, make: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|thread| scope.spawn(move || make(thread)))
            .collect();
        let mut made = vec![make(0)];
        for other in others {
            match other.join() {
                Ok(one) => made.push(one),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        made
    })
}

/// As many keys as a part of the join has about: what a table of them takes fits into 64 KiB.
const PART_KEYS: usize = 4_096;
