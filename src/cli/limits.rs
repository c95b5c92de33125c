//! How much of what a server sends is kept at once: none may cost this host its memory.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tungstenite::protocol::WebSocketConfig;

use super::Error;
use super::connection::lost;

/// Bytes that an object takes when it is read, with room for some fields (a node of a B-tree).
const OBJECT: usize = 640;
/// Bytes that a list takes.
const LIST: usize = 128;
/// Bytes that a further field or item takes.
const ITEM: usize = 64;

/// Limits of an answer that is kept whole. Files go to where they are wanted piece by piece, and have none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Longest body, in bytes.
    body: usize,
    /// Most memory for what is read from it, in bytes.
    read: usize,
}

impl Limits {
    /// Some thousand instances with their states fit.
    pub(super) const USUAL: Self = Self { body: 48 << 20, read: 96 << 20 };
    /// For refusals, and servers that are not known yet.
    pub(super) const STRANGER: Self = Self { body: 1 << 20, read: 8 << 20 };

    /// Reads a body whole.
    pub(super) async fn collect(self, mut body: Incoming) -> Result<Bytes, Error> {
        let too_long = || Error::Broken(format!("It is longer than {} MiB", self.body >> 20));
        let known = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if known > self.body {
            return Err(too_long());
        }
        // What is promised need not come.
        let mut bytes = BytesMut::with_capacity(known.min(64 << 10));
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame.map_err(|e| lost(&e))?.into_data() else { continue };
            if bytes.len() + chunk.len() > self.body {
                return Err(too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Refuses JSON that would take much more memory than it is long: `[{},{},…` takes hundreds of times as much.
    pub(super) fn weigh(self, json: &[u8]) -> Result<(), Error> {
        // Even were it nothing but objects.
        if json.len().saturating_mul(OBJECT) <= self.read {
            return Ok(());
        }
        let (mut weight, mut inside, mut escaped) = (0usize, false, false);
        for byte in json {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if inside => escaped = true,
                b'"' => inside = !inside,
                _ if inside => {}
                b'{' => weight += OBJECT,
                b'[' => weight += LIST,
                b',' => weight += ITEM,
                _ => {}
            }
        }
        if weight > self.read {
            return Err(Error::Broken(format!("It has more parts than fit in {} MiB", self.read >> 20)));
        }
        Ok(())
    }
}

/// No daemon sends more in one message than a terminal's output or an event.
pub(super) fn of_websockets() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(8 << 20)).max_frame_size(Some(8 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_when_it_is_read_is_weighed() {
        let many = |part: &str| format!("[{}0]", format!("{part},").repeat(20_000));
        assert!(Limits::STRANGER.weigh(many("{}").as_bytes()).is_err());
        assert!(Limits::STRANGER.weigh(many("0").as_bytes()).is_ok());
        // In texts they weigh nothing.
        let text = format!("[\"{}\\\"{{\"]", "{[,".repeat(100_000));
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!(Limits::STRANGER.weigh(text.as_bytes()).is_ok());
    }
}
