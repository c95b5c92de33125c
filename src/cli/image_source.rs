//! Where an image is taken from: the words `[<remote>:]<image>` as a source that the server understands.

use http::Method;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::connection::Connection;
use super::object;

/// Whether this is (the beginning of) a fingerprint rather than an alias.
pub(super) fn is_fingerprint(name: &str) -> bool {
    (12..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The fingerprint of an image of a server that speaks the API: by its alias, else by (the beginning of) itself.
pub(super) async fn fingerprint(at: &Connection, name: &str) -> Result<String, Error> {
    match at.get(&object::path(&["images", "aliases", name])).await {
        Ok(alias) => Ok(alias["target"].as_str().unwrap_or_default().to_owned()),
        Err(Error::Refused(_)) => {
            let image = at.get(&object::path(&["images", name])).await.map_err(|e| {
                e.doing(format!("Cannot find the image {name}"))
                    .hint("\"warren image list\" shows the images that there are")
            })?;
            Ok(object::text(&image, "fingerprint"))
        }
        Err(error) => Err(error),
    }
}

/// The source for a request to `target`.
pub(super) async fn of(client: &Client, words: &str, target: &Connection) -> Result<Value, Error> {
    let (remote, name) = {
        let settings = client.settings();
        let (remote, name) = settings.split(words);
        let remote = if client.globals.force_local && !words.contains(':') { "local" } else { remote };
        (remote.to_owned(), name.to_owned())
    };
    // `ubuntu:` alone means its default image.
    let name = if name.is_empty() { "default".to_owned() } else { name };
    let by = if is_fingerprint(&name) { "fingerprint" } else { "alias" };
    let entry = client.settings().remote(&remote)?.clone();
    if entry.is_simplestreams() {
        return Ok(
            json!({"type": "image", "mode": "pull", "server": entry.addr, "protocol": "simplestreams", by: name}),
        );
    }
    if remote == target.remote {
        return Ok(json!({"type": "image", by: name}));
    }
    let from = client.connection(&remote)?;
    let fingerprint = fingerprint(&from, &name).await?;
    let mut source = away(client, &from).await?;
    let image = object::path(&["images", &fingerprint]);
    let is_public = from.get(&image).await?["public"] == true;
    if !is_public {
        let answer = from.request(Method::POST, &format!("{image}/secret"), None).await?;
        let metadata = &answer.metadata["metadata"];
        source["secret"] = metadata["secret"].clone();
    }
    source["type"] = json!("image");
    source["mode"] = json!("pull");
    // By its name, the copy of one that anybody may have can follow it.
    if is_public && by == "alias" {
        source["alias"] = json!(name);
    } else {
        source["fingerprint"] = json!(fingerprint);
    }
    if !from.project.is_empty() {
        source["project"] = json!(from.project);
    }
    Ok(source)
}

/// How another server reaches this one: URL, protocol and certificate.
pub(super) async fn away(client: &Client, from: &Connection) -> Result<Value, Error> {
    let info = from.get("/1.0").await?;
    let environment = &info["environment"];
    let mut url = from.url();
    if from.is_unix() {
        let addresses = environment["addresses"].as_array().cloned().unwrap_or_default();
        let Some(Value::String(address)) = addresses.into_iter().next() else {
            return Err(Error::Usage(format!(
                "{} does not listen on the network, so another server cannot fetch from it\n\"warren config set core.https_address=<address>:8443\" lets it listen",
                from.remote
            )));
        };
        url = format!("https://{address}");
    }
    let pinned = std::fs::read_to_string(client.settings().server_certificate(&from.remote)).unwrap_or_default();
    let told = object::text(environment, "certificate");
    let certificate = if told.is_empty() { pinned } else { told };
    Ok(json!({"server": url, "protocol": "lxd", "certificate": certificate}))
}
