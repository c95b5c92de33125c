//! The verbs, and what the words of the command line mean.

use std::collections::BTreeMap;

use clap::{CommandFactory, Parser, Subcommand};

use super::client::{Client, Globals};
use super::later::{Anything, Later};
use super::{
    Error, alias, completion, config, console, copy, exec, file, image, info, instance, list, monitor, network,
    operation, profile, project, query, remote, snapshot, storage, top, warning,
};

/// Runs and manages system containers.
#[derive(Debug, Parser)]
#[command(name = "warren", version, args_override_self = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an instance from an image and start it
    Launch(instance::Create),
    /// Create an instance from an image
    #[command(visible_alias = "create")]
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
    /// Delete instances and snapshots
    #[command(visible_alias = "rm")]
    Delete(instance::Delete),
    /// Copy instances
    #[command(visible_alias = "cp")]
    Copy(copy::Copy),
    /// Move instances, to another name, pool, project or server
    #[command(visible_alias = "mv")]
    Move(copy::Copy),
    /// Rename instances and snapshots
    Rename {
        /// The instance, or a snapshot of it
        source: String,
        /// Its new name
        target: String,
    },
    /// Snapshot instances
    Snapshot(snapshot::Snapshot),
    /// Put instances back to what a snapshot has
    Restore(snapshot::Restore),
    /// Make an image of an instance
    Publish(snapshot::Publish),
    /// Attach to the console of an instance
    Console(console::Console),
    /// Show the server or an instance
    Info(info::Info),
    /// Show the versions of client and server
    Version {
        /// [remote:]
        remote: Option<String>,
    },
    /// Manage words that stand for others
    Alias {
        #[command(subcommand)]
        command: Later<alias::Command>,
    },
    /// Manage the configuration of instances and of the server
    Config {
        #[command(subcommand)]
        command: Later<config::Command>,
    },
    /// Manage profiles
    Profile {
        #[command(subcommand)]
        command: Later<profile::Command>,
    },
    /// Manage projects
    Project {
        #[command(subcommand)]
        command: Later<project::Command>,
    },
    /// Manage networks
    Network {
        #[command(subcommand)]
        command: Later<network::Command>,
    },
    /// Manage storage pools and volumes
    Storage {
        #[command(subcommand)]
        command: Later<storage::Command>,
    },
    /// Show and cancel operations
    Operation {
        #[command(subcommand)]
        command: Later<operation::Command>,
    },
    /// Manage warnings
    Warning {
        #[command(subcommand)]
        command: Later<warning::Command>,
    },
    /// Clusters: there are none here
    #[command(hide = true)]
    Cluster(Anything),
    /// Backups of instances come later
    #[command(hide = true)]
    Export(Anything),
    /// Backups of instances come later
    #[command(hide = true)]
    Import(Anything),
    /// Manage files in instances
    File {
        #[command(subcommand)]
        command: Later<file::Command>,
    },
    /// Show what happens on a server
    Monitor(monitor::Monitor),
    /// Show what running instances use, anew each moment
    Top(top::Top),
    /// Print the completion script of a shell
    Completion(completion::Completion),
    /// Print names that the shell can complete
    #[command(hide = true)]
    CompletionNames(completion::Names),
    /// Write man pages to a directory
    Manpage(completion::Manpage),
    /// Manage images
    Image {
        #[command(subcommand)]
        command: Later<image::Command>,
    },
    /// Manage the servers that this client knows
    Remote {
        #[command(subcommand)]
        command: Later<remote::Command>,
    },
    /// Send a raw request
    Query(query::Query),
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Launch(create) => instance::create(client, create, true).await,
        Command::Init(create) => instance::create(client, create, false).await,
        Command::List(list) => list::list(client, &list).await,
        Command::Start(names) => instance::start(client, &names).await,
        Command::Stop(stop) => instance::stop(client, &stop, "stop").await,
        Command::Restart(stop) => instance::stop(client, &stop, "restart").await,
        Command::Pause(names) => instance::pause(client, &names).await,
        Command::Delete(delete) => instance::delete(client, &delete).await,
        Command::Console(console) => console::run(client, console).await,
        Command::Info(info) => info::run(client, info).await,
        Command::Version { remote } => info::version(client, remote.as_deref()).await,
        Command::Alias { command: Later(command) } => alias::run(client, command),
        Command::Config { command: Later(command) } => config::run(client, command).await,
        Command::Profile { command: Later(command) } => profile::run(client, command).await,
        Command::Project { command: Later(command) } => project::run(client, command).await,
        Command::Copy(words) => copy::copy(client, words).await,
        Command::Move(words) => copy::moved(client, words).await,
        Command::Rename { source, target } => snapshot::rename(client, &source, &target).await,
        Command::Snapshot(new) => snapshot::take(client, new).await,
        Command::Restore(back) => snapshot::restore(client, back).await,
        Command::Publish(new) => snapshot::publish(client, new).await,
        Command::Network { command: Later(command) } => network::run(client, command).await,
        Command::Storage { command: Later(command) } => storage::run(client, command).await,
        Command::Operation { command: Later(command) } => operation::run(client, command).await,
        Command::Warning { command: Later(command) } => warning::run(client, command).await,
        Command::Cluster { .. } => {
            Err(Error::absent("clusters", "Each host stands for itself: \"warren remote add\" makes another one known"))
        }
        Command::Export { .. } | Command::Import { .. } => Err(Error::absent(
            "backups of instances yet",
            "They come in a later version; \"warren snapshot\" and \"warren publish\" keep what an instance has",
        )),
        Command::File { command: Later(command) } => file::run(client, command).await,
        Command::Monitor(monitor) => monitor::run(client, monitor).await,
        Command::Top(top) => top::run(client, top).await,
        Command::Completion(words) => completion::completion(&words),
        Command::CompletionNames(words) => completion::names(client, &words).await,
        Command::Manpage(words) => completion::manpage(&words),
        Command::Image { command: Later(command) } => image::run(client, command).await,
        Command::Remote { command: Later(command) } => remote::run(client, command).await,
        Command::Query(query) => query::run(client, query).await,
        // These run beside this, with signals of their own.
        Command::Exec(_) | Command::Shell { .. } => Ok(()),
    }
}

/// Replaces an alias by the words that it stands for. `@ARGS@` among them is where the rest goes, else it follows.
pub(super) fn expanded(words: Vec<String>, aliases: &BTreeMap<String, String>) -> Result<Vec<String>, clap::Error> {
    let Some((program, rest)) = words.split_first() else { return Ok(words) };
    // An alias may have several words: the longest that fits.
    let fits = |alias: &str| {
        let parts: Vec<&str> = alias.split_whitespace().collect();
        (rest.len() >= parts.len() && !parts.is_empty() && rest.iter().zip(&parts).all(|(word, part)| word == part))
            .then_some(parts.len())
    };
    let found =
        aliases.iter().filter_map(|(alias, target)| Some((fits(alias)?, target))).max_by_key(|(length, _)| *length);
    let Some((length, target)) = found else { return Ok(words) };
    let target = split(target).map_err(|reason| {
        Arguments::command().error(clap::error::ErrorKind::InvalidValue, format!("the alias {target:?}: {reason}"))
    })?;
    let arguments = &rest[length..];
    let mut all = vec![program.clone()];
    let mut placed = false;
    for word in target {
        if word == "@ARGS@" {
            placed = true;
            all.extend_from_slice(arguments);
        } else {
            all.push(word);
        }
    }
    if !placed {
        all.extend_from_slice(arguments);
    }
    Ok(all)
}

/// Splits words as a shell would, without anything else that a shell does.
fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().push(letters.next().ok_or("it ends with a backslash")?),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote has no end");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verbs_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn families_that_are_described_later_say_what_they_are_for() {
        let mut all = Arguments::command();
        all.build();
        for family in all.get_subcommands().filter(|family| family.has_subcommands()) {
            let about = family.get_about().unwrap().to_string();
            assert!(about != "The verbs" && !about.is_empty(), "{}: {about}", family.get_name());
        }
    }

    #[test]
    fn aliases_are_replaced() {
        let aliases = [("ll", "list -c n"), ("sh", "exec @ARGS@ -- su -l"), ("image ll", "image list -f 'c s v'")];
        let aliases = aliases.map(|(alias, target)| (alias.to_owned(), target.to_owned())).into();
        let of = |words: &str| expanded(words.split(' ').map(str::to_owned).collect(), &aliases).unwrap().join(" ");
        assert_eq!(of("w ll -f csv"), "w list -c n -f csv");
        assert_eq!(of("w sh c1"), "w exec c1 -- su -l");
        assert_eq!(of("w image ll x"), "w image list -f c s v x");
        assert_eq!(of("w list ll"), "w list ll");
        assert!(split("a 'b").is_err() && split("a\\").is_err());
        assert_eq!(split("a '' \"b\\\" c\"").unwrap(), ["a", "", "b\" c"]);
    }
}
