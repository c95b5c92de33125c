//! What a pool lies on: a directory, or a file system of its own on a file or a block device; how that comes and goes.
//!
//! ```text
//!  kind      source=                      at <state>/storage-pools/<pool>
//!  own       none                         the directory itself
//!  path      an empty directory           a link to it; for btrfs it is made a subvolume if it is not there
//!  file      <state>/disks/<pool>.img     its file system, by a loop device that goes with the mount
//!  device    a block device (btrfs)       its file system; the configuration keeps the UUID
//! ```
//! The configuration says all of it before anything is made, so whatever a crash leaves is found by the pool's row alone:
//! [`remove`] takes it away, in whichever state it is.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use uuid::Uuid;

use super::btrfs as subvolumes;
use super::error::{Error, io};
use super::files::make_dir;
use super::pool::{DriverKind, PoolSpec};
use crate::api::wire::Config;
use crate::config::parse_size;
use crate::sys::loop_device::{self, LoopDevice};
use crate::sys::superblock::{self, Kind};
use crate::sys::{btrfs, holders, mount};

/// What mkfs.btrfs(8) takes at least, bytes.
const LEAST: u64 = 109 << 20;
/// What the kernel makes a btrfs of at least when it changes its size, bytes.
const LEAST_GROWN: u64 = 256 << 20;
/// What mkfs.xfs(8) takes at least, bytes.
const LEAST_XFS: u64 = 300 << 20;
/// Of a file whose size nobody says: a fifth of what is free, within these bounds, GiB. LXD's rule.
const USUAL: (u64, u64) = (5, 30);
/// What LXD mounts btrfs with: containers may delete the subvolumes that they made.
const OPTIONS: &str = "user_subvol_rm_allowed";
/// Who looks at a new device, as udev does, is gone after a moment.
const PATIENCE: (u32, Duration) = (40, Duration::from_millis(50));

/// What a pool lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The directory of the state directory's.
    Own,
    /// A directory somewhere else.
    Path(PathBuf),
    /// A file.
    File(PathBuf),
    /// A block device with the btrfs of this UUID, which was that one once.
    Device(Uuid, Option<PathBuf>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => write!(f, "its directory"),
            Self::Path(path) => write!(f, "its source {}", path.display()),
            Self::File(path) => write!(f, "its file {}", path.display()),
            Self::Device(uuid, Some(path)) => write!(f, "its device, {} once, with the UUID {uuid},", path.display()),
            Self::Device(uuid, None) => write!(f, "its device with the UUID {uuid}"),
        }
    }
}

impl Source {
    /// By the configuration, which [`complete`] has been through.
    pub(super) fn of(spec: &PoolSpec) -> Self {
        let source = spec.config.get("source").filter(|source| !source.is_empty());
        let Some(source) = source else { return Self::Own };
        let path = PathBuf::from(source);
        if path == spec.file() {
            return Self::File(path);
        }
        match source.parse() {
            Ok(uuid) if spec.driver == DriverKind::Btrfs => {
                Self::Device(uuid, spec.config.get("volatile.initial_source").map(PathBuf::from))
            }
            Ok(_) | Err(_) => Self::Path(path),
        }
    }

    /// Whether it has a file system that is mounted for the pool alone.
    pub(super) fn is_mounted_here(&self) -> bool {
        matches!(self, Self::File(_) | Self::Device(..))
    }

    /// What to watch for when it is not there.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Own => Vec::new(),
            Self::Path(path) | Self::File(path) => vec![path.clone()],
            Self::Device(uuid, likely) => {
                let link = PathBuf::from(format!("/dev/disk/by-uuid/{uuid}"));
                std::iter::once(link).chain(likely.clone()).collect()
            }
        }
    }
}

fn refused(source: &str, reason: impl Into<String>) -> Error {
    Error::Source { source: source.to_owned(), reason: reason.into() }
}

/// The configuration of a new pool, with what was left open decided.
///
/// # Errors
/// When a key is unknown, does not fit, or two of them do not fit together.
pub(super) fn complete(spec: &PoolSpec) -> Result<Config, Error> {
    super::Pool::validate(spec.driver, &spec.config)?;
    let mut config = spec.config.clone();
    config.retain(|_, value| !value.is_empty());
    let (file, own) = (spec.file(), spec.place());
    let given = config.get("source").cloned().filter(|source| Path::new(source) != file);
    let has_size = config.contains_key("size");
    match given {
        None if spec.driver == DriverKind::Btrfs || has_size => {
            config.insert("source".to_owned(), file.display().to_string());
            if !has_size {
                config.insert("size".to_owned(), usual_size(&spec.state_dir)?);
            }
            let size = config.get("size").and_then(|size| parse_size(size)).unwrap_or(0);
            if size < LEAST {
                let value = config.get("size").cloned().unwrap_or_default();
                return Err(Error::Value { key: "size", value, expected: "at least 109MiB, which btrfs needs" });
            }
        }
        None => {}
        Some(source) => {
            let path = Path::new(&source);
            if !path.is_absolute() {
                return Err(Error::Value { key: "source", value: source, expected: "an absolute path" });
            }
            if path.starts_with(&spec.state_dir) && path != own {
                let own = own.display();
                return Err(refused(&source, format!("of the daemon's own directory only {own} can be one")));
            }
            if has_size {
                return Err(refused(&source, "\"size\" is for a pool on a file of its own: leave one of the two out"));
            }
            if spec.driver == DriverKind::Btrfs {
                config.insert("volatile.initial_source".to_owned(), source.clone());
                if is_block_device(path) {
                    config.insert("source".to_owned(), Uuid::new_v4().to_string());
                }
            }
        }
    }
    Ok(config)
}

fn usual_size(state_dir: &Path) -> Result<String, Error> {
    let stat = rustix::fs::statvfs(state_dir).map_err(|e| io("look at", state_dir)(e.into()))?;
    let fifth = (stat.f_bavail * stat.f_frsize / 5) >> 30;
    Ok(format!("{}GiB", fifth.clamp(USUAL.0, USUAL.1)))
}

fn is_empty(source: &Path) -> Result<(), Error> {
    let mut entries = std::fs::read_dir(source).map_err(io("open the source", source))?;
    // A fresh file system has this one directory.
    match entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")) {
        true => Err(Error::NotEmpty { path: source.to_owned() }),
        false => Ok(()),
    }
}

/// Makes it, mounted if it has to be.
///
/// # Errors
/// Then nothing of it stays.
pub(super) fn create(spec: &PoolSpec) -> Result<(), Error> {
    let source = Source::of(spec);
    let place = spec.place();
    match &source {
        Source::Own => make_dir(&place, 0o711)?,
        Source::Path(path) => {
            let is_new = prepare(spec.driver, path)?;
            let linked = std::fs::set_permissions(path, PermissionsExt::from_mode(0o711))
                .map_err(io("set the mode of", path))
                .and_then(|()| std::os::unix::fs::symlink(path, &place).map_err(io("create", &place)));
            if linked.is_err() && is_new {
                let _ = subvolumes::remove(path);
            }
            linked?;
        }
        Source::File(file) => {
            if file.exists() {
                return Err(refused(&file.display().to_string(), "it is there already: move it away"));
            }
            let size = spec.config.get("size").and_then(|size| parse_size(size)).unwrap_or(LEAST);
            let made = make_file(spec, file, size).and_then(|()| attach(spec));
            if made.is_err() {
                let _ = remove(spec);
            }
            made?;
        }
        Source::Device(uuid, device) => {
            let device = device.as_deref().unwrap_or(Path::new(""));
            let made = format(Kind::Btrfs, device, spec.name.as_str(), Some(*uuid))
                .and_then(|()| make_dir(&place, 0o711))
                .and_then(|()| attach(spec));
            if made.is_err() {
                let _ = remove(spec);
            }
            made?;
        }
    }
    Ok(())
}

/// Checks a directory, or makes a subvolume of it; whether it did.
fn prepare(driver: DriverKind, path: &Path) -> Result<bool, Error> {
    if driver != DriverKind::Btrfs {
        return is_empty(path).map(|()| false);
    }
    let name = path.display().to_string();
    let missing = !path.exists();
    let on = if missing { path.parent().unwrap_or(Path::new("/")) } else { path };
    if !on.exists() {
        return Err(refused(&name, "it is not there, and neither is the directory that it would be in"));
    }
    if !btrfs::is_here(on) {
        return Err(refused(&name, "it does not lie on btrfs: name a path that does, a block device, or no source"));
    }
    if missing { subvolumes::create(path).map(|()| true) } else { is_empty(path).map(|()| false) }
}

fn make_file(spec: &PoolSpec, file: &Path, size: u64) -> Result<(), Error> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(io("create", file))?;
    made.set_len(size).map_err(io("create", file))?;
    format(kind_for(spec.driver, size), file, spec.name.as_str(), None)?;
    made.sync_all().map_err(io("write", file))?;
    make_dir(&spec.place(), 0o711)
}

/// For overlay any file system with reflinks will do; xfs where it can be made, and btrfs elsewhere.
fn kind_for(driver: DriverKind, size: u64) -> Kind {
    let xfs = driver == DriverKind::Overlay && size >= LEAST_XFS && knows("xfs") && has_tool("mkfs.xfs");
    if xfs { Kind::Xfs } else { Kind::Btrfs }
}

/// Whether the kernel has a file system, perhaps as a module that a mount loads.
pub(super) fn knows(file_system: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let listed = known.lines().any(|line| line.split_whitespace().last() == Some(file_system));
    listed || crate::sys::module::load(file_system).is_ok()
}

/// Whether a program is in the path.
pub(super) fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Makes a file system. One that is there already is never overwritten: the programs refuse that themselves.
fn format(kind: Kind, device: &Path, label: &str, uuid: Option<Uuid>) -> Result<(), Error> {
    let mut command = match kind {
        Kind::Btrfs => {
            let mut command = Command::new("mkfs.btrfs");
            command.args(["--quiet", "--label", label]);
            command
        }
        Kind::Xfs => {
            let mut command = Command::new("mkfs.xfs");
            command.args(["-q", "-m", "reflink=1"]);
            command
        }
    };
    if let Some(uuid) = uuid {
        command.arg("-U").arg(uuid.to_string());
    }
    let output = command.arg(device).stdin(Stdio::null()).output();
    let output = output.map_err(io("run mkfs for", device))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if said.contains("existing filesystem") {
        if let Some(point) = mounted_at(device) {
            let reason = format!("it is mounted at {}: name a device that nobody uses", point.display());
            return Err(refused(&device.display().to_string(), reason));
        }
        let device = device.display();
        let reason = format!("it has a file system: if nobody needs that, \"wipefs -a {device}\" removes it ({said})");
        return Err(refused(&device.to_string(), reason));
    }
    Err(Error::Format { path: device.to_owned(), said })
}

/// Where a block device is mounted in this namespace.
fn mounted_at(device: &Path) -> Option<PathBuf> {
    let number = std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(device).ok()?);
    mount::point_of(number).ok().flatten()
}

/// The options of mount(8): those of the mount itself, and those of the file system.
fn options(text: &str) -> (MountFlags, String) {
    let (mut flags, mut rest) = (MountFlags::empty(), Vec::new());
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "defaults" | "rw" | "suid" | "dev" | "exec" | "atime" => {}
            other => rest.push(other),
        }
    }
    (flags, rest.join(","))
}

fn mount_at(device: &Path, kind: Kind, spec: &PoolSpec) -> Result<(), Error> {
    let (flags, data) = match kind {
        Kind::Btrfs => mount_options(spec),
        Kind::Xfs => (MountFlags::empty(), String::new()),
    };
    let data = std::ffi::CString::new(data).unwrap_or_default();
    let place = spec.place();
    rustix::mount::mount(device, &place, kind.as_str(), flags, Some(data.as_c_str())).map_err(|errno| Error::Mount {
        device: device.to_owned(),
        place,
        options: data.to_string_lossy().into_owned(),
        error: errno.into(),
    })
}

fn mount_options(spec: &PoolSpec) -> (MountFlags, String) {
    let asked = spec.config.get("btrfs.mount_options").filter(|options| !options.is_empty());
    options(asked.map_or(OPTIONS, String::as_str))
}

/// Brings it to where the pool lies, unless it is there already; what is there is looked at.
///
/// # Errors
/// When it is not there, or is not what it was.
pub(super) fn attach(spec: &PoolSpec) -> Result<(), Error> {
    let (source, place) = (Source::of(spec), spec.place());
    let absent = |what: &str| Error::Absent { source: source.to_string(), reason: what.to_owned() };
    match &source {
        Source::Own => Ok(()),
        Source::Path(path) => match std::fs::metadata(&place) {
            Err(_) => Err(absent("is not there")),
            Ok(_) if spec.driver == DriverKind::Btrfs && !btrfs::is_here(path) => {
                Err(absent("does not lie on btrfs any more; its disk is not mounted, perhaps"))
            }
            Ok(_) => Ok(()),
        },
        Source::File(file) => {
            if is_alive(&place)? {
                return Ok(());
            }
            if !file.is_file() {
                return Err(absent("is not there"));
            }
            let kind = superblock::kind_of(file).map_err(io("read", file))?;
            let kind = kind.ok_or_else(|| absent("has no file system that is known"))?;
            make_dir(&place, 0o711)?;
            let device = LoopDevice::of(file, false).map_err(io("make a loop device of", file))?;
            // From here on the mount keeps the device.
            mount_at(device.path(), kind, spec)
        }
        Source::Device(uuid, likely) => {
            if is_alive(&place)? {
                return Ok(());
            }
            let device = superblock::find_btrfs(*uuid, likely.as_deref()).ok_or_else(|| absent("is not there"))?;
            make_dir(&place, 0o711)?;
            mount_at(&device, Kind::Btrfs, spec)
        }
    }
}

/// Whether a file system is mounted at `place` that answers. One whose device went is taken away.
fn is_alive(place: &Path) -> Result<bool, Error> {
    if !mount::is_mounted(place).map_err(io("list the mounts of", place))? {
        return Ok(false);
    }
    match std::fs::read_dir(place).map(|mut entries| entries.next().transpose()) {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) | Err(error) => {
            tracing::warn!(place = %place.display(), %error, "what is mounted there does not answer any more");
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(place, flags).map_err(|e| io("unmount", place)(e.into()))?;
            Ok(false)
        }
    }
}

/// What of a configuration may become what, for a pool that is there.
///
/// # Errors
/// With the key that cannot be changed so.
pub(super) fn may_change(old: &PoolSpec, new: &PoolSpec) -> Result<(), Error> {
    let value = |spec: &PoolSpec, key: &str| spec.config.get(key).filter(|value| !value.is_empty()).cloned();
    if value(old, "source") != value(new, "source") {
        let source = value(new, "source").unwrap_or_default();
        return Err(Error::Value { key: "source", value: source, expected: "the source of a pool cannot be changed" });
    }
    let size = value(new, "size");
    let bytes = |size: &Option<String>| size.as_deref().and_then(parse_size);
    let refuse = |expected| Err(Error::Value { key: "size", value: size.clone().unwrap_or_default(), expected });
    match (Source::of(old), bytes(&value(old, "size")), bytes(&size)) {
        (Source::File(_), Some(old), Some(new)) if new >= old => Ok(()),
        (Source::File(_), Some(_), _) => refuse("a pool can grow, but not shrink: name a larger size"),
        (Source::File(_), None, _) | (_, _, None) => Ok(()),
        (_, _, Some(_)) => refuse("only a pool on a file of its own has a size; leave it out"),
    }
}

/// Brings a pool that is open to its configuration: the size of its file, and how it is mounted.
///
/// # Errors
/// With what the kernel refuses.
pub(super) fn follow(spec: &PoolSpec) -> Result<(), Error> {
    let (source, place) = (Source::of(spec), spec.place());
    if !source.is_mounted_here() {
        return Ok(());
    }
    let kind = if btrfs::is_here(&place) { Kind::Btrfs } else { Kind::Xfs };
    if kind == Kind::Btrfs {
        let (flags, data) = mount_options(spec);
        let text = std::ffi::CString::new(data.as_str()).unwrap_or_default();
        rustix::mount::mount_remount(&place, flags, text.as_c_str()).map_err(|errno| {
            let device = mount::device_at(&place).ok().flatten().unwrap_or_default();
            Error::Mount { device, place: place.clone(), options: data, error: errno.into() }
        })?;
    }
    match source {
        Source::File(file) => grow(spec, &file, kind),
        Source::Own | Source::Path(_) | Source::Device(..) => Ok(()),
    }
}

/// Makes the file, its loop device and the file system as large as the configuration says.
fn grow(spec: &PoolSpec, file: &Path, kind: Kind) -> Result<(), Error> {
    let Some(size) = spec.config.get("size").and_then(|size| parse_size(size)) else { return Ok(()) };
    let place = spec.place();
    let opened = OpenOptions::new().write(true).open(file).map_err(io("open", file))?;
    let now = opened.metadata().map_err(io("look at", file))?.len();
    if now < size {
        opened.set_len(size).map_err(io("grow", file))?;
    }
    let device = mount::device_at(&place).map_err(io("list the mounts of", &place))?;
    let device = device.unwrap_or_default();
    let opened = File::open(&device).map_err(io("open", &device))?;
    // A crash may have left it here: the rest is done in any case.
    loop_device::measure(&opened).map_err(io("grow", &device))?;
    match kind {
        Kind::Btrfs => {
            let mounted = btrfs::open(&place).map_err(io("open", &place))?;
            let stat = rustix::fs::fstatvfs(&mounted).map_err(|e| io("look at", &place)(e.into()))?;
            if stat.f_blocks * stat.f_frsize >= size {
                return Ok(());
            }
            btrfs::grow(&mounted).map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidInput if size < LEAST_GROWN => {
                    let value = spec.config.get("size").cloned().unwrap_or_default();
                    Error::Value {
                        key: "size",
                        value,
                        expected: "at least 256MiB, which is the least that btrfs grows to",
                    }
                }
                _ => io("grow", &place)(error),
            })
        }
        Kind::Xfs => {
            let output = Command::new("xfs_growfs").arg(&place).stdin(Stdio::null()).output();
            let output = output.map_err(io("run xfs_growfs for", &place))?;
            let said = || String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            if output.status.success() { Ok(()) } else { Err(Error::Format { path: place.clone(), said: said() }) }
        }
    }
}

/// Takes away what is mounted in the pool, and the pool's own file system. The source itself may be a mount of the
/// administrator's: that stays.
///
/// # Errors
/// [`Error::Busy`] with who uses it.
pub(super) fn detach(spec: &PoolSpec) -> Result<(), Error> {
    let place = spec.place();
    // Through a link the mounts lie where that leads.
    let root = place.canonicalize().unwrap_or_else(|_| place.clone());
    let points = mount::below(&root).map_err(io("list the mounts below", &root))?;
    for point in points.iter().filter(|point| **point != root) {
        mount::unmount(point).map_err(io("unmount", point))?;
    }
    if !Source::of(spec).is_mounted_here() || !points.contains(&root) {
        return Ok(());
    }
    write_out(&root);
    let number = holders::number_at(&root);
    for _ in 0..PATIENCE.0 {
        match rustix::mount::unmount(&root, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => return Ok(()),
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(PATIENCE.1),
            Err(error) => return Err(io("unmount", root)(error.into())),
        }
    }
    Err(Error::Busy { pool: spec.name.clone(), holders: holders::of(&root, number.as_deref()) })
}

/// Takes the pool's file system away if nobody uses it.
pub(super) fn rest(spec: &PoolSpec) {
    let place = spec.place();
    if Source::of(spec).is_mounted_here() && mount::is_mounted(&place).unwrap_or(false) {
        write_out(&place);
        let _ = rustix::mount::unmount(place, UnmountFlags::NOFOLLOW);
    }
}

/// Where another mount namespace has a file system mounted, too, an unmount writes nothing out.
fn write_out(place: &Path) {
    let written = File::open(place).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    if let Err(error) = written {
        tracing::warn!(place = %place.display(), %error, "writing out a storage pool");
    }
}

/// Removes all that there is of a pool's source, when its own directories are gone; what is not there is fine. A device is
/// wiped, a path of the administrator's stays.
///
/// # Errors
/// [`Error::Busy`], or with what cannot be removed.
pub(super) fn remove(spec: &PoolSpec) -> Result<(), Error> {
    let place = spec.place();
    detach(spec)?;
    match Source::of(spec) {
        Source::Own | Source::Path(_) => {}
        Source::File(file) => match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", file)(error)),
            Ok(()) | Err(_) => {}
        },
        Source::Device(uuid, likely) => {
            if let Some(likely) = likely.as_deref().filter(|path| is_block_device(path)) {
                // The mkfs of a daemon that was killed may still be at it. Of another pool's it is none of ours.
                let _ = free(spec, likely);
            }
            if let Some(device) = superblock::find_btrfs(uuid, likely.as_deref()) {
                free(spec, &device)?;
                superblock::forget_btrfs(&device).map_err(io("wipe", &device))?;
            }
        }
    }
    match place.symlink_metadata() {
        Ok(found) if found.is_symlink() => std::fs::remove_file(&place).map_err(io("remove", &place)),
        // Whatever is in a mount point where nothing is mounted is not ours to remove.
        Ok(_) if Source::of(spec).is_mounted_here() => std::fs::remove_dir(&place).map_err(io("remove", &place)),
        Ok(_) => super::files::remove_dir(&place),
        Err(_) => Ok(()),
    }
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// Nobody has a block device mounted, in whatever mount namespace.
fn free(spec: &PoolSpec, device: &Path) -> Result<(), Error> {
    let number = std::fs::metadata(device).map(|found| std::os::unix::fs::MetadataExt::rdev(&found)).unwrap_or(0);
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    for _ in 0..PATIENCE.0 {
        match File::options().read(true).custom_flags(libc::O_EXCL).open(device) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => std::thread::sleep(PATIENCE.1),
            Err(error) => return Err(io("open", device)(error)),
        }
    }
    Err(Error::Busy { pool: spec.name.clone(), holders: holders::of(device, Some(&number)) })
}
