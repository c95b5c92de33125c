//! Loop devices: a file as a block device. Numbers and layouts: linux/loop.h.
//!
//! A device is set up so that it goes with its last user: while a file system on it is mounted that is the mount, before
//! that the descriptor. A process that dies in between leaves none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::ioctl::{Argument, on_bytes, on_value};

const SET_CAPACITY: u32 = 0x4c07;
const CONFIGURE: u32 = 0x4c0a;
const GET_STATUS: u32 = 0x4c05;
/// `struct loop_info64`, where a request by this old number leaves its size to the caller.
const STATUS: usize = 232;
/// Where that has the file's device and number, and what part of it the device is.
const STATUS_AT: [usize; 4] = [0, 8, 24, 32];
const STATUS_FLAGS_AT: usize = 52;
const GET_FREE: u32 = 0x4c82;
/// `struct loop_config`, and where its flags lie.
const CONFIG: usize = 304;
const FLAGS_AT: usize = 60;
/// Where the name of the file lies, and how long it is at most.
const NAME_AT: usize = 64;
const NAME: usize = 63;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Others take a free one meanwhile.
const TRIES: usize = 64;

/// A device of this file.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// While it is open, the device stays.
    held: OwnedFd,
}

impl LoopDevice {
    /// Sets one up, with direct input and output where the file's file system can. To be written to, a file has one
    /// device at a time: one that is there already (a mount in another namespace keeps it) is what is returned, since two
    /// would be two disks with the same blocks, each with a mind of its own.
    ///
    /// # Errors
    /// Of the file, of `/dev/loop-control`, or that there is no node for the device.
    pub fn of(file: &Path, read_only: bool) -> io::Result<Self> {
        let backing = File::options().read(true).write(!read_only).open(file)?;
        if !read_only && let Some(there) = attached(&backing)? {
            return Ok(there);
        }
        let control = File::options().read(true).write(true).open("/dev/loop-control");
        let control = control.map_err(|e| io::Error::new(e.kind(), format!("/dev/loop-control: {e}")))?;
        let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
        for _ in 0..TRIES {
            let number = on_value(&control, GET_FREE, 0)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let flags = if read_only { OFlags::RDONLY } else { OFlags::RDWR } | OFlags::CLOEXEC;
            let held = rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("{}: {e}", path.display())))?;
            match configure(&held, &backing, file, read_only) {
                Ok(()) => return Ok(Self { path, held }),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.held.as_fd()
    }
}

/// The device that the whole of this file is already, held, if there is one.
fn attached(backing: &File) -> io::Result<Option<LoopDevice>> {
    use std::os::unix::fs::MetadataExt;
    let wanted = backing.metadata()?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let is_loop = name.to_str().is_some_and(|name| name.starts_with("loop"));
        if !is_loop || !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let path = Path::new("/dev").join(name);
        // It may be gone by now.
        let Ok(held) = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { continue };
        let mut status = [0; STATUS];
        if on_bytes(&held, GET_STATUS, &mut status).is_err() {
            continue;
        }
        let number = |at: usize| {
            let bytes = status.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        let [device, inode, offset, limit] = STATUS_AT.map(number);
        let flags = status.get(STATUS_FLAGS_AT..STATUS_FLAGS_AT + 4).and_then(|bytes| bytes.try_into().ok());
        let writable = flags.map_or(0, u32::from_ne_bytes) & READ_ONLY == 0;
        if (device, inode, offset, limit) == (wanted.dev(), wanted.ino(), 0, 0) && writable {
            return Ok(Some(LoopDevice { path, held }));
        }
    }
    Ok(None)
}

fn configure(device: &OwnedFd, backing: &File, name: &Path, read_only: bool) -> io::Result<()> {
    let name = name.as_os_str().as_encoded_bytes();
    let flags = AUTOCLEAR | if read_only { READ_ONLY } else { 0 };
    let set = |flags| {
        let fd = backing.as_raw_fd().cast_unsigned();
        let argument = Argument::<CONFIG>::new().word(0, fd).word(FLAGS_AT, flags);
        // For those who list devices; the kernel itself goes by the descriptor.
        let name = name.get(..NAME.min(name.len())).unwrap_or_default();
        on_bytes(device, CONFIGURE, &mut argument.bytes(NAME_AT, name).0).map(drop)
    };
    match set(flags | DIRECT_IO) {
        // A file system, or its size of blocks, that cannot.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(flags),
        result => result,
    }
}

/// Tells a device that its file has another size by now.
///
/// # Errors
/// That of the kernel.
pub fn measure(device: impl AsFd) -> io::Result<()> {
    on_value(device, SET_CAPACITY, 0).map(drop)
}

/// The file behind the loop device of this number (`major:minor` of it).
pub fn file_of(number: &str) -> Option<PathBuf> {
    let name = std::fs::read_to_string(format!("/sys/dev/block/{number}/loop/backing_file")).ok()?;
    Some(PathBuf::from(name.trim_end_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_with_its_last_user() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("disk");
        File::create(&file).unwrap().set_len(1 << 20).unwrap();
        let size = |path: &Path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let size = std::fs::read_to_string(format!("/sys/block/{name}/size")).unwrap();
            size.trim().parse::<u64>().unwrap()
        };
        let device = LoopDevice::of(&file, false).unwrap();
        let path = device.path().to_owned();
        assert_eq!(size(&path), (1 << 20) / 512);
        File::options().write(true).open(&file).unwrap().set_len(2 << 20).unwrap();
        measure(&device).unwrap();
        assert_eq!(size(&path), (2 << 20) / 512);
        let stat = rustix::fs::fstat(&device).unwrap();
        let number = format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        assert_eq!(file_of(&number), Some(file.clone()));
        // A second one to write to would be another disk with the same blocks.
        assert_eq!(LoopDevice::of(&file, false).unwrap().path(), path);
        drop(device);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let start = std::time::Instant::now();
        let backing = format!("/sys/block/{name}/loop/backing_file");
        while std::fs::read_to_string(&backing).is_ok_and(|text| text.trim() == file.to_str().unwrap()) {
            assert!(start.elapsed() < std::time::Duration::from_secs(10));
        }
        assert!(LoopDevice::of(&dir.path().join("nosuch"), false).is_err());
    }
}
