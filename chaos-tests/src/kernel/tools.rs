//! The programs that this is done with.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::executor::NotRun;

/// Where programs are looked for.
#[derive(Clone, Debug)]
pub struct Tools {
    folders: Vec<PathBuf>,
}

// === impl Tools ===

impl Tools {
    /// On the `PATH`, and in `/usr/sbin` and `/sbin`, which an ordinary user's `PATH` often lacks.
    #[must_use]
    pub fn installed() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path)
            .filter(|folder| !folder.as_os_str().is_empty())
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        Self::within(folders)
    }

    /// In these folders only.
    pub fn within(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            folders: folders.into_iter().collect(),
        }
    }

    /// Where the program is.
    ///
    /// # Errors
    ///
    /// When it is in none of the folders.
    pub fn find(&self, program: &str) -> Result<PathBuf, NotRun> {
        let found = self.folders.iter().map(|folder| folder.join(program));
        found
            .into_iter()
            .find(|file| file.is_file())
            .ok_or_else(|| {
                let package = match program {
                    "ip" => "iproute2",
                    "nft" => "nftables",
                    "unshare" | "nsenter" => "util-linux",
                    "cat" => "coreutils",
                    other => other,
                };
                NotRun::because(format!(
                    "`{program}` is not on the PATH; the package is usually called {package}"
                ))
            })
    }
}

/// What to run: the program with its arguments, in whatever surroundings.
pub(super) fn command(words: &[OsString]) -> Command {
    // OK because nobody asks for no words at all; an empty program's name fails when it is run.
    let mut words = words.iter();
    let mut command = Command::new(words.next().cloned().unwrap_or_default());
    command.args(words);
    command
}

/// Runs it to its end with this on its standard input, and gives what it wrote.
pub(super) fn output(mut command: Command, input: &str) -> Result<String, NotRun> {
    let name = format!("{command:?}");
    let failed = |what: &dyn fmt::Display| NotRun::because(format!("{name}: {what}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // OK because a program that ended without reading says why by how it ended.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    match said.is_empty() {
        true => Err(failed(&output.status)),
        false => Err(failed(&said.join("; "))),
    }
}
