//! `warren storage volume`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::later::Anything;
use super::network::{add_device, pairs_only, post, remove_device};
use super::object::{Object, VOLUME, VOLUME_SNAPSHOT, checked, count, map, pairs, path, text};
use super::table::{Format, show, sort};
use super::{Error, output, table};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach a volume to an instance
    Attach(Attach),
    /// Attach a volume to a profile
    AttachProfile(Attach),
    /// Backups of volumes come later
    #[command(hide = true)]
    Export(Anything),
    /// Backups of volumes come later
    #[command(hide = true)]
    Import(Anything),
    /// Copy a volume
    #[command(visible_alias = "cp")]
    Copy(Copy),
    /// Create a volume
    Create {
        /// The pool
        pool: String,
        /// The volume
        volume: String,
        /// key=value
        #[arg(value_name = "KEY=VALUE")]
        pairs: Vec<String>,
        /// filesystem or block
        #[arg(long = "type", default_value = "filesystem")]
        kind: String,
    },
    /// Delete a volume or a snapshot of one
    #[command(visible_alias = "rm")]
    Delete(Place),
    /// Detach a volume from an instance
    Detach(Detach),
    /// Detach a volume from a profile
    DetachProfile(Detach),
    /// Edit a volume as YAML
    Edit(Place),
    /// Show a value
    Get {
        #[command(flatten)]
        place: Place,
        /// The key
        key: String,
    },
    /// Show how a volume is now
    Info(Place),
    /// List volumes
    #[command(visible_alias = "ls")]
    List {
        /// The pool
        pool: String,
        /// Only these: key=value
        filter: Vec<String>,
        /// Of all projects
        #[arg(long)]
        all_projects: bool,
        /// Columns: e project, t type, n name, d description, c content type, u used by, U usage, L location
        #[arg(short, long, default_value = "etndcuL")]
        columns: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Move a volume
    #[command(visible_alias = "mv")]
    Move(Copy),
    /// Rename a volume or a snapshot of one
    Rename {
        #[command(flatten)]
        place: Place,
        /// Its new name
        name: String,
    },
    /// Put a volume back to what a snapshot has
    Restore {
        #[command(flatten)]
        place: Place,
        /// The snapshot
        snapshot: String,
    },
    /// Set values
    Set {
        #[command(flatten)]
        place: Place,
        /// key=value, or key and value
        #[arg(required = true, allow_hyphen_values = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Show a volume
    Show(Place),
    /// Snapshot a volume
    Snapshot {
        #[command(flatten)]
        place: Place,
        /// The snapshot
        snapshot: Option<String>,
        /// It stays, whatever the volume says
        #[arg(long)]
        no_expiry: bool,
        /// Delete one of that name first
        #[arg(long)]
        reuse: bool,
    },
    /// Remove a value
    Unset {
        #[command(flatten)]
        place: Place,
        /// The key
        key: String,
    },
}

/// A volume of a pool.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The pool
    pool: String,
    /// The volume; [type/]volume[/snapshot]
    volume: String,
}

/// What is attached where.
#[derive(Debug, clap::Args)]
pub(super) struct Attach {
    #[command(flatten)]
    place: Place,
    /// The instance or profile
    owner: String,
    /// Name of the device, then where it is mounted; one word with a slash at its beginning is where
    words: Vec<String>,
}

/// What is detached from where.
#[derive(Debug, clap::Args)]
pub(super) struct Detach {
    #[command(flatten)]
    place: Place,
    /// The instance or profile
    owner: String,
    /// Name of the device
    device: Option<String>,
}

/// What becomes of which volume.
#[derive(Debug, clap::Args)]
pub(super) struct Copy {
    /// [remote:]pool/volume[/snapshot]
    source: String,
    /// [remote:]pool/volume
    target: String,
    /// Without its snapshots
    #[arg(long)]
    volume_only: bool,
    /// Only what has changed
    #[arg(long)]
    refresh: bool,
    /// pull, push or relay
    #[arg(long, default_value = "pull")]
    mode: String,
    /// Project of the new one
    #[arg(long)]
    target_project: Option<String>,
    /// Member of a cluster: there are none here
    #[arg(long, hide = true)]
    destination_target: Option<String>,
}

/// Kind, name and snapshot of a volume.
fn parts(word: &str) -> Result<(&str, &str, Option<&str>), Error> {
    let (kind, rest) = match word.split_once('/') {
        Some((kind @ ("custom" | "container" | "virtual-machine" | "image"), rest)) => (kind, rest),
        _ => ("custom", word),
    };
    let (volume, snapshot) = match rest.split_once('/') {
        Some((volume, snapshot)) => (volume, Some(snapshot)),
        None => (rest, None),
    };
    checked("storage volume", volume)?;
    snapshot.map_or(Ok(()), |snapshot| checked("snapshot", snapshot))?;
    Ok((kind, volume, snapshot))
}

fn object<'a>(at: &'a Connection, pool: &str, word: &str) -> Result<Object<'a>, Error> {
    let (kind, volume, snapshot) = parts(word)?;
    let what = format!("storage volume {word}");
    Ok(match snapshot {
        None => Object { at, path: path(&["storage-pools", pool, "volumes", kind, volume]), what, kind: &VOLUME },
        Some(snapshot) => {
            let path = path(&["storage-pools", pool, "volumes", kind, volume, "snapshots", snapshot]);
            Object { at, path, what, kind: &VOLUME_SNAPSHOT }
        }
    })
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let (pool, volume) = match &command {
        Command::Export { .. } | Command::Import { .. } => {
            return Err(Error::absent(
                "backups of volumes yet",
                "They come in a later version; \"warren storage volume snapshot\" and \"warren storage volume copy\" keep what a volume has",
            ));
        }
        Command::Copy(words) => return copy(client, words, false).await,
        Command::Move(words) => return copy(client, words, true).await,
        Command::List { pool, filter, all_projects, columns, format } => {
            let (at, pool) = client.named(pool)?;
            return list(&at, &pool, filter, *all_projects, columns, *format).await;
        }
        Command::Create { pool, volume, .. } => (pool, volume),
        Command::Attach(Attach { place, .. })
        | Command::AttachProfile(Attach { place, .. })
        | Command::Detach(Detach { place, .. })
        | Command::DetachProfile(Detach { place, .. })
        | Command::Delete(place)
        | Command::Edit(place)
        | Command::Get { place, .. }
        | Command::Info(place)
        | Command::Rename { place, .. }
        | Command::Restore { place, .. }
        | Command::Set { place, .. }
        | Command::Show(place)
        | Command::Snapshot { place, .. }
        | Command::Unset { place, .. } => (&place.pool, &place.volume),
    };
    let (at, pool) = client.named(pool)?;
    checked("storage pool", &pool)?;
    let object = object(&at, &pool, volume)?;
    let (_, name, _) = parts(volume)?;
    match &command {
        Command::Create { pairs: words, kind, .. } => {
            let body = json!({
                "name": name, "type": "custom", "content_type": kind, "config": map(pairs_only(words)?),
            });
            post(&at, &path(&["storage-pools", &pool, "volumes", "custom"]), &object.what, &body).await?;
            client.say(&format!("Storage volume {volume} created"))
        }
        Command::Delete(_) => {
            object.delete().await?;
            client.say(&format!("Storage volume {volume} deleted"))
        }
        Command::Edit(_) => object.edit().await,
        Command::Get { key, .. } => object.get_known(key).await,
        Command::Set { pairs: words, .. } => object.set(pairs(words)?).await,
        Command::Show(_) => object.show().await,
        Command::Unset { key, .. } => object.unset(key).await,
        Command::Info(_) => info(&object).await,
        Command::Rename { name: new, .. } => {
            let new = new.rsplit('/').next().unwrap_or_default();
            object.rename(new).await?;
            client.say(&format!("Renamed storage volume from \"{volume}\" to \"{new}\""))
        }
        Command::Restore { snapshot, .. } => {
            let body = json!({"restore": snapshot});
            let failed = |e: Error| e.doing(format!("Cannot restore {}", object.what));
            at.put(&object.path, &body, "").await.map_err(failed)
        }
        Command::Snapshot { snapshot, no_expiry, reuse, .. } => {
            take(&object, snapshot.as_deref().unwrap_or_default(), *no_expiry, *reuse).await
        }
        Command::Attach(words) => attach(&at, &pool, name, words, false).await,
        Command::AttachProfile(words) => attach(&at, &pool, name, words, true).await,
        Command::Detach(words) => detach(&at, &pool, name, words, false).await,
        Command::DetachProfile(words) => detach(&at, &pool, name, words, true).await,
        Command::Copy(_)
        | Command::Move(_)
        | Command::List { .. }
        | Command::Export { .. }
        | Command::Import { .. } => Ok(()),
    }
}

async fn attach(at: &Connection, pool: &str, volume: &str, words: &Attach, of_profile: bool) -> Result<(), Error> {
    let (device, place) = match words.words.as_slice() {
        [] => (volume, None),
        [place] if place.starts_with('/') => (volume, Some(place)),
        [device] => (device.as_str(), None),
        [device, place] => (device.as_str(), Some(place)),
        _ => return Err(Error::Usage("After the device's name comes only where it is mounted".to_owned())),
    };
    let mut disk = json!({"type": "disk", "pool": pool, "source": volume});
    if let Some(place) = place {
        disk["path"] = json!(place);
    }
    add_device(at, &words.owner, of_profile, device, disk).await
}

async fn detach(at: &Connection, pool: &str, volume: &str, words: &Detach, of_profile: bool) -> Result<(), Error> {
    let fits = |device: &Value| device["type"] == "disk" && device["pool"] == pool && device["source"] == volume;
    remove_device(at, &words.owner, of_profile, words.device.as_deref(), fits).await
}

async fn take(volume: &Object<'_>, name: &str, no_expiry: bool, reuse: bool) -> Result<(), Error> {
    let all = format!("{}/snapshots", volume.path);
    let failed = |e: Error| e.doing(format!("Cannot snapshot {}", volume.what));
    if reuse && !name.is_empty() {
        checked("snapshot", name)?;
        match volume.at.run(Method::DELETE, &format!("{all}/{name}"), None).await {
            Ok(_) => {}
            Err(Error::Refused(refusal)) if refusal.reason.contains("not found") => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let mut body = json!({"name": name});
    if no_expiry {
        body["expires_at"] = json!("0001-01-01T00:00:00Z");
    }
    volume.at.run(Method::POST, &all, Some(&body)).await.map(drop).map_err(failed)
}

async fn info(volume: &Object<'_>) -> Result<(), Error> {
    let value = volume.value().await?;
    let mut out = format!(
        "Name: {}\nType: {}\nContent type: {}\n",
        text(&value, "name"),
        text(&value, "type"),
        text(&value, "content_type")
    );
    if !text(&value, "description").is_empty() {
        out = format!("{out}Description: {}\n", text(&value, "description"));
    }
    // Where it cannot be told this fails, as with the stock client.
    let state = volume.at.get(&format!("{}/state", volume.path)).await?;
    if let Some(used) = state["usage"]["used"].as_u64() {
        out.push_str(&format!("Usage: {}\n", output::bytes_as_text(used)));
    }
    let snapshots = volume.at.get(&format!("{}/snapshots?recursion=1", volume.path)).await?;
    let snapshots = snapshots.as_array().cloned().unwrap_or_default();
    if !snapshots.is_empty() {
        let row = |snapshot: &Value| {
            let name = text(snapshot, "name");
            let name = name.rsplit('/').next().unwrap_or_default().to_owned();
            vec![name, text(snapshot, "description"), output::time_as_text(&text(snapshot, "expires_at"))]
        };
        let rows: Vec<Vec<String>> = snapshots.iter().map(row).collect();
        out.push_str(&format!("\nSnapshots:\n{}", table::drawn(&["NAME", "DESCRIPTION", "EXPIRES AT"], &rows, true)));
    }
    output::print(&output::harmless(&out))
}

async fn list(
    at: &Connection,
    pool: &str,
    filter: &[String],
    all_projects: bool,
    columns: &str,
    format: Format,
) -> Result<(), Error> {
    let mut query = "?recursion=1".to_owned();
    if all_projects {
        query.push_str("&all-projects=true");
    }
    let value = at.get(&format!("{}{query}", path(&["storage-pools", pool, "volumes"]))).await;
    let value = value.map_err(|e| e.doing(format!("Cannot list the volumes of {pool}")))?;
    let mut objects = value.as_array().cloned().unwrap_or_default();
    objects.retain(|volume| filter.iter().all(|word| fits(volume, word)));
    let default = columns == "etndcuL";
    let shown: Vec<char> =
        columns.chars().filter(|c| *c != ',' && (!default || (*c != 'L' && (*c != 'e' || all_projects)))).collect();
    let mut headers = Vec::new();
    for column in &shown {
        headers.push(match column {
            'e' => "PROJECT",
            't' => "TYPE",
            'n' => "NAME",
            'd' => "DESCRIPTION",
            'c' => "CONTENT-TYPE",
            'u' => "USED BY",
            'U' => "USAGE",
            'L' => "LOCATION",
            other => return Err(Error::Usage(format!("Unknown column shorthand char '{other}' in '{columns}'"))),
        });
    }
    let mut rows = Vec::new();
    for volume in &objects {
        let mut row = Vec::new();
        for column in &shown {
            row.push(match column {
                'e' => text(volume, "project"),
                't' if text(volume, "name").contains('/') => format!("{} (snapshot)", text(volume, "type")),
                't' => text(volume, "type"),
                'n' => text(volume, "name"),
                'd' => text(volume, "description"),
                'c' => text(volume, "content_type"),
                'u' => count(volume, "used_by"),
                'U' => usage(at, pool, volume).await,
                _ => text(volume, "location"),
            });
        }
        rows.push((text(volume, "type"), text(volume, "name"), row));
    }
    rows.sort();
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(|(_, _, row)| row).collect();
    if !default {
        sort(&mut rows);
    }
    show(format, &headers, &rows, &objects, VOLUME.order)
}

fn fits(volume: &Value, word: &str) -> bool {
    match word.split_once('=') {
        Some((key, wanted)) => text(volume, key) == wanted || text(&volume["config"], key) == wanted,
        None => text(volume, "name").starts_with(word),
    }
}

async fn usage(at: &Connection, pool: &str, volume: &Value) -> String {
    let (kind, name) = (text(volume, "type"), text(volume, "name"));
    if name.contains('/') {
        return String::new();
    }
    let path = path(&["storage-pools", pool, "volumes", &kind, &name, "state"]);
    let state = at.get(&path).await.ok();
    state.and_then(|state| state["usage"]["used"].as_u64()).map(output::bytes_as_text).unwrap_or_default()
}

async fn copy(client: &Client, words: &Copy, moved: bool) -> Result<(), Error> {
    Client::without_members(words.destination_target.as_deref())?;
    let (from, source) = client.named(&words.source)?;
    let (to, target) = client.named(&words.target)?;
    let pool = |word: &str| {
        let (pool, volume) =
            word.split_once('/').ok_or_else(|| Error::Usage(format!("{word:?} is not pool/volume")))?;
        Ok((pool.to_owned(), volume.to_owned()))
    };
    let ((source_pool, volume), (target_pool, new)) = (pool(&source)?, pool(&target)?);
    checked("storage volume", &new)?;
    let what = format!("storage volume {volume}");
    let failed = |e: Error| e.doing(format!("Cannot {} {what}", if moved { "move" } else { "copy" }));
    if from.remote != to.remote {
        return Err(Error::absent(
            "copies of volumes from server to server",
            "That comes later; attach each to an instance, and \"warren file pull -r\" and \"push -r\" take the files over",
        ));
    }
    if moved {
        let mut body = json!({"name": new, "pool": target_pool});
        if let Some(project) = &words.target_project {
            body["project"] = json!(project);
        }
        let object = object(&from, &source_pool, &volume)?;
        if source_pool == target_pool {
            body = json!({"name": new, "project": words.target_project.clone().unwrap_or_default()});
        }
        from.run(Method::POST, &object.path, Some(&body)).await.map_err(failed)?;
        return client.say("Storage volume moved successfully!");
    }
    let project = words.target_project.as_ref().map(|project| format!("?project={project}")).unwrap_or_default();
    let mut body = json!({
        "name": new, "type": "custom",
        "source": {
            "type": "copy", "name": volume, "pool": source_pool, "volume_only": words.volume_only, "refresh": words.refresh,
            "project": if from.project.is_empty() { "default" } else { &from.project },
        },
    });
    if words.target_project.is_none() {
        body["source"].as_object_mut().and_then(|source| source.remove("project"));
    }
    let all = path(&["storage-pools", &target_pool, "volumes", "custom"]);
    to.run(Method::POST, &format!("{all}{project}"), Some(&body)).await.map_err(failed)?;
    client.say("Storage volume copied successfully!")
}
