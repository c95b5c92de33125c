//! The command-line client `warren`. It speaks only REST and shares only `api::wire` and `names` with the daemon.
//!
//! Words, flags, columns and exit codes are those of the stock `lxc`, where the verb exists there.

mod build;
mod connection;
mod error;
mod exec;
mod image;
mod instance;
mod list;
mod output;
mod query;
pub(crate) mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use connection::Connection;
use error::Error;

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
    Query(query::Query),
}

/// Entry of `warren`.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&Error::Local { doing: "start the runtime".to_owned(), error });
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(interruptible(arguments.command));
    // A read of the terminal may still hang in a thread; nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error.each().for_each(output::complain);
            ExitCode::from(error.code())
        }
    }
}

/// Ctrl-C cancels the operations that are waited for. A command in an instance gets its signals itself.
async fn interruptible(command: Command) -> Result<u8, Error> {
    let connection = Connection::local();
    match command {
        Command::Exec(exec) => exec::exec(&connection, exec).await,
        Command::Shell { instance } => exec::exec(&connection, exec::Exec::shell(instance)).await,
        command => {
            tokio::select! {
                result = run(&connection, command) => result.map(|()| 0),
                _ = tokio::signal::ctrl_c() => {
                    connection.cancel().await;
                    Err(Error::Interrupted)
                }
            }
        }
    }
}

async fn run(connection: &Connection, command: Command) -> Result<(), Error> {
    match command {
        Command::Launch(create) => instance::create(connection, create, true).await,
        Command::Init(create) => instance::create(connection, create, false).await,
        Command::List(list) => list::list(connection, &list).await,
        Command::Start(names) => instance::start(connection, &names).await,
        Command::Stop(stop) => instance::stop(connection, &stop, "stop").await,
        Command::Restart(stop) => instance::stop(connection, &stop, "restart").await,
        Command::Pause(names) => instance::pause(connection, &names).await,
        Command::Delete(delete) => instance::delete(connection, &delete).await,
        Command::Image { command } => image::run(connection, command).await,
        Command::Info { instance } => info(connection, instance).await,
        Command::Query(query) => query::run(connection, query).await,
        // These run beside this, with signals of their own.
        Command::Exec(_) | Command::Shell { .. } => Ok(()),
    }
}

async fn info(connection: &Connection, instance: Option<String>) -> Result<(), Error> {
    let value = match instance {
        None => connection.get("/1.0").await?,
        Some(name) => {
            let path = instance::path(&name)?;
            connection.get(&format!("{path}?recursion=1")).await.map_err(|e| e.doing(format!("Cannot show {name}")))?
        }
    };
    output::print(&serde_norway::to_string(&value).map_err(|e| Error::Broken(e.to_string()))?)
}
