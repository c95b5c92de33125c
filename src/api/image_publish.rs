//! `POST /1.0/images` of an instance or a snapshot of one: its files become an image.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::call::Call;
use super::error::Error;
use super::images::{expiry, profiles};
use super::response::{self, Response};
use super::wire;
use crate::config::compressor::Compressor;
use crate::db::{Feature, Model};
use crate::image::{self, About, Received};
use crate::instance;
use crate::names::{AliasName, InstanceKey, InstanceName, ProjectName, SnapshotName};
use crate::ops::{Handle, Spec};
use crate::remote::{self, Keep};

type Result<T> = std::result::Result<T, Error>;

/// What project and server say when the request does not.
const COMPRESSION: &str = "images.compression_algorithm";

/// What is published.
struct Of {
    instance: InstanceKey,
    snapshot: Option<SnapshotName>,
}

fn wrong(name: &'static str, reason: impl Into<String>) -> Error {
    Error::Field { name, reason: reason.into() }
}

fn of(project: ProjectName, source: &wire::ImageSource) -> Result<Of> {
    if source.name.is_empty() {
        return Err(wrong(
            "source.name",
            "No source provided: name an instance, or a snapshot as \"instance/snapshot\"",
        ));
    }
    let parts = source.name.split_once('/');
    let (name, snapshot) = match (source.kind.as_str(), parts) {
        ("snapshot", None) => return Err(wrong("source.name", "Not a snapshot: name it as \"instance/snapshot\"")),
        ("snapshot", Some((name, snapshot))) => (name, Some(SnapshotName::new(snapshot)?)),
        (_, Some(_)) => return Err(wrong("source.name", "This is a snapshot: its source.type is \"snapshot\"")),
        (_, None) => (source.name.as_str(), None),
    };
    Ok(Of { instance: InstanceKey { project, name: InstanceName::new(name)? }, snapshot })
}

/// By the request, else the project, else the server.
fn compressor(model: &Model, project: &ProjectName, asked: &str) -> Result<Compressor> {
    let of_project = || model.projects.get(project).and_then(|project| project.config.get(COMPRESSION)).cloned();
    let chosen = Some(asked.to_owned()).filter(|text| !text.is_empty());
    let chosen = chosen.or_else(of_project).or_else(|| model.config.get(COMPRESSION).cloned());
    let name = if asked.is_empty() { COMPRESSION } else { "compression_algorithm" };
    let text = chosen.filter(|text| !text.is_empty()).unwrap_or_else(|| "gzip".to_owned());
    Compressor::parse(&text).map_err(|unknown| wrong(name, unknown.to_string()))
}

/// Names with their descriptions, each once.
fn aliases(named: Vec<wire::ImageAlias>) -> Result<Vec<(AliasName, String)>> {
    let mut aliases = BTreeMap::new();
    for alias in named {
        aliases.insert(AliasName::new(alias.name)?, alias.description);
    }
    Ok(aliases.into_iter().collect())
}

/// Publishes what `body.source` names.
///
/// # Errors
/// With the field that is wrong, or 404 when what it names is not there.
pub(super) async fn create(call: Call, body: wire::ImagesPost) -> Result<Response> {
    let source = body.source.unwrap_or_default();
    if source.kind == "virtual-machine" {
        return Err(wrong("source.type", "there are no virtual machines here, only containers"));
    }
    let (model, project) = (call.app.db.model(), call.project()?);
    let holder = call.holder(Feature::Images)?;
    let of = of(project.clone(), &source)?;
    let record = model.instances.get(&of.instance).ok_or(instance::Error::NotFound)?;
    if let Some(name) = &of.snapshot {
        instance::find_snapshot(&model, &of.instance, name)?;
    }
    let compressor = compressor(&model, &project, &body.compression_algorithm)?;
    let expires_at = Some(expiry(&body.expires_at)?).filter(|at| *at > 0);
    let about = About {
        architecture: record.architecture.clone(),
        properties: Some(body.properties).filter(|properties| !properties.is_empty()),
        expiry_date: expires_at,
    };
    let keep_as = Keep {
        public: body.public,
        aliases: aliases(body.aliases)?,
        profiles: match body.profiles {
            None => None,
            Some(names) => Some(profiles(&model, &project, names)?),
        },
        filename: body.filename,
        requestor: Some(call.requestor()),
        ..Keep::default()
    };
    let spec = Spec {
        description: "Downloading image",
        // Who asked listens for what happens there, wherever the image comes to lie.
        project,
        resources: BTreeMap::new(),
        metadata: None,
        requestor: Some(call.requestor()),
        may_cancel: true,
    };
    let app = Arc::clone(&call.app);
    let operation = call.app.ops.task(spec, async move |handle| {
        let handle = Arc::new(handle);
        let received = pack(&app, of, about, compressor, &handle).await?;
        let told = [
            ("fingerprint".to_owned(), received.fingerprint.to_string().into()),
            ("size".to_owned(), received.size.to_string().into()),
        ];
        handle.set_metadata(Map::from_iter(told));
        // Of its own: whoever cancels from here on is too late, and nothing is left half done.
        let kept = tokio::spawn(async move {
            remote::keep(app.instances.context(), &holder, received, None, keep_as).await.map(drop)
        });
        kept.await.map_err(|_| Error::Db(crate::db::Error::Closed))??;
        Ok::<(), Error>(())
    });
    Ok(response::accepted(&operation))
}

/// Makes the file. Dropping this ends it.
async fn pack(
    app: &super::app::App,
    of: Of,
    about: About,
    compressor: Compressor,
    handle: &Arc<Handle>,
) -> Result<Received> {
    let (_stop, leash) = image::leash()?;
    let upload = app.instances.context().images.incoming().await;
    let (handle, began) = (Arc::clone(handle), Instant::now());
    app.instances
        .look(&of.instance, of.snapshot.as_ref(), move |source| {
            let mut tell = |done, all| handle.set_metadata(progress(done, all, began));
            Ok::<_, Error>(upload.pack(source, about, compressor, leash, &mut tell)?)
        })
        .await
}

/// As LXD tells it.
fn progress(done: u64, all: u64, began: Instant) -> Map<String, Value> {
    let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100).min(100);
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let speed = done.saturating_mul(1000) / milliseconds;
    let mut told = json!({
        "stage": STAGE,
        "percent": percent.to_string(),
        "speed": speed.to_string(),
    });
    if done == all {
        told["processed"] = done.to_string().into();
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let shown = speed as f64 / 1e6;
    Map::from_iter([
        (format!("{STAGE}_progress"), format!("Image pack: {percent}% ({shown:.2}MB/s)").into()),
        ("progress".to_owned(), told),
    ])
}

/// LXD's name of what takes the time.
const STAGE: &str = "create_image_from_container_pack";
