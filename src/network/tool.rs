//! Programs that take a script: nft and tc.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Why a program did not do what the script says.
pub(super) enum Failure {
    /// It could not be run; not installed, when the error is `NotFound`.
    Spawn(io::Error),
    /// It refused; the first line of its words.
    Refused(String),
}

/// Runs `program` with the script as its input.
pub(super) fn run(program: &'static str, args: &[&str], script: &str) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Failure::Spawn)?;
    // A script is some 4 KiB and fits the pipe; when the program ends early its own words are the error, not EPIPE.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(Failure::Spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Refused(message.lines().next().unwrap_or("nothing").to_owned()))
}
