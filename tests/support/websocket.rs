//! A websocket client over the daemon's socket, and the operations that have some.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::Daemon;

/// One websocket.
pub struct Socket(WebSocket<UnixStream>);

/// How a websocket ended: the code and the reason of its close frame, 1006 without one.
pub type Ended = (u16, String);

impl Socket {
    /// Connects, or gives the HTTP status of the refusal.
    pub fn connect(daemon: &Daemon, path: &str) -> Result<Self, u16> {
        let stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        match tungstenite::client(format!("ws://unix{path}"), stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub fn send(&mut self, bytes: impl Into<Vec<u8>>) {
        self.0.send(Message::binary(bytes.into())).unwrap();
    }

    pub fn text(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    pub fn close(&mut self) {
        self.0.close(None).unwrap();
        self.0.flush().unwrap();
    }

    /// Whatever can be sent; the daemon may have closed already.
    pub fn try_send(&mut self, bytes: Vec<u8>) -> bool {
        self.0.send(Message::binary(bytes)).is_ok()
    }

    /// The next text, as JSON.
    #[track_caller]
    pub fn next_json(&mut self) -> Value {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("no text came, but {other:?}"),
            }
        }
    }

    /// Reads until what came contains `wanted`.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if text.contains(wanted) {
                return text;
            }
            match self.0.read() {
                Ok(Message::Binary(bytes)) => seen.extend_from_slice(&bytes),
                Ok(Message::Text(text)) if !text.is_empty() => seen.extend_from_slice(text.as_bytes()),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{wanted:?} did not come, but {other:?} after {text:?}"),
            }
        }
    }

    /// Reads to the end: the data, whether its end was marked, and how the websocket was closed.
    pub fn rest(&mut self) -> (Vec<u8>, bool, Ended) {
        let (mut data, mut marked) = (Vec::new(), false);
        loop {
            match self.0.read() {
                Ok(Message::Binary(bytes)) => data.extend_from_slice(&bytes),
                Ok(Message::Text(text)) if text.is_empty() => marked = true,
                Ok(Message::Text(text)) => data.extend_from_slice(text.as_bytes()),
                Ok(Message::Close(frame)) => {
                    let ended = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    // Sends the answer.
                    let _ = self.0.flush();
                    return (data, marked, ended);
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing came for 20 s after {:?}", String::from_utf8_lossy(&data))
                }
                Err(_) => return (data, marked, (1006, String::new())),
            }
        }
    }
}

/// An operation with websockets.
pub struct Session {
    pub url: String,
    fds: Value,
}

impl Session {
    /// Posts, and takes the secrets of the answer.
    #[track_caller]
    pub fn post(daemon: &Daemon, path: &str, body: &Value) -> Self {
        let (status, answer) = daemon.api("POST", path, &body.to_string());
        assert_eq!(status, 202, "{answer}");
        let url = answer["operation"].as_str().unwrap().to_owned();
        Self { url, fds: answer["metadata"]["metadata"]["fds"].clone() }
    }

    /// A command with websockets.
    #[track_caller]
    pub fn exec(daemon: &Daemon, instance: &str, interactive: bool, command: &[&str]) -> Self {
        let body = json!({"command": command, "interactive": interactive, "wait-for-websocket": true});
        Self::post(daemon, &format!("/1.0/instances/{instance}/exec"), &body)
    }

    pub fn path(&self, fd: &str) -> String {
        format!("{}/websocket?secret={}", self.url, self.fds[fd].as_str().unwrap())
    }

    #[track_caller]
    pub fn socket(&self, daemon: &Daemon, fd: &str) -> Socket {
        Socket::connect(daemon, &self.path(fd)).unwrap()
    }

    /// Waits for its end: status code, error, exit status of its command.
    #[track_caller]
    pub fn wait(&self, daemon: &Daemon) -> (u64, String, Option<i64>) {
        let (status, answer) = daemon.api("GET", &format!("{}/wait?timeout=30", self.url), "");
        assert_eq!(status, 200, "{answer}");
        let operation = &answer["metadata"];
        (
            operation["status_code"].as_u64().unwrap(),
            operation["err"].as_str().unwrap().to_owned(),
            operation["metadata"]["return"].as_i64(),
        )
    }
}
