//! An upload's bytes on their way to the disk:
//!
//! ```text
//! take ──▶ gathered ──▶ one batch in flight ─┬─▶ hashed  ─┬─▶ the next batch
//!          (≤ FULL)                          └─▶ written ─┘
//! ```
//!
//! While a batch is hashed and written, by two threads, the next one is gathered. No thread waits for the sender.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::Error;
use super::store::{Part, Upload};
use crate::sys::memory;

/// Less is not worth two threads' turns, bytes.
const WORTH: usize = 256 * 1024;
/// What is gathered at most while a batch is in flight, bytes; so memory has twice as much.
const FULL: usize = 2 * 1024 * 1024;

/// Writes an upload. When it is dropped, the upload goes, too, as soon as what is in flight has ended.
pub struct Writer {
    state: State,
    gathered: Vec<Bytes>,
    length: usize,
    count: u64,
}

/// `Failed` is told once by [`Writer::take`] or [`Writer::end`], and remains.
enum State {
    Idle(Box<Upload>),
    Busy(JoinHandle<Result<Box<Upload>, Error>>),
    Failed,
}

impl Writer {
    /// Writes to the upload.
    pub fn new(upload: Upload) -> Self {
        Self { state: State::Idle(Box::new(upload)), gathered: Vec::new(), length: 0, count: 0 }
    }

    /// Bytes of this part so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What is taken from now on belongs to `part`.
    ///
    /// # Errors
    /// Of what was taken before, or when the file cannot be made.
    pub async fn part(&mut self, part: Part) -> Result<(), Error> {
        let mut upload = self.settle().await?;
        self.count = 0;
        let made = upload.part(part);
        self.state = State::Idle(upload);
        made
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and other ones of the disk, perhaps of bytes before these.
    pub async fn take(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.count += bytes.len() as u64;
        self.length += bytes.len();
        self.gathered.push(bytes);
        let is_busy = matches!(&self.state, State::Busy(task) if !task.is_finished());
        if self.length < if is_busy { FULL } else { WORTH } {
            return Ok(());
        }
        let upload = self.idle().await?;
        self.send(upload);
        Ok(())
    }

    /// All is taken: the upload, written.
    ///
    /// # Errors
    /// As [`Writer::take`].
    pub async fn end(mut self) -> Result<Upload, Error> {
        self.settle().await.map(|upload| *upload)
    }

    /// Waits until everything is written.
    async fn settle(&mut self) -> Result<Box<Upload>, Error> {
        let upload = self.idle().await?;
        if self.gathered.is_empty() {
            return Ok(upload);
        }
        self.send(upload);
        self.idle().await
    }

    /// Waits until nothing is in flight.
    async fn idle(&mut self) -> Result<Box<Upload>, Error> {
        match &mut self.state {
            State::Idle(_) => {}
            State::Busy(task) => {
                let done = joined(task.await).and_then(|done| done);
                self.state = State::Failed;
                self.state = State::Idle(done?);
            }
            State::Failed => {}
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(upload) => Ok(upload),
            State::Busy(_) | State::Failed => Err(interrupted()),
        }
    }

    fn send(&mut self, upload: Box<Upload>) {
        let pieces = std::mem::take(&mut self.gathered);
        self.length = 0;
        self.state = State::Busy(tokio::spawn(batch(upload, pieces.into())));
    }
}

async fn batch(mut upload: Box<Upload>, pieces: Arc<[Bytes]>) -> Result<Box<Upload>, Error> {
    let mut digest = upload.digest();
    let hashed = spawn_blocking({
        let pieces = Arc::clone(&pieces);
        move || {
            pieces.iter().for_each(|piece| digest.update(piece));
            digest
        }
    });
    let written = spawn_blocking(move || pieces.iter().try_for_each(|piece| upload.store(piece)).map(|()| upload));
    let digest = joined(hashed.await);
    let mut upload = joined(written.await).and_then(|written| written)?;
    upload.set_digest(digest?);
    Ok(upload)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.gathered = Vec::new();
        // What it had gathered is kept for others no longer than that.
        if self.count > FULL as u64
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(memory::trim);
        }
    }
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Error> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Cancelled: only when the runtime ends.
        Err(_) => interrupted(),
    })
}

fn interrupted() -> Error {
    Error::Io { doing: "write", path: "an image".into(), error: io::ErrorKind::Interrupted.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Store;

    #[tokio::test]
    async fn pieces_of_all_lengths_come_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        let mut writer = Writer::new(store.begin());
        let mut all = Vec::new();
        writer.part(Part::Metadata).await.unwrap();
        writer.take(Bytes::from_static(b"no tarball")).await.unwrap();
        all.extend_from_slice(b"no tarball");
        assert_eq!(writer.count(), 10);
        writer.part(Part::Rootfs).await.unwrap();
        for number in 0..300_usize {
            let piece: Vec<u8> = (0..number * 97 % 70_000).map(|at| (at * number % 251) as u8).collect();
            all.extend_from_slice(&piece);
            writer.take(piece.into()).await.unwrap();
        }
        assert_eq!(writer.count() as usize, all.len() - 10);
        let upload = writer.end().await.unwrap();
        let written =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| std::fs::read(entry.path()).unwrap());
        let written: Vec<Vec<u8>> = written.collect();
        assert!(written.iter().any(|file| file == b"no tarball") && written.iter().any(|file| file == &all[10..]));
        let wrong = crate::names::Fingerprint::new("a".repeat(64)).unwrap();
        let found = hex::encode(ring::digest::digest(&ring::digest::SHA256, &all));
        let error = upload.finish(Some(&wrong)).map(drop).unwrap_err();
        assert!(error.to_string().contains(&found), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        // No part was begun.
        let mut writer = Writer::new(store.begin());
        writer.take(Bytes::from_static(b"x")).await.unwrap();
        assert!(matches!(writer.part(Part::Unified).await, Err(Error::Empty)));
        assert!(writer.end().await.is_err());
        // Dropped in flight.
        let mut writer = Writer::new(store.begin());
        writer.part(Part::Unified).await.unwrap();
        writer.take(vec![7; FULL].into()).await.unwrap();
        let State::Busy(task) = std::mem::replace(&mut writer.state, State::Failed) else {
            panic!("nothing in flight")
        };
        drop(writer);
        drop(task.await.unwrap().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
