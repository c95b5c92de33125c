//! `warren file`: files in instances.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use clap::{Args, Subcommand};
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Client;
use super::connection::{Answer, Connection, Later};
use super::file_mount::{self, Mount};
use super::progress::Progress;
use super::{Error, editor, instance, output};

/// So many files are on their way at once.
const AT_ONCE: usize = 8;

/// Directories in directories in a tree that is fetched: a server could go on for ever.
const DEEPEST: usize = 250;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Delete files
    #[command(visible_alias = "rm")]
    Delete {
        /// [remote:]instance/path
        #[arg(required = true)]
        files: Vec<String>,
    },
    /// Edit a file
    Edit {
        /// [remote:]instance/path
        file: String,
    },
    /// Mount an instance's files here
    Mount(Mount),
    /// Fetch files
    Pull(Pull),
    /// Send files
    Push(Push),
}

/// What comes from where.
#[derive(Debug, Args)]
pub(super) struct Pull {
    /// [remote:]instance/path…, then where to: a file, a directory, or - for stdout
    #[arg(required = true, num_args = 2..)]
    words: Vec<String>,
    /// Make the directories that are missing
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// Whole trees
    #[arg(short, long)]
    recursive: bool,
}

/// What goes where.
#[derive(Debug, Args)]
pub(super) struct Push {
    /// Files (- for stdin), then [remote:]instance/path
    #[arg(required = true, num_args = 2..)]
    words: Vec<String>,
    /// Make the directories that are missing
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// Whole trees
    #[arg(short, long)]
    recursive: bool,
    /// User that it belongs to
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    uid: i64,
    /// Group that it belongs to
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    gid: i64,
    /// Permissions, as 0644
    #[arg(long)]
    mode: Option<String>,
}

/// A place in an instance.
struct Place {
    at: std::rc::Rc<Connection>,
    instance: String,
    path: String,
}

/// Who a file belongs to, and what it is.
#[derive(Clone, Default)]
struct About {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    kind: &'static str,
}

fn place(client: &Client, word: &str) -> Result<Place, Error> {
    let (at, name) = client.named(word)?;
    let (instance, path) = name
        .split_once('/')
        .ok_or_else(|| Error::Usage(format!("Invalid path {word}: it is [remote:]instance/path")))?;
    instance::path(instance)?;
    Ok(Place { at, instance: instance.to_owned(), path: format!("/{path}") })
}

impl Place {
    /// Names are bytes: what is not UTF-8 stays as it is.
    fn url(&self, path: impl AsRef<OsStr>) -> String {
        let path = path.as_ref().as_bytes();
        let path = percent_encoding::percent_encode(path, percent_encoding::NON_ALPHANUMERIC);
        format!("/1.0/instances/{}/files?path={path}", self.instance)
    }

    fn failed(&self, doing: &str, path: impl AsRef<OsStr>) -> Box<dyn Fn(Error) -> Error> {
        let what = format!("Cannot {doing} {}{}", self.instance, path.as_ref().display());
        Box::new(move |e: Error| e.doing(what.clone()))
    }

    /// Begins to read a path: what it is, and its content.
    async fn get(&self, path: impl AsRef<OsStr>) -> Result<(HeaderMap, http::Response<hyper::body::Incoming>), Error> {
        let request = Request::builder().uri(self.url(&path)).body(Empty::<Bytes>::new());
        let request = request.map_err(|e| Error::Usage(e.to_string()))?;
        let response = self.at.begin(request).await?;
        if !response.status().is_success() {
            let refused = self.at.read(response).await.err();
            return Err(self.failed("read", path)(refused.unwrap_or_else(|| Error::refused("The server refuses"))));
        }
        Ok((response.headers().clone(), response))
    }

    async fn post<B>(&self, path: impl AsRef<OsStr>, about: &About, body: B) -> Result<(), Error>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.url(&path))
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .header("X-LXD-type", about.kind)
            .header("X-LXD-write", "overwrite");
        for (name, value) in [("X-LXD-uid", about.uid), ("X-LXD-gid", about.gid)] {
            if let Some(value) = value {
                request = request.header(name, value.to_string());
            }
        }
        if let Some(mode) = about.mode {
            // Without a zero before them digits are decimal.
            request = request.header("X-LXD-mode", format!("0{mode:o}"));
        }
        let request = request.body(body).map_err(|e| Error::Usage(e.to_string()))?;
        self.at.send(request).await.map(drop).map_err(self.failed("write", path))
    }

    async fn directory(&self, path: impl AsRef<OsStr>, about: &About) -> Result<(), Error> {
        self.post(path, &About { kind: "directory", ..about.clone() }, Empty::<Bytes>::new()).await
    }

    /// Makes the directories above a path, where they are missing.
    async fn parents(&self, path: impl AsRef<OsStr>, about: &About) -> Result<(), Error> {
        let without_mode = About { mode: None, ..about.clone() };
        let above: Vec<&Path> = Path::new(&path).ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
        for path in above.into_iter().rev() {
            if self.get(path).await.is_err() {
                self.directory(path, &without_mode).await?;
            }
        }
        Ok(())
    }

    async fn is_directory(&self, path: impl AsRef<OsStr>) -> bool {
        self.get(path).await.is_ok_and(|(headers, _)| header(&headers, "X-LXD-type") == "directory")
    }
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn about(headers: &HeaderMap) -> About {
    let mode = header(headers, "X-LXD-mode");
    About {
        uid: header(headers, "X-LXD-uid").parse().ok(),
        gid: header(headers, "X-LXD-gid").parse().ok(),
        mode: u32::from_str_radix(&mode, 8).ok().map(|mode| mode & 0o7777),
        kind: "file",
    }
}

fn local(doing: &str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let doing = format!("{doing} {}", path.display());
    move |error| Error::Local { doing: doing.clone(), error }
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Delete { files } => {
            for word in &files {
                let place = place(client, word)?;
                let done = place.at.run(Method::DELETE, &place.url(&place.path), None).await;
                done.map_err(place.failed("delete", &place.path))?;
            }
            Ok(())
        }
        Command::Edit { file } => edit(&place(client, &file)?).await,
        Command::Mount(mount) => file_mount::run(client, mount).await,
        Command::Pull(words) => pull(client, &words).await,
        Command::Push(words) => push(client, &words).await,
    }
}

async fn edit(place: &Place) -> Result<(), Error> {
    let (headers, response) = place.get(&place.path).await?;
    if header(&headers, "X-LXD-type") == "directory" {
        return Err(Error::Usage(format!("{}{} is a directory", place.instance, place.path)));
    }
    let Answer::Other(before) = place.at.read_file(response).await? else {
        return Err(Error::Broken("It is no file".to_owned()));
    };
    let ending = Path::new(&place.path).extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    let plain = ending.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    let after = match editor::piped().await? {
        Some(text) => text.into_bytes(),
        None => editor::edit(&before, if plain { &ending } else { "" }).await?,
    };
    if after == before {
        return Ok(());
    }
    place.post(&place.path, &about(&headers), Full::new(Bytes::from(after))).await
}

async fn pull(client: &Client, words: &Pull) -> Result<(), Error> {
    let Some((target, sources)) = words.words.split_last() else { return Ok(()) };
    let path = PathBuf::from(target);
    let here = |missing: &Path| std::fs::create_dir_all(missing).map_err(local("make", missing));
    let into = target.ends_with('/') || path.is_dir() || sources.len() > 1;
    if into {
        here(&path)?;
    } else if let Some(above) = path.parent().filter(|above| words.create_dirs && !above.as_os_str().is_empty()) {
        here(above)?;
    }
    for word in sources {
        let place = place(client, word)?;
        let (headers, response) = place.get(&place.path).await?;
        let name = place.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let to = if into { path.join(plain(&name)?) } else { path.clone() };
        match header(&headers, "X-LXD-type").as_str() {
            "directory" if words.recursive => {
                drop(response);
                here(&path)?;
                let to = if name.is_empty() { path.clone() } else { path.join(plain(&name)?) };
                tree_here(&place, place.path.clone(), to, 0).await?;
            }
            "directory" => {
                return Err(Error::Usage(format!("{word} is a directory\nTake all of it with --recursive")));
            }
            _ if target == "-" => {
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    if let Ok(chunk) = frame.map_err(|e| Error::Lost(e.to_string()))?.into_data() {
                        output::bytes(&chunk)?;
                    }
                }
            }
            _ => file_here(&place, &headers, response, &to).await?,
        }
    }
    Ok(())
}

/// A name of a single file, whatever a server says.
fn plain(name: &str) -> Result<&str, Error> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::Broken(format!("It names a file {name:?}")));
    }
    Ok(name)
}

/// Writes one file or link here.
async fn file_here(
    place: &Place,
    headers: &HeaderMap,
    response: http::Response<hyper::body::Incoming>,
    to: &Path,
) -> Result<(), Error> {
    if header(headers, "X-LXD-type") == "symlink" {
        let Answer::Other(target) = place.at.read_file(response).await? else { return Ok(()) };
        let target = OsString::from_vec(target.strip_suffix(b"\n").unwrap_or(&target).to_vec());
        // One that is there already gives way, as a file would.
        if to.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            std::fs::remove_file(to).map_err(local("replace", to))?;
        }
        return std::os::unix::fs::symlink(target, to).map_err(local("make", to));
    }
    let all = header(headers, "Content-Length").parse().ok();
    let mut file = tokio::fs::File::create(to).await.map_err(local("write", to))?;
    let (mut progress, mut done, since) = (Progress::new(place.at.watched), 0, Instant::now());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame.map_err(|e| Error::Lost(e.to_string()))?.into_data() {
            file.write_all(&chunk).await.map_err(local("write", to))?;
            done += chunk.len() as u64;
            progress.transferred(&format!("Pulling {}", to.display()), done, all, since);
        }
    }
    file.flush().await.map_err(local("write", to))?;
    if let Some(mode) = about(headers).mode {
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777)).await.map_err(local("write", to))?;
    }
    Ok(())
}

/// Fetches a tree, several files at once.
fn tree_here<'a>(place: &'a Place, from: String, to: PathBuf, depth: usize) -> Later<'a, Result<(), Error>> {
    Box::pin(async move {
        let (headers, response) = place.get(&from).await?;
        if header(&headers, "X-LXD-type") != "directory" {
            // A link that an earlier time left here would lead a file elsewhere.
            if to.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
                std::fs::remove_file(&to).map_err(local("replace", &to))?;
            }
            return file_here(place, &headers, response, &to).await;
        }
        if depth == DEEPEST {
            return Err(Error::Usage(format!("{from} lies more than {DEEPEST} directories deep")));
        }
        let (answer, _) = place.at.read(response).await?;
        let listed = answer.json()?.metadata;
        match std::fs::create_dir(&to) {
            // A link in its place would lead elsewhere.
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists
                    && to.symlink_metadata().is_ok_and(|m| m.is_dir()) => {}
            other => other.map_err(local("make", &to))?,
        }
        // Each once: a name that comes again could be a link the first time.
        let names: BTreeSet<&str> = listed.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut children = Vec::new();
        for name in names {
            let path = format!("{}/{}", from.trim_end_matches('/'), plain(name)?);
            children.push(tree_here(place, path, to.join(name), depth + 1));
        }
        futures_util::stream::iter(children).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    })
}

async fn push(client: &Client, words: &Push) -> Result<(), Error> {
    let Some((target, sources)) = words.words.split_last() else { return Ok(()) };
    let place = place(client, target)?;
    let mode = match words.mode.as_deref() {
        None => None,
        Some(mode) => {
            let parsed = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
            Some(parsed.ok_or_else(|| Error::Usage(format!("{mode:?} are no permissions: they are octal, as 0644")))?)
        }
    };
    let given = About { uid: u32::try_from(words.uid).ok(), gid: u32::try_from(words.gid).ok(), mode, kind: "file" };
    let base = place.path.trim_end_matches('/').to_owned();
    let into = target.ends_with('/') || sources.len() > 1 || words.recursive || place.is_directory(&place.path).await;
    for source in sources {
        let path = Path::new(source);
        if source == "-" {
            let mut bytes = Vec::new();
            tokio::io::stdin().read_to_end(&mut bytes).await.map_err(local("read", path))?;
            if words.create_dirs {
                place.parents(&base, &given).await?;
            }
            place.post(&base, &given, Full::new(Bytes::from(bytes))).await?;
            continue;
        }
        let name = path.canonicalize().map_err(local("open", path))?;
        let name = path.file_name().or(name.file_name()).unwrap_or_default();
        let to = if into { below(OsStr::new(&base), name) } else { OsString::from(&base) };
        if words.create_dirs {
            place.parents(&to, &given).await?;
        }
        match path.is_dir() {
            true if words.recursive => tree_there(&place, path, &to, &given).await?,
            true => return Err(Error::Usage(format!("{source} is a directory\nSend all of it with --recursive"))),
            false => file_there(&place, path, &to, &given).await?,
        }
    }
    Ok(())
}

/// A place in a directory of an instance.
fn below(directory: &OsStr, name: &OsStr) -> OsString {
    [directory, OsStr::new("/"), name].into_iter().collect()
}

/// What is sent of a local file: its own owner only for a tree.
fn of_local(metadata: &std::fs::Metadata, given: &About) -> About {
    About { mode: given.mode.or(Some(metadata.mode() & 0o7777)), ..given.clone() }
}

async fn file_there(place: &Place, from: &Path, to: &OsStr, given: &About) -> Result<(), Error> {
    let file = tokio::fs::File::open(from).await.map_err(local("open", from))?;
    let metadata = file.metadata().await.map_err(local("open", from))?;
    if metadata.is_dir() {
        return Err(local("open", from)(std::io::ErrorKind::IsADirectory.into()));
    }
    let what = format!("Pushing {} to {}", from.display(), to.display());
    let (progress, since, all) = (Progress::new(place.at.watched), Instant::now(), metadata.len());
    let stream = futures_util::stream::unfold((file, progress, 0), move |(mut file, mut progress, mut done)| {
        let what = what.clone();
        async move {
            let mut buffer = BytesMut::with_capacity(256 * 1024);
            match file.read_buf(&mut buffer).await {
                Ok(0) => None,
                Ok(count) => {
                    done += count as u64;
                    progress.transferred(&what, done, Some(all), since);
                    Some((Ok(Frame::data(buffer.freeze())), (file, progress, done)))
                }
                Err(error) => Some((Err(error), (file, progress, done))),
            }
        }
    });
    place.post(to, &of_local(&metadata, given), StreamBody::new(Box::pin(stream))).await
}

/// Places here, and there.
type Pairs = Vec<(PathBuf, OsString)>;

/// Everything below a directory: directories first, each after its parent, then the rest.
fn walk(from: &Path, to: &OsStr) -> Result<(Pairs, Pairs), Error> {
    let (mut directories, mut rest) = (vec![(from.to_owned(), to.to_owned())], Vec::new());
    let mut next = 0;
    while let Some((path, place)) = directories.get(next).cloned() {
        next += 1;
        for entry in std::fs::read_dir(&path).map_err(local("read", &path))? {
            let entry = entry.map_err(local("read", &path))?;
            let child = (entry.path(), below(&place, &entry.file_name()));
            // A link to a directory stays a link.
            match entry.file_type().map_err(local("read", &path))? {
                kind if kind.is_dir() => directories.push(child),
                kind if kind.is_file() || kind.is_symlink() => rest.push(child),
                _ => return Err(Error::Usage(format!("{} is neither file, directory nor link", child.0.display()))),
            }
        }
    }
    Ok((directories, rest))
}

async fn tree_there(place: &Place, from: &Path, to: &OsStr, given: &About) -> Result<(), Error> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let walked = tokio::task::spawn_blocking(move || walk(&from, &to)).await;
    let (directories, rest) = walked.map_err(|e| Error::Broken(e.to_string()))??;
    // The mode that was given is one of files.
    let of_tree = About { mode: None, ..given.clone() };
    for (path, to) in &directories {
        let metadata = std::fs::metadata(path).map_err(local("read", path))?;
        if !place.is_directory(to).await {
            place.directory(to, &of_local(&metadata, &of_tree)).await?;
        }
    }
    let send = async |(path, to): (PathBuf, OsString)| {
        if path.is_symlink() {
            let target = std::fs::read_link(&path).map_err(local("read", &path))?;
            let about = About { kind: "symlink", mode: None, ..given.clone() };
            return place.post(&to, &about, Full::new(Bytes::from(target.into_os_string().into_vec()))).await;
        }
        file_there(place, &path, &to, &of_tree).await
    };
    futures_util::stream::iter(rest.into_iter().map(send))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_names_no_places_elsewhere() {
        for bad in ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\0"] {
            assert!(plain(bad).is_err(), "{bad:?}");
        }
        assert_eq!(plain("...").unwrap(), "...");
    }
}
