//! `warren profile`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::object::{self, INSTANCE, Object, PROFILE, checked, count, pairs, path, text};
use super::table::Format;
use super::{Error, device};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a profile to an instance
    Add {
        /// The instance
        instance: String,
        /// The profile
        profile: String,
    },
    /// Set which profiles an instance has
    #[command(visible_alias = "apply")]
    Assign {
        /// The instance
        instance: String,
        /// The profiles, by commas; '' for none
        profiles: String,
    },
    /// Copy a profile
    #[command(visible_alias = "cp")]
    Copy {
        /// The profile
        source: String,
        /// The new one
        target: String,
        /// Project of the new one
        #[arg(long)]
        target_project: Option<String>,
    },
    /// Create a profile
    Create {
        /// The profile
        profile: String,
    },
    /// Delete a profile
    #[command(visible_alias = "rm")]
    Delete {
        /// The profile
        profile: String,
    },
    /// Manage devices
    Device {
        #[command(subcommand)]
        command: device::Command,
    },
    /// Edit a profile as YAML
    Edit {
        /// The profile
        profile: String,
    },
    /// Show a value
    Get {
        /// The profile
        profile: String,
        /// The key
        key: String,
    },
    /// List profiles
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Remove a profile from an instance
    Remove {
        /// The instance
        instance: String,
        /// The profile
        profile: String,
    },
    /// Rename a profile
    #[command(visible_alias = "mv")]
    Rename {
        /// The profile
        profile: String,
        /// Its new name
        name: String,
    },
    /// Set values
    Set {
        /// The profile
        profile: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a profile
    Show {
        /// The profile
        profile: String,
    },
    /// Remove a value
    Unset {
        /// The profile
        profile: String,
        /// The key
        key: String,
    },
}

fn split(profiles: &str) -> Vec<&str> {
    profiles.split(',').filter(|name| !name.is_empty()).collect()
}

/// Sets the profiles of an instance.
async fn assign(
    client: &Client,
    instance: &str,
    change: impl FnOnce(Vec<Value>, &str) -> Result<Vec<Value>, Error>,
) -> Result<String, Error> {
    let (at, name) = client.named(instance)?;
    checked("instance", &name)?;
    let what = format!("instance {name}");
    Object { at: &at, path: path(&["instances", &name]), what, kind: &INSTANCE }
        .update(|value| {
            let now = value["profiles"].as_array().cloned().unwrap_or_default();
            value["profiles"] = Value::Array(change(now, &name)?);
            Ok(())
        })
        .await?;
    Ok(name)
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Add { instance, profile } => {
            let name = assign(client, &instance, |mut now, _| {
                now.push(json!(profile));
                Ok(now)
            })
            .await?;
            return client.say(&format!("Profile {profile} added to {name}"));
        }
        Command::Assign { instance, profiles } => {
            let new = split(&profiles).into_iter().map(|name| json!(name)).collect();
            let name = assign(client, &instance, |_, _| Ok(new)).await?;
            let shown = if profiles.is_empty() { "(none)" } else { &profiles };
            return client.say(&format!("Profiles {shown} applied to {name}"));
        }
        Command::Remove { instance, profile } => {
            let name = assign(client, &instance, |mut now, name| {
                let before = now.len();
                now.retain(|other| *other != profile);
                if now.len() == before {
                    return Err(Error::Usage(format!("Profile {profile} isn't currently applied to {name}")));
                }
                Ok(now)
            })
            .await?;
            return client.say(&format!("Profile {profile} removed from {name}"));
        }
        Command::List { remote, format } => {
            let at = client.remote(remote.as_deref())?;
            let headers = ["NAME", "DESCRIPTION", "USED BY"];
            return object::list(&at, "/1.0/profiles?recursion=1", format, &headers, PROFILE.order, |profile| {
                vec![text(profile, "name"), text(profile, "description"), count(profile, "used_by")]
            })
            .await;
        }
        Command::Device { command } => return device::run(client, command, true).await,
        Command::Copy { source, target, target_project } => {
            let (from, name) = client.named(&source)?;
            let value = from
                .get(&path(&["profiles", &name]))
                .await
                .map_err(|e| e.doing(format!("Cannot read profile {name}")))?;
            let (to, new) = client.at(&target)?;
            let new = if new.is_empty() { name } else { new };
            let body = json!({
                "name": new, "config": value["config"], "devices": value["devices"], "description": value["description"],
            });
            let project = target_project.map(|project| format!("?project={project}")).unwrap_or_default();
            return object::create(&to, &format!("/1.0/profiles{project}"), &format!("profile {new}"), body).await;
        }
        _ => {}
    }
    let profile = match &command {
        Command::Create { profile }
        | Command::Delete { profile }
        | Command::Edit { profile }
        | Command::Get { profile, .. }
        | Command::Rename { profile, .. }
        | Command::Set { profile, .. }
        | Command::Show { profile }
        | Command::Unset { profile, .. } => profile,
        _ => return Ok(()),
    };
    let (at, name) = client.named(profile)?;
    checked("profile", &name)?;
    let what = format!("profile {name}");
    let object = Object { at: &at, path: path(&["profiles", &name]), what: what.clone(), kind: &PROFILE };
    match command {
        Command::Create { .. } => {
            object::create(&at, "/1.0/profiles", &what, json!({"name": name})).await?;
            client.say(&format!("Profile {name} created"))
        }
        Command::Delete { .. } => {
            object.delete().await?;
            client.say(&format!("Profile {name} deleted"))
        }
        Command::Rename { name: new, .. } => {
            object.rename(&new).await?;
            client.say(&format!("Profile {name} renamed to {new}"))
        }
        Command::Edit { .. } => object.edit().await,
        Command::Get { key, .. } => object.get(&key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(&words)?).await,
        Command::Show { .. } => object.show().await,
        Command::Unset { key, .. } => object.unset(&key).await,
        _ => Ok(()),
    }
}
