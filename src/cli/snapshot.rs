//! `warren snapshot`, `restore`, `rename` and `publish`.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::object::{checked, path};
use super::{Error, instance, output};

/// A new snapshot.
#[derive(Debug, Args)]
pub(super) struct Snapshot {
    /// The instance
    instance: String,
    /// The snapshot
    snapshot: Option<String>,
    /// It stays, whatever the instance says
    #[arg(long)]
    no_expiry: bool,
    /// Delete one of that name first
    #[arg(long)]
    reuse: bool,
    /// With its running state
    #[arg(long)]
    stateful: bool,
}

/// What to go back to.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The instance
    instance: String,
    /// The snapshot
    snapshot: String,
    /// With its running state
    #[arg(long)]
    stateful: bool,
}

/// What becomes an image.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The instance, or a snapshot of it
    instance: String,
    /// [remote:] that the image goes to, and properties as key=value
    words: Vec<String>,
    /// Alias (repeat for more)
    #[arg(long = "alias")]
    aliases: Vec<String>,
    /// Compression: none, gzip, xz, zstd…
    #[arg(long)]
    compression: Option<String>,
    /// When it goes, as RFC 3339
    #[arg(long)]
    expire: Option<String>,
    /// Stop the instance for it
    #[arg(short, long)]
    force: bool,
    /// Anyone may read it
    #[arg(long)]
    public: bool,
}

/// `snapshot`.
pub(super) async fn take(client: &Client, new: Snapshot) -> Result<(), Error> {
    let (at, name) = client.named(&new.instance)?;
    instance::path(&name)?;
    let snapshots = path(&["instances", &name, "snapshots"]);
    let failed = |e: Error| e.doing(format!("Cannot snapshot {name}"));
    let snapshot = new.snapshot.unwrap_or_default();
    if new.reuse && !snapshot.is_empty() {
        checked("snapshot", &snapshot)?;
        match at.run(Method::DELETE, &path(&["instances", &name, "snapshots", &snapshot]), None).await {
            Ok(_) => {}
            Err(Error::Refused(refusal)) if refusal.reason.contains("not found") => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let mut body = json!({"name": snapshot, "stateful": new.stateful});
    if new.no_expiry {
        body["expires_at"] = json!("0001-01-01T00:00:00Z");
    }
    at.run(Method::POST, &snapshots, Some(&body)).await.map(drop).map_err(failed)
}

/// `restore`.
pub(super) async fn restore(client: &Client, back: Restore) -> Result<(), Error> {
    let (at, name) = client.named(&back.instance)?;
    let path = instance::path(&name)?;
    // Some write it as instance/snapshot.
    let snapshot = back.snapshot.rsplit('/').next().unwrap_or_default();
    let body = json!({"restore": snapshot, "stateful": back.stateful});
    at.put(&path, &body, "").await.map_err(|e| e.doing(format!("Cannot restore {name}")))
}

/// `rename`.
pub(super) async fn rename(client: &Client, source: &str, target: &str) -> Result<(), Error> {
    let (at, name) = client.named(source)?;
    // A remote before the new name must be the same.
    let (to, target) = client.named(target)?;
    let new = target.as_str();
    if to.remote != at.remote && source.contains(':') == target.contains(':') {
        return Err(Error::Usage(
            "Can't specify a different remote for rename\n\"warren move\" moves to another".to_owned(),
        ));
    }
    let failed = |e: Error| e.doing(format!("Cannot rename {name}"));
    let (path, new) = match (name.split_once('/'), new.split_once('/')) {
        (None, None) => {
            instance::path(new)?;
            (instance::path(&name)?, new)
        }
        (Some((instance, snapshot)), Some((same, new))) if instance == same => {
            checked("snapshot", new)?;
            (path(&["instances", instance, "snapshots", snapshot]), new)
        }
        _ => return Err(Error::Usage("Invalid new snapshot name: it stays with its instance".to_owned())),
    };
    at.run(Method::POST, &path, Some(&json!({"name": new}))).await.map(drop).map_err(failed)
}

/// `publish`.
pub(super) async fn publish(client: &Client, new: Publish) -> Result<(), Error> {
    let (at, name) = client.named(&new.instance)?;
    let (remotes, words): (Vec<String>, Vec<String>) = new.words.into_iter().partition(|word| word.ends_with(':'));
    let to = client.remote(remotes.first().map(String::as_str))?;
    if to.remote != at.remote && !remotes.is_empty() {
        return Err(Error::Usage(format!(
            "An image is made where the instance is\nPublish it there, then \"warren image copy {}:<image> {}:\"",
            at.remote, to.remote
        )));
    }
    let failed = |e: Error| e.doing(format!("Cannot publish {name}"));
    let (instance, snapshot) = name.split_once('/').map_or((name.as_str(), None), |(i, s)| (i, Some(s)));
    let path = instance::path(instance)?;
    let mut again = false;
    if snapshot.is_none() {
        let shown = at.get(&path).await.map_err(failed)?;
        if !matches!(shown["status"].as_str(), Some("Stopped")) {
            if !new.force {
                return Err(
                    failed(Error::refused("The instance is currently running")).hint("Stop it first, or add --force")
                );
            }
            let stop = json!({"action": "stop", "force": true, "timeout": -1});
            at.run(Method::PUT, &format!("{path}/state"), Some(&stop)).await.map_err(failed)?;
            again = shown["ephemeral"] != true;
        }
    }
    let mut body = json!({
        "source": {"type": if snapshot.is_some() { "snapshot" } else { "instance" }, "name": name}, "public": new.public,
        "properties": super::object::map(super::network::pairs_only(&words)?),
        "aliases": new.aliases.iter().map(|alias| json!({"name": alias})).collect::<Vec<Value>>(),
    });
    if let Some(compression) = new.compression {
        body["compression_algorithm"] = json!(compression);
    }
    if let Some(expire) = new.expire {
        body["expires_at"] = json!(expire);
    }
    let done = at.run(Method::POST, "/1.0/images", Some(&body)).await.map_err(failed);
    if again {
        let start = json!({"action": "start", "timeout": -1});
        let started = at.run(Method::PUT, &format!("{path}/state"), Some(&start)).await;
        started.map_err(|e| e.doing(format!("Cannot start {name} again")))?;
    }
    let metadata = done?.metadata.unwrap_or_default();
    let fingerprint = metadata.get("fingerprint").and_then(Value::as_str).unwrap_or_default();
    output::print(&format!("Instance published with fingerprint: {}\n", output::harmless(fingerprint)))
}
