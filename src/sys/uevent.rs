//! The kernel's words about devices that come, go or change (NETLINK_KOBJECT_UEVENT).
//!
//! Source of the format: the kernel's `lib/kobject_uevent.c`: `<action>@<path>`, then `KEY=value`, each ended by a NUL.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

/// The group of the kernel's own messages; udev's are in another.
const KERNEL: u32 = 1;
/// Longer than any: its variables have 2048 bytes (`UEVENT_BUFFER_SIZE`), and the path before them is at most that.
const LONGEST: usize = 8192;

/// What was heard since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// A device of USB, a graphics card, or something with a device node came or went.
    pub hardware: bool,
    /// A processor was switched on or off.
    pub processors: bool,
}

impl Heard {
    /// Whatever may have happened: messages were lost.
    const ANYTHING: Self = Self { hardware: true, processors: true };

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
                Err(Errno::NOBUFS) => heard = Heard::ANYTHING,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(of("add@/x|ACTION=add|SUBSYSTEM=tty|MAJOR=166|MINOR=0|DEVNAME=ttyACM0|"), hardware);
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
        assert_eq!(uevents.take().unwrap(), Heard::ANYTHING);
    }
}
