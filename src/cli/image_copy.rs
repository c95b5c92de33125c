//! `warren image copy`: to another server, or to another project.
//!
//! ```text
//!         source          this client         target
//! pull      ◀──────── the target fetches ────────┤
//! push      ├──────── the source sends ─────────▶    (the target has made a place for it: a token)
//! relay     ├────────────▶ (through) ───────────▶
//! ```

use clap::{Args, ValueEnum};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::Empty;
use serde_json::{Value, json};

use super::Error;
use super::client::Client;
use super::connection::{Answer, Connection};
use super::image::{give_alias, said};
use super::image_source::{self, away, fingerprint};
use super::object::{path, text};

/// Who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The target fetches from the source
    Pull,
    /// The source sends to the target
    Push,
    /// Through this client, where neither reaches the other
    Relay,
}

/// What goes where.
#[derive(Debug, Args)]
pub(super) struct Copy {
    /// [remote:]image
    image: String,
    /// remote:
    target: String,
    /// Alias of the copy (repeat for more)
    #[arg(long = "alias")]
    aliases: Vec<String>,
    /// With the aliases that it has
    #[arg(long)]
    copy_aliases: bool,
    /// Keep it up to date
    #[arg(long)]
    auto_update: bool,
    /// Anyone may read it
    #[arg(long)]
    public: bool,
    /// Who sends it
    #[arg(long, value_enum, default_value_t = Mode::Pull)]
    mode: Mode,
    /// Project of the copy
    #[arg(long)]
    target_project: Option<String>,
    /// A virtual machine's: there are none here
    #[arg(long, hide = true)]
    pub(super) vm: bool,
}

impl Copy {
    /// What the paths of requests to the target end with.
    fn query(&self) -> String {
        self.target_project.as_ref().map(|project| format!("?project={project}")).unwrap_or_default()
    }

    /// The path for a request to the target about its images.
    fn images(&self) -> String {
        format!("/1.0/images{}", self.query())
    }
}

/// Copies one.
pub(super) async fn copy(client: &Client, words: &Copy) -> Result<(), Error> {
    let to = client.remote(Some(&words.target))?;
    let from = client.settings().split(&words.image).0.to_owned();
    if from == to.remote && words.target_project.is_none() {
        return Err(Error::Usage("The source and target servers must be different".to_owned()));
    }
    let failed = |e: Error| e.doing(format!("Cannot copy {}", words.image));
    match words.mode {
        Mode::Pull => pull(client, words, &from, &to).await.map_err(failed)?,
        Mode::Push | Mode::Relay => {
            if words.auto_update {
                return Err(Error::Usage(
                    "--auto-update follows the server that it was fetched from: --mode pull".to_owned(),
                ));
            }
            if client.settings().remote(&from)?.is_simplestreams() {
                return Err(Error::Usage(format!(
                    "{from}: is an image server, from which others only fetch: --mode pull"
                )));
            }
            let (at, name) = client.named(&words.image)?;
            let image = at.get(&path(&["images", &fingerprint(&at, &name).await?])).await?;
            match words.mode {
                Mode::Relay => relay(words, &at, &to, &image).await.map_err(failed)?,
                Mode::Pull | Mode::Push => push(client, words, &at, &to, &image).await.map_err(failed)?,
            }
            for alias in aliases(words, &image) {
                give_alias(&to, &words.query(), &alias, &text(&image, "fingerprint")).await?;
            }
        }
    }
    client.say("Image copied successfully!")
}

/// Those of the copy.
fn aliases(words: &Copy, image: &Value) -> Vec<String> {
    let own = image["aliases"].as_array().filter(|_| words.copy_aliases).into_iter().flatten();
    words.aliases.iter().cloned().chain(own.map(|alias| text(alias, "name"))).collect()
}

async fn pull(client: &Client, words: &Copy, from: &str, to: &Connection) -> Result<(), Error> {
    let mut source = image_source::of(client, &words.image, to).await?;
    if from == to.remote {
        source["project"] = json!(if to.project.is_empty() { "default" } else { &to.project });
    }
    let mut image = Value::Null;
    if words.copy_aliases && !client.settings().remote(from)?.is_simplestreams() {
        let at = client.connection(from)?;
        let name = client.settings().split(&words.image).1.to_owned();
        image = at.get(&path(&["images", &fingerprint(&at, &name).await?])).await?;
    }
    let aliases: Vec<Value> = aliases(words, &image).into_iter().map(|name| json!({"name": name})).collect();
    let body = json!({
        "source": source, "public": words.public, "auto_update": words.auto_update, "aliases": aliases,
    });
    to.run(Method::POST, &words.images(), Some(&body)).await.map(drop)
}

async fn push(client: &Client, words: &Copy, from: &Connection, to: &Connection, image: &Value) -> Result<(), Error> {
    let target = away(client, to).await?;
    let fingerprint = text(image, "fingerprint");
    let place = json!({
        "source": {"mode": "push", "fingerprint": fingerprint}, "properties": image["properties"],
        "public": words.public, "expires_at": image["expires_at"],
    });
    let answer = to.request(Method::POST, &words.images(), Some(&place)).await?;
    let project = match &words.target_project {
        Some(project) => project,
        None if to.project.is_empty() => "default",
        None => &to.project,
    };
    let order = json!({
        "target": target["server"], "secret": answer.metadata["metadata"]["secret"],
        "certificate": target["certificate"], "project": project,
    });
    let sent = from.run(Method::POST, &path(&["images", &fingerprint, "export"]), Some(&order)).await.map(drop);
    // One that was used is over already.
    let _ = to.request(Method::DELETE, &answer.operation, None).await;
    sent
}

async fn relay(words: &Copy, from: &Connection, to: &Connection, image: &Value) -> Result<(), Error> {
    let wrong = |e: http::Error| Error::Usage(format!("The image cannot be sent: {e}"));
    let fingerprint = text(image, "fingerprint");
    let request = Request::builder().uri(path(&["images", &fingerprint, "export"])).body(Empty::<bytes::Bytes>::new());
    let response = from.begin(request.map_err(wrong)?).await?;
    if !response.status().is_success() {
        let refused = from.read(response).await.err();
        return Err(refused.unwrap_or_else(|| Error::refused("The server refuses")));
    }
    let (head, body) = response.into_parts();
    let mut request = said(
        image["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))),
        words.public,
    )
    .uri(words.images())
    .header("X-LXD-fingerprint", &fingerprint);
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        if let Some(value) = head.headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let answer = to.send(request.body(body).map_err(wrong)?).await.and_then(Answer::json)?;
    to.wait(&answer.operation).await?;
    Ok(())
}
