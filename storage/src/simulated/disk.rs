//! What the store writes to: it keeps what was synced, and perhaps more.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// A disk with one file. Clones are the same disk; it outlives the process that writes to it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Platter>>);

/// What becomes of one sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncFate {
    /// How long it takes.
    pub takes: Duration,
    /// Whether it fails. What was written since the one before may then be lost, and a later sync
    /// that succeeds says nothing of it.
    pub fails: bool,
}

/// Which of the sectors that no sync has made durable survive a power cut: a coin for each.
pub type Sector<'a> = dyn FnMut(usize) -> bool + 'a;

type Fates = Box<dyn FnMut() -> SyncFate + Send>;

#[derive(Default)]
struct Platter {
    /// As the operating system shows it.
    bytes: Vec<u8>,
    /// What lies before was synced.
    durable: usize,
    /// What a failed sync has left behind: no sync will write it any more.
    lost: Vec<Range<usize>>,
    /// A file that shall take the place of this one, once it is durable.
    next: Option<Vec<u8>>,
    fates: Option<Fates>,
    full: bool,
    /// Counts processes: one that was killed writes no more, whatever of it is still dropped.
    generation: u64,
    syncs: u64,
}

// === impl SimDisk ===

impl SimDisk {
    /// An empty disk whose syncs succeed at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `fate` about every sync that begins.
    pub fn decide_syncs(&self, fate: impl FnMut() -> SyncFate + Send + 'static) {
        self.0.lock().fates = Some(Box::new(fate));
    }

    /// Whether writes find it full.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Cuts the power: of what was not synced the sectors of 512 bytes stay of which `stays` says so.
    /// Answers how many bytes were lost. The process is gone with it.
    pub fn cut_power(&self, stays: &mut Sector<'_>) -> u64 {
        let mut platter = self.0.lock();
        let platter = &mut *platter;
        platter.generation += 1;
        platter.next = None;
        let mut lost = 0;
        let mut last = platter.durable;
        for begin in (platter.durable..platter.bytes.len()).step_by(SECTOR_BYTES) {
            let end = (begin + SECTOR_BYTES).min(platter.bytes.len());
            if stays(begin / SECTOR_BYTES) {
                last = end;
            } else {
                platter.bytes[begin..end].fill(0);
                lost += (end - begin) as u64;
            }
        }
        // The length of the file is written like anything else.
        platter.bytes.truncate(last);
        for range in std::mem::take(&mut platter.lost) {
            let end = range.end.min(platter.bytes.len());
            if let Some(bytes) = platter.bytes.get_mut(range.start..end) {
                bytes.fill(0);
                lost += bytes.len() as u64;
            }
        }
        platter.durable = platter.bytes.len();
        lost
    }

    /// Ends the process that writes to it: what it wrote stays where it is.
    pub fn end_process(&self) {
        let mut platter = self.0.lock();
        platter.generation += 1;
        platter.next = None;
    }

    /// Everything on it is gone.
    pub fn wipe(&self) {
        let mut platter = self.0.lock();
        platter.generation += 1;
        platter.next = None;
        platter.bytes.clear();
        platter.lost.clear();
        platter.durable = 0;
    }

    /// How many syncs have begun.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().bytes.clone()
    }

    pub(super) fn write(&self, bytes: &[u8], generation: u64) -> Result<usize, String> {
        let mut platter = self.0.lock();
        platter.check(generation)?;
        if platter.full {
            return Err("no space is left on the device".to_owned());
        }
        platter.bytes.extend_from_slice(bytes);
        Ok(platter.bytes.len())
    }

    pub(super) fn replace(&self, bytes: Vec<u8>, generation: u64) -> Result<(), String> {
        let mut platter = self.0.lock();
        platter.check(generation)?;
        if platter.full {
            return Err("no space is left on the device".to_owned());
        }
        platter.next = Some(bytes);
        Ok(())
    }

    pub(super) fn begin_sync(&self) -> SyncFate {
        let mut platter = self.0.lock();
        platter.syncs += 1;
        platter
            .fates
            .as_mut()
            .map_or_else(SyncFate::default, |fate| fate())
    }

    /// Ends a sync of everything that was written before `end`.
    pub(super) fn synced(&self, fate: SyncFate, end: usize, generation: u64) -> Result<(), String> {
        let mut platter = self.0.lock();
        platter.check(generation)?;
        if fate.fails {
            let range = platter.durable..end;
            platter.lost.push(range);
            platter.durable = platter.durable.max(end);
            platter.next = None;
            return Err("the disk could not write".to_owned());
        }
        if let Some(next) = platter.next.take() {
            platter.durable = next.len();
            platter.bytes = next;
            platter.lost.clear();
        } else {
            platter.durable = platter.durable.max(end);
        }
        Ok(())
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

// === impl Platter ===

impl Platter {
    fn check(&self, generation: u64) -> Result<(), String> {
        if self.generation == generation {
            return Ok(());
        }
        Err("the process that wrote is gone".to_owned())
    }
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &SimDisk, bytes: &[u8], fails: bool) -> Result<(), String> {
        let end = disk.write(bytes, disk.generation())?;
        let fate = SyncFate {
            fails,
            ..SyncFate::default()
        };
        disk.synced(fate, end, disk.generation())
    }

    #[test]
    fn a_power_cut_takes_what_no_sync_has_made_durable_and_nothing_else() {
        let disk = SimDisk::new();
        written(&disk, b"kept", false).unwrap();
        disk.write(&[7; 1_024], disk.generation()).unwrap();
        assert_eq!(disk.cut_power(&mut |_| false), 1_024);
        assert_eq!(disk.bytes(), b"kept");
    }

    #[test]
    fn sectors_survive_each_for_itself() {
        let disk = SimDisk::new();
        disk.write(&[7; 1_024], disk.generation()).unwrap();
        disk.cut_power(&mut |sector| sector == 1);
        assert_eq!(disk.bytes(), [[0; 512], [7; 512]].concat());
    }

    #[test]
    fn the_next_sync_does_not_make_good_what_a_failed_one_has_lost() {
        let disk = SimDisk::new();
        assert!(written(&disk, b"lost", true).is_err());
        written(&disk, b"kept", false).unwrap();
        assert_eq!(
            disk.bytes(),
            b"lostkept",
            "who reads before the cut sees both"
        );
        disk.cut_power(&mut |_| true);
        assert_eq!(disk.bytes(), b"\0\0\0\0kept");
    }

    #[test]
    fn a_process_that_is_gone_writes_no_more() {
        let disk = SimDisk::new();
        let mine = disk.generation();
        disk.end_process();
        assert!(disk.write(b"late", mine).is_err());
    }

    #[test]
    fn a_file_takes_the_place_of_another_at_once_or_not() {
        let disk = SimDisk::new();
        written(&disk, b"old", false).unwrap();
        disk.replace(b"new".to_vec(), disk.generation()).unwrap();
        disk.cut_power(&mut |_| true);
        assert_eq!(disk.bytes(), b"old");
        disk.replace(b"new".to_vec(), disk.generation()).unwrap();
        disk.synced(SyncFate::default(), 0, disk.generation())
            .unwrap();
        disk.cut_power(&mut |_| false);
        assert_eq!(disk.bytes(), b"new");
    }
}
