//! Before something is changed that cannot be changed back, and with other people's answers.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use onlyonce::storage::{ANSWER_BYTES_LIMIT, JOURNAL_BYTES_LIMIT};

use super::Failed;
use crate::{exit, output};

/// Asks on the terminal, where there is one.
pub(super) fn confirm(question: &str) -> Result<(), Failed> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let words = "nobody can be asked here: say --yes. Nothing was changed";
        return Err(Failed::new(exit::MISUSED, words));
    }
    output::tell(&format!("{question} Type yes to go on: "));
    let mut line = String::new();
    let read = io::stdin()
        .lock()
        .take(ANSWER_LINE_MAX)
        .read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" {
        return Ok(());
    }
    Err(Failed::new(exit::MISUSED, "nothing was changed"))
}

/// The answer in a file, as far as a store would record it.
pub(super) fn read_answer(path: &Path) -> Result<Vec<u8>, Failed> {
    read_at_most(path, ANSWER_BYTES_LIMIT)
}

/// The result of a step in a file, as far as a store would keep it.
pub(super) fn read_result(path: &Path) -> Result<Vec<u8>, Failed> {
    read_at_most(path, JOURNAL_BYTES_LIMIT)
}

fn read_at_most(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failed> {
    let misused = |words: String| Failed::new(exit::MISUSED, words);
    let mut content = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut content));
    read.map_err(|error| misused(format!("{} cannot be read: {error}", path.display())))?;
    if content.len() > bytes_max {
        let path = path.display();
        return Err(misused(format!(
            "{path} has more than {bytes_max} bytes, which no store records"
        )));
    }
    Ok(content)
}

/// For its owner alone.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<(), Failed> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|error| {
        let words = format!("{} cannot be written: {error}", path.display());
        Failed::new(exit::MISUSED, words)
    })
}

const ANSWER_LINE_MAX: u64 = 64;
