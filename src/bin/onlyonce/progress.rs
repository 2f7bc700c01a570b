//! How far a long command is: a bar on a terminal, a line a column elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use onlyonce::demo::Progress;
use parking_lot::Mutex;

use super::output;

/// On standard error.
#[derive(Default)]
pub(crate) struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.0.lock().take() {
            bar.finish_and_clear();
        }
    }

    /// So many of these begin, all named so.
    pub(crate) fn begin_of(&self, column: &str, count: u64, what: &str) {
        self.clear();
        if !std::io::stderr().is_terminal() {
            output::tell(&format!("{column}: {count} {what}\n"));
            return;
        }
        let style = ProgressStyle::with_template("{msg:>8} {wide_bar} {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(count)
            .with_style(style)
            .with_message(column.to_owned());
        *self.0.lock() = Some(bar);
    }
}

impl Progress for Bar {
    fn begin(&self, column: &str, calls: u64) {
        self.begin_of(column, calls, "calls");
    }

    fn at(&self, ended: u64) {
        if let Some(bar) = &*self.0.lock() {
            bar.set_position(ended);
        }
    }
}
