//! Stamps the revision into the program; nothing else.

use std::process::Command;

fn main() {
    // A file that is not there would have everything built anew each time; in a worktree it lies elsewhere.
    println!("cargo:rerun-if-changed={}", git(&["--git-path", "HEAD"]).as_deref().unwrap_or("build.rs"));
    println!("cargo:rustc-env=WARREN_REVISION={}", git(&["--short=12", "HEAD"]).unwrap_or_default());
}

/// What git rev-parse(1) says; `None` where this is no checkout.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("rev-parse").args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
