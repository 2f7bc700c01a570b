//! Text as markup, and numbers as people read them.

use std::fmt::Write;

/// Text as markup: also within an attribute in double quotes. What cannot be shown is a question
/// mark, so that the file stays well-formed for every reader.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            char if char.is_control() || is_invisible(char) => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// Bytes as markup: what is printable as it is, the rest escaped, and cut where it gets long.
pub(super) fn bytes(bytes: &[u8], chars_max: usize) -> String {
    short(&bytes.escape_ascii().to_string(), chars_max)
}

/// Text as markup, cut where it gets long; the cut is shown.
pub(super) fn short(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let kept: String = chars.by_ref().take(chars_max).collect();
    match chars.next() {
        None => escaped(&kept),
        Some(_) => escaped(&kept) + "…",
    }
}

/// A count with a thin space between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A duration in the unit that people would take.
pub(super) fn duration(micros: u64) -> String {
    let mut out = String::new();
    // OK because a string takes whatever is written to it.
    let _ = match micros {
        0..1_000 => write!(out, "{micros} µs"),
        1_000..10_000 => write!(out, "{:.1} ms", micros as f64 / 1e3),
        10_000..1_000_000 => write!(out, "{} ms", micros / 1_000),
        1_000_000..120_000_000 => write!(out, "{:.1} s", micros as f64 / 1e6),
        _ => write!(out, "{:.1} min", micros as f64 / 6e7),
    };
    out
}

/// Marks that change the direction of text or hide in it: a name could lie with them.
const fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}
