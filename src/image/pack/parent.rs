//! The daemon's side of packing.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{About, Failure, Reply, Request, Source};
use crate::config::compressor::Compressor;
use crate::image::error::{Error, io as io_error};
use crate::image::metadata::Metadata;
use crate::image::store::{Received, Upload};
use crate::names::Fingerprint;
use crate::sys::program;

/// Called with how many bytes of files are packed, and how many there are.
type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Holds a packing; dropping it ends the process, at any time.
#[derive(Debug)]
pub struct Stop {
    _end: PipeWriter,
}

/// What the process hangs on.
#[derive(Debug)]
pub struct Leash {
    reader: PipeReader,
    writer: PipeWriter,
}

/// The two ends of what a packing hangs on.
///
/// # Errors
/// Of pipe2(2).
pub fn leash() -> Result<(Stop, Leash), Error> {
    let made = io::pipe().and_then(|(reader, writer)| Ok((writer.try_clone()?, reader, writer)));
    let (end, reader, writer) = made.map_err(io_error("make a pipe for", "packing"))?;
    Ok((Stop { _end: end }, Leash { reader, writer }))
}

fn program() -> PathBuf {
    // Tests run in a program of their own; there the daemon stands beside it.
    std::env::var_os("WARREN_TEST_WARREND").map_or_else(|| program::path().to_owned(), PathBuf::from)
}

fn broken(reason: impl std::fmt::Display) -> Error {
    Error::Pack { reason: format!("the process that packs {reason}") }
}

impl Upload {
    /// Packs files into this image, in place of an upload. Blocking.
    ///
    /// # Errors
    /// With what cannot be read or written; nothing of it stays.
    pub fn pack(
        self,
        source: Source,
        about: About,
        compressor: Compressor,
        leash: Leash,
        progress: Progress<'_>,
    ) -> Result<Received, Error> {
        let to = self.unified_path().to_owned();
        let request = Request { source, about, compressor, to: to.clone() };
        let request = serde_json::to_vec(&request).map_err(|error| broken(format_args!("has no request: {error}")))?;
        let Leash { reader, mut writer } = leash;
        let mut child = Command::new(program())
            .arg0(program::NAME)
            .arg("pack")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(reader)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| broken(format_args!("cannot be started: {error}")))?;
        let length = u32::try_from(request.len()).unwrap_or(u32::MAX);
        // One that ends early says why.
        let _ = writer.write_all(&length.to_le_bytes()).and_then(|()| writer.write_all(&request));
        drop(writer);
        let mut last = None;
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).lines() {
                let Ok(reply) = line.and_then(|line| Ok(serde_json::from_str::<Reply>(&line)?)) else { break };
                match reply {
                    Reply::Progress(done, all) => progress(done, all),
                    end @ (Reply::Done { .. } | Reply::Failed(_)) => last = Some(end),
                }
            }
        }
        let status = child.wait().map_err(broken)?;
        match last {
            None => Err(broken(format_args!("was ended ({status})"))),
            Some(Reply::Failed(Failure::NoSpace)) => Err(Error::NoSpace { path: to }),
            Some(Reply::Failed(Failure::Limit { what, limit })) => {
                Err(Error::Pack { reason: format!("it has more than {limit} {what}, which no image may have") })
            }
            Some(Reply::Failed(Failure::Other(reason))) => Err(Error::Pack { reason }),
            Some(Reply::Progress(..)) => Err(broken("gave no answer")),
            Some(Reply::Done { digest, size, metadata }) => {
                let fingerprint = Fingerprint::new(digest).map_err(broken)?;
                let metadata = Metadata::parse(metadata.as_bytes())?;
                Ok(self.packed(fingerprint, i64::try_from(size).unwrap_or(i64::MAX), metadata))
            }
        }
    }
}
