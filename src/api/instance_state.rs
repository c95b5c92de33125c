//! `/1.0/instances/<name>/state`, and `PUT /1.0/instances` for all of them at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::app::App;
use super::call::Call;
use super::error::Error;
use super::instances::{find, spec};
use super::rendered::Root;
use super::response::{self, Response};
use super::wire;
use crate::db::{Instance, Model};
use crate::device::Set;
use crate::instance::{self, Stages, Target};
use crate::names::InstanceKey;
use crate::ops::{Handle, Spec};
use crate::profile;
use crate::storage::VolumeId;

type Result<T> = std::result::Result<T, Error>;

/// So many instances change their state at a time when all are asked to.
const AT_A_TIME: usize = 8;

/// `GET /1.0/instances/<name>/state`.
pub async fn get(call: Call) -> Result<Response> {
    let (_, record) = find(&call)?;
    let snapshot = call.app.instances.snapshot(&record.key);
    let root = root_of(&call, &call.app.db.model(), &record);
    let state = call.app.rendered.state(&record.key, snapshot, root).await?;
    Ok(response::sync_json(&state))
}

/// The root volume of an instance, if its pool's file system counts what it has.
pub(super) fn root_of(call: &Call, model: &Model, record: &Instance) -> Option<Root> {
    let pool = call.app.instances.context().pools.get(&record.pool).ok().filter(|pool| pool.counts())?;
    let set = Set::parse(&profile::expand_instance(model, record).devices).ok()?;
    let device = set.root?.0.to_string();
    Some(Root { device, pool, volume: VolumeId::of(&record.key) })
}

/// A wished change, parsed.
#[derive(Clone, Copy)]
struct Change {
    target: Target,
    timeout: Option<Duration>,
    force: bool,
    description: &'static str,
}

impl Change {
    fn parse(body: &wire::InstanceStatePut) -> Result<Self> {
        let (target, description) = match body.action.as_str() {
            "start" => (Target::Start, "Starting instance"),
            "stop" => (Target::Stop, "Stopping instance"),
            "restart" => (Target::Restart, "Restarting instance"),
            "freeze" => (Target::Freeze, "Freezing instance"),
            "unfreeze" => (Target::Unfreeze, "Unfreezing instance"),
            other => {
                let reason = format!("{other:?} is not known: use start, stop, restart, freeze or unfreeze");
                return Err(Error::Field { name: "action", reason });
            }
        };
        if body.stateful {
            return Err(Error::Unsupported { what: "stateful stops and starts".to_owned() });
        }
        let timeout = body.timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        Ok(Self { target, timeout, force: body.force, description })
    }
}

/// `PUT /1.0/instances/<name>/state`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::InstanceStatePut = call.json().await?;
    let (_, record) = find(&call)?;
    let Change { target, timeout, force, description } = Change::parse(&body)?;
    let key = record.key.clone();
    let mut spec = spec(&call, &key, description);
    // LXD names it in one word here.
    spec.resources.remove("containers");
    let (app, requestor) = (Arc::clone(&call.app), call.requestor());
    let operation = app.clone().ops.task(spec, async move |handle| {
        let change = app.instances.change(&key, target, timeout, force, Some(requestor));
        let stages: Stages = telling_shift(&app, &key, &handle, change).await?;
        if matches!(target, Target::Start | Target::Restart) {
            handle.add_metadata("stages", stages.to_json());
        }
        Ok::<(), instance::Error>(())
    });
    Ok(response::accepted(&operation))
}

/// How often the progress of a shift is told.
const TOLD: Duration = Duration::from_millis(250);

/// Does `work`, which may start the instance; how far a shift of its files is, the operation tells meanwhile.
pub(super) async fn telling_shift<T>(
    app: &App,
    key: &InstanceKey,
    handle: &Handle,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut last = None;
    loop {
        if let Ok(done) = tokio::time::timeout(TOLD, &mut work).await {
            return done;
        }
        let now = app.instances.shift_progress(key);
        if let Some((done, all)) = now.filter(|_| now != last) {
            let text = format!("Shift: {}% ({done} of {all} files)", done * 100 / all.max(1));
            handle.add_metadata("shift_progress", text.into());
        }
        last = now;
    }
}

/// `PUT /1.0/instances`: the change happens to every instance of the project that it would change; the others are left
/// alone. One that fails does not keep the rest from it; the operation then tells all failures.
pub async fn put_all(mut call: Call) -> Result<Response> {
    let body: wire::InstancesPut = call.json().await?;
    let project = call.project()?;
    let Some(state) = body.state else {
        let reason = "it is missing: give {\"action\": …}".to_owned();
        return Err(Error::Field { name: "state", reason });
    };
    let Change { target, timeout, force, description } = Change::parse(&state)?;
    let keys = call.app.instances.applicable(&project, target);
    let urls = keys.iter().map(|key| format!("/1.0/instances/{}", key.name)).collect();
    let requestor = call.requestor();
    let spec = Spec {
        description,
        project,
        resources: BTreeMap::from([("instances".to_owned(), urls)]),
        metadata: None,
        requestor: Some(requestor.clone()),
        may_cancel: false,
    };
    let app = Arc::clone(&call.app);
    let operation = app.clone().ops.task(spec, async move |_| {
        let failures = futures_util::stream::iter(keys)
            .map(|key| {
                let (app, requestor) = (Arc::clone(&app), requestor.clone());
                async move {
                    let done = app.instances.change(&key, target, timeout, force, Some(requestor)).await;
                    done.err().map(|error| (key, error))
                }
            })
            .buffer_unordered(AT_A_TIME)
            .filter_map(std::future::ready)
            .collect::<Vec<_>>()
            .await;
        if failures.is_empty() { Ok(()) } else { Err(Failures(failures)) }
    });
    Ok(response::accepted(&operation))
}

/// What went wrong with some of many instances.
struct Failures(Vec<(InstanceKey, instance::Error)>);

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (key, error)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {error}", key.name)?;
        }
        Ok(())
    }
}
