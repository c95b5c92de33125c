//! What the client prints.
//!
//! Nobody may be left at the other end of a pipe. That ends no command: what was asked for is still done.

use std::io::{ErrorKind, IsTerminal, Write};

use super::Error;

/// Prints a result.
pub(super) fn print(text: &str) -> Result<(), Error> {
    bytes(text.as_bytes())
}

/// Prints a result that need not be text.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Whether a reader that has gone away is the only thing that went wrong.
pub(super) fn written(result: std::io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Local { doing: "write the output".to_owned(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Tells somebody who watches what is being done; a script is told nothing.
pub(super) fn progress(text: &str) {
    if std::io::stdout().is_terminal() {
        // A terminal that is gone does not watch either.
        let _ = print(&format!("{text}\n"));
    }
}

/// Tells of an error.
pub(super) fn complain(error: &Error) {
    // Nothing is left to be told it to when this fails.
    let _ = writeln!(std::io::stderr(), "Error: {error}");
}
