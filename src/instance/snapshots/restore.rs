//! Restore: an instance goes back to a snapshot.
//!
//! ```text
//!  marker volatile.restoring ──> a running container is killed ──> its volume and the snapshot's copy change places
//!     ──> the snapshot's definition, no marker (one transaction) ──> started again, if it ran
//! ```
//! A crash before the volumes changed places: all is as it was. After that: the definition follows at the next start of
//! the daemon. Which of the two is the case, a file in the new volume says.

use std::sync::Arc;

use super::super::error::Error;
use super::super::update::{self, Change, Definition};
use super::super::{Context, blocking, marks};
use super::{find, place, purge_behind};
use crate::db::{Instance, InstanceSnapshot, Model};
use crate::names::{InstanceKey, SnapshotKey, SnapshotName};

/// The token of a restore and the snapshot's name.
pub(in super::super) const MARKER: &str = "volatile.restoring";

/// What stays as it is when all else goes back, beside the daemon's own keys ([`update::is_own`]).
fn stays(key: &str) -> bool {
    key == "volatile.uuid"
}

/// What `snapshot` makes of the instance.
fn definition(snapshot: Arc<InstanceSnapshot>) -> Change {
    Box::new(move |now: &Instance| {
        let mut config = snapshot.config.clone();
        config.retain(|key, _| !stays(key));
        config.extend(now.config.iter().filter(|(key, _)| stays(key)).map(|(key, value)| (key.clone(), value.clone())));
        Ok(Definition {
            config,
            devices: snapshot.devices.clone(),
            architecture: snapshot.architecture.clone(),
            profiles: snapshot.profiles.clone(),
            ephemeral: snapshot.ephemeral,
            description: snapshot.description.clone(),
        })
    })
}

/// The instance as it will be.
fn restored(context: &Context, model: &Model, key: &InstanceKey, name: &SnapshotName) -> Result<Instance, Error> {
    let snapshot = Arc::clone(find(model, key, name)?);
    let now = model.instances.get(key).ok_or(Error::NotFound)?;
    let (record, ..) = update::changed(context, model, now, &definition(snapshot))?;
    Ok(record)
}

/// Checks what can be checked, and writes down that it begins. Returns its token.
pub(in super::super) async fn begin(
    context: &Arc<Context>,
    key: &InstanceKey,
    name: &SnapshotName,
) -> Result<String, Error> {
    let token = uuid::Uuid::new_v4().to_string();
    let (checking, key, name, marker) = (Arc::clone(context), key.clone(), name.clone(), format!("{token} {name}"));
    context
        .db
        .write(move |tx| {
            restored(&checking, tx.model(), &key, &name)?;
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            record.config.insert(MARKER.to_owned(), marker.clone());
            Ok::<_, Error>(tx.put_instance(record)?)
        })
        .await?;
    Ok(token)
}

/// Does it, with an instance that is down and not mounted.
pub(in super::super) async fn put(
    context: &Arc<Context>,
    key: &InstanceKey,
    name: &SnapshotName,
    token: &str,
) -> Result<(), Error> {
    let (pool, volume) = place(context, key)?;
    let (snapshot, token) = (name.clone(), token.to_owned());
    let swapped = blocking(move || {
        let old = pool.restore(&volume, &snapshot, &token)?;
        purge_behind(&pool, old);
        Ok::<_, Error>(())
    });
    if let Err(error) = swapped.await {
        marks::set(context, key, MARKER, None).await?;
        return Err(error);
    }
    let finished = finish(context, key, name).await;
    if finished.is_err() {
        // It fitted when this began: a profile of it went meanwhile, perhaps. Its files are those of the snapshot.
        marks::set(context, key, MARKER, None).await?;
    }
    finished
}

async fn finish(context: &Arc<Context>, key: &InstanceKey, name: &SnapshotName) -> Result<(), Error> {
    let (checking, key, name) = (Arc::clone(context), key.clone(), name.clone());
    context
        .db
        .write(move |tx| {
            let mut record = restored(&checking, tx.model(), &key, &name)?;
            record.config.remove(MARKER);
            Ok::<_, Error>(tx.put_instance(record)?)
        })
        .await
}

/// At the daemon's start: finishes or undoes a restore that a crash broke off.
pub(super) async fn settle(context: &Arc<Context>, key: &InstanceKey) -> Result<(), Error> {
    let model = context.db.model();
    let Some(record) = model.instances.get(key) else { return Ok(()) };
    let Some((token, name)) = record.config.get(MARKER).and_then(|marker| marker.split_once(' ')) else {
        return Ok(());
    };
    let (pool, volume) = place(context, key)?;
    let (token, name) = (token.to_owned(), SnapshotName::new(name)?);
    if !blocking(move || Ok::<_, Error>(pool.was_restored(&volume, &token))).await? {
        marks::set(context, key, MARKER, None).await?;
        tracing::info!(instance = %key, "undid an interrupted restore");
        return Ok(());
    }
    if let Err(error) = finish(context, key, &name).await {
        // A profile of it went meanwhile, perhaps: its files are those of the snapshot, its definition cannot be.
        tracing::error!(instance = %key, %error, "restored its files, but not its definition");
        return marks::set(context, key, MARKER, None).await;
    }
    tracing::info!(snapshot = %SnapshotKey { instance: key.clone(), name }, "finished an interrupted restore");
    Ok(())
}
