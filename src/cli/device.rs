//! Devices of instances and of profiles.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::object::{INSTANCE, Object, PROFILE, map, pairs, path};
use super::{Error, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a device
    Add {
        /// The instance or profile
        owner: String,
        /// Its name there
        device: String,
        /// Its type
        kind: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a value of a device
    Get {
        /// The instance or profile
        owner: String,
        /// The device
        device: String,
        /// The key
        key: String,
    },
    /// List devices
    #[command(visible_alias = "ls")]
    List {
        /// The instance or profile
        owner: String,
    },
    /// Give a device of the profiles values of its own
    Override {
        /// The instance
        owner: String,
        /// The device
        device: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Remove devices
    #[command(visible_alias = "rm")]
    Remove {
        /// The instance or profile
        owner: String,
        /// The devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Set values of a device
    Set {
        /// The instance or profile
        owner: String,
        /// The device
        device: String,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show all of the devices
    Show {
        /// The instance or profile
        owner: String,
    },
    /// Remove a value of a device
    Unset {
        /// The instance or profile
        owner: String,
        /// The device
        device: String,
        /// The key
        key: String,
    },
}

fn missing() -> Error {
    Error::Usage("Device doesn't exist".to_owned())
}

/// The device that is there, to change it. One of a profile says how it can be.
fn own<'a>(value: &'a mut Value, device: &str, inherited: bool) -> Result<&'a mut Value, Error> {
    if value["devices"].get(device).is_none() {
        return Err(if inherited {
            Error::Usage(
                "Device from profile(s) cannot be modified for individual instance. Override device or modify profile instead"
                    .to_owned(),
            )
        } else {
            missing()
        });
    }
    Ok(&mut value["devices"][device])
}

/// Runs one of them, for instances or for profiles.
pub(super) async fn run(client: &Client, command: Command, of_profile: bool) -> Result<(), Error> {
    let owner = match &command {
        Command::Add { owner, .. }
        | Command::Get { owner, .. }
        | Command::List { owner }
        | Command::Override { owner, .. }
        | Command::Remove { owner, .. }
        | Command::Set { owner, .. }
        | Command::Show { owner }
        | Command::Unset { owner, .. } => owner,
    };
    let (at, name) = client.named(owner)?;
    let (collection, kind, word) =
        if of_profile { ("profiles", &PROFILE, "profile") } else { ("instances", &INSTANCE, "instance") };
    super::object::checked(word, &name)?;
    let object = Object { at: &at, path: path(&[collection, &name]), what: format!("{word} {name}"), kind };
    let value = object.value().await?;
    let inherited = |device: &str| value["expanded_devices"].get(device).is_some();
    match command {
        Command::List { .. } => {
            let names: Vec<&str> =
                value["devices"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            output::print(&format!("{}\n", names.join("\n")))
        }
        Command::Show { .. } => {
            let devices = Value::Object(value["devices"].as_object().cloned().unwrap_or_default());
            // What is empty is a map all the same.
            let shown = if devices == json!({}) { "{}\n".to_owned() } else { super::yaml::by_name(&devices) };
            output::print(&shown)
        }
        Command::Get { device, key, .. } => {
            // An instance's device may come from its profiles.
            let mut known = value["devices"].get(&device);
            known = known.or_else(|| value["expanded_devices"].get(&device));
            let text = known.ok_or_else(missing)?[&key].as_str().unwrap_or_default();
            output::print(&format!("{text}\n"))
        }
        Command::Add { device, kind, pairs: words, .. } => {
            let mut new = map(pairs(&words)?);
            new["type"] = json!(kind);
            object
                .update(|value| {
                    if value["devices"].get(&device).is_some() {
                        return Err(Error::Usage("The device already exists".to_owned()));
                    }
                    value["devices"][&device] = new;
                    Ok(())
                })
                .await?;
            client.say(&format!("Device {device} added to {name}"))
        }
        Command::Override { device, pairs: words, .. } => {
            let pairs = pairs(&words)?;
            let inherited = value["expanded_devices"].get(&device).filter(|device| device.is_object()).cloned();
            object
                .update(|value| {
                    if value["devices"].get(&device).is_some() {
                        return Err(Error::Usage("The device already exists".to_owned()));
                    }
                    let mut new =
                        inherited.ok_or_else(|| Error::Usage("The profile device doesn't exist".to_owned()))?;
                    for (key, text) in pairs {
                        new[key] = json!(text);
                    }
                    value["devices"][&device] = new;
                    Ok(())
                })
                .await?;
            client.say(&format!("Device {device} overridden for {name}"))
        }
        Command::Remove { devices, .. } => {
            object
                .update(|value| {
                    for device in &devices {
                        let there = value["devices"].as_object_mut().and_then(|all| all.remove(device)).is_some();
                        if !there && inherited(device) {
                            return Err(Error::Usage("Device from profile(s) cannot be removed from individual instance. Override device or modify profile instead".to_owned()));
                        }
                        if !there {
                            return Err(missing());
                        }
                    }
                    Ok(())
                })
                .await?;
            let several = if devices.len() == 1 { "Device" } else { "Devices" };
            client.say(&format!("{several} {} removed from {name}", devices.join(", ")))
        }
        Command::Set { device, pairs: words, .. } => {
            let pairs = pairs(&words)?;
            object
                .update(|value| {
                    let device = own(value, &device, inherited(&device))?;
                    for (key, text) in pairs {
                        device[key] = json!(text);
                    }
                    Ok(())
                })
                .await
        }
        Command::Unset { device, key, .. } => {
            object
                .update(|value| {
                    if let Some(device) = own(value, &device, inherited(&device))?.as_object_mut() {
                        device.remove(&key);
                    }
                    Ok(())
                })
                .await
        }
    }
}
