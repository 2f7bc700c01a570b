//! A disk under a real server whose power can be cut: what was written and not synced is gone.
//!
//! ```text
//!   disk      an ext4, on which the server works; in memory is what it has not synced
//!     |       a loop device
//!   drive     an ext4 that holds the disk's image, and is frozen while the image is copied
//!     |       a loop device
//!   memory    a tmpfs
//! ```
//!
//! The copy is what a machine would find that comes back: the server's next process gets it in place
//! of the disk. The cut can lie within a sync. A drive that loses what it had taken is not this one;
//! the stores' own power cuts have that as well.
//!
//! All of it is mounted in a mount namespace of its own, and ends with it, in whatever way this
//! process ends. It needs root, loop devices, ext4 and a few programs; what is missing is the reason
//! why it is not run.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce_chaos::executor::NotRun;
use onlyonce_chaos::kernel::Tools;

/// The disk, mounted.
#[derive(Debug)]
pub(in super::super) struct Disk {
    /// Dropping it ends the namespace, and with it all mounts.
    holder: Holder,
    tools: Tools,
    /// Where everything is mounted. Outside of the namespace it is an empty folder.
    base: PathBuf,
    /// How often something was left unsynced: each time under another name.
    left: AtomicU32,
}

/// A process that does nothing but be in the namespace. It ends when its input does.
#[derive(Debug)]
struct Holder(Child);

// === impl Disk ===

impl Disk {
    /// An empty one, mounted below this folder.
    ///
    /// # Errors
    ///
    /// What the machine lacks, or does not allow.
    pub(in super::super) fn below(folder: &Path) -> Result<Self, NotRun> {
        let tools = Tools::installed();
        for program in PROGRAMS {
            tools.find(program)?;
        }
        let base = folder.join("power");
        fs::create_dir_all(&base).map_err(|error| because("the folder", &error))?;
        let disk = Self {
            holder: Holder::start(&tools)?,
            tools,
            base,
            left: AtomicU32::new(0),
        };
        disk.make()?;
        Ok(disk)
    }

    /// Where the server's folder is, for processes that [`enter`](Self::enter).
    pub(in super::super) fn at(&self) -> PathBuf {
        self.base.join("disk")
    }

    /// The program, within. It is its own process that is started, so that killing it kills it.
    pub(in super::super) fn enter(&self, program: &Path) -> Result<Command, NotRun> {
        let mut command = Command::new(self.tools.find("nsenter")?);
        command
            .args(["-t", &self.holder.0.id().to_string(), "-m", "--"])
            .arg(program);
        Ok(command)
    }

    /// Writes something that nobody syncs: see [`has_kept`](Self::has_kept). Nobody may be syncing
    /// the disk meanwhile, as that would be a sync of this as well.
    pub(super) fn leave_unsynced(&self) -> Result<(), NotRun> {
        self.left.fetch_add(1, Ordering::Relaxed);
        // From within: outside the disk is not there.
        let text = format!("printf unsynced > '{}'", self.witness().display());
        self.run("sh", ["-c", &text]).map(drop)
    }

    /// Cuts the power: copies the disk as it is at this moment. `dies` is called while nothing can
    /// become durable; the server must never get to another instruction.
    pub(super) fn cut(&self, dies: impl FnOnce()) -> Result<(), NotRun> {
        let drive = self.drive();
        self.run("fsfreeze", ["-f".into(), drive.clone()])?;
        dies();
        let copied = self.copy(&drive.join(IMAGE), &self.base.join(CUT));
        // Also where it was not copied: what is frozen could not even be unmounted.
        self.run("fsfreeze", ["-u".into(), drive])?;
        copied
    }

    /// Turns the power on again, over the copy. Whoever was on the disk must have ended.
    pub(super) fn turn_on(&self) -> Result<(), NotRun> {
        self.run("umount", [self.at()])?;
        let (cut, image) = (self.base.join(CUT), self.drive().join(IMAGE));
        self.copy(&cut, &image)?;
        self.mount(&image, &self.at(), DISK_OPTIONS)
    }

    /// Whether what was left unsynced is there all the same. Then the cut has taken nothing.
    pub(super) fn has_kept(&self) -> Result<bool, NotRun> {
        let text = format!("cat '{}' 2>/dev/null || true", self.witness().display());
        Ok(!self.run("sh", ["-c", &text])?.is_empty())
    }

    /// Copies everything to a folder outside.
    pub(super) fn copy_to(&self, folder: &Path) -> Result<(), NotRun> {
        let all = self.at().join(".");
        self.run("cp", ["-a".into(), all, folder.to_owned()])
            .map(drop)
    }

    fn make(&self) -> Result<(), NotRun> {
        let size = format!("size={MEMORY_MIB}m");
        let base = self.base.to_string_lossy().into_owned();
        self.run("mount", ["-t", "tmpfs", "-o", &size, "tmpfs", &base])?;
        let drive = self.base.join("drive.img");
        // Without a journal of its own: it only holds one file.
        self.image(&drive, DRIVE_MIB, ["-O", "^has_journal"])?;
        self.mount(&drive, &self.drive(), "loop,noatime")?;
        let image = self.drive().join(IMAGE);
        self.image(&image, DISK_MIB, ["-J", "size=4"])?;
        self.mount(&image, &self.at(), DISK_OPTIONS)
    }

    fn image(&self, file: &Path, mib: u64, options: [&str; 2]) -> Result<(), NotRun> {
        let file = file.to_string_lossy().into_owned();
        self.run("truncate", ["-s", &format!("{mib}M"), &file])?;
        let [option, value] = options;
        self.run("mkfs.ext4", ["-q", option, value, &file])?;
        Ok(())
    }

    fn mount(&self, image: &Path, at: &Path, options: &str) -> Result<(), NotRun> {
        self.run("mkdir", ["-p".into(), at.to_owned()])?;
        let (image, at) = (image.to_string_lossy(), at.to_string_lossy());
        self.run("mount", ["-t", "ext4", "-o", options, &image, &at])?;
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<(), NotRun> {
        let whole = PathBuf::from("--sparse=always");
        self.run("cp", [whole, from.to_owned(), to.to_owned()])
            .map(drop)
    }

    fn drive(&self) -> PathBuf {
        self.base.join("drive")
    }

    fn witness(&self) -> PathBuf {
        let left = self.left.load(Ordering::Relaxed);
        self.at().join(format!("unsynced-{left}"))
    }

    /// Runs a program within, and gives what it says.
    fn run<A: Into<OsString>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, NotRun> {
        let mut command = self.enter(&self.tools.find(program)?)?;
        command.args(arguments.into_iter().map(Into::into));
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|error| because(program, &error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = said.lines().map(str::trim).collect();
        Err(because(program, &lines.join("; ")))
    }
}

// === impl Holder ===

impl Holder {
    fn start(tools: &Tools) -> Result<Self, NotRun> {
        let mut child = Command::new(tools.find("unshare")?)
            .args(["--mount", "--propagation", "private"])
            .arg(tools.find("cat")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| because("unshare", &error))?;
        let mut line = String::new();
        let answers = match (&mut child.stdin, &mut child.stdout) {
            (Some(input), Some(output)) => {
                input.write_all(b"here\n").is_ok()
                    && BufReader::new(output).read_line(&mut line).is_ok()
                    && line == "here\n"
            }
            _ => false,
        };
        if answers {
            return Ok(Self(child));
        }
        let output = child.wait_with_output();
        let output = output.map_err(|error| because("unshare", &error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        Err(because("no mount namespace can be made", &said.trim()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // OK because one that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn because(what: &str, why: &dyn std::fmt::Display) -> NotRun {
    NotRun::because(format!("{what}: {why}"))
}

const PROGRAMS: [&str; 11] = [
    "cat",
    "cp",
    "fsfreeze",
    "mkdir",
    "mkfs.ext4",
    "mount",
    "nsenter",
    "sh",
    "truncate",
    "umount",
    "unshare",
];

/// The disk's image, in the drive.
const IMAGE: &str = "disk.img";

/// The copy that a cut leaves.
const CUT: &str = "cut.img";

/// Nothing becomes durable because time passes, only because somebody syncs.
const DISK_OPTIONS: &str = "loop,noatime,commit=300";

/// What there may be at most; only what is written takes room. A run of some thousand calls needs a
/// tenth of it.
const DISK_MIB: u64 = 160;
const DRIVE_MIB: u64 = 256;
const MEMORY_MIB: u64 = 768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_outlives_a_power_cut_and_what_was_not_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let disk = match Disk::below(folder.path()) {
            Ok(disk) => disk,
            Err(reason) => {
                let _ = writeln!(std::io::stderr(), "a power cut: {reason}");
                let required = std::env::var_os("ONLYONCE_REQUIRE_POWER");
                assert!(
                    required.is_none_or(|value| value != "1"),
                    "ONLYONCE_REQUIRE_POWER says that it must be run: {reason}"
                );
                return;
            }
        };
        let synced = disk.at().join("synced");
        let text = format!("printf synced > '{0}'; sync -f '{0}'", synced.display());
        disk.run("sh", ["-c", &text]).unwrap();
        disk.leave_unsynced().unwrap();
        assert!(
            disk.has_kept().unwrap(),
            "it is there as long as nothing happens"
        );
        disk.cut(|| {}).unwrap();
        disk.turn_on().unwrap();
        assert!(!disk.has_kept().unwrap());
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        disk.copy_to(&outside).unwrap();
        assert_eq!(fs::read(outside.join("synced")).unwrap(), b"synced");
        // Nobody else sees the mounts.
        assert!(!synced.exists());
    }
}
