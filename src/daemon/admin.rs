//! The administrative verbs: they talk to the running daemon over its socket.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use http::Method;

use super::local::{self, request};
use super::{activate, doctor, import, init, pages, sql};
use crate::cli::output;
use crate::state_dir::StateDir;

/// What LXD's daemon has beside running.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Set up pool, network and default profile
    Init(InitArguments),
    /// Wait until the daemon is ready
    Waitready {
        /// Seconds; 0 waits for ever
        #[arg(long, short = 't', default_value_t = 0)]
        timeout: u64,
    },
    /// Stop all containers and the daemon
    Shutdown {
        /// Seconds to wait; 0 waits for ever
        #[arg(long, short = 't', default_value_t = 0)]
        timeout: u64,
        /// Do not wait for running operations
        #[arg(long, short = 'f')]
        force: bool,
    },
    /// Start the daemon by its socket if there is work for it
    Activateifneeded,
    /// Say what of this host works for containers, and how to mend the rest
    Doctor,
    /// Show or set how much the running daemon logs
    LogLevel {
        /// error, warning, info, debug or trace
        level: Option<String>,
    },
    /// Say what of an LXD could be taken over
    Import(import::ImportArguments),
    /// Ask the database, for support
    Sql(sql::SqlArguments),
    /// Show the version
    Version,
    /// Print the completion script of a shell
    #[command(hide = true)]
    Completion {
        /// bash, zsh or fish
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages to a directory
    #[command(hide = true)]
    Manpage {
        /// The directory
        directory: PathBuf,
    },
}

/// How to set up.
#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// Ask nothing
    #[arg(long)]
    pub(super) auto: bool,
    /// Read the configuration as YAML from standard input
    #[arg(long, conflicts_with_all = ["auto", "dump"])]
    pub(super) preseed: bool,
    /// Print the configuration as YAML
    #[arg(long, conflicts_with = "auto")]
    pub(super) dump: bool,
    /// Address to listen on over HTTPS
    #[arg(long, requires = "auto")]
    pub(super) network_address: Option<String>,
    /// Port to listen on over HTTPS
    #[arg(long, requires = "auto", default_value_t = 8443)]
    pub(super) network_port: u16,
    /// Password by which clients are trusted
    #[arg(long, requires = "auto")]
    pub(super) trust_password: Option<String>,
    /// Storage driver: overlay, btrfs or dir [default: the first that works here; btrfs with a device]
    #[arg(long, requires = "auto")]
    pub(super) storage_backend: Option<String>,
    /// Make the storage pool on this block device
    #[arg(long, requires = "auto", conflicts_with = "storage_create_loop")]
    pub(super) storage_create_device: Option<String>,
    /// Make the storage pool on a file of its own, of so many GiB
    #[arg(long, requires = "auto")]
    pub(super) storage_create_loop: Option<u32>,
    /// Name of the storage pool
    #[arg(long, requires = "auto", default_value = "default")]
    pub(super) storage_pool: String,
}

/// Runs a verb.
pub(super) fn run(verb: Verb, dir: &StateDir, debug: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("Error: cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let done = match verb {
            Verb::Init(arguments) => init::run(&arguments, dir).await,
            Verb::Waitready { timeout } => wait_ready(dir, timeout).await,
            Verb::Shutdown { timeout, force } => shutdown(dir, timeout, force).await,
            Verb::Activateifneeded => activate::run(dir, debug).await,
            Verb::Doctor => return doctor::run(dir).await,
            Verb::LogLevel { level } => log_level(dir, level).await,
            Verb::Import(arguments) => import::run(&arguments).await,
            Verb::Sql(arguments) => sql::run(arguments, dir).await,
            Verb::Version => print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
            Verb::Completion { shell } => pages::completion(shell),
            Verb::Manpage { directory } => pages::manpage(&directory),
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    match result {
        Ok(code) => code,
        Err(reason) => {
            output::note(&format!("Error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a result; nobody need be left who reads it.
pub(super) fn print(text: &str) -> Result<(), String> {
    output::bytes(text.as_bytes()).map_err(|e| e.to_string())
}

/// So often the socket of a daemon that is still starting is tried.
const AGAIN: Duration = Duration::from_millis(20);

async fn wait_ready(dir: &StateDir, timeout: u64) -> Result<(), String> {
    let started = Instant::now();
    loop {
        match request(&dir.socket(), Method::GET, "/internal/ready", None).await {
            Ok(_) => return Ok(()),
            Err(error) if timeout > 0 && started.elapsed() >= Duration::from_secs(timeout) => {
                return Err(format!("the daemon is not ready after {timeout} s: {error}"));
            }
            // The socket appears without an event that could be waited for.
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn log_level(dir: &StateDir, level: Option<String>) -> Result<(), String> {
    let socket = dir.socket();
    let said = |e: local::Error| e.to_string();
    match level {
        Some(level) => {
            let body = serde_json::json!({"level": level});
            request(&socket, Method::PUT, "/internal/log-level", Some(&body)).await.map_err(said)?;
        }
        None => {
            let answer = request(&socket, Method::GET, "/internal/log-level", None).await.map_err(said)?;
            print(&format!("{}\n", answer["level"].as_str().unwrap_or_default()))?;
        }
    }
    Ok(())
}

async fn shutdown(dir: &StateDir, timeout: u64, force: bool) -> Result<(), String> {
    let socket = dir.socket();
    let work = async {
        let server = request(&socket, Method::GET, "/1.0", None).await.map_err(|e| e.to_string())?;
        let pid = server.pointer("/environment/server_pid").and_then(serde_json::Value::as_i64);
        match request(&socket, Method::PUT, &format!("/internal/shutdown?force={force}"), None).await {
            Ok(_) | Err(local::Error::Broken(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
        // A start in the same directory may follow at once: wait for the process, not only for its answer.
        if let Some(pidfd) =
            pid.and_then(|pid| i32::try_from(pid).ok()).and_then(|pid| crate::sys::process::pidfd_open(pid).ok())
            && let Ok(ended) = crate::sys::watch::watch(pidfd, tokio::io::Interest::READABLE)
        {
            let _ = ended.readable().await;
        }
        Ok(())
    };
    if timeout == 0 {
        return work.await;
    }
    match tokio::time::timeout(Duration::from_secs(timeout), work).await {
        Ok(result) => result,
        Err(_) => Err(format!("the daemon did not end within {timeout} s; its containers may still be stopping")),
    }
}
