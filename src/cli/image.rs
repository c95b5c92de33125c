//! `warren image`.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use clap::Subcommand;
use futures_util::StreamExt;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::build::{self, Build, Built};
use super::client::Client;
use super::connection::{Answer, Connection};
use super::{Error, image_list, image_more, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Import an image: one tarball, or metadata tarball and root
    Import {
        /// Tarball
        file: PathBuf,
        /// Root of a split image, and properties as key=value
        rest: Vec<String>,
        /// Alias (repeat for more)
        #[arg(long = "alias")]
        aliases: Vec<String>,
        /// Anyone may read it
        #[arg(long)]
        public: bool,
    },
    /// Build an image from a distribution's packages
    Build(Build),
    /// List images
    #[command(visible_alias = "ls")]
    List(image_list::List),
    /// Delete images by alias or fingerprint
    #[command(visible_alias = "rm")]
    Delete {
        /// The images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// The other verbs.
    #[command(flatten)]
    More(image_more::Command),
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Import { file, rest, aliases, public } => {
            let (remote, rest): (Vec<String>, Vec<String>) = rest.into_iter().partition(|word| word.ends_with(':'));
            let connection = client.remote(remote.first().map(String::as_str))?;
            import(&connection, &file, rest, &aliases, public).await
        }
        Command::List(words) => image_list::list(client, &words).await,
        Command::More(command) => image_more::run(client, command).await,
        Command::Build(what) => {
            let connection = client.remote(None)?;
            match build::build(&connection, what).await? {
                Some(built) => import_built(&connection, &built).await,
                None => Ok(()),
            }
        }
        Command::Delete { images } => {
            for image in images {
                let (connection, name) = client.named(&image)?;
                delete(&connection, &name).await.map_err(|e| {
                    e.doing(format!("Cannot delete {image}"))
                        .hint("\"warren image list\" shows the images that there are")
                })?;
            }
            Ok(())
        }
    }
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn delete(connection: &Connection, image: &str) -> Result<(), Error> {
    let fingerprint = match connection.get(&format!("/1.0/images/aliases/{}", encode(image))).await {
        Ok(alias) => alias["target"].as_str().unwrap_or_default().to_owned(),
        Err(Error::Refused(_)) => encode(image),
        Err(error) => return Err(error),
    };
    connection.run(Method::DELETE, &format!("/1.0/images/{fingerprint}"), None).await.map(drop)
}

enum Piece {
    Text(String),
    File(tokio::fs::File),
}

fn body(pieces: Vec<Piece>) -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send {
    let stream = futures_util::stream::iter(pieces).flat_map(|piece| match piece {
        Piece::Text(text) => futures_util::stream::once(std::future::ready(Ok(Frame::data(Bytes::from(text))))).boxed(),
        Piece::File(file) => futures_util::stream::unfold(file, async |mut file| {
            let mut buffer = BytesMut::with_capacity(256 * 1024);
            match file.read_buf(&mut buffer).await {
                Ok(0) => None,
                Ok(_) => Some((Ok(Frame::data(buffer.freeze())), file)),
                Err(error) => Some((Err(error), file)),
            }
        })
        .boxed(),
    });
    StreamBody::new(stream)
}

async fn open(path: &Path) -> Result<Piece, Error> {
    let failed = |error| Error::Local { doing: format!("open {}", path.display()), error };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    if file.metadata().await.map_err(failed)?.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(Piece::File(file))
}

async fn import(
    connection: &Connection,
    file: &Path,
    rest: Vec<String>,
    aliases: &[String],
    public: bool,
) -> Result<(), Error> {
    let fingerprint = upload(connection, file, rest, public).await?;
    for alias in aliases {
        let body = json!({"name": alias, "target": fingerprint});
        let added = connection.request(Method::POST, "/1.0/images/aliases", Some(&body)).await;
        added.map_err(|e| e.doing(format!("The image {fingerprint} was imported without the alias {alias}")))?;
    }
    output::print(&format!("Image imported with fingerprint: {fingerprint}\n"))
}

/// The aliases of what was built are taken from an older image.
async fn import_built(connection: &Connection, built: &Built) -> Result<(), Error> {
    let root = built.rootfs.to_string_lossy().into_owned();
    let fingerprint = upload(connection, &built.metadata, vec![root], built.public).await?;
    for alias in &built.aliases {
        give_alias(connection, "", alias, &fingerprint).await?;
    }
    output::print(&format!("Image built with fingerprint: {fingerprint}\n"))
}

/// Gives an image an alias, which may be another one's so far. `query` is that of the path, with its question mark.
pub(super) async fn give_alias(
    connection: &Connection,
    query: &str,
    alias: &str,
    fingerprint: &str,
) -> Result<(), Error> {
    let body = json!({"name": alias, "target": fingerprint});
    let path = format!("/1.0/images/aliases/{}{query}", alias.split('/').map(encode).collect::<Vec<_>>().join("/"));
    let given = match connection.get(&path).await {
        Ok(_) => connection.request(Method::PUT, &path, Some(&body)).await,
        Err(_) => connection.request(Method::POST, &format!("/1.0/images/aliases{query}"), Some(&body)).await,
    };
    given.map(drop).map_err(|e| e.doing(format!("The image {fingerprint} is there, without the alias {alias}")))
}

/// A request that brings an image, with what the headers say of it.
pub(super) fn said<'a>(properties: impl Iterator<Item = (&'a str, &'a str)>, public: bool) -> http::request::Builder {
    let properties: Vec<String> = properties.map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    Request::builder()
        .method(Method::POST)
        .uri("/1.0/images")
        .header(HOST, "warren")
        .header("X-LXD-public", if public { "1" } else { "0" })
        .header("X-LXD-properties", properties.join("&"))
}

/// Sends an image: its fingerprint.
async fn upload(connection: &Connection, file: &Path, rest: Vec<String>, public: bool) -> Result<String, Error> {
    let (properties, files): (Vec<String>, Vec<String>) = rest.into_iter().partition(|word| word.contains('='));
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let request = said(properties.iter().filter_map(|word| word.split_once('=')), public)
        .header("X-LXD-filename", encode(&name).replace("%2E", "."));
    let (content_type, pieces) = match files.as_slice() {
        [] => ("application/octet-stream".to_owned(), vec![open(file).await?]),
        [root] => {
            let boundary = format!("warren-{:x}", std::process::id());
            let part = |name: &str| {
                Piece::Text(format!(
                    "\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n"
                ))
            };
            let pieces = vec![
                part("metadata"),
                open(file).await?,
                part("rootfs"),
                open(Path::new(root)).await?,
                Piece::Text(format!("\r\n--{boundary}--\r\n")),
            ];
            (format!("multipart/form-data; boundary={boundary}"), pieces)
        }
        _ => return Err(Error::Usage("An image has one file, or two: metadata and root".to_owned())),
    };
    let request = request
        .header(CONTENT_TYPE, content_type)
        .body(body(pieces))
        .map_err(|e| Error::Usage(format!("the file's name or a property cannot be sent: {e}")))?;
    let failed = |e: Error| e.doing(format!("Cannot import {}", file.display()));
    let answer = connection.send(request).await.and_then(Answer::json).map_err(failed)?;
    let operation = connection.wait(&answer.operation).await.map_err(failed)?;
    let metadata = operation.metadata.unwrap_or_default();
    Ok(metadata.get("fingerprint").and_then(Value::as_str).unwrap_or_default().to_owned())
}
