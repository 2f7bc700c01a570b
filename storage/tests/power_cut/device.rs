//! Disks whose power can be cut while they are written to.
//!
//! ```text
//! disk      an ext4, on which the store works
//!   |       a loop device: every write goes into the cache of the drive, a flush empties it
//! drive     an ext4 that holds the disk's image; its pages in memory are the cache
//!   |       a loop device
//! platter   an ext4 that holds the drive's image; there is one where the cache can be lost
//! ```
//!
//! A cut where the drive keeps its cache is a copy of the disk's image, made while the drive is
//! frozen; one where the drive loses it is a copy of the drive's image, made while the platter is.
//! Freezing stops the loop device above between two of its writes, wherever the journals happen
//! to be, so that the copy shows one moment. A copy without that would show its first blocks as
//! they were before its last ones, which no power cut does.
//!
//! Whatever an application is told while the disk is frozen was durable before: a sync returns
//! only after its writes have. So all that was said until the copy is finished may be held against
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{Image, Mount, Rig, run};

/// What becomes of the writes that a drive took and was not told to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// They are kept, as by a drive with a capacitor.
    Kept,
    /// They are lost: all, or some of them when the power is cut while the drive flushes.
    Lost,
}

/// What the image of a disk lies on.
#[derive(Debug)]
pub struct Drive {
    // Before the platter, in which its image lies.
    mount: Mount,
    platter: Option<Mount>,
}

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    mount: Mount,
    image: Image,
}

/// A disk as it was at one moment.
#[derive(Debug)]
pub struct Cut {
    file: PathBuf,
    cache: Cache,
}

/// A disk after the power came back.
#[derive(Debug)]
pub struct After {
    mount: Mount,
    // After the disk, whose image lies in it.
    _drive: Option<Mount>,
    _cut: Cut,
}

/// A file system that takes no writes.
#[must_use = "it is thawed when this is dropped"]
struct Frozen<'a>(&'a Mount);

// === impl Drive ===

impl Drive {
    pub fn new(rig: &Rig, cache: Cache) -> Self {
        match cache {
            Cache::Kept => Self {
                mount: plain(rig, "drive", DRIVE_MIB),
                platter: None,
            },
            Cache::Lost => {
                let platter = plain(rig, "platter", PLATTER_MIB);
                let file = platter.at().join(DRIVE_IMAGE);
                let image = Image::sparse(&file, DRIVE_MIB, &JOURNAL).unwrap();
                let mount = Mount::image(&image, &rig.path("drive"), &LAZY).unwrap();
                Self {
                    mount,
                    platter: Some(platter),
                }
            }
        }
    }

    /// An empty disk.
    pub fn disk(&self, rig: &Rig) -> Disk {
        self.disk_with(rig, &LAZY)
    }

    /// An empty disk that never tells the drive to flush.
    pub fn disk_without_flushes(&self, rig: &Rig) -> Disk {
        self.disk_with(rig, &[LAZY[0], "barrier=0"])
    }

    fn disk_with(&self, rig: &Rig, options: &[&str]) -> Disk {
        let file = self.mount.at().join(DISK_IMAGE);
        let image = Image::sparse(&file, DISK_MIB, &JOURNAL).unwrap();
        let mount = Mount::image(&image, &rig.path("disk"), options).unwrap();
        Disk { mount, image }
    }

    /// A disk that goes on where another was cut with its cache kept.
    pub fn disk_after(&self, rig: &Rig, cut: &Cut) -> Disk {
        assert_eq!(cut.cache, Cache::Kept, "the other is the image of a drive");
        let file = self.mount.at().join(DISK_IMAGE);
        copy(&cut.file, &file);
        let image = Image::of(&file);
        let mount = Mount::image(&image, &rig.path("disk"), &LAZY).unwrap();
        Disk { mount, image }
    }

    /// Cuts the power: copies the disk as it is at one moment. `position` is asked before the
    /// disk goes on, and answers what has been said until then.
    pub fn cut<T>(&self, disk: &Disk, to: &Path, position: impl FnOnce() -> T) -> (Cut, T) {
        let (frozen, image, cache) = match &self.platter {
            None => (&self.mount, disk.image.file().to_owned(), Cache::Kept),
            Some(platter) => (platter, platter.at().join(DRIVE_IMAGE), Cache::Lost),
        };
        let frozen = Frozen::new(frozen);
        copy(&image, to);
        let position = position();
        drop(frozen);
        let file = to.to_owned();
        (Cut { file, cache }, position)
    }
}

/// Without a journal of its own: it only holds one file.
fn plain(rig: &Rig, name: &str, mib: u64) -> Mount {
    let file = rig.path(&format!("{name}.img"));
    let image = Image::sparse(&file, mib, &["-O", "^has_journal"]).unwrap();
    Mount::image(&image, &rig.path(name), &[]).unwrap()
}

// === impl Disk ===

impl Disk {
    pub fn at(&self) -> &Path {
        self.mount.at()
    }

    /// How many writes its loop device has done so far.
    pub fn writes(&self) -> u64 {
        let counters = fs::read_to_string(self.mount.device().join("stat")).unwrap();
        // The fifth is the number of writes completed.
        let writes = counters.split_whitespace().nth(4).unwrap();
        writes.parse().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // OK to ignore because the next disk takes the same place.
        let _ = fs::remove_file(self.image.file());
    }
}

// === impl Cut ===

impl Cut {
    /// Turns the power on: the kernel replays the journals.
    pub fn turn_on(self, rig: &Rig) -> After {
        let image = Image::of(&self.file);
        let (image, drive) = match self.cache {
            Cache::Kept => (image, None),
            Cache::Lost => {
                let drive = Mount::image(&image, &rig.path("drive-after"), &LAZY).unwrap();
                (Image::of(&drive.at().join(DISK_IMAGE)), Some(drive))
            }
        };
        let mount = Mount::image(&image, &rig.path("after"), &LAZY).unwrap();
        After {
            mount,
            _drive: drive,
            _cut: self,
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // OK to ignore because what is left goes with the directory in memory.
        let _ = fs::remove_file(&self.file);
    }
}

// === impl After ===

impl After {
    pub fn at(&self) -> &Path {
        self.mount.at()
    }
}

// === impl Frozen ===

impl<'a> Frozen<'a> {
    fn new(mount: &'a Mount) -> Self {
        run(Command::new("fsfreeze").arg("-f").arg(mount.at())).unwrap();
        Self(mount)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = run(Command::new("fsfreeze").arg("-u").arg(self.0.at()));
        assert!(thawed.is_ok() || std::thread::panicking(), "{thawed:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).unwrap();
}

const DISK_IMAGE: &str = "disk.img";
const DISK_MIB: u64 = 160;
const DRIVE_IMAGE: &str = "drive.img";
const DRIVE_MIB: u64 = 512;
const PLATTER_MIB: u64 = 768;

/// The smallest that ext4 takes: it wraps round within a run, so that cuts find it at all places.
const JOURNAL: [&str; 2] = ["-J", "size=4"];

/// Nothing becomes durable because time passes, only because somebody syncs.
const LAZY: [&str; 1] = ["commit=300"];
