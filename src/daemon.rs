//! Composition: build, adopt, serve, shut down.

use std::process::ExitCode;

/// Runs the daemon or one of its verbs.
pub fn main(_arguments: Vec<String>) -> ExitCode {
    ExitCode::SUCCESS
}
