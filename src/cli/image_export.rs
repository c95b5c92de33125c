//! `warren image export`: the files of an image, from a server of either kind.

use std::path::{Path, PathBuf};
use std::time::Instant;

use http::Request;
use http_body_util::{BodyExt, Empty};
use ring::digest::{Context, SHA256};
use tokio::io::AsyncWriteExt;

use super::Error;
use super::client::Client;
use super::object::Object;
use super::progress::Progress;
use super::simplestreams::Found;
use crate::multipart;

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

/// Writes the files of an image of a server that speaks the API.
pub(super) async fn export(client: &Client, image: &Object<'_>, target: Option<&Path>) -> Result<(), Error> {
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
            let (mut file, mut done, since) = (create(&path).await?, 0, Instant::now());
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
        let (mut file, mut done, since) = (create(&path).await?, 0, Instant::now());
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

/// Writes the files of an image of an image server. What is not what the list says of it is not kept.
pub(super) async fn fetch(client: &Client, found: &Found, target: Option<&Path>) -> Result<(), Error> {
    let target = target.unwrap_or(Path::new("."));
    let mut progress = Progress::new(found.at.watched);
    for (number, file) in found.files.iter().enumerate() {
        let name = proposed(&format!("x; filename={}", file.path)).unwrap_or_else(|| format!("image{number}"));
        let path = match (target.is_dir(), number) {
            (true, _) => target.join(&name),
            (false, 0) => PathBuf::from(format!("{}{}", target.display(), ending(&name))),
            (false, _) => PathBuf::from(format!("{}.root{}", target.display(), ending(&name))),
        };
        let mut body = found.open(file).await?;
        let (mut written, mut done, since) = (create(&path).await?, 0, Instant::now());
        let mut digest = Context::new(&SHA256);
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame.map_err(|e| Error::Lost(e.to_string()))?.into_data() else { continue };
            done += chunk.len() as u64;
            digest.update(&chunk);
            write(&mut written, &path, &chunk).await?;
            progress.transferred("Exporting the image", done, file.size, since);
            if file.size.is_some_and(|size| done > size) {
                break;
            }
        }
        flush(written, &path).await?;
        if file.sha256.as_ref().is_some_and(|wanted| *wanted != hex::encode(digest.finish())) {
            // That it is there would say that it is good.
            let _ = tokio::fs::remove_file(&path).await;
            return Err(Error::Broken(format!("{}: it is not the file that the list of images names", file.path)));
        }
    }
    drop(progress);
    client.say("Image exported successfully!")
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
