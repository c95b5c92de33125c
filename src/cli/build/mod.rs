//! `warren image build`: an image from a distribution's own packages, by mmdebstrap and mksquashfs.
//!
//! ```text
//!  mmdebstrap ── tar ──> mksquashfs ──> rootfs.squashfs ─┐
//!  recipe ── metadata.yaml, templates/ ──> metadata.tar.xz ┴──> the daemon, or a directory
//! ```
//! Packages come from where this host gets its own, unless a mirror is named. As root it is done in namespaces of mounts and
//! processes; else in a user namespace, too.

mod group;
mod place;
mod recipe;
mod sources;
mod steps;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::sync::mpsc::UnboundedReceiver;

use super::connection::Connection;
use super::{Error, output};
use crate::names::AliasName;
use group::Group;
use place::Place;
use recipe::Spec;
use steps::Progress;

/// What to build.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// Distribution, release and variant: debian/13, debian/trixie/cloud, ubuntu/24.04; without a release, this host's own
    what: String,
    /// Alias of the image (repeat for more) [default: its distribution, release and variant]; it is taken from another image
    #[arg(long = "alias")]
    aliases: Vec<String>,
    /// More packages
    #[arg(long, value_delimiter = ',')]
    packages: Vec<String>,
    /// Where packages come from [default: where this host gets its own]
    #[arg(long)]
    mirror: Option<String>,
    /// Put the files there instead of importing them
    #[arg(long)]
    output: Option<PathBuf>,
    /// Anyone may read the image
    #[arg(long)]
    public: bool,
}

/// What is built, and how it is handed over.
pub(super) struct Built {
    /// The files are in one of these directories, which go with it.
    _places: (Place, Option<Place>),
    /// The metadata.
    pub(super) metadata: PathBuf,
    /// The root.
    pub(super) rootfs: PathBuf,
    /// Names for the image.
    pub(super) aliases: Vec<String>,
    /// Anyone may read it.
    pub(super) public: bool,
}

fn failed(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let doing = doing.into();
    move |error| Error::Local { doing, error }
}

/// A program and what it belongs to.
fn installed(program: &str, package: &str) -> Result<(), Error> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Ok(());
    }
    Err(Error::Usage(format!("{program} is missing: install it, e.g. by \"apt install {package}\"")))
}

/// Builds the image. `None`: its files are where they were asked for.
pub(super) async fn build(connection: &Connection, build: Build) -> Result<Option<Built>, Error> {
    let host = sources::Host::read();
    let known = host.as_ref().map(|host| (host.id.as_str(), host.suite.as_str()));
    let spec = Spec::parse(&build.what, known).map_err(Error::Usage)?;
    for package in &build.packages {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-:".contains(&byte);
        if package.is_empty() || package.starts_with('-') || !package.bytes().all(fits) {
            return Err(Error::Usage(format!("{package:?} is no name of a package")));
        }
    }
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mksquashfs", "squashfs-tools"), ("apt-get", "apt")] {
        installed(program, package)?;
    }
    let (keyring, package) = spec.distribution.keyring();
    if !Path::new(keyring).exists() {
        let title = spec.distribution.title();
        return Err(Error::Usage(format!(
            "The keys of {title} are missing: install them, e.g. by \"apt install {package}\""
        )));
    }
    // What the daemon would refuse after minutes of work.
    for alias in &build.aliases {
        AliasName::new(alias.clone()).map_err(|error| Error::Usage(format!("--alias {alias:?}: {error}")))?;
    }
    let place = build.output.as_deref().map(output_place).transpose()?;
    // The root is made where large temporary files go; the files of the image where they are to be.
    let work = work_place()?;
    let lines = sources::lines(&spec, build.mirror.as_deref(), host.as_ref())?;
    if build.output.is_none() {
        // Minutes of work are not to be lost to a daemon that is not there.
        connection.get("/1.0").await?;
    }
    let at = place.as_ref().unwrap_or(&work).path();
    let (metadata, rootfs) = (at.join("metadata.tar.xz"), at.join("rootfs.squashfs"));
    let mut progress = Progress::new();
    root(&spec, &build.packages, keyring, &lines, (&work, &rootfs), &mut progress).await?;
    let aliases = if build.aliases.is_empty() { vec![spec.alias()] } else { build.aliases };
    let built = Built { metadata, rootfs, aliases, public: build.public, _places: (work, place) };
    progress.step("Metadata");
    write_metadata(&spec, &built.metadata)?;
    let Some(to) = build.output else { return Ok(Some(built)) };
    for file in [&built.metadata, &built.rootfs] {
        let name = file.file_name().unwrap_or_default();
        std::fs::rename(file, to.join(name)).map_err(failed(format!("write {}", to.join(name).display())))?;
    }
    progress.end();
    output::print(&format!("{0}/metadata.tar.xz {0}/rootfs.squashfs\n", to.display())).map(|()| None)
}

/// A directory beside where the files are to be.
fn output_place(output: &Path) -> Result<Place, Error> {
    if let Some(file) = output.ancestors().find(|above| above.exists()).filter(|above| !above.is_dir()) {
        let shown = file.display();
        return Err(Error::Usage(format!("--output: {shown} is a file: name a directory, which need not be there")));
    }
    std::fs::create_dir_all(output).map_err(failed(format!("create {}", output.display())))?;
    Place::make(output).map_err(failed(format!("make a directory in {}", output.display())))
}

/// A directory where large temporary files go.
fn work_place() -> Result<Place, Error> {
    let named = std::env::var_os("TMPDIR").filter(|named| !named.is_empty());
    let parent = named.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    // mmdebstrap's programs run elsewhere.
    let parent = std::path::absolute(&parent).map_err(failed(format!("find {}", parent.display())))?;
    Place::make(&parent).map_err(failed(format!("make a directory in {}", parent.display())))
}

/// mmdebstrap. As root it gets its own mounts and processes, of which nothing stays when it has ended, even if it was killed, unless
/// this host refuses that; in a user namespace it has them anyway. A shell is the first process there: signals would mean nothing
/// to another.
async fn mmdebstrap(unprivileged: bool) -> Command {
    const APART: [&str; 5] = ["--mount", "--pid", "--fork", "--kill-child", "--"];
    let mut direct = Command::new("mmdebstrap");
    if unprivileged {
        direct.arg("--mode=unshare");
        return direct;
    }
    let mut trial = Command::new("unshare");
    trial.args(APART).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !trial.status().await.is_ok_and(|status| status.success()) {
        direct.arg("--mode=root");
        return direct;
    }
    let mut command = Command::new("unshare");
    command.args(APART).args(["sh", "-c", "\"$@\"; exit \"$?\"", "sh", "mmdebstrap", "--mode=root"]);
    command
}

/// The lines of what a program says. It is heard to its end, even if nobody takes them: it would be ended by that in the middle of
/// its clean-up.
fn told(said: ChildStderr) -> Result<UnboundedReceiver<String>, Error> {
    let said = BufReader::new(std::fs::File::from(said.into_owned_fd().map_err(failed("hear mmdebstrap"))?));
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in said.split(b'\n').map_while(Result::ok) {
            // Nobody takes it any more.
            let _ = tell.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    Ok(told)
}

async fn root(
    spec: &Spec,
    packages: &[String],
    keyring: &str,
    lines: &[String],
    (work, rootfs): (&Place, &Path),
    progress: &mut Progress,
) -> Result<(), Error> {
    let script = work.path().join("customize");
    std::fs::write(&script, recipe::customize(spec.variant)).map_err(failed("write the script for the root"))?;
    let mode = |path: &Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).map_err(failed(format!("open {}", path.display())))
    };
    mode(&script)?;
    // Whoever runs it in a user namespace is another.
    mode(work.path())?;
    let tmp = work.tmp();
    std::fs::create_dir(&tmp).map_err(failed(format!("create {}", tmp.display())))?;
    mode(&tmp)?;
    let unprivileged = !rustix::process::geteuid().is_root();
    // The archive need not have an entry for the root itself: then it is whose mksquashfs runs as.
    let mut packer = Command::new(if unprivileged { "unshare" } else { "mksquashfs" });
    if unprivileged {
        packer.args(["--map-root-user", "mksquashfs"]);
    }
    packer.arg("-").arg(rootfs).args(["-tar", "-comp", "zstd", "-Xcompression-level", "3", "-root-mode", "755"]);
    packer.args(["-noappend", "-quiet", "-no-progress"]);
    packer.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let group = Group::new().map_err(failed("start sh"))?;
    let mut packer = group.start(&mut packer).map_err(failed("start mksquashfs"))?;
    let missing = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let pipe = packer.child.stdin.take().ok_or_else(missing).and_then(|stdin| stdin.into_owned_fd());
    let pipe = pipe.map_err(failed("start mksquashfs"))?;
    let mut command = mmdebstrap(unprivileged).await;
    command.args([
        "--variant=minbase",
        "--format=tar",
        "--skip=output/dev",
        "--aptopt=Apt::Install-Recommends \"false\"",
    ]);
    command.args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]);
    command
        .arg(format!("--include={}", spec.packages(packages)))
        .arg(format!("--components={}", spec.distribution.components().replace(' ', ",")));
    command.arg(format!("--keyring={keyring}")).arg(format!("--customize-hook={}", script.display()));
    command.arg(&spec.suite).arg("-").args(lines);
    command.env("TMPDIR", &tmp).stdin(work.input().map_err(failed("start mmdebstrap"))?);
    command.stdout(pipe).stderr(Stdio::piped());
    let mut maker = group.start(&mut command).map_err(failed("start mmdebstrap"))?;
    // It holds an end of the pipe: mksquashfs waits for the last one.
    drop(command);
    let mut told = told(maker.child.stderr.take().ok_or_else(missing).map_err(failed("hear mmdebstrap"))?)?;
    let mut last = Vec::new();
    while let Some(line) = told.recv().await {
        progress.heard(&line);
        last.push(line);
        if last.len() > 200 {
            last.remove(0);
        }
    }
    let status = maker.child.wait().await.map_err(failed("wait for mmdebstrap"))?;
    let mut said = String::new();
    if let Some(mut stderr) = packer.child.stderr.take() {
        let _ = stderr.read_to_string(&mut said).await;
    }
    let packed = packer.child.wait().await.map_err(failed("wait for mksquashfs"))?;
    // mmdebstrap fails of a full disk, too, without the reason.
    if said.contains("No space left") || status.success() && !packed.success() {
        return Err(Error::refused(said.trim().to_owned()).doing("mksquashfs failed".to_owned()));
    }
    if !status.success() {
        return Err(Error::refused(steps::cause(&last)).doing(format!("mmdebstrap failed for {}", spec.suite)).hint(
            "Are the mirror and the suite right and reachable, and the packages there? See above, and mmdebstrap(1)",
        ));
    }
    Ok(())
}

/// LXD's and Debian's words for what this host is.
fn architecture() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("x86_64", "amd64"),
        "x86" => ("i686", "i386"),
        "aarch64" => ("aarch64", "arm64"),
        "arm" => ("armv7l", "armhf"),
        "powerpc64" => ("ppc64le", "ppc64el"),
        "s390x" => ("s390x", "s390x"),
        "riscv64" => ("riscv64", "riscv64"),
        other => (other, other),
    }
}

fn write_metadata(spec: &Spec, path: &Path) -> Result<(), Error> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let (yaml, templates) = spec.metadata(architecture(), now).map_err(|e| Error::Broken(e.to_string()))?;
    let write = || {
        let mut archive = tar::Builder::new(liblzma::write::XzEncoder::new(std::fs::File::create(path)?, 6));
        let mut add = |name: &str, text: &str, kind: tar::EntryType| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(text.len() as u64);
            header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(u64::try_from(now).unwrap_or_default());
            archive.append_data(&mut header, name, text.as_bytes())
        };
        add("metadata.yaml", &yaml, tar::EntryType::Regular)?;
        add("templates/", "", tar::EntryType::Directory)?;
        for (name, text) in templates {
            add(&format!("templates/{name}"), text, tar::EntryType::Regular)?;
        }
        archive.into_inner()?.finish().map(drop)
    };
    write().map_err(failed(format!("write {}", path.display())))
}
