//! The daemon. `main` chooses daemon, administrative verb, helper or hook before any thread exists.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("helper") => warren::helper::child_main(&arguments[1..]),
        Some("proxy") => warren::helper::proxy::child_main(&arguments[1..]),
        Some("pack") => warren::image::pack_main(),
        Some("userns") => warren::sys::userns::child_main(),
        Some("hook") => warren::helper::hook::main(&arguments[1..]),
        _ => warren::daemon::main(arguments),
    }
}
