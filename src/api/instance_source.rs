//! Where a new instance's root comes from: an image of here or of another server, or an instance.

use std::sync::Arc;

use super::app::App;
use super::call::Call;
use super::error::Error;
use super::image_sources::telling;
use super::images::by_fingerprint;
use super::instances::seen_project;
use super::wire;
use crate::config;
use crate::db::{Feature, Image, Model, Phase};
use crate::events::lifecycle::Requestor;
use crate::image::Hold;
use crate::instance::{self, Asked as AskedOfCopy, CopyOf};
use crate::names::{AliasName, InstanceKey, InstanceName, ProjectName, SnapshotName};
use crate::ops::Handle;
use crate::project;
use crate::remote::{self, Asked, Keep, Source};

type Result<T> = std::result::Result<T, Error>;

/// The image that a source names, by alias, fingerprint or properties. Of a project that the caller may not see, it is a
/// public one.
pub(super) fn image_of(
    call: &Call,
    model: &Model,
    project: &ProjectName,
    source: &wire::InstanceSource,
) -> Result<Arc<Image>> {
    let project = match source.project.as_str() {
        "" => project.clone(),
        name => ProjectName::new(name).map_err(|_| project::Error::NotFound)?,
    };
    let found = || {
        project::require(model, &project)?;
        named_image(model, &project, source)
    };
    match call.check_reach(&project) {
        Ok(()) => found(),
        Err(refused) => found().ok().filter(|image| image.public).ok_or(refused),
    }
}

fn named_image(model: &Model, project: &ProjectName, source: &wire::InstanceSource) -> Result<Arc<Image>> {
    if !source.fingerprint.is_empty() {
        return by_fingerprint(model, project, &source.fingerprint);
    }
    if !source.alias.is_empty() {
        let missing = || Error::Instance(instance::Error::ImageMissing { what: source.alias.clone() });
        let alias = AliasName::new(source.alias.clone()).map_err(|_| missing())?;
        // A client hands a fingerprint over as an alias when it cannot know better.
        return match model.alias(project, &alias) {
            Some(alias) => by_fingerprint(model, project, alias.target.as_str()),
            None => by_fingerprint(model, project, &source.alias).map_err(|_| missing()),
        };
    }
    if source.properties.is_empty() {
        let reason = "it names no image: set \"alias\", \"fingerprint\" or \"properties\"".to_owned();
        return Err(Error::Field { name: "source", reason });
    }
    let holder = model.holder(project, Feature::Images);
    let fits = |image: &&Arc<Image>| {
        image.project == holder
            && image.phase == Phase::Ready
            && source.properties.iter().all(|(key, value)| image.properties.get(key) == Some(value))
    };
    let newest = model.images.values().filter(fits).max_by_key(|image| image.created_at).cloned();
    newest.ok_or_else(|| Error::Field { name: "source", reason: "No matching image could be found".to_owned() })
}

/// The profiles of instances made from an image; those that are gone since are not missed.
pub(super) fn profiles_of(model: &Model, project: &ProjectName, image: &Image) -> Vec<String> {
    let there = image.profiles.iter().filter(|name| model.profile(project, name).is_some());
    there.map(ToString::to_string).collect()
}

/// The image of another server that a source names; `None`: it is one of here.
pub(super) fn remote_of(source: &wire::InstanceSource) -> Result<Option<Source>> {
    if source.kind != "image" || source.server.is_empty() || source.mode == "local" {
        return Ok(None);
    }
    if !matches!(source.mode.as_str(), "" | "pull") {
        let reason = format!("the mode {:?} is not known: use \"pull\"", crate::names::shortened(&source.mode));
        return Err(Error::Field { name: "source", reason });
    }
    let asked = Asked {
        server: &source.server,
        protocol: &source.protocol,
        certificate: &source.certificate,
        secret: &source.secret,
        project: &source.project,
        alias: &source.alias,
        fingerprint: &source.fingerprint,
        image_type: &source.image_type,
    };
    Ok(Some(Source::parse(asked)?))
}

/// What a source of type `copy` names: an instance, or a snapshot of one.
pub(super) fn copy_of(
    call: &Call,
    model: &Model,
    project: &ProjectName,
    source: &wire::InstanceSource,
) -> Result<CopyOf> {
    let project = match source.project.as_str() {
        "" => project.clone(),
        name => seen_project(call, model, name)?,
    };
    let (name, snapshot) = match source.source.split_once('/') {
        None => (source.source.as_str(), None),
        Some((name, snapshot)) => (name, Some(snapshot)),
    };
    if name.is_empty() {
        let reason = "its field \"source\" names no instance to copy".to_owned();
        return Err(Error::Field { name: "source", reason });
    }
    let missing = || Error::NotFound("Instance");
    let instance = InstanceKey { project, name: InstanceName::new(name).map_err(|_| missing())? };
    if !model.instances.get(&instance).is_some_and(|record| record.phase == Phase::Ready) {
        return Err(missing());
    }
    let snapshot = snapshot.map(SnapshotName::new).transpose()?;
    let snapshots = !(source.instance_only || source.container_only);
    Ok(CopyOf { instance, snapshot, snapshots, asked: AskedOfCopy::default() })
}

/// The image that a new instance waits for.
pub(super) struct Loading {
    pub(super) remote: Source,
    /// Who gets it.
    pub(super) project: ProjectName,
    /// Its name there.
    pub(super) alias: String,
}

impl Loading {
    pub(super) async fn load(&self, app: &App, requestor: &Requestor, handle: &Handle) -> Result<(Arc<Image>, Hold)> {
        let (by_name, model) = (!self.remote.alias().is_empty(), app.db.model());
        let own = model.projects.get(&self.project).and_then(|of| of.config.get("images.auto_update_cached"));
        let follows = own.and_then(|text| config::parse_bool(text));
        let keep = Keep {
            cached: true,
            auto_update: by_name
                && follows.unwrap_or_else(|| config::bool_of(&model.config, "images.auto_update_cached")),
            origin: Some(self.remote.origin(self.remote.alias_or(&self.alias))).filter(remote::can_follow),
            requestor: Some(requestor.clone()),
            ..Keep::default()
        };
        Ok(app.remotes.load(&self.project, &self.remote, &keep, false, &telling(handle)).await?)
    }
}
