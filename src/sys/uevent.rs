//! The kernel's words about devices that come, go or change (NETLINK_KOBJECT_UEVENT).
//!
//! Source of the format: the kernel's `lib/kobject_uevent.c`: `<action>@<path>`, then `KEY=value`, each ended by a NUL.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with};
use serde::{Deserialize, Serialize};

/// The group of the kernel's own messages; udev's are in another.
const KERNEL: u32 = 1;
/// Longer than any: its variables have 2048 bytes (`UEVENT_BUFFER_SIZE`), and the path before them is at most that.
const LONGEST: usize = 8192;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `move`, `online`, `offline`, `bind`, `unbind`.
    pub action: String,
    /// The device below `/sys`.
    pub path: String,
    /// All pairs, `ACTION` and `DEVPATH` among them.
    pub pairs: BTreeMap<String, String>,
}

impl Uevent {
    /// Reads a message of the kernel; none when it is none.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        let head = std::str::from_utf8(parts.next()?).ok()?;
        // That of udevd begins otherwise.
        let (action, path) = head.split_once('@')?;
        let pairs = parts.filter_map(|part| std::str::from_utf8(part).ok()?.split_once('='));
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Some(Self { action: action.to_owned(), path: path.to_owned(), pairs })
    }

    /// The value of a key; empty when there is none.
    pub fn get(&self, key: &str) -> &str {
        self.pairs.get(key).map_or("", String::as_str)
    }

    /// As it is sent: the kernel adds `SEQNUM` itself.
    fn message(&self) -> Vec<u8> {
        let mut bytes = format!("{}@{}\0", self.action, self.path).into_bytes();
        for (key, value) in self.pairs.iter().filter(|(key, _)| *key != "SEQNUM") {
            bytes.extend(format!("{key}={value}\0").into_bytes());
        }
        bytes
    }
}

/// What was heard since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// A device of USB, a graphics card, or something with a device node came or went.
    pub hardware: bool,
    /// A processor was switched on or off.
    pub processors: bool,
    /// What was told of device nodes, in order.
    pub nodes: Vec<Uevent>,
}

/// So many messages about nodes are kept at one look.
const KEPT: usize = 1024;

impl Heard {
    /// Adds what one message says.
    fn add(&mut self, message: &[u8]) {
        let mut node = false;
        let mut subsystem: &[u8] = b"";
        for field in message.split(|byte| *byte == 0).skip(1) {
            node |= field.starts_with(b"MAJOR=");
            subsystem = field.strip_prefix(b"SUBSYSTEM=").unwrap_or(subsystem);
        }
        self.processors |= subsystem == b"cpu";
        self.hardware |= node || matches!(subsystem, b"usb" | b"drm" | b"pci");
        if node && self.nodes.len() < KEPT {
            self.nodes.extend(Uevent::parse(message));
        }
    }
}

/// Tells a device in the caller's network namespace, as if the kernel had: every listener there hears it. Needs
/// `CAP_SYS_ADMIN` in the user namespace that the network namespace belongs to; kernel 4.18.
///
/// # Errors
/// `PermissionDenied`, or that of the kernel.
pub fn inject(event: &Uevent) -> io::Result<()> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::KOBJECT_UEVENT))?;
    let payload = event.message();
    // struct nlmsghdr (netlink(7)): length, type, flags, sequence number, port. Types below 16 are the kernel's own words.
    let length = u32::try_from(16 + payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(16u16.to_ne_bytes());
    // NLM_F_REQUEST | NLM_F_ACK.
    message.extend(5u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(payload);
    sendto(fd.as_fd(), &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 1024];
    let (_, length, _) = recvfrom(&fd, &mut answer[..], RecvFlags::empty())?;
    // NLMSG_ERROR: the header, then an errno below zero, or zero.
    match answer.get(..length).and_then(|answer| answer.get(16..20)?.first_chunk::<4>()) {
        Some(errno) => match i32::from_ne_bytes(*errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        },
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Hears them.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Listens from now on.
    ///
    /// # Errors
    /// Of socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::KOBJECT_UEVENT))?;
        bind(&fd, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(fd))
    }

    /// Readable when there is something: a descriptor of its own.
    ///
    /// # Errors
    /// Of fcntl(2).
    pub fn readable(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Takes all that is there; does not wait.
    ///
    /// # Errors
    /// Of recvfrom(2).
    pub fn take(&self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut buffer = [0; LONGEST];
        loop {
            match recvfrom(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length, from)) => {
                    // Processes may speak in this group, too; the kernel's port is 0.
                    let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    if sender.is_some_and(|sender| sender.pid() == 0) {
                        heard.add(buffer.get(..length).unwrap_or_default());
                    }
                }
                Err(Errno::AGAIN) => return Ok(heard),
                Err(Errno::INTR) => {}
                // Whatever may have happened: messages were lost.
                Err(Errno::NOBUFS) => (heard.hardware, heard.processors) = (true, true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_written() {
        let message = b"add@/devices/usb1/1-1\0ACTION=add\0DEVPATH=/devices/usb1/1-1\0SUBSYSTEM=usb\0SEQNUM=7\0X=a=b\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!((event.action.as_str(), event.path.as_str()), ("add", "/devices/usb1/1-1"));
        assert_eq!((event.get("SUBSYSTEM"), event.get("X"), event.get("Y")), ("usb", "a=b", ""));
        let again = Uevent::parse(&event.message()).unwrap();
        assert_eq!((again.get("SEQNUM"), again.get("X")), ("", "a=b"));
        for none in [&b""[..], b"\0\0", b"libudev\0\xfe\xed", b"\xff@x"] {
            assert_eq!(Uevent::parse(none), None);
        }
    }

    fn of(text: &str) -> Heard {
        let mut heard = Heard::default();
        heard.add(text.replace('|', "\0").as_bytes());
        heard
    }

    #[test]
    fn messages_say_what_they_concern() {
        let (hardware, processors) =
            (Heard { hardware: true, ..Heard::default() }, Heard { processors: true, ..Heard::default() });
        assert_eq!(of("add@/devices/x/1-2|ACTION=add|DEVPATH=/devices/x/1-2|SUBSYSTEM=usb|SEQNUM=7|"), hardware);
        let line = of("add@/x|ACTION=add|SUBSYSTEM=tty|MAJOR=166|MINOR=0|DEVNAME=ttyACM0|");
        assert!(line.hardware && !line.processors);
        assert_eq!(line.nodes[0].get("DEVNAME"), "ttyACM0");
        assert_eq!(of("offline@/devices/system/cpu/cpu1|ACTION=offline|SUBSYSTEM=cpu|"), processors);
        for other in ["", "|", "add@/x", "add@/x|SUBSYSTEM=net|INTERFACE=eth0|", "MAJOR=1|"] {
            assert_eq!(of(other), Heard::default(), "{other:?}");
        }
    }

    #[test]
    fn the_kernel_is_heard() {
        let uevents = Uevents::open().unwrap();
        std::fs::write("/sys/devices/virtual/mem/null/uevent", "change").unwrap();
        // Sent before the write returns.
        assert!(uevents.take().unwrap().hardware);
    }

    #[test]
    fn what_is_lost_may_have_been_anything() {
        let uevents = Uevents::open().unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&uevents.0, 0).unwrap();
        for _ in 0..64 {
            std::fs::write("/sys/devices/virtual/mem/null/uevent", "change").unwrap();
        }
        let heard = uevents.take().unwrap();
        assert!(heard.hardware && heard.processors);
    }
}
