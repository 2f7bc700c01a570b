//! A disk whose power can be cut while it is written to.
//!
//! The image of the disk is a file on a second ext4, the one below. Freezing the one below stops
//! the loop device of the disk between two of its writes, wherever the journal above happens to
//! be: so the copy that is made then shows the disk at one moment. A copy without that would show
//! its first blocks as they were before its last ones, which no power cut does.
//!
//! Whatever an application is told while the disk is frozen was on it before: a sync returns only
//! after its writes have. So all that was said until the copy is finished may be held against it.
//!
//! This models a drive that keeps every write it took, as one with a protected cache does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{Image, Mount, Rig, run};

/// What the images of disks lie on.
#[derive(Debug)]
pub struct Below {
    mount: Mount,
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
}

/// A disk after the power came back.
#[derive(Debug)]
pub struct After {
    mount: Mount,
    _cut: Cut,
}

#[must_use = "it is thawed when this is dropped"]
struct Frozen<'a>(&'a Below);

// === impl Below ===

impl Below {
    pub fn new(rig: &Rig) -> Self {
        // Without a journal of its own, and with all its tables in place: it only holds one file.
        let plain = ["-O", "^has_journal"];
        let image = Image::sparse(&rig.path("below.img"), BELOW_MIB, &plain).unwrap();
        let mount = Mount::image(&image, &rig.path("below"), &[]).unwrap();
        Self { mount }
    }

    /// An empty disk.
    pub fn disk(&self, rig: &Rig) -> Disk {
        let image = Image::sparse(&self.mount.at().join("disk.img"), DISK_MIB, &JOURNAL).unwrap();
        let mount = Mount::image(&image, &rig.path("disk"), &LAZY).unwrap();
        Disk { mount, image }
    }

    /// A disk that goes on where another was cut.
    pub fn disk_after(&self, rig: &Rig, cut: &Cut) -> Disk {
        let file = self.mount.at().join("disk.img");
        copy(&cut.file, &file);
        let image = Image::of(&file);
        let mount = Mount::image(&image, &rig.path("disk"), &LAZY).unwrap();
        Disk { mount, image }
    }

    /// Cuts the power: copies the disk as it is at one moment. `position` is asked before the
    /// disk goes on, and answers what has been said until then.
    pub fn cut<T>(&self, disk: &Disk, to: &Path, position: impl FnOnce() -> T) -> (Cut, T) {
        let frozen = Frozen::new(self);
        copy(disk.image.file(), to);
        let position = position();
        drop(frozen);
        let file = to.to_owned();
        (Cut { file }, position)
    }
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
    /// Turns the power on: the kernel replays the journal.
    pub fn turn_on(self, rig: &Rig) -> After {
        let mount = Mount::image(&Image::of(&self.file), &rig.path("after"), &LAZY).unwrap();
        After { mount, _cut: self }
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
    fn new(below: &'a Below) -> Self {
        run(Command::new("fsfreeze").arg("-f").arg(below.mount.at())).unwrap();
        Self(below)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = run(Command::new("fsfreeze").arg("-u").arg(self.0.mount.at()));
        assert!(thawed.is_ok() || std::thread::panicking(), "{thawed:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).unwrap();
}

const BELOW_MIB: u64 = 512;
const DISK_MIB: u64 = 160;

/// The smallest that ext4 takes: it wraps round within a run, so that cuts find it at all places.
const JOURNAL: [&str; 2] = ["-J", "size=4"];

/// Nothing becomes durable because time passes, only because somebody syncs.
const LAZY: [&str; 1] = ["commit=300"];
