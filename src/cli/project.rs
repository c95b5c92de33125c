//! `warren project`.

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::instance::pair;
use super::object::{self, Object, PROJECT, checked, count, map, pairs, path, text, yes_no};
use super::table::{Format, show, sort};
use super::{Error, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a project
    Create {
        /// The project
        name: String,
        /// Configuration key=value
        #[arg(short, long = "config", value_parser = pair)]
        config: Vec<(String, String)>,
    },
    /// Delete a project
    #[command(visible_alias = "rm")]
    Delete {
        /// The project
        name: String,
    },
    /// Edit a project as YAML
    Edit {
        /// The project
        name: String,
    },
    /// Show a value
    Get {
        /// The project
        name: String,
        /// The key
        key: String,
    },
    /// Show what is used of its limits
    Info {
        /// The project
        name: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// List projects
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Rename a project
    #[command(visible_alias = "mv")]
    Rename {
        /// The project
        name: String,
        /// Its new name
        new: String,
    },
    /// Set values
    Set {
        /// The project
        name: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a project
    Show {
        /// The project
        name: String,
    },
    /// Work in a project from now on
    Switch {
        /// The project
        name: String,
    },
    /// Remove a value
    Unset {
        /// The project
        name: String,
        /// The key
        key: String,
    },
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match &command {
        Command::List { remote, format } => return list(client, remote.as_deref(), *format).await,
        Command::Create { name, .. }
        | Command::Delete { name }
        | Command::Edit { name }
        | Command::Get { name, .. }
        | Command::Info { name, .. }
        | Command::Rename { name, .. }
        | Command::Set { name, .. }
        | Command::Show { name }
        | Command::Switch { name }
        | Command::Unset { name, .. } => name,
    };
    let (at, name) = client.named(word)?;
    checked("project", &name)?;
    let what = format!("project {name}");
    let object = Object { at: &at, path: path(&["projects", &name]), what: what.clone(), kind: &PROJECT };
    match command {
        Command::Create { config, .. } => {
            object::create(&at, "/1.0/projects", &what, json!({"name": name, "config": map(config)})).await?;
            client.say(&format!("Project {name} created"))
        }
        Command::Delete { .. } => {
            object.delete().await?;
            // Nobody can work in it any more.
            let mut settings = client.settings_mut();
            if let Some(remote) = settings.remotes.get_mut(&at.remote).filter(|remote| remote.project == name) {
                remote.project = String::new();
                settings.save()?;
            }
            client.say(&format!("Project {name} deleted"))
        }
        Command::Rename { new, .. } => {
            object.rename(&new).await?;
            client.say(&format!("Project {name} renamed to {new}"))
        }
        Command::Switch { .. } => {
            object.value().await?;
            let mut settings = client.settings_mut();
            if let Some(remote) = settings.remotes.get_mut(&at.remote) {
                remote.project = name;
            }
            settings.save()
        }
        Command::Info { format, .. } => info(&object, format).await,
        Command::Edit { .. } => object.edit().await,
        Command::Get { key, .. } => object.get(&key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(&words)?).await,
        Command::Show { .. } => object.show().await,
        Command::Unset { key, .. } => object.unset(&key).await,
        Command::List { .. } => Ok(()),
    }
}

async fn list(client: &Client, remote: Option<&str>, format: Format) -> Result<(), Error> {
    let at = client.remote(remote)?;
    let current = if at.project.is_empty() { "default" } else { &at.project };
    let headers = ["NAME", "IMAGES", "PROFILES", "STORAGE VOLUMES", "NETWORKS", "DESCRIPTION", "USED BY"];
    object::list(&at, "/1.0/projects?recursion=1", format, &headers, PROJECT.order, |project| {
        let name = text(project, "name");
        let feature = |key: &str| yes_no(project["config"][format!("features.{key}")] == "true");
        let shown = if name == current { format!("{name} (current)") } else { name };
        let features = ["images", "profiles", "storage.volumes", "networks"].map(feature);
        [shown].into_iter().chain(features).chain([text(project, "description"), count(project, "used_by")]).collect()
    })
    .await
}

async fn info(project: &Object<'_>, format: Format) -> Result<(), Error> {
    let path = format!("{}/state", project.path);
    let state = project.at.get(&path).await.map_err(|e| e.doing(format!("Cannot read {}", project.what)))?;
    let resources = state["resources"].as_object().cloned().unwrap_or_default();
    let mut rows: Vec<Vec<String>> = resources
        .iter()
        .map(|(name, resource)| {
            let amount = |key: &str| {
                let amount = resource[key].as_i64().unwrap_or_default();
                match u64::try_from(amount) {
                    Err(_) => "UNLIMITED".to_owned(),
                    Ok(bytes) if matches!(name.as_str(), "memory" | "disk") => output::bytes_as_text(bytes),
                    Ok(number) => number.to_string(),
                }
            };
            vec![name.to_uppercase(), amount("Limit"), amount("Usage")]
        })
        .collect();
    sort(&mut rows);
    match format {
        Format::Json => output::json(&format!("{state}\n")),
        Format::Yaml => output::yaml(&state, &[]),
        _ => show(format, &["RESOURCE", "LIMIT", "USAGE"], &rows, &[], &[]),
    }
}
