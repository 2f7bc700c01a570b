//! File systems of a test's own, made of images and mounted where nobody else sees them.
//!
//! A test runs its body in a process of its own, in mount and process namespaces of its own:
//! whatever way it ends, the kernel then takes away its mounts, its loop devices and its children.
//! Where that cannot be had the test says `not run: <reason>` and passes.

mod mount;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parking_lot::Mutex;

pub use self::mount::{Image, Mount};

/// What a body is given: a directory in memory that is its own.
#[derive(Debug)]
pub struct Rig {
    base: Mount,
    _folder: tempfile::TempDir,
}

/// Runs `body` in namespaces of its own. `test` is the full name of the test that calls this.
pub fn in_own_namespaces(test: &str, body: impl FnOnce(&Rig)) {
    if std::env::var_os(INSIDE).is_some() {
        match Rig::new() {
            Ok(rig) => body(&rig),
            Err(reason) => tell(&format!("not run: {reason}")),
        }
        return;
    }
    // Two at once would compete for the two cores and for the loop devices.
    let _alone = ONE_AT_A_TIME.lock();
    if let Err(reason) = run(&mut unshare(Path::new("true"))) {
        tell(&format!("{test}: not run: {reason}"));
        return;
    }
    let status = unshare(&std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed: {status}");
}

/// Says it also where the test harness keeps what a test prints to itself.
pub fn tell(line: &str) {
    // In one write, so that lines of two processes do not mix.
    let line = format!("{line}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs a command to its end; in the error, what it complained of.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, complaint.trim()))
}

// === impl Rig ===

impl Rig {
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let base = Mount::in_memory(folder.path(), BASE_MIB)?;
        let rig = Self {
            base,
            _folder: folder,
        };
        // Whether this machine has loop devices and ext4 shows only when they are used.
        let image = Image::sparse(&rig.path("probe.img"), 16, &[])?;
        drop(Mount::image(&image, &rig.path("probe"), &[])?);
        Ok(rig)
    }

    /// A path in the directory in memory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.at().join(name)
    }
}

/// `--kill-child`: nothing that a body has started outlives it.
fn unshare(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .args(["--propagation", "private"])
        .arg(program);
    command
}

const INSIDE: &str = "ONLYONCE_RIG_INSIDE";

/// A bound, not what is used: a run of the power cuts needs a third of it.
const BASE_MIB: u64 = 2_048;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
