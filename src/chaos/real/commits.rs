//! When effects happened, by the clock of the run: the books say only their order.
//!
//! The server's process notes the time of each effect in a file that it never syncs, by the clock that
//! all processes of a machine share. A time is noted before anybody can be answered, so that none is
//! later than the answer; of a transaction it is noted just before the commit. So an effect that is said
//! to come after something came after it. What a power cut takes of the file, or a kill, has no time.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// Where times are noted. Cloning it is cheap.
#[derive(Clone)]
pub(super) struct Commits {
    file: Arc<Mutex<File>>,
    began_us: u64,
}

// === impl Commits ===

impl Commits {
    /// Of a run that began at this time of [`now_us`].
    pub(super) fn open(folder: &Path, began_us: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path(folder))?;
        // A line that a killed process has not finished must not become part of the next one.
        file.write_all(b"\n")?;
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            began_us,
        })
    }

    /// The effect of this entry happens now.
    pub(super) fn note(&self, entry: u64) {
        let at_us = now_us().saturating_sub(self.began_us);
        // OK because an effect without a time is judged by its place in the order of commits.
        let _ = self
            .file
            .lock()
            .write_all(format!("{entry} {at_us}.\n").as_bytes());
    }
}

/// When the effects of which that is known happened, by their entries, in microseconds of the run.
pub(super) fn read(folder: &Path) -> io::Result<BTreeMap<u64, u64>> {
    let text = match fs::read(path(folder)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut times = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        // One that was not finished has no end.
        let whole = line.strip_suffix('.').and_then(|line| line.split_once(' '));
        if let Some((entry, at_us)) = whole
            && let (Ok(entry), Ok(at_us)) = (entry.parse(), at_us.parse())
        {
            // A transaction that was run again committed with the last one.
            times.insert(entry, at_us);
        }
    }
    Ok(times)
}

/// The time that all processes of this machine share, in microseconds.
pub(super) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    u64::try_from(micros).unwrap_or(0)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("commits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_noted_and_a_torn_line_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), BTreeMap::new());
        let began_us = now_us();
        let commits = Commits::open(folder.path(), began_us).unwrap();
        commits.note(7);
        commits.file.lock().write_all(b"8 1").unwrap();
        let commits = Commits::open(folder.path(), began_us).unwrap();
        commits.note(9);
        let passed_us = now_us() - began_us;
        let times = read(folder.path()).unwrap();
        assert_eq!(times.len(), 2, "{times:?}");
        assert!(
            times[&7] <= times[&9] && times[&9] <= passed_us,
            "{times:?}"
        );
    }
}
