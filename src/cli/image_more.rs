//! `warren image`: what is done with images that are there.

use std::path::PathBuf;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::image_copy::{Copy, copy};
use super::image_export::{export, fetch};
use super::image_list::{images, size};
use super::image_source::fingerprint;
use super::network::post;
use super::object::{self, IMAGE, Object, path, text};
use super::output::time_as_text;
use super::table::{Format, show as show_table, sort};
use super::{Error, output, simplestreams};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Manage aliases
    Alias {
        #[command(subcommand)]
        command: Alias,
    },
    /// Copy an image to another server
    #[command(visible_alias = "cp")]
    Copy(Copy),
    /// Edit what is known of an image as YAML
    Edit {
        /// The image
        image: String,
    },
    /// Write an image to files
    Export {
        /// The image
        image: String,
        /// Directory, or the file's name without its ending
        target: Option<PathBuf>,
        /// A virtual machine's: there are none here
        #[arg(long, hide = true)]
        vm: bool,
    },
    /// Show a property
    GetProperty {
        /// The image
        image: String,
        /// The property
        key: String,
    },
    /// Show an image for people to read
    Info {
        /// The image
        image: String,
        /// A virtual machine's: there are none here
        #[arg(long, hide = true)]
        vm: bool,
    },
    /// Fetch images anew from where they came
    Refresh {
        /// The images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Set a property
    SetProperty {
        /// The image
        image: String,
        /// The property
        key: String,
        /// Its value
        value: String,
    },
    /// Show what is known of an image
    Show {
        /// The image
        image: String,
        /// A virtual machine's: there are none here
        #[arg(long, hide = true)]
        vm: bool,
    },
    /// Remove a property
    UnsetProperty {
        /// The image
        image: String,
        /// The property
        key: String,
    },
}

/// Verbs for aliases.
#[derive(Debug, Subcommand)]
pub(super) enum Alias {
    /// Give an image an alias
    Create {
        /// The alias
        alias: String,
        /// The image's fingerprint
        fingerprint: String,
    },
    /// Delete an alias
    #[command(visible_alias = "rm")]
    Delete {
        /// The alias
        alias: String,
    },
    /// List aliases
    #[command(visible_alias = "ls")]
    List {
        /// [remote:], then beginnings of aliases or fingerprints
        filter: Vec<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
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

async fn object<'a>(at: &'a Connection, name: &str) -> Result<Object<'a>, Error> {
    let fingerprint = fingerprint(at, name).await?;
    Ok(Object { at, path: path(&["images", &fingerprint]), what: format!("image {name}"), kind: &IMAGE })
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let word = match &command {
        Command::Copy(Copy { vm: true, .. })
        | Command::Export { vm: true, .. }
        | Command::Info { vm: true, .. }
        | Command::Show { vm: true, .. } => {
            return Err(Error::absent("virtual machines", "Images are those of containers, and --vm is of no use"));
        }
        Command::Alias { command } => return alias(client, command).await,
        Command::Copy(words) => return copy(client, words).await,
        Command::Refresh { images } => {
            for word in images {
                let (at, name) = client.named(word)?;
                let object = object(&at, &name).await?;
                let failed = |e: Error| e.doing(format!("Cannot refresh {name}"));
                let done = at.run(Method::POST, &format!("{}/refresh", object.path), None).await.map_err(failed)?;
                let changed = done.metadata.is_some_and(|told| told.get("refreshed") == Some(&json!(true)));
                client.say(if changed { "Image refreshed successfully!" } else { "Image already up to date." })?;
            }
            return Ok(());
        }
        Command::Edit { image }
        | Command::Export { image, .. }
        | Command::GetProperty { image, .. }
        | Command::Info { image, .. }
        | Command::SetProperty { image, .. }
        | Command::Show { image, .. }
        | Command::UnsetProperty { image, .. } => image,
    };
    let foreign = {
        let settings = client.settings();
        let (remote, name) = settings.split(word);
        let is_foreign =
            settings.remote(remote)?.is_simplestreams() && (word.contains(':') || !client.globals.force_local);
        is_foreign.then(|| (remote.to_owned(), name.to_owned()))
    };
    if let Some((remote, name)) = foreign {
        return of_image_server(client, &remote, &name, &command).await;
    }
    let (at, name) = client.named(word)?;
    let object = object(&at, &name).await?;
    match command {
        Command::Edit { .. } => object.edit().await,
        Command::Export { target, .. } => export(client, &object, target.as_deref()).await,
        Command::Info { .. } => output::print(&output::harmless(&describe(&object.value().await?))),
        Command::Show { .. } => show(&object.value().await?),
        Command::GetProperty { key, .. } => property(&object.value().await?, &key),
        Command::SetProperty { key, value: new, .. } => {
            object
                .update(|value| {
                    value["properties"][key] = json!(new);
                    Ok(())
                })
                .await
        }
        Command::UnsetProperty { key, .. } => {
            object
                .update(|value| {
                    // One that is not there is gone already.
                    if let Some(properties) = value["properties"].as_object_mut() {
                        properties.remove(&key);
                    }
                    Ok(())
                })
                .await
        }
        Command::Alias { .. } | Command::Copy(_) | Command::Refresh { .. } => Ok(()),
    }
}

async fn alias(client: &Client, command: &Alias) -> Result<(), Error> {
    match command {
        Alias::Create { alias, fingerprint } => {
            let (at, name) = client.named(alias)?;
            let body = json!({"name": name, "target": fingerprint.rsplit(':').next()});
            post(&at, "/1.0/images/aliases", &format!("alias {name}"), &body).await
        }
        Alias::Delete { alias } => {
            let (at, name) = client.named(alias)?;
            let failed = |e: Error| e.doing(format!("Cannot delete alias {name}"));
            at.run(Method::DELETE, &path(&["images", "aliases", &name]), None).await.map(drop).map_err(failed)
        }
        Alias::Rename { alias, name } => {
            let (at, old) = client.named(alias)?;
            let body = json!({"name": name});
            let done = at.run(Method::POST, &path(&["images", "aliases", &old]), Some(&body)).await;
            done.map(drop).map_err(|e| e.doing(format!("Cannot rename alias {old}")))
        }
        Alias::List { filter, format } => {
            let (remote, words) = client.filtered(filter);
            let headers = ["ALIAS", "FINGERPRINT", "TYPE", "DESCRIPTION"];
            let order = ["name", "description", "target", "type"];
            let wanted = |alias: &Value| {
                let is =
                    |word: &String| text(alias, "name").starts_with(word) || text(alias, "target").starts_with(word);
                words.iter().all(is)
            };
            let row = |alias: &Value| {
                let target = text(alias, "target").chars().take(12).collect();
                vec![text(alias, "name"), target, text(alias, "type").to_uppercase(), text(alias, "description")]
            };
            if client.settings().remote(&remote)?.is_simplestreams() {
                let mut aliases: Vec<Value> = images(client, &remote).await?.iter().flat_map(named).collect();
                aliases.retain(wanted);
                let mut rows: Vec<Vec<String>> = aliases.iter().map(row).collect();
                sort(&mut rows);
                return show_table(*format, &headers, &rows, &aliases, &order);
            }
            let at = client.connection(&remote)?;
            object::list_of(&at, "/1.0/images/aliases?recursion=1", *format, &headers, &order, wanted, row).await
        }
    }
}

fn show(image: &Value) -> Result<(), Error> {
    let fields = IMAGE.writable.iter().map(|field| ((*field).to_owned(), image[*field].clone()));
    output::yaml(&Value::Object(fields.collect()), IMAGE.order)
}

fn property(image: &Value, key: &str) -> Result<(), Error> {
    let property = image["properties"][key].as_str();
    let property = property.ok_or_else(|| Error::Usage("Property not found".to_owned()))?;
    output::print(&format!("{property}\n"))
}

/// The aliases of an image as objects of their own.
fn named(image: &Value) -> Vec<Value> {
    let alias = |alias: &Value| json!({"name": alias["name"], "description": "", "target": image["fingerprint"], "type": image["type"]});
    image["aliases"].as_array().into_iter().flatten().map(alias).collect()
}

/// What can be asked of a server that only shows its images.
async fn of_image_server(client: &Client, remote: &str, name: &str, command: &Command) -> Result<(), Error> {
    let found = async || simplestreams::find(client, remote, name).await;
    match command {
        Command::Export { target, .. } => fetch(client, &found().await?, target.as_deref()).await,
        Command::Info { .. } => output::print(&output::harmless(&describe(&found().await?.image))),
        Command::Show { .. } => show(&found().await?.image),
        Command::GetProperty { key, .. } => property(&found().await?.image, key),
        _ => Err(Error::Usage(format!(
            "{remote}: is an image server, whose images are only its own to change\n\"warren image copy {remote}:{name} local:\" makes one of yours"
        ))),
    }
}

fn describe(image: &Value) -> String {
    let yes = |flag: bool, yes: &str, no: &str| if flag { yes.to_owned() } else { no.to_owned() };
    let time = |key: &str| {
        let shown = time_as_text(&text(image, key));
        if shown.is_empty() { "never".to_owned() } else { shown }
    };
    let mut out = format!(
        "Fingerprint: {}\nSize: {}\nArchitecture: {}\nType: {}\nPublic: {}\nTimestamps:\n",
        text(image, "fingerprint"),
        size(image),
        text(image, "architecture"),
        text(image, "type"),
        yes(image["public"] == true, "yes", "no"),
    );
    if time("created_at") != "never" {
        out.push_str(&format!("    Created: {}\n", time("created_at")));
    }
    out.push_str(&format!(
        "    Uploaded: {}\n    Expires: {}\n    Last used: {}\nProperties:\n",
        time("uploaded_at"),
        time("expires_at"),
        time("last_used_at")
    ));
    for (key, value) in image["properties"].as_object().into_iter().flatten() {
        out.push_str(&format!("    {key}: {}\n", value.as_str().unwrap_or_default()));
    }
    out.push_str("Aliases:\n");
    for alias in image["aliases"].as_array().into_iter().flatten() {
        let description = text(alias, "description");
        let description = if description.is_empty() { description } else { format!(" ({description})") };
        out.push_str(&format!("    - {}{description}\n", text(alias, "name")));
    }
    out.push_str(&format!(
        "Cached: {}\nAuto update: {}\n",
        yes(image["cached"] == true, "yes", "no"),
        yes(image["auto_update"] == true, "enabled", "disabled"),
    ));
    if image["update_source"].is_object() {
        let source = &image["update_source"];
        out.push_str(&format!(
            "Source:\n    Server: {}\n    Protocol: {}\n    Alias: {}\n",
            text(source, "server"),
            text(source, "protocol"),
            text(source, "alias")
        ));
    }
    let profiles = image["profiles"].as_array().map(Vec::as_slice).unwrap_or_default();
    match profiles {
        [] => out.push_str("Profiles: []\n"),
        some => {
            out.push_str("Profiles:\n");
            some.iter().for_each(|name| out.push_str(&format!("    - {}\n", name.as_str().unwrap_or_default())));
        }
    }
    out
}
