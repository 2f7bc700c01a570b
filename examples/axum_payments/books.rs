//! Where payments go: a file, a line each. It knows nothing of keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What is to be paid.
#[derive(Debug, Deserialize)]
pub struct Payment {
    pub to: String,
    pub cents: u64,
}

/// What was paid.
#[derive(Debug, Serialize)]
pub struct Receipt {
    /// The line in the books.
    pub number: u64,
    pub cents: u64,
}

/// All payments.
#[derive(Clone, Debug)]
pub struct Books(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    file: File,
    lines: u64,
}

impl Books {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let lines = std::fs::read_to_string(path)?.lines().count() as u64;
        Ok(Self(Arc::new(Mutex::new(Open { file, lines }))))
    }

    /// Pays. Called twice, it pays twice.
    pub fn pay(&self, payment: &Payment) -> io::Result<Receipt> {
        let mut books = self.0.lock();
        writeln!(books.file, "{:?} {}", payment.to, payment.cents)?;
        books.lines += 1;
        Ok(Receipt {
            number: books.lines,
            cents: payment.cents,
        })
    }

    pub fn lines(&self) -> u64 {
        self.0.lock().lines
    }
}
