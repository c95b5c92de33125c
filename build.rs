//! Stamps the revision into the program; nothing else.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    let revision = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let revision = revision.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let revision = revision.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
    println!("cargo:rustc-env=WARREN_REVISION={}", revision.trim());
}
