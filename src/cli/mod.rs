//! The command-line client `warren`. It speaks only REST and shares only `api::wire` and `names` with the daemon.
//!
//! Words, flags, columns and exit codes are those of the stock `lxc`, where the verb exists there.

mod connection;
mod exec;
mod image;
mod instance;
mod list;
pub(crate) mod table;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use connection::Connection;

/// Why a command failed: one line of what, perhaps one of what to do.
#[derive(Debug)]
pub(crate) enum Error {
    /// No daemon answers.
    Connect { socket: PathBuf, error: std::io::Error },
    /// The connection broke, or the answer makes no sense.
    Broken(String),
    /// The daemon refused.
    Refused(String),
    /// Something on this side.
    Local { doing: String, error: std::io::Error },
    /// The command line makes no sense.
    Usage(String),
    /// Interrupted from the keyboard.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { socket, error } => {
                writeln!(f, "Cannot reach the daemon at {}: {error}", socket.display())?;
                f.write_str(match error.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "You need to be root or in the group that warrend was given"
                    }
                    _ => "Is warrend running? Another socket is named by WARREN_SOCKET or WARREN_DIR",
                })
            }
            Self::Broken(reason) => write!(f, "The daemon's answer makes no sense: {reason}"),
            Self::Refused(message) | Self::Usage(message) => f.write_str(message),
            Self::Local { doing, error } => write!(f, "Cannot {doing}: {error}"),
            Self::Interrupted => f.write_str("Interrupted; the operation was cancelled where it can be"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs and manages system containers.
#[derive(Debug, Parser)]
#[command(name = "warren", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create an instance from an image and start it
    Launch(instance::Create),
    /// Create an instance from an image
    Init(instance::Create),
    /// List instances
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Run a command in an instance
    Exec(exec::Exec),
    /// Open a shell in an instance
    Shell {
        /// The instance
        instance: String,
    },
    /// Start instances
    Start(instance::Names),
    /// Stop instances
    Stop(instance::Stop),
    /// Restart instances
    Restart(instance::Stop),
    /// Freeze instances
    Pause(instance::Names),
    /// Delete instances
    #[command(visible_alias = "rm")]
    Delete(instance::Delete),
    /// Manage images
    Image {
        #[command(subcommand)]
        command: image::Command,
    },
    /// Show the server or an instance
    Info {
        /// The instance
        instance: Option<String>,
    },
    /// Send a raw request
    Query {
        /// Method
        #[arg(short = 'X', long = "request", default_value = "GET")]
        method: String,
        /// JSON body
        #[arg(short, long)]
        data: Option<String>,
        /// Path
        path: String,
    },
}

/// Entry of `warren`.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(arguments.command));
    // A read of the terminal may still hang in a thread; nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<u8, Error> {
    let connection = Connection::local();
    match command {
        Command::Launch(create) => instance::create(&connection, create, true).await?,
        Command::Init(create) => instance::create(&connection, create, false).await?,
        Command::List(list) => list::list(&connection, &list).await?,
        Command::Exec(exec) => return exec::exec(&connection, exec).await,
        Command::Shell { instance } => return exec::exec(&connection, exec::Exec::shell(instance)).await,
        Command::Start(names) => instance::start(&connection, &names).await?,
        Command::Stop(stop) => instance::stop(&connection, &stop, "stop").await?,
        Command::Restart(stop) => instance::stop(&connection, &stop, "restart").await?,
        Command::Pause(names) => instance::pause(&connection, &names).await?,
        Command::Delete(delete) => instance::delete(&connection, &delete).await?,
        Command::Image { command } => image::run(&connection, command).await?,
        Command::Info { instance } => info(&connection, instance).await?,
        Command::Query { method, data, path } => {
            let method = method.parse().map_err(|_| Error::Usage(format!("{method:?} is no method")))?;
            let body = match data {
                None => None,
                Some(text) => {
                    Some(serde_json::from_str(&text).map_err(|e| Error::Usage(format!("--data is no JSON: {e}")))?)
                }
            };
            let answer = connection.request(method, &path, body.as_ref()).await?;
            if !answer.metadata.is_null() {
                println!("{}", serde_json::to_string_pretty(&answer.metadata).unwrap_or_default());
            }
        }
    }
    Ok(0)
}

async fn info(connection: &Connection, instance: Option<String>) -> Result<(), Error> {
    let value = match instance {
        None => connection.get("/1.0").await?,
        Some(name) => connection.get(&format!("/1.0/instances/{name}?recursion=1")).await?,
    };
    print!("{}", serde_norway::to_string(&value).map_err(|e| Error::Broken(e.to_string()))?);
    Ok(())
}
