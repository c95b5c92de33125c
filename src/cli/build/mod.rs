//! `warren image build`: an image from a distribution's own packages, by mmdebstrap and mksquashfs.
//!
//! ```text
//!  mmdebstrap ── tar ──> mksquashfs ──> rootfs.squashfs ─┐
//!  recipe ── metadata.yaml, templates/ ──> metadata.tar.xz ┴──> the daemon, or a directory
//! ```
//! Packages come from where this host gets its own, unless a mirror is named. As root it is done at once; else in a user namespace.

mod recipe;
mod sources;
mod steps;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::connection::Connection;
use super::{Error, output};
use crate::names::AliasName;
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
    /// The files are in this directory, which goes with it.
    place: Place,
    /// The metadata.
    pub(super) metadata: PathBuf,
    /// The root.
    pub(super) rootfs: PathBuf,
    /// Names for the image.
    pub(super) aliases: Vec<String>,
    /// Anyone may read it.
    pub(super) public: bool,
}

/// A directory that goes when it is not needed any more.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // It is a temporary one; nobody is left to be told.
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
    let place = build.output.as_deref().map(|output| make_place(Some(output))).transpose()?;
    let lines = sources::lines(&spec, build.mirror.as_deref(), host.as_ref())?;
    if build.output.is_none() {
        // Minutes of work are not to be lost to a daemon that is not there.
        connection.get("/1.0").await?;
    }
    let place = match place {
        Some(place) => place,
        None => make_place(None)?,
    };
    let built = Built {
        metadata: place.0.join("metadata.tar.xz"),
        rootfs: place.0.join("rootfs.squashfs"),
        aliases: if build.aliases.is_empty() { vec![spec.alias()] } else { build.aliases },
        public: build.public,
        place,
    };
    let mut progress = Progress::new();
    root(&spec, &build.packages, keyring, &lines, &built, &mut progress).await?;
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

/// Where it is built: beside where it is to be, or where large temporary files go.
fn make_place(output: Option<&Path>) -> Result<Place, Error> {
    let parent = match output {
        Some(output) => {
            if let Some(file) = output.ancestors().find(|above| above.exists()).filter(|above| !above.is_dir()) {
                let shown = file.display();
                return Err(Error::Usage(format!(
                    "--output: {shown} is a file: name a directory, which need not be there"
                )));
            }
            std::fs::create_dir_all(output).map_err(failed(format!("create {}", output.display())))?;
            output.to_owned()
        }
        None => std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from),
    };
    let path = parent.join(format!(".warren-build-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&path).map_err(failed(format!("create {}", path.display())))?;
    Ok(Place(path))
}

/// Ends a program that is still there when nobody waits for it any more: it cleans up then.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        else {
            return;
        };
        // It may have ended just now.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

async fn root(
    spec: &Spec,
    packages: &[String],
    keyring: &str,
    lines: &[String],
    built: &Built,
    progress: &mut Progress,
) -> Result<(), Error> {
    let script = built.place.0.join("customize");
    std::fs::write(&script, recipe::customize(spec.variant)).map_err(failed("write the script for the root"))?;
    let mode = |path: &Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).map_err(failed(format!("open {}", path.display())))
    };
    mode(&script)?;
    // Whoever runs it in a user namespace is another.
    mode(&built.place.0)?;
    let unprivileged = !rustix::process::geteuid().is_root();
    // The archive need not have an entry for the root itself: then it is whose mksquashfs runs as.
    let mut packer = Command::new(if unprivileged { "unshare" } else { "mksquashfs" });
    if unprivileged {
        packer.args(["--map-root-user", "mksquashfs"]);
    }
    packer.arg("-").arg(&built.rootfs).args(["-tar", "-comp", "zstd", "-Xcompression-level", "3", "-root-mode", "755"]);
    packer.args(["-noappend", "-quiet", "-no-progress"]);
    packer.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut packer = Running(packer.spawn().map_err(failed("start mksquashfs"))?);
    let missing = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let pipe = packer.0.stdin.take().ok_or_else(missing).and_then(|stdin| stdin.into_owned_fd());
    let pipe = pipe.map_err(failed("start mksquashfs"))?;
    let mut maker = Command::new("mmdebstrap");
    maker.args([
        "--variant=minbase",
        "--format=tar",
        "--skip=output/dev",
        "--aptopt=Apt::Install-Recommends \"false\"",
    ]);
    maker.arg(if unprivileged { "--mode=unshare" } else { "--mode=root" });
    maker.args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]);
    maker
        .arg(format!("--include={}", spec.packages(packages)))
        .arg(format!("--components={}", spec.distribution.components().replace(' ', ",")));
    maker.arg(format!("--keyring={keyring}")).arg(format!("--customize-hook={}", script.display()));
    maker.arg(&spec.suite).arg("-").args(lines);
    maker.stdin(Stdio::null()).stdout(pipe).stderr(Stdio::piped());
    let mut maker = Running(maker.spawn().map_err(failed("start mmdebstrap"))?);
    let told = BufReader::new(maker.0.stderr.take().ok_or_else(missing).map_err(failed("hear mmdebstrap"))?);
    let mut told = told.lines();
    let mut last = Vec::new();
    while let Ok(Some(line)) = told.next_line().await {
        progress.heard(&line);
        last.push(line);
        if last.len() > 200 {
            last.remove(0);
        }
    }
    let status = maker.0.wait().await.map_err(failed("wait for mmdebstrap"))?;
    if !status.success() {
        return Err(Error::refused(steps::cause(&last)).doing(format!("mmdebstrap failed for {}", spec.suite)).hint(
            "Are the mirror and the suite right and reachable, and the packages there? See above, and mmdebstrap(1)",
        ));
    }
    let mut said = String::new();
    if let Some(mut stderr) = packer.0.stderr.take() {
        let _ = stderr.read_to_string(&mut said).await;
    }
    let status = packer.0.wait().await.map_err(failed("wait for mksquashfs"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::refused(said.trim().to_owned()).doing("mksquashfs failed".to_owned()))
    }
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
