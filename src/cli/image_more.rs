//! `warren image`: what is done with images that are there.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::client::Client;
use super::connection::Connection;
use super::image_copy::{Copy, copy};
use super::image_list::size;
use super::image_source::fingerprint;
use super::network::post;
use super::object::{self, IMAGE, Object, path, text};
use super::output::time_as_text;
use super::progress::Progress;
use super::table::Format;
use super::{Error, output};
use crate::multipart;

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
    let (at, name) = client.named(word)?;
    let object = object(&at, &name).await?;
    match command {
        Command::Edit { .. } => object.edit().await,
        Command::Export { target, .. } => export(client, &object, target.as_deref()).await,
        Command::Info { .. } => output::print(&output::harmless(&describe(&object.value().await?))),
        Command::Show { .. } => {
            let value = object.value().await?;
            let fields = IMAGE.writable.iter().map(|field| ((*field).to_owned(), value[*field].clone()));
            output::yaml(&Value::Object(fields.collect()), IMAGE.order)
        }
        Command::GetProperty { key, .. } => {
            let value = object.value().await?;
            let property = value["properties"][&key].as_str();
            let property = property.ok_or_else(|| Error::Usage("Property not found".to_owned()))?;
            output::print(&format!("{property}\n"))
        }
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
            let (at, words) = client.leading(filter)?;
            let headers = ["ALIAS", "FINGERPRINT", "TYPE", "DESCRIPTION"];
            let order = ["name", "description", "target", "type"];
            let wanted = |alias: &Value| {
                let is =
                    |word: &String| text(alias, "name").starts_with(word) || text(alias, "target").starts_with(word);
                words.iter().all(is)
            };
            object::list_of(&at, "/1.0/images/aliases?recursion=1", *format, &headers, &order, wanted, |alias| {
                let target = text(alias, "target").chars().take(12).collect();
                vec![text(alias, "name"), target, text(alias, "type").to_uppercase(), text(alias, "description")]
            })
            .await
        }
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

/// The name of a file that a server proposes, without any directory.
fn proposed(header: &str) -> Option<String> {
    let name = header.split(';').find_map(|part| part.trim().strip_prefix("filename="))?.trim_matches('"');
    let name = name.rsplit('/').next().filter(|name| !name.is_empty() && *name != ".." && *name != ".")?;
    Some(name.chars().filter(|c| !c.is_control()).collect())
}

/// The ending by which an image's file is known.
fn ending(name: &str) -> &str {
    [".tar.gz", ".tar.xz", ".tar.bz2", ".tar.lzma", ".tar.zst", ".squashfs", ".tar"]
        .into_iter()
        .find(|ending| name.ends_with(ending))
        .unwrap_or("")
}

async fn export(client: &Client, image: &Object<'_>, target: Option<&Path>) -> Result<(), Error> {
    let failed = |e: Error| e.doing(format!("Cannot export {}", image.what));
    let request = Request::builder().uri(format!("{}/export", image.path)).body(Empty::<bytes::Bytes>::new());
    let response = image.at.begin(request.map_err(|e| Error::Usage(e.to_string()))?).await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(failed(
            image.at.read(response).await.err().unwrap_or_else(|| Error::refused("The server refuses")),
        ));
    }
    let header =
        |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let kind = header(http::header::CONTENT_TYPE);
    let named = proposed(&header(http::header::CONTENT_DISPOSITION));
    let all = header(http::header::CONTENT_LENGTH).parse().ok();
    let fingerprint = image.path.rsplit('/').next().unwrap_or_default().to_owned();
    let target = target.unwrap_or(Path::new("."));
    let mut progress = Progress::new(image.at.watched);
    let mut body = response.into_body();
    if let Some(boundary) = kind.strip_prefix("multipart/form-data; boundary=") {
        let stream = http_body_util::BodyStream::new(body);
        let stream = futures_util::StreamExt::filter_map(stream, async |frame| match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        });
        let mut parts = multipart::parts(stream, boundary.trim_matches('"'));
        let broken = |e: multipart::Error| Error::Broken(e.to_string());
        while let Some(mut part) = parts.next_field().await.map_err(broken)? {
            let name = proposed(&format!("x; filename={}", part.file_name().unwrap_or_default())).unwrap_or_default();
            let root = part.name().is_some_and(|name| name.starts_with("rootfs"));
            let path = if target.is_dir() {
                target.join(if name.is_empty() { fingerprint.clone() } else { name })
            } else if root {
                PathBuf::from(format!("{}.root{}", target.display(), ending(&name)))
            } else {
                PathBuf::from(format!("{}{}", target.display(), ending(&name)))
            };
            let (mut file, mut done, since) = (create(&path).await?, 0, std::time::Instant::now());
            while let Some(chunk) = part.chunk().await.map_err(broken)? {
                done += chunk.len() as u64;
                write(&mut file, &path, &chunk).await?;
                progress.transferred("Exporting the image", done, all, since);
            }
            flush(file, &path).await?;
        }
    } else {
        let name = named.unwrap_or_else(|| fingerprint.clone());
        let path = if target.is_dir() {
            target.join(&name)
        } else {
            PathBuf::from(format!("{}{}", target.display(), ending(&name)))
        };
        let (mut file, mut done, since) = (create(&path).await?, 0, std::time::Instant::now());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::Lost(e.to_string()))?;
            if let Ok(chunk) = frame.into_data() {
                done += chunk.len() as u64;
                write(&mut file, &path, &chunk).await?;
                progress.transferred("Exporting the image", done, all, since);
            }
        }
        flush(file, &path).await?;
    }
    drop(progress);
    client.say("Image exported successfully!")
}

fn local(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let doing = format!("write {}", path.display());
    move |error| Error::Local { doing: doing.clone(), error }
}

async fn create(path: &Path) -> Result<tokio::fs::File, Error> {
    tokio::fs::File::create(path).await.map_err(local(path))
}

async fn write(file: &mut tokio::fs::File, path: &Path, chunk: &[u8]) -> Result<(), Error> {
    file.write_all(chunk).await.map_err(local(path))
}

async fn flush(mut file: tokio::fs::File, path: &Path) -> Result<(), Error> {
    file.flush().await.map_err(local(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_choose_the_directory() {
        assert_eq!(proposed("attachment; filename=\"../../etc/x.tar.gz\"").unwrap(), "x.tar.gz");
        assert_eq!(proposed("inline;filename=a\x1bb").unwrap(), "ab");
        assert!(proposed("attachment; filename=..").is_none() && proposed("").is_none());
        assert_eq!((ending("a.tar.xz"), ending("a"), ending("a.squashfs")), (".tar.xz", "", ".squashfs"));
    }
}
