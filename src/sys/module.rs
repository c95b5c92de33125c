//! Modules of the kernel.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Has the kernel load a module, unless it has it; `name` is of letters, digits, `_` and `-`. Blocking: runs modprobe(8).
///
/// # Errors
/// With what modprobe says.
pub fn load(name: &str) -> io::Result<()> {
    if Path::new("/sys/module").join(name.replace('-', "_")).exists() {
        return Ok(());
    }
    let mut command = Command::new("modprobe");
    command.args(["-b", "--", name]).stdin(Stdio::null());
    let output = command.output().map_err(|error| io::Error::new(error.kind(), format!("modprobe: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(if said.is_empty() { format!("modprobe: {}", output.status) } else { said }))
}
