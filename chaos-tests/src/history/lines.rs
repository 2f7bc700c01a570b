//! Lines of JSON, in and out.

use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::record::{RunEnd, RunHeader};

/// The longest line of a history, in bytes: a payload and an answer of a quarter of a mebibyte
/// each, in hexadecimal digits, fit.
pub const LINE_BYTES_MAX: u64 = 1 << 20;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
// Exhaustive: a file is made of these.
pub enum Line {
    /// The first one.
    Run(RunHeader),
    /// All in between.
    Event(Event),
    /// The last one.
    End(RunEnd),
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// It cannot be read or written at all.
    #[error("history cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// A line is not what it must be.
    #[error("line {line} of the history: {what}")]
    Line {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads a history line by line, and holds one line at a time.
///
/// A last line that stops in its middle, because who wrote it was killed or the disk was full, is none: the
/// history ends before it. It ends after the first error.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    line: u64,
    /// Whether `end` was read.
    ended: bool,
    over: bool,
}

// === impl Lines ===

impl<R: BufRead> Lines<R> {
    /// Reads from here, with the header as the next line.
    pub const fn new(from: R) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            line: 0,
            ended: false,
            over: false,
        }
    }

    /// The number of the line that was read last; the first one is 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.line
    }

    fn read(&mut self) -> Result<Option<Line>, HistoryError> {
        self.buffer.clear();
        let mut bounded = (&mut self.from).take(LINE_BYTES_MAX + 1);
        if bounded.read_until(b'\n', &mut self.buffer)? == 0 {
            return match self.line {
                0 => Err(self.wrong(1, "the file is empty".into())),
                _ => Ok(None),
            };
        }
        self.line += 1;
        if self.buffer.len() as u64 > LINE_BYTES_MAX {
            let what = format!("longer than {LINE_BYTES_MAX} bytes");
            return Err(self.wrong(self.line, what));
        }
        let line = match serde_json::from_slice(&self.buffer) {
            Ok(line) => line,
            Err(_) if self.line > 1 && self.buffer.last() != Some(&b'\n') => return Ok(None),
            Err(error) => return Err(self.wrong(self.line, error.to_string())),
        };
        if std::mem::replace(&mut self.ended, matches!(line, Line::End(_))) {
            return Err(self.wrong(self.line, "something comes after `end`".into()));
        }
        match (&line, self.line) {
            (Line::Run(_), 1) | (Line::Event(_) | Line::End(_), 2..) => Ok(Some(line)),
            (Line::Run(_), _) => Err(self.wrong(self.line, "a second `run`".into())),
            _ => Err(self.wrong(self.line, "the first line must be `run`".into())),
        }
    }

    fn wrong(&self, line: u64, what: String) -> HistoryError {
        HistoryError::Line { line, what }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let line = self.read().transpose();
        self.over = !matches!(line, Some(Ok(_)));
        line
    }
}
