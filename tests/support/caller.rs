//! Requests to a daemon that may die at any moment: whatever happens to them is no failure.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Asks over a socket, from a thread of its own.
#[derive(Clone)]
pub struct Caller {
    pub socket: PathBuf,
}

impl Caller {
    /// A connection that has sent the head of a request.
    pub fn begin(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        Some(stream)
    }

    /// A request and its answer, which may have been cut.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<String> {
        let length = body.len().to_string();
        let headers = [&[("Connection", "close"), ("Content-Length", length.as_str())], headers].concat();
        let mut stream = self.begin(method, path, &headers)?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    fn json(text: &str) -> Option<Value> {
        serde_json::from_str(text.get(text.find('{')?..=text.rfind('}')?)?).ok()
    }

    /// A request, and the end of its operation if it has one: the answer, or the operation as it ended.
    pub fn call_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Value> {
        let answer = Self::json(&self.send(method, path, headers, body)?)?;
        match answer["operation"].as_str() {
            Some(url) if answer["type"] == "async" => {
                Self::json(&self.send("GET", &format!("{url}/wait"), &[], b"")?)
            }
            _ => Some(answer),
        }
    }

    /// The same with JSON.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        self.call_raw(method, path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// A request that answers with the secrets of websockets: all are connected, and a while of the first one is seen.
    pub fn websockets(&self, path: &str, body: &str, names: &[&str]) -> Option<()> {
        let answer = Self::json(&self.send("POST", path, &[("Content-Type", "application/json")], body.as_bytes())?)?;
        let url = answer["operation"].as_str()?;
        let mut streams = Vec::new();
        for name in names {
            let secret = answer["metadata"]["metadata"]["fds"][*name].as_str()?;
            let headers = [
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ];
            let mut stream = self.begin("GET", &format!("{url}/websocket?secret={secret}"), &headers)?;
            super::http::read_head(&mut stream);
            stream.set_read_timeout(Some(Duration::from_millis(60))).ok()?;
            streams.push(stream);
        }
        streams.first_mut()?.read_to_end(&mut Vec::new()).ok().map(drop)
    }

    /// An SFTP session that says hello and makes a directory.
    pub fn sftp(&self, instance: &str, directory: &str) -> Option<()> {
        let path = format!("/1.0/instances/{instance}/sftp");
        let mut stream = self.begin("GET", &path, &[("Connection", "Upgrade"), ("Upgrade", "sftp")])?;
        super::http::read_head(&mut stream);
        let length = u8::try_from(directory.len()).ok()?;
        stream.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).ok()?;
        stream.write_all(&[0, 0, 0, 13 + length, 14, 0, 0, 0, 1, 0, 0, 0, length]).ok()?;
        stream.write_all(directory.as_bytes()).ok()?;
        stream.write_all(&[0; 4]).ok()?;
        let mut length = [0; 4];
        for _ in 0..2 {
            stream.read_exact(&mut length).ok()?;
            let mut packet = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut packet).ok()?;
        }
        Some(())
    }
}
