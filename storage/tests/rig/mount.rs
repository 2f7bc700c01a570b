//! Images of file systems, and mounts that end with their guard.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{run, tell};

/// A file that holds a file system.
#[derive(Debug)]
pub struct Image {
    file: PathBuf,
}

/// A mounted file system. Its loop device, if it has one, goes with it.
#[derive(Debug)]
#[must_use = "it is unmounted when this is dropped"]
pub struct Mount {
    at: PathBuf,
}

// === impl Image ===

impl Image {
    /// A new ext4 of `mib` MiB. It takes as much room as is written to it.
    pub fn sparse(file: &Path, mib: u64, mkfs: &[&str]) -> Result<Self, String> {
        let made = File::create(file).and_then(|file| file.set_len(mib * 1024 * 1024));
        made.map_err(|error| format!("{}: {error}", file.display()))?;
        run(Command::new("mkfs.ext4").arg("-q").args(mkfs).arg(file))?;
        Ok(Self::of(file))
    }

    /// An image that is there.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
        }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }
}

// === impl Mount ===

impl Mount {
    pub fn in_memory(at: &Path, mib: u64) -> Result<Self, String> {
        let options = format!("size={mib}m");
        Self::new(at, &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// Mounts an image at `at`, which is made, with `options` besides those that all have.
    pub fn image(image: &Image, at: &Path, options: &[&str]) -> Result<Self, String> {
        let file = image.file.to_string_lossy();
        let options = [&["loop", "noatime"], options].concat().join(",");
        Self::new(at, &["-t", "ext4", "-o", &options, &file])
    }

    fn new(at: &Path, arguments: &[&str]) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| format!("{}: {error}", at.display()))?;
        run(Command::new("mount").args(arguments).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    /// What the kernel tells and is told of its device: a directory.
    pub fn device(&self) -> PathBuf {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let at = self.at.to_string_lossy();
        let device = mounts.lines().find_map(|line| {
            let (device, rest) = line.split_once(' ')?;
            let (place, _) = rest.split_once(' ')?;
            (place == at).then(|| device.trim_start_matches("/dev/"))
        });
        Path::new("/sys/block").join(device.unwrap())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.at)).is_ok() {
            return;
        }
        // Whoever still has a file open in it, a test that failed for one, holds the file system
        // until it ends; the place is free at once.
        if let Err(reason) = run(Command::new("umount").arg("--lazy").arg(&self.at)) {
            tell(&format!("left mounted: {reason}"));
        }
    }
}
