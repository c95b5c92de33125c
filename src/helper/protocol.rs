//! The messages between daemon and helper.

use std::io;
use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ContainerRef;
use super::files::{FilesRequest, Found, Refusal};
use super::intercept::InterceptRequest;
use super::mounts::MountRequest;
use super::templates::TemplatesRequest;
use crate::sys::notify::Verdict;
use crate::sys::process::Exit;
use crate::sys::socket;
use crate::sys::uevent::Uevent;

/// The longest message, bytes: a command line with its environment fits.
const MAX: usize = 4 * 1024 * 1024;

/// A command to run inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory; `/` when it does not exist.
    pub cwd: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Resource, soft and hard limit; `None` is none.
    pub limits: Vec<(String, Option<u64>, Option<u64>)>,
    /// Columns and rows of the pty to run on; without one, three fds come along.
    pub pty: Option<(u16, u16)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Start(ContainerRef),
    /// Whether liblxc takes these items of a configuration, of a container that is not there.
    Items(ContainerRef, Vec<(String, String)>),
    Freeze(ContainerRef),
    Unfreeze(ContainerRef),
    Attach(ContainerRef, AttachRequest),
    Signal(i32),
    /// Comes with the fds that [`super::files`] names.
    Files(FilesRequest),
    /// The content of a file is whole.
    Commit,
    Console(ContainerRef),
    /// Comes with the fds that [`super::mounts`] names.
    Mount(MountRequest),
    /// Comes with the fds that [`super::intercept`] names.
    Intercept(InterceptRequest),
    /// Comes with the fds that [`super::templates`] names.
    Templates(TemplatesRequest),
    /// Comes with the fds that [`super::uevents`] names.
    Uevents(Vec<Uevent>),
    /// Lets a running container use a device, or no more: a rule as of `lxc.cgroup2.devices.allow`.
    DeviceRule {
        container: ContainerRef,
        rule: String,
        allow: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Comes with a pidfd of init.
    Started {
        init: i32,
    },
    Done,
    /// Comes with the daemon's end of the pty, if one was asked for.
    Attached {
        pid: i32,
    },
    Exited(Exit),
    /// Comes with the client's end of the console.
    Console,
    /// Somebody else has the console.
    ConsoleTaken,
    Failed {
        reason: String,
    },
    File(Found),
    /// What becomes of an intercepted call.
    Verdict(Verdict),
    Refused(Refusal),
}

/// The bytes of a message.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Takes messages out of what has been received so far.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Fds that came along and were not taken yet.
    pub(super) fds: Vec<OwnedFd>,
}

impl Inbox {
    /// Receives once; false at the end of the stream.
    pub(super) fn fill(&mut self, socket: impl std::os::fd::AsFd) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        let count = socket::receive(socket, &mut chunk, &mut self.fds)?;
        self.bytes.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    /// What is here and was not taken.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The next whole message, if it is here.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(header) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.bytes[4..4 + length])?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn messages_and_fds_arrive_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let (extra, _keep) = UnixStream::pair().unwrap();
        let mut bytes = encode(&Reply::Started { init: 7 }).unwrap();
        bytes.extend(encode(&Reply::Done).unwrap());
        assert_eq!(socket::send(&a, &bytes, &[extra.as_fd()]).unwrap(), bytes.len());
        drop(a);
        let mut inbox = Inbox::default();
        while inbox.fill(&b).unwrap() {}
        assert!(matches!(inbox.take().unwrap(), Some(Reply::Started { init: 7 })));
        assert!(matches!(inbox.take().unwrap(), Some(Reply::Done)));
        assert!(inbox.take::<Reply>().unwrap().is_none());
        assert_eq!(inbox.fds.len(), 1);
    }
}
