//! Instances as ready-made JSON: rendered when they change, not when they are asked for.
//!
//! A list of a hundred instances is then the joining of a hundred texts. What belongs to a moment (the live state) is
//! read when somebody asks and shared with everybody who asks within [`FRESH`] of it; one reading at a time per
//! instance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::OwnedMutexGuard;

use super::call::blocking;
use super::error::Error;
use super::instance_snapshots;
use super::instances::{modifiable, to_wire};
use super::response;
use super::wire::{DiskState, InstanceState};
use crate::db::{self, InstanceSnapshot, Model, Profile};
use crate::instance::{self, Snapshot};
use crate::names::{InstanceKey, ProfileName, ProjectName, SnapshotKey};
use crate::state_dir::StateDir;
use crate::storage::{Pool, VolumeId};

/// How long a reading of the live state is good for.
const FRESH: Duration = Duration::from_millis(100);
/// Readings of many instances are shared between so many threads.
const READERS: usize = 2;

/// An instance, rendered.
pub(super) struct Piece {
    record: Arc<db::Instance>,
    profiles: Arc<BTreeMap<(ProjectName, ProfileName), Arc<Profile>>>,
    snapshots: Arc<BTreeMap<SnapshotKey, Arc<InstanceSnapshot>>>,
    snapshot: Snapshot,
    /// Its snapshots, or `null`.
    snapshots_json: Bytes,
    /// The object of recursion 1.
    pub(super) json: Bytes,
    /// Of its modifiable part.
    pub(super) etag: String,
}

/// A reading of the live state.
struct Reading {
    snapshot: Snapshot,
    at: Instant,
    json: Bytes,
}

type Slot = Arc<tokio::sync::Mutex<Option<Reading>>>;

/// What has been rendered so far.
pub struct Rendered {
    dir: StateDir,
    pieces: Mutex<BTreeMap<InstanceKey, Arc<Piece>>>,
    readings: Mutex<BTreeMap<InstanceKey, Slot>>,
}

impl Rendered {
    /// Nothing yet; `dir` knows of running instances what the kernel does not tell.
    pub fn new(dir: StateDir) -> Self {
        Self { dir, pieces: Mutex::default(), readings: Mutex::default() }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn json_of(value: &impl serde::Serialize) -> Bytes {
    // The wire types hold nothing that JSON cannot; `null` would be seen by every test.
    serde_json::to_vec(value).map_or_else(|_| Bytes::from_static(b"null"), Bytes::from)
}

impl Piece {
    fn is_current(&self, model: &Model, record: &Arc<db::Instance>, snapshot: Snapshot) -> bool {
        Arc::ptr_eq(&self.record, record)
            && Arc::ptr_eq(&self.profiles, &model.profiles)
            && Arc::ptr_eq(&self.snapshots, &model.snapshots)
            && self.snapshot == snapshot
    }

    /// The object of recursion 2, around a state.
    pub(super) fn full(&self, state: &[u8]) -> Bytes {
        let mut full = BytesMut::with_capacity(self.json.len() + state.len() + self.snapshots_json.len() + 48);
        full.put_slice(self.json.strip_suffix(b"}").unwrap_or(&self.json));
        full.put_slice(b",\"backups\":null,\"state\":");
        full.put_slice(state);
        full.put_slice(b",\"snapshots\":");
        full.put_slice(&self.snapshots_json);
        full.put_slice(b"}");
        full.freeze()
    }
}

impl Rendered {
    /// An instance of `model`, rendered now or before.
    pub(super) fn piece(&self, model: &Model, record: &Arc<db::Instance>, snapshot: Snapshot) -> Arc<Piece> {
        if let Some(piece) = locked(&self.pieces).get(&record.key).filter(|p| p.is_current(model, record, snapshot)) {
            return Arc::clone(piece);
        }
        let piece = Arc::new(Piece {
            record: Arc::clone(record),
            profiles: Arc::clone(&model.profiles),
            snapshots: Arc::clone(&model.snapshots),
            snapshot,
            snapshots_json: json_of(&Some(instance_snapshots::all(model, &record.key)).filter(|all| !all.is_empty())),
            json: json_of(&to_wire(model, record, snapshot)),
            etag: response::etag(modifiable(record)),
        });
        let mut pieces = locked(&self.pieces);
        pieces.insert(record.key.clone(), Arc::clone(&piece));
        // Those of instances that are gone are let go when they are more than the rest.
        if pieces.len() > 16 + 2 * model.instances.len() {
            pieces.retain(|key, _| model.instances.contains_key(key));
            locked(&self.readings).retain(|key, _| model.instances.contains_key(key));
        }
        piece
    }

    fn slot(&self, key: &InstanceKey) -> Slot {
        let mut readings = locked(&self.readings);
        if let Some(slot) = readings.get(key) {
            return Arc::clone(slot);
        }
        Arc::clone(readings.entry(key.clone()).or_default())
    }

    /// The live state of one instance.
    ///
    /// # Errors
    /// Only when the daemon ends.
    pub(super) async fn state(
        &self,
        key: &InstanceKey,
        snapshot: Snapshot,
        root: Option<Root>,
    ) -> Result<Bytes, Error> {
        let mut states = self.states(vec![(key, snapshot, root)]).await?;
        Ok(states.pop().unwrap_or_default())
    }

    /// The live states of these instances, in their order.
    ///
    /// # Errors
    /// Only when the daemon ends.
    pub(super) async fn states(
        &self,
        wanted: Vec<(&InstanceKey, Snapshot, Option<Root>)>,
    ) -> Result<Vec<Bytes>, Error> {
        let mut states = vec![Bytes::new(); wanted.len()];
        let mut stale = Vec::new();
        // In the order of their keys, as everybody does who takes several: nobody waits in a circle.
        for (index, (key, snapshot, root)) in wanted.into_iter().enumerate() {
            let state = states.get_mut(index);
            if !snapshot.status.is_up() && root.is_none() {
                if let Some(state) = state {
                    *state =
                        instance::live_states(&[(snapshot, Path::new(""))]).first().map(json_of).unwrap_or_default();
                }
                continue;
            }
            let reading = self.slot(key).lock_owned().await;
            let fresh = |reading: &&Reading| reading.snapshot == snapshot && reading.at.elapsed() < FRESH;
            match (reading.as_ref().filter(fresh), state) {
                (Some(reading), Some(state)) => *state = reading.json.clone(),
                _ => stale.push(Stale { index, snapshot, nics: self.dir.nics(&key.container()), root, reading }),
            }
        }
        let share = stale.len().div_ceil(READERS).max(1);
        let mut work = Vec::new();
        while !stale.is_empty() {
            let rest = stale.split_off(share.min(stale.len()));
            let mine = std::mem::replace(&mut stale, rest);
            work.push(blocking(move || Ok::<_, Error>(read(mine))));
        }
        for (index, json) in futures_util::future::try_join_all(work).await?.into_iter().flatten() {
            if let Some(state) = states.get_mut(index) {
                *state = json;
            }
        }
        Ok(states)
    }
}

/// The volume of an instance's root disk, in a pool whose file system counts what volumes have.
pub(super) struct Root {
    /// Name of the disk.
    pub(super) device: String,
    /// Its pool.
    pub(super) pool: Arc<Pool>,
    /// Its volume.
    pub(super) volume: VolumeId,
}

/// One whose state is to be read.
struct Stale {
    /// Its place in the list.
    index: usize,
    snapshot: Snapshot,
    /// The file of its nics.
    nics: PathBuf,
    root: Option<Root>,
    /// Where the reading goes.
    reading: OwnedMutexGuard<Option<Reading>>,
}

/// What the root disk has, for the state.
fn add_root(state: &mut InstanceState, root: Option<&Root>) {
    let Some(root) = root else { return };
    match root.pool.usage(&root.volume) {
        Ok(Some(usage)) => {
            let usage = i64::try_from(usage.used).unwrap_or(i64::MAX);
            state.disk.insert(root.device.clone(), DiskState { usage });
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a state is shown without its disk"),
    }
}

fn read(stale: Vec<Stale>) -> Vec<(usize, Bytes)> {
    let snapshots: Vec<(Snapshot, &Path)> = stale.iter().map(|one| (one.snapshot, one.nics.as_path())).collect();
    let states = instance::live_states(&snapshots);
    let keep = |(mut one, mut state): (Stale, InstanceState)| {
        add_root(&mut state, one.root.as_ref());
        let json = json_of(&state);
        *one.reading = Some(Reading { snapshot: one.snapshot, at: Instant::now(), json: json.clone() });
        (one.index, json)
    };
    stale.into_iter().zip(states).map(keep).collect()
}

/// A JSON list of ready-made texts.
pub(super) fn join(pieces: &[Bytes]) -> Bytes {
    let mut list = BytesMut::with_capacity(pieces.iter().map(|piece| piece.len() + 1).sum::<usize>() + 2);
    list.put_u8(b'[');
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            list.put_u8(b',');
        }
        list.put_slice(piece);
    }
    list.put_u8(b']');
    list.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_joined_to_a_list() {
        for (pieces, list) in [(&[][..], "[]"), (&["1"], "[1]"), (&["{}", "{}"], "[{},{}]")] {
            let pieces: Vec<Bytes> = pieces.iter().map(|piece: &&str| Bytes::from_static(piece.as_bytes())).collect();
            assert_eq!(join(&pieces), list);
        }
    }

    #[tokio::test]
    async fn states_keep_their_order_and_those_of_stopped_ones_are_made_without_reading() {
        let key = |name: &str| InstanceKey {
            project: ProjectName::default(),
            name: crate::names::InstanceName::new(name).unwrap(),
        };
        let (a, b) = (key("a"), key("b"));
        // A process of ours stands in for an init.
        let own = Snapshot { status: instance::Status::Running, pid: i32::try_from(std::process::id()).unwrap() };
        let rendered = Rendered::new(StateDir::new("/nowhere".into()));
        let states = rendered.states(vec![(&a, Snapshot::STOPPED, None), (&b, own, None)]).await.unwrap();
        let parsed: Vec<serde_json::Value> = states.iter().map(|s| serde_json::from_slice(s).unwrap()).collect();
        assert_eq!((&parsed[0]["status"], &parsed[1]["pid"]), (&"Stopped".into(), &own.pid.into()));
        let again = rendered.states(vec![(&b, own, None)]).await.unwrap();
        assert_eq!(again[0], states[1], "shared while it is fresh");
    }
}
