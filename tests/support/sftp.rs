//! A small SFTP client, version 3, without pipelining (draft-ietf-secsh-filexfer-02).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::Daemon;
use super::http::read_head;

/// A session.
pub struct Sftp {
    pub stream: UnixStream,
    next: u32,
}

/// An answer: its type, and what follows the number of the request.
pub type Packet = (u8, Vec<u8>);

/// A field of a request.
pub enum Field<'a> {
    Number(u32),
    Long(u64),
    Text(&'a [u8]),
}

pub use Field::{Long, Number, Text};

impl Sftp {
    /// Upgrades a connection and says hello.
    pub fn open(daemon: &Daemon, instance: &str) -> Self {
        let path = format!("/1.0/instances/{instance}/sftp");
        let mut stream = daemon.begin("GET", &path, &[("Connection", "Upgrade"), ("Upgrade", "sftp")]);
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("upgrade: sftp"), "{head}");
        let mut sftp = Self { stream, next: 0 };
        sftp.stream.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).unwrap();
        let (kind, hello) = sftp.read().unwrap();
        assert_eq!(kind, 2);
        assert!(hello.windows(20).any(|text| text == b"hardlink@openssh.com"));
        sftp
    }

    fn read(&mut self) -> Option<Packet> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut packet).ok()?;
        Some((packet[0], packet[5..].to_vec()))
    }

    /// Sends a request and reads its answer; none when the session has ended.
    pub fn try_ask(&mut self, kind: u8, fields: &[Field<'_>]) -> Option<Packet> {
        self.next += 1;
        let mut packet = vec![kind];
        packet.extend(self.next.to_be_bytes());
        for field in fields {
            match field {
                Number(number) => packet.extend(number.to_be_bytes()),
                Long(number) => packet.extend(number.to_be_bytes()),
                Text(text) => {
                    packet.extend((text.len() as u32).to_be_bytes());
                    packet.extend_from_slice(text);
                }
            }
        }
        let mut whole = (packet.len() as u32).to_be_bytes().to_vec();
        whole.extend(packet);
        self.stream.write_all(&whole).ok()?;
        self.read()
    }

    pub fn ask(&mut self, kind: u8, fields: &[Field<'_>]) -> Packet {
        self.try_ask(kind, fields).unwrap()
    }

    /// A request that is answered by a status: its code.
    #[track_caller]
    pub fn status(&mut self, kind: u8, fields: &[Field<'_>]) -> u32 {
        let (kind, answer) = self.ask(kind, fields);
        assert_eq!(kind, 101, "{}", String::from_utf8_lossy(&answer));
        u32::from_be_bytes(answer[..4].try_into().unwrap())
    }

    /// Opens a file or (kind 11) a directory: its handle, or the code of the refusal.
    pub fn handle(&mut self, kind: u8, fields: &[Field<'_>]) -> Result<Vec<u8>, u32> {
        match self.ask(kind, fields) {
            (102, answer) => Ok(answer[4..].to_vec()),
            (_, answer) => Err(u32::from_be_bytes(answer[..4].try_into().unwrap())),
        }
    }

    /// The whole content of a file, or the code of the refusal.
    pub fn content(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let handle = self.handle(3, &[Text(path.as_bytes()), Number(1), Number(0)])?;
        let mut content = Vec::new();
        while let (103, data) = self.ask(5, &[Text(&handle), Long(content.len() as u64), Number(32 * 1024)]) {
            content.extend_from_slice(&data[4..]);
        }
        self.status(4, &[Text(&handle)]);
        Ok(content)
    }

    /// The names in a directory, sorted.
    pub fn names(&mut self, path: &str) -> Vec<String> {
        let handle = self.handle(11, &[Text(path.as_bytes())]).unwrap();
        let mut names = Vec::new();
        while let (104, answer) = self.ask(12, &[Text(&handle)]) {
            let mut rest = &answer[4..];
            for _ in 0..u32::from_be_bytes(answer[..4].try_into().unwrap()) {
                let mut text = || {
                    let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                    let text = String::from_utf8_lossy(&rest[4..4 + length]).into_owned();
                    rest = &rest[4 + length..];
                    text
                };
                names.push(text());
                text();
                rest = &rest[4 + 8 + 5 * 4..];
            }
        }
        self.status(4, &[Text(&handle)]);
        names.sort();
        names
    }
}
