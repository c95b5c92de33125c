//! `warren alias`: words that stand for others.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::table::{Format, show};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add an alias
    Add {
        /// The alias
        alias: String,
        /// What it stands for; @ARGS@ in it is where further words go
        target: String,
    },
    /// List aliases
    #[command(visible_alias = "ls")]
    List {
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Remove an alias
    #[command(visible_alias = "rm")]
    Remove {
        /// The alias
        alias: String,
    },
    /// Rename an alias
    #[command(visible_alias = "mv")]
    Rename {
        /// The alias
        alias: String,
        /// Its new name
        name: String,
    },
}

fn missing(alias: &str) -> Error {
    Error::Usage(format!("Alias {alias} doesn't exist"))
}

/// Runs one of them.
pub(super) fn run(client: &Client, command: Command) -> Result<(), Error> {
    let mut settings = client.settings_mut();
    let aliases = &mut settings.aliases;
    let taken = |aliases: &std::collections::BTreeMap<String, String>, alias: &str| match aliases.contains_key(alias) {
        true => Err(Error::Usage(format!("Alias {alias} already exists"))),
        false => Ok(()),
    };
    match command {
        Command::List { format } => {
            let rows: Vec<Vec<String>> =
                aliases.iter().map(|(alias, target)| vec![alias.clone(), target.clone()]).collect();
            return match format {
                Format::Json => super::output::json(&format!("{}\n", json!(aliases))),
                Format::Yaml => super::output::yaml(&json!(aliases), &[]),
                _ => show(format, &["ALIAS", "TARGET"], &rows, &[Value::Null], &[]),
            };
        }
        Command::Add { alias, target } => {
            taken(aliases, &alias)?;
            aliases.insert(alias, target);
        }
        Command::Remove { alias } => {
            aliases.remove(&alias).ok_or_else(|| missing(&alias))?;
        }
        Command::Rename { alias, name } => {
            taken(aliases, &name)?;
            let target = aliases.remove(&alias).ok_or_else(|| missing(&alias))?;
            aliases.insert(name, target);
        }
    }
    settings.save()
}
