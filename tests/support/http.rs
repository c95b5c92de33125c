//! One request over the socket with everything that comes back.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Daemon;

/// An answer, its body without the marks of chunks.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Fails the test unless it is this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Fails the test unless it is an error of this status that says `text`.
    #[track_caller]
    pub fn refused(self, status: u16, text: &str) {
        let body = self.is(status).json();
        assert_eq!(body["error_code"], status);
        let message = body["error"].as_str().unwrap();
        assert!(message.contains(text), "{text:?} is not in {message:?}");
    }
}

/// Reads a head, byte by byte: what follows it is another protocol's.
pub fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

impl Daemon {
    /// A connection that has sent this much of a request.
    pub fn begin(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream
    }

    /// One request and its whole answer.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let length = body.len().to_string();
        let headers = [&[("Connection", "close"), ("Content-Length", length.as_str())], headers].concat();
        let mut stream = self.begin(method, path, &headers);
        // A refusal may come before the whole body is sent.
        let _ = stream.write_all(body);
        let head = read_head(&mut stream);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let headers: Vec<(String, String)> =
            lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new(), whole: true };
        if answer.header("transfer-encoding") != "chunked" {
            let announced = answer.header("content-length").parse().unwrap_or(rest.len());
            answer.whole = method == "HEAD" || rest.len() == announced;
            answer.body = rest;
            return answer;
        }
        let mut rest = rest.as_slice();
        loop {
            let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
                answer.whole = false;
                return answer;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            if size == 0 {
                return answer;
            }
            answer.body.extend_from_slice(&rest[end + 2..end + 2 + size]);
            rest = &rest[end + 4 + size..];
        }
    }
}
