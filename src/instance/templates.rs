//! Templates of an instance's image at its start: which are due, and what they are told. The helper makes the files.
//!
//! As in LXD 5.0.2, `volatile.apply_template` says what happened to the instance since its last start (`create`, `copy`,
//! `rename`); the next start uses the templates of that, then those of every start. What a start has made is made again by the
//! next when a crash comes before [`PENDING`] is taken away; a template writes the same again.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::error::Error;
use super::{Context, blocking};
use crate::api::wire::{Config, ImageMetadata};
use crate::config;
use crate::db::Instance;
use crate::helper::files::FilePath;
use crate::helper::{TemplateRun, TemplatesRequest};
use crate::names::both_ends;
use crate::profile::Expanded;
use crate::security::idmap::IdMap;
use crate::storage::VolumeId;
use crate::sys::userns;
use crate::template::Subject;

/// What happened to the instance since its last start.
pub(super) const PENDING: &str = "volatile.apply_template";
pub(super) const CREATE: &str = "create";
pub(super) const COPY: &str = "copy";
const RENAME: &str = "rename";
const START: &str = "start";

/// An instance has another name now. What is pending comes first: its templates have the new name then, too.
pub(super) fn renamed(config: &mut Config, to_another_project: bool) {
    let trigger = if to_another_project { COPY } else { RENAME };
    config.entry(PENDING.to_owned()).or_insert_with(|| trigger.to_owned());
}

/// What is due, in order.
fn due(metadata: ImageMetadata, pending: Option<&str>) -> Result<Vec<TemplateRun>, Error> {
    let mut runs = Vec::new();
    for trigger in pending.into_iter().chain([START]) {
        for (path, template) in &metadata.templates {
            if !template.when.iter().any(|when| when == trigger) {
                continue;
            }
            runs.push(TemplateRun {
                trigger: trigger.to_owned(),
                path: FilePath::new(path.clone().into_bytes()).map_err(|reason| Error::BadMetadata {
                    reason: format!("the path {:?} of a template: {reason}", both_ends(path)),
                })?,
                template: template.template.clone(),
                properties: template.properties.clone(),
                create_only: template.create_only,
            });
        }
    }
    Ok(runs)
}

/// Writes the files of the templates that are due below `root`, which is mounted with this id map.
///
/// # Errors
/// [`Error::BadMetadata`], or with the first template that could not be used.
pub(super) async fn apply(
    context: &Arc<Context>,
    record: &Instance,
    expanded: &Expanded,
    root: &Path,
    map: Option<&IdMap>,
) -> Result<(), Error> {
    let pool = context.pools.get(&record.pool)?;
    let place = super::metadata::Place::new(pool.path(&VolumeId::of(&record.key)), pool.scratch());
    let pending = record.config.get(PENDING).cloned();
    let maps = map.map(|map| map.mount_maps(false));
    let root = root.to_owned();
    let found = blocking(move || {
        let runs = due(place.read()?, pending.as_deref())?;
        let Some(first) = runs.first() else { return Ok(None) };
        let directory = place.templates_dir()?;
        if !directory.exists() {
            let reason = format!("it names the template {:?} for {}, and there is none", first.template, first.path);
            return Err(Error::BadMetadata { reason });
        }
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty());
            opened.map_err(|error| Error::Io { doing: "open", path: path.to_owned(), error: error.into() })
        };
        let namespace = maps.map(|(uids, gids)| userns::with_maps(&uids, &gids)).transpose();
        let failed = |error| Error::Io { doing: "make a user namespace by", path: "/proc/self/exe".into(), error };
        Ok::<_, Error>(Some((runs, open(&root)?, open(&directory)?, namespace.map_err(failed)?)))
    })
    .await?;
    let Some((runs, root, templates, namespace)) = found else { return Ok(()) };
    let subject = Subject {
        name: record.key.name.to_string(),
        architecture: record.architecture.clone(),
        privileged: config::bool_of(&expanded.config, "security.privileged"),
        ephemeral: record.ephemeral,
        config: expanded.config.clone(),
        devices: expanded.devices.clone(),
    };
    let request = TemplatesRequest { subject, runs };
    let container = context.container(&record.key);
    let namespace = namespace.as_deref().map(std::os::fd::AsFd::as_fd);
    let (root, templates) = (std::os::fd::AsFd::as_fd(&root), std::os::fd::AsFd::as_fd(&templates));
    Ok(context.launcher.templates(&container, root, templates, namespace, request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::ImageTemplate;

    fn metadata(templates: &[(&str, &[&str])]) -> ImageMetadata {
        let template = |when: &[&str]| ImageTemplate {
            when: when.iter().map(|word| (*word).to_owned()).collect(),
            ..ImageTemplate::default()
        };
        let templates = templates.iter().map(|(path, when)| ((*path).to_owned(), template(when))).collect();
        ImageMetadata { templates, ..ImageMetadata::default() }
    }

    #[test]
    fn what_is_pending_comes_before_what_every_start_does() {
        let all = metadata(&[("/a", &["start", "create"]), ("/b", &["create", "copy"]), ("/c", &["rename"])]);
        let runs = |pending| {
            let runs = due(all.clone(), pending).unwrap();
            runs.iter().map(|run| format!("{} {}", run.trigger, run.path)).collect::<Vec<_>>()
        };
        assert_eq!(runs(Some("create")), ["create /a", "create /b", "start /a"]);
        assert_eq!(runs(Some("rename")), ["rename /c", "start /a"]);
        assert_eq!(runs(None), ["start /a"]);
        assert_eq!(runs(Some("nonsense")), ["start /a"]);
        assert!(due(metadata(&[("", &["start"])]), None).is_err());
    }

    #[test]
    fn a_rename_leaves_what_is_pending() {
        let mut config = Config::new();
        renamed(&mut config, false);
        assert_eq!(config[PENDING], "rename");
        config.insert(PENDING.to_owned(), CREATE.to_owned());
        renamed(&mut config, true);
        assert_eq!(config[PENDING], "create");
    }
}
