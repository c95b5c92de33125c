//! Man pages and completions of `warrend`, made from its own arguments when a package is built.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Arguments;
use crate::cli::output;

/// The section of administration, man(7).
const SECTION: &str = "8";

/// Prints the script for a shell.
pub(super) fn completion(shell: Shell) -> Result<(), String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "warrend", &mut script);
    output::bytes(&script).map_err(|e| e.to_string())
}

/// Writes a page for the daemon and one for each verb.
pub(super) fn manpage(directory: &Path) -> Result<(), String> {
    let wrong = |e: io::Error| format!("cannot write to {}: {e}", directory.display());
    fs::create_dir_all(directory).map_err(wrong)?;
    let mut command = Arguments::command();
    command.build();
    let page =
        |command: &Command| Man::new(command.clone()).section(SECTION).generate_to(directory).map(drop).map_err(wrong);
    page(&command)?;
    command.get_subcommands().filter(|verb| !verb.is_hide_set()).try_for_each(page)
}
