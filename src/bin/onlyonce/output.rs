//! Standard output and standard error, which may be full or gone.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Writes what was asked for. A reader that has gone wants no more of it, which is no error; a
/// disk that is full is one.
///
/// # Errors
///
/// When it could not be written.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes what goes along with it. Where nobody can read it there is nobody to tell.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Says what went wrong, and the code to end with.
pub(crate) fn fail(code: u8, what: &(impl Display + ?Sized)) -> ExitCode {
    tell(&format!("onlyonce: {what}\n"));
    ExitCode::from(code)
}
