//! The command-line client `warren`. It speaks only REST and shares only `api::wire` and `names` with the daemon.
//!
//! Words, flags, columns and exit codes are those of the stock `lxc`, where the verb exists there.

mod alias;
mod ask;
mod build;
mod client;
mod command;
mod completion;
mod config;
mod connection;
mod console;
mod copy;
mod device;
mod editor;
mod error;
mod exec;
mod fields;
mod file;
mod file_mount;
mod image;
mod image_copy;
mod image_export;
mod image_list;
mod image_more;
mod image_source;
mod info;
mod instance;
mod later;
mod limits;
mod list;
mod monitor;
mod network;
mod network_acl;
mod network_forward;
mod object;
mod operation;
pub(crate) mod output;
mod profile;
mod progress;
mod project;
mod query;
mod remote;
mod settings;
mod simplestreams;
mod snapshot;
mod storage;
pub(crate) mod table;
mod template;
mod tls;
mod top;
mod trust;
mod volume;
mod warning;
mod words;
mod yaml;

use std::process::ExitCode;

use clap::error::ErrorKind;
use tokio::signal::unix::{Signal, SignalKind, signal};

use client::Client;
use command::Command;
use error::Error;
use later::Later;
use settings::Settings;

/// Entry of `warren`.
pub fn main() -> ExitCode {
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => return failed(&error),
    };
    // No word may change without a word about it.
    let words = match std::env::args_os().map(std::ffi::OsString::into_string).collect::<Result<Vec<_>, _>>() {
        Ok(words) => words,
        Err(word) => return failed(&Error::Usage(format!("{} is not UTF-8", word.display()))),
    };
    let words = command::expanded(words, &settings.aliases);
    let arguments = match words.and_then(|words| words::read(&words)) {
        Ok(arguments) => arguments,
        Err(error) => return refused(&error),
    };
    if let Err(error) = Client::without_members(arguments.globals.member.as_deref()) {
        return failed(&error);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::Local { doing: "start the runtime".to_owned(), error }),
    };
    let client = Client::new(arguments.globals, settings);
    let result = runtime.block_on(interruptible(&client, arguments.command));
    // A read of the terminal may still hang in a thread; nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    error.each().for_each(output::complain);
    ExitCode::from(error.code())
}

/// Words that are no command: help is an answer, all else fails with 1, as in `lxc`.
fn refused(error: &clap::Error) -> ExitCode {
    // Nothing is left to be done when this cannot be printed.
    if error.kind() == ErrorKind::DisplayVersion {
        // The bare number, as `lxc` has it: scripts take it apart.
        let _ = output::print(concat!(env!("CARGO_PKG_VERSION"), "\n"));
    } else {
        let _ = error.print();
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

/// The first signal that shall end this program. With it what was done to the terminal is undone.
async fn ending() -> Result<i32, Error> {
    let ignored = ignored();
    let listen = |number: i32| {
        // Who started it wants it to go on: nohup(1), a shell for what runs in the background.
        let is_ignored = ignored >> (number - 1) & 1 == 1;
        let listened = (!is_ignored).then(|| signal(SignalKind::from_raw(number))).transpose();
        listened.map_err(|error| Error::Local { doing: "wait for signals".to_owned(), error })
    };
    let mut interrupt = listen(libc::SIGINT)?;
    let mut terminate = listen(libc::SIGTERM)?;
    let mut hangup = listen(libc::SIGHUP)?;
    Ok(tokio::select! {
        Some(()) = heard(&mut interrupt) => libc::SIGINT,
        Some(()) = heard(&mut terminate) => libc::SIGTERM,
        Some(()) = heard(&mut hangup) => libc::SIGHUP,
        else => std::future::pending().await,
    })
}

async fn heard(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => None,
    }
}

/// The signals that this program was started to ignore, a bit for each (`SigIgn` of proc_pid_status(5)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Ctrl-C cancels the operations that are waited for. A command in an instance gets its signals itself.
async fn interruptible(client: &Client, command: Command) -> Result<u8, Error> {
    match command {
        Command::Exec(exec) => exec::exec(client, exec).await,
        // It unmounts what it has mounted.
        Command::File { command: Later(file::Command::Mount(mount)) } => {
            file_mount::run(client, mount).await.map(|()| 0)
        }
        Command::Shell { instance } => exec::exec(client, exec::Exec::shell(instance)).await,
        command => {
            tokio::select! {
                // Signals are heard before anything is begun that they must undo.
                biased;
                signal = ending() => {
                    let signal = signal?;
                    Err(Error::Interrupted { signal, cancelled: client.cancel().await })
                }
                result = command::run(client, command) => result.map(|()| 0),
            }
        }
    }
}
