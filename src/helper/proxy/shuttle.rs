//! Bytes from one socket to another, as fast as both take them.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::shut;

/// One way of a connection.
#[derive(Default)]
pub(super) struct Half {
    /// What was read and could not be written yet; while there is some, nothing more is read.
    pub(super) left: Vec<u8>,
    /// Nothing more comes.
    pub(super) ended: bool,
    /// And all of it went out, or can go nowhere.
    pub(super) done: bool,
}

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// Until one side was not ready.
    All,
    /// There may be more; others come first.
    More,
    /// The connection is broken.
    Broken(Errno),
}

/// Rounds before others come first.
const ROUNDS: u32 = 16;

impl Half {
    /// Writes what is left. False: not all.
    pub(super) fn flush(&mut self, to: impl AsFd) -> bool {
        while !self.left.is_empty() {
            match send(&to, &self.left, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.left.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.done = true;
                    self.left = Vec::new();
                }
            }
        }
        // Thousands of connections that wait keep no memory.
        self.left = Vec::new();
        true
    }

    /// Moves what there is. `packets` says of each side whether it takes datagrams, which have no end and may be lost.
    pub(super) fn shuttle(
        &mut self,
        (from, from_packets): (impl AsFd, bool),
        (to, to_packets): (impl AsFd, bool),
        scratch: &mut [u8],
    ) -> Moved {
        for _ in 0..ROUNDS {
            if self.done || !self.flush(&to) {
                return Moved::All;
            }
            if self.ended {
                if !to_packets {
                    shut(&to);
                }
                self.done = true;
            }
            if self.done {
                return Moved::All;
            }
            let count = match recv(&from, &mut *scratch, RecvFlags::empty()) {
                Ok((0, _)) if !from_packets => {
                    self.ended = true;
                    continue;
                }
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Moved::All,
                Err(error) => return Moved::Broken(error),
            };
            let read = scratch.get(..count).unwrap_or_default();
            match send(&to, read, SendFlags::NOSIGNAL) {
                Ok(sent) => self.left.extend_from_slice(read.get(sent..).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) if to_packets => {}
                Err(Errno::AGAIN | Errno::INTR) => self.left.extend_from_slice(read),
                Err(error) if to_packets => return Moved::Broken(error),
                // The other way may still have something to bring.
                Err(_) => self.done = true,
            }
        }
        Moved::More
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn an_end_is_passed_on_after_all_that_was_before_it() {
        let (mut client, from) = UnixStream::pair().unwrap();
        let (to, mut target) = UnixStream::pair().unwrap();
        for socket in [&from, &to] {
            socket.set_nonblocking(true).unwrap();
        }
        let sent = vec![7; 4 << 20];
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            client.write_all(&copy).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            client
        });
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            target.read_to_end(&mut all).unwrap();
            (all, target)
        });
        let (mut half, mut scratch) = (Half::default(), vec![0; 1 << 16]);
        while !half.done {
            assert!(!matches!(half.shuttle((&from, false), (&to, false), &mut scratch), Moved::Broken(_)));
            std::thread::yield_now();
        }
        let (got, _target) = reader.join().unwrap();
        assert_eq!(got, sent);
        // The other way is open.
        let mut client = writer.join().unwrap();
        (&from).write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}
