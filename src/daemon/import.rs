//! `import --check`: what of an LXD's state could be taken over, and what would differ. Nothing is changed.
//!
//! ```text
//!  LXD runs ──> its API ────────┐
//!  it does not ──> a copy of its database ──> Found ──> judged by the rules of our own objects ──> lines
//! ```
//! Where LXD keeps what was found by looking at the state that LXD 5.0.2 writes.

mod api;
mod database;
mod found;
mod judge;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

/// Whose state, and what to do with it.
#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// Only say what could be taken over and what would differ
    #[arg(long)]
    check: bool,
    /// The state directory of LXD
    #[arg(default_value = "/var/lib/lxd")]
    directory: PathBuf,
}

pub(super) async fn run(arguments: &ImportArguments) -> Result<(), String> {
    if !arguments.check {
        return Err("nothing can be taken over yet: --check says what could be".to_owned());
    }
    let directory = &arguments.directory;
    let shown = directory.display();
    let directory = directory.canonicalize().map_err(|e| format!("cannot read {shown}: {e}"))?;
    let database = directory.join("database/global");
    if !database.is_dir() {
        return Err(format!("{shown} is not the state directory of an LXD: it has no database/global"));
    }
    let found =
        if is_open(&database) { api::read(&directory.join("unix.socket")).await? } else { database::read(&directory)? };
    let text = report::text(&shown.to_string(), &found);
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| format!("cannot print: {e}"))
}

/// Whether a process has a file of this directory open: LXD holds its log of changes as long as it runs. Its socket
/// tells nothing: where systemd holds that, a question would start it.
fn is_open(directory: &Path) -> bool {
    let numbers =
        |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter(numbers);
    let files =
        processes.flat_map(|process| std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten());
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file.starts_with(directory))
}
