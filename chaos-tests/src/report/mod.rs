//! What a campaign came to, for people and for machines.
//!
//! [`html`] makes one file that needs nothing else: no script, no font, no picture from elsewhere;
//! it is light or dark as its reader is, and can be printed. [`text`] is for terminals, [`json`]
//! for programs, [`junit`] for whoever shows test results. Whatever comes from outside (names of
//! scenarios, keys, payloads, reasons) is escaped.

mod html;
mod lanes;
mod machines;
mod markup;
mod matrix;
mod page;
mod plot;
mod terminal;

#[cfg(test)]
mod tests;

pub use html::html;
pub use machines::{json, junit};
pub use terminal::text;

/// What a report says besides the campaign itself.
#[derive(Clone, Debug, Default)]
// Exhaustive: programs build it.
pub struct Context {
    /// How the scenario is named in a command line: its name, or the path of its file, and what was
    /// said to change it.
    pub scenario: String,
    /// What the program is called, with the command: `onlyonce chaos`.
    pub program: String,
    /// What else the reader should know of this run: machine, version, date. Each is a name and a
    /// text.
    pub facts: Vec<(String, String)>,
}
