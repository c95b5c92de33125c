//! The writer thread: group commit.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use tokio::sync::oneshot;

use super::error::Error;
use super::model::Model;
use super::reserve::Reserve;
use super::tx::Tx;
use super::{connection, tables};

/// Sends a closure's result once it is known whether the commit held.
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Runs one closure; says whether its savepoint is to be kept.
type Job = Box<dyn FnOnce(&mut Tx<'_>) -> (bool, Answer) + Send>;

/// At most so many closures share a commit.
const GROUP: usize = 64;

/// The one database of a daemon.
pub struct Database {
    model: Arc<ArcSwap<Model>>,
    /// `None` once it is closed.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Database {
    /// Opens or creates `<dir>/db.sqlite`, reads it whole and starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened, or its schema not be brought up to date. Damaged rows are no error: they are
    /// returned, for the log.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Error>), Error> {
        let path = dir.join(super::FILE);
        let mut connection = connection::open(&path)?;
        let (model, damaged) = tables::load(&mut connection)?;
        let model = Arc::new(ArcSwap::from_pointee(model));
        let (queue, jobs) = mpsc::channel();
        let published = Arc::clone(&model);
        let reserve = Reserve::of(&path);
        let thread = std::thread::Builder::new()
            .name("db-writer".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || run(connection, &jobs, &published, reserve))
            .map_err(|e| Error::Open { path: path.display().to_string(), reason: e.to_string() })?;
        Ok((Self { model, queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) }, damaged))
    }

    /// The model as of the last commit.
    pub fn model(&self) -> Arc<Model> {
        self.model.load_full()
    }

    /// Runs `change` in a savepoint of the next commit. Returns when that is on disk and the new model is published.
    ///
    /// # Errors
    /// What `change` returns (its savepoint is then undone), or the database's own failure.
    pub async fn write<T, E, F>(&self, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let result = change(tx);
            let keep = result.is_ok();
            let answer: Answer = Box::new(move |committed| {
                let outcome = match (result, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Ok(_), Err(error)) => Err(E::from(error)),
                    (Err(error), _) => Err(error),
                };
                // Nobody waits when the caller was cancelled; the change stands nevertheless.
                let _ = sender.send(outcome);
            });
            (keep, answer)
        });
        let sent = match &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(queue) => queue.send(job).is_ok(),
            None => false,
        };
        if !sent {
            return Err(E::from(Error::Closed));
        }
        receiver.await.unwrap_or_else(|_| Err(E::from(Error::Lost)))
    }
}

impl Database {
    /// Ends the writer when all that waits is written, and leaves one file: the next reader needs no log. Blocking.
    pub fn close(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The thread ends when the queue is empty and closed; a panic in it was logged where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(mut connection: SqliteConnection, jobs: &mpsc::Receiver<Job>, published: &ArcSwap<Model>, mut reserve: Reserve) {
    reserve.keep();
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        commit(&mut connection, group, published);
        reserve.keep();
    }
    // A clean end leaves no WAL behind for the next start to read.
    if let Err(error) = connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::debug!(%error, "checkpoint at the end");
    }
}

fn commit(connection: &mut SqliteConnection, group: Vec<Job>, published: &ArcSwap<Model>) {
    let mut model = Model::clone(&published.load());
    let mut answers = Vec::with_capacity(group.len());
    let mut outcome = connection.batch_execute("BEGIN IMMEDIATE").map_err(Error::from);
    for job in group {
        if outcome.is_ok() {
            match savepoint(connection, job, &mut model) {
                Ok(Some(answer)) => answers.push(answer),
                // The closure panicked: its sender is dropped, so its caller gets `Lost`.
                Ok(None) => {}
                Err((error, answer)) => {
                    answers.push(answer);
                    outcome = Err(error);
                }
            }
        } else {
            // The transaction is lost: run nothing more. Dropping the job tells its caller `Lost`.
            drop(job);
        }
    }
    if outcome.is_ok() {
        outcome = connection.batch_execute("COMMIT").map_err(Error::from);
    }
    match &outcome {
        Ok(()) => {
            model.generation += 1;
            published.store(Arc::new(model));
        }
        Err(error) => {
            tracing::error!(%error, "database transaction failed");
            // After some errors SQLite has rolled back by itself; then this statement fails, harmlessly.
            let _ = connection.batch_execute("ROLLBACK");
        }
    }
    for answer in answers {
        answer(outcome.clone());
    }
}

/// Runs one job in a savepoint; on refusal undoes it in file and model.
fn savepoint(
    connection: &mut SqliteConnection,
    job: Job,
    model: &mut Model,
) -> Result<Option<Answer>, (Error, Answer)> {
    let nothing: Answer = Box::new(|_| {});
    if let Err(error) = connection.batch_execute("SAVEPOINT job") {
        return Err((error.into(), nothing));
    }
    let mut tx = Tx { connection, model: model.clone() };
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| job(&mut tx)));
    let Tx { connection, model: draft } = tx;
    match result {
        Ok((true, answer)) => match connection.batch_execute("RELEASE job") {
            Ok(()) => {
                *model = draft;
                Ok(Some(answer))
            }
            Err(error) => Err((error.into(), answer)),
        },
        Ok((false, answer)) => match connection.batch_execute("ROLLBACK TO job; RELEASE job") {
            Ok(()) => Ok(Some(answer)),
            Err(error) => Err((error.into(), answer)),
        },
        Err(_) => {
            tracing::error!("a database change panicked; it was undone");
            match connection.batch_execute("ROLLBACK TO job; RELEASE job") {
                Ok(()) => Ok(None),
                Err(error) => Err((error.into(), nothing)),
            }
        }
    }
}
