//! Signed lists of images: a server whose key is pinned (`images.streams_key.<host>`) is believed only what that key signed.
//!
//! gpgv(1) judges, in a process of its own, and only what it gives back as signed is read. It takes every key that it is
//! given for good: one that has expired or was revoked is to be removed from the configuration.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::api::wire::Config;
use crate::config::pgp_key;
use crate::fetch::Url;

/// Beginning of the keys of the server's configuration; the server's name follows, with its port if it is not 443.
const KEY: &str = "images.streams_key.";
/// Around what is signed (RFC 9580, 7): nothing else may be there.
const BEGIN: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";
const END: &[u8] = b"-----END PGP SIGNATURE-----";

/// The keys by one of which lists must be signed, as gpgv reads them.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<Vec<u8>>);

impl Keys {
    /// Those that are pinned for any of these servers: mirrors hand on what the first one signed. `None`: nothing is pinned.
    pub(super) fn of(config: &Config, servers: &[Url]) -> Option<Self> {
        // However it is written, `A.B.:443` is `a.b`.
        let is_asked = |name: &str| {
            let pinned = Url::parse(&format!("https://{name}")).map(|pinned| pinned.authority());
            pinned.is_ok_and(|pinned| servers.iter().any(|server| server.authority() == pinned))
        };
        let pins = config.iter().filter_map(|(key, text)| Some((key.strip_prefix(KEY)?, text)));
        let texts = pins.filter(|(name, _)| is_asked(name)).map(|(_, text)| text);
        // What is no key was not taken into the configuration.
        let keys: Vec<u8> = texts.filter_map(|text| pgp_key::parse(text).ok()).flatten().collect();
        (!keys.is_empty()).then(|| Self(Arc::new(keys)))
    }

    /// The text of a clear-signed list. Blocking.
    ///
    /// # Errors
    /// With the reason why it is not believed.
    pub(super) fn verified(&self, list: &[u8]) -> Result<Vec<u8>, String> {
        let list = list.trim_ascii();
        if !list.starts_with(BEGIN) || !list.ends_with(END) || list[1..].windows(BEGIN.len()).any(|part| part == BEGIN)
        {
            return Err("it is not signed, and a key is pinned for its server".to_owned());
        }
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => "gpgv, which checks its signature, is not installed".to_owned(),
            _ => format!("gpgv, which checks its signature, cannot be run: {error}"),
        };
        let (keys, list) = (in_memory(&self.0).map_err(failed)?, in_memory(list).map_err(failed)?);
        // By the daemon's own table of files: gpgv opens the keys by a name.
        let place = format!("/proc/{}/fd/{}", std::process::id(), keys.as_raw_fd());
        let mut gpgv = Command::new("gpgv");
        // By SHA-1, two lists can have one signature.
        gpgv.args(["--status-fd", "2", "--weak-digest", "SHA1", "--keyring", &place, "--output", "-", "-"]);
        gpgv.env("LC_ALL", "C").env("HOME", "/nonexistent").env_remove("GNUPGHOME");
        let output = gpgv.stdin(Stdio::from(list)).output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let valid = said.lines().filter(|line| line.starts_with("[GNUPG:] VALIDSIG ")).count();
        if output.status.success() && valid > 0 {
            return Ok(output.stdout);
        }
        let mut words = said.lines().filter_map(|line| line.strip_prefix("gpgv: "));
        let reason = words.next_back().unwrap_or("gpgv does not say why");
        Err(format!(
            "its signature is not by the key that is pinned for its server: {}",
            crate::names::shortened(reason)
        ))
    }
}

/// A file that is nowhere but in memory, at its beginning.
fn in_memory(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("list", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_counts_however_its_server_is_written() {
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEAAAA\n-----END PGP PUBLIC KEY BLOCK-----";
        let is_pinned = |name: &str, server: &str| {
            let config = Config::from([(format!("{KEY}{name}"), key.to_owned())]);
            Keys::of(&config, &[Url::parse(server).unwrap()]).is_some()
        };
        for (name, server) in [
            ("images.example", "https://images.example/a"),
            ("Images.Example", "https://images.example"),
            ("images.example:443", "https://images.example."),
            ("images.example.", "https://IMAGES.example:443/x"),
            ("images.example:8443", "https://images.example.:8443"),
            ("[0:0::1]:8443", "https://[::1]:8443"),
        ] {
            assert!(is_pinned(name, server), "{name}: {server}");
        }
        for (name, server) in [
            ("images.example", "https://images.example:8443"),
            ("images.example:8443", "https://images.example"),
            ("images.example", "https://a.images.example"),
        ] {
            assert!(!is_pinned(name, server), "{name}: {server}");
        }
    }
}
