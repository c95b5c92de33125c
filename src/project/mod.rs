//! Projects: what lies in one, and what may.
//!
//! ```text
//!   features.*    whose objects it sees ── db::Model::holder
//!   limits.*      how much of them      ── limits
//!   restricted.*  of what kind          ── restricted
//! ```
//! The checks read a model, perhaps one that does not count yet: whoever changes something asks with the model as it would be,
//! in the writer's transaction, so that of two changes at once the second one sees the first.

mod error;
mod limits;
mod restricted;

use std::sync::Arc;

use crate::api::wire::Config;
use crate::db::{Feature, Instance, Model, Phase, Profile, Project};
use crate::names::{ProfileName, ProjectName};

pub use error::{Error, Subject};
pub use limits::{Resource, resources};
pub use restricted::{check_own_keys, disk_paths, may_make_snapshots, sees_network};

/// The addresses of all that lies in a project, in LXD's order. A shared kind lies in `default`.
pub fn used_by(model: &Model, project: &ProjectName) -> Vec<String> {
    let mut urls = Vec::new();
    let mut add = |path: String| urls.push(project.url(path));
    for key in model.instances.keys().filter(|key| key.project == *project) {
        add(format!("/1.0/instances/{}", key.name));
    }
    for (_, name) in model.profiles.keys().filter(|(of, _)| of == project) {
        add(format!("/1.0/profiles/{}", name.in_url()));
    }
    for (_, fingerprint) in model.images.keys().filter(|(of, _)| of == project) {
        add(format!("/1.0/images/{fingerprint}"));
    }
    for key in model.volumes.keys().filter(|key| key.project == *project) {
        add(format!("/1.0/storage-pools/{}/volumes/custom/{}", key.pool.in_url(), key.name.in_url()));
    }
    for (_, name) in model.networks.keys().filter(|(of, _)| of == project) {
        add(format!("/1.0/networks/{name}"));
    }
    for (_, name) in model.acls.keys().filter(|(of, _)| of == project) {
        add(format!("/1.0/network-acls/{name}"));
    }
    urls
}

/// The address of something that keeps a project from being empty. Its profile `default` does not.
pub fn content(model: &Model, project: &ProjectName) -> Option<String> {
    let default = project.url("/1.0/profiles/default");
    used_by(model, project).into_iter().find(|url| *url != default)
}

/// Its configuration as the API shows it: `default` has all features.
pub fn shown_config(project: &Project) -> Config {
    let mut config = project.config.clone();
    if project.name.is_default() {
        config.extend(Feature::ALL.map(|feature| (feature.key().to_owned(), "true".to_owned())));
    }
    config
}

/// Its profile `default`, as it is made with it.
///
/// # Errors
/// None: the name is one.
pub fn default_profile(project: &ProjectName) -> Result<Profile, crate::names::NameError> {
    Ok(Profile {
        project: project.clone(),
        name: ProfileName::new("default")?,
        description: format!("Default LXD profile for project {project}"),
        config: Config::new(),
        devices: crate::api::wire::Devices::new(),
    })
}

/// The same model with another state of an instance, or with a new one.
fn with_instance(model: &Model, record: &Instance) -> Model {
    let mut next = model.clone();
    Arc::make_mut(&mut next.instances).insert(record.key.clone(), Arc::new(record.clone()));
    next
}

fn instances<'a>(model: &'a Model, project: &'a ProjectName) -> impl Iterator<Item = &'a Arc<Instance>> {
    let counts = move |record: &&Arc<Instance>| record.key.project == *project && record.phase != Phase::Deleting;
    model.instances.values().filter(counts)
}

/// Whether a project is there.
///
/// # Errors
/// [`Error::NotFound`].
pub fn require(model: &Model, project: &ProjectName) -> Result<(), Error> {
    if model.projects.contains_key(project) { Ok(()) } else { Err(Error::NotFound) }
}

/// Whether an instance's project lets it be as `record` says.
///
/// # Errors
/// Of its limits or restrictions.
pub fn check_instance(model: &Model, record: &Instance) -> Result<(), Error> {
    let project = model.projects.get(&record.key.project).ok_or(Error::NotFound)?;
    restricted::instance(model, project, record)?;
    if limits::any(project) { limits::check(&with_instance(model, record), project, false) } else { Ok(()) }
}

/// Whether all projects that see a profile can live with it as it is in `model`.
///
/// # Errors
/// Of the limits or restrictions of one.
pub fn check_profile(model: &Model, profile: &Profile) -> Result<(), Error> {
    for project in model.projects.values() {
        let bound = restricted::is_restricted(project) || limits::any(project);
        if !bound || model.holder(&project.name, Feature::Profiles) != profile.project {
            continue;
        }
        restricted::profile(project, profile)?;
        let mut users = instances(model, &project.name).filter(|record| record.profiles.contains(&profile.name));
        users.try_for_each(|record| restricted::instance(model, project, record))?;
        if limits::any(project) {
            limits::check(model, project, false)?;
        }
    }
    Ok(())
}

/// Whether a project can have its custom volumes as they are in `model`, new or changed.
///
/// # Errors
/// [`Error::NotFound`], or of its limits.
pub fn check_volumes(model: &Model, project: &ProjectName) -> Result<(), Error> {
    let record = model.projects.get(project).ok_or(Error::NotFound)?;
    if limits::any(record) { limits::check(model, record, false) } else { Ok(()) }
}

/// Whether a project can have its images as they are in `model`, with a new one.
///
/// # Errors
/// [`Error::NotFound`], or of its limits.
pub fn check_images(model: &Model, project: &ProjectName) -> Result<(), Error> {
    check_volumes(model, project)
}

/// Whether images of so many bytes more may be in a project.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Reached`].
pub fn check_more(model: &Model, project: &ProjectName, bytes: u64) -> Result<(), Error> {
    let record = model.projects.get(project).ok_or(Error::NotFound)?;
    limits::more_on_disk(model, record, bytes)
}

/// What `limits.disk` leaves for a new image of a project, bytes; `None`: any.
pub fn image_room(model: &Model, project: &ProjectName) -> Option<u64> {
    limits::disk_left(model, model.projects.get(project)?)
}

/// Whether one network more may be in a project.
///
/// # Errors
/// [`Error::TooMany`].
pub fn check_new_network(model: &Model, project: &ProjectName) -> Result<(), Error> {
    model.projects.get(project).map_or(Err(Error::NotFound), |record| limits::one_network_more(model, record))
}

/// Whether all that lies in a project can live with its configuration as it is in `model`.
///
/// # Errors
/// Who cannot, and why.
pub fn check(model: &Model, project: &Project) -> Result<(), Error> {
    let own_profiles = project.has(Feature::Profiles);
    if restricted::is_restricted(project) && !own_profiles {
        return Err(Error::SharedProfiles);
    }
    let conflict = |cause| Error::Conflict { project: project.name.clone(), cause: Box::new(cause) };
    for record in instances(model, &project.name) {
        restricted::instance(model, project, record).map_err(conflict)?;
    }
    for profile in model.profiles.values().filter(|profile| profile.project == project.name && own_profiles) {
        restricted::profile(project, profile).map_err(conflict)?;
    }
    limits::check(model, project, true)
}

/// Whether a project may have other features: only while it is empty, and never `default`.
///
/// # Errors
/// [`Error::DefaultFeatures`], [`Error::Feature`].
pub fn check_features(model: &Model, old: &Project, new: &Config) -> Result<(), Error> {
    let shown = shown_config(old);
    let is_on = |config: &Config, feature: Feature| {
        config.get(feature.key()).is_some_and(|text| crate::config::parse_bool(text) == Some(true))
    };
    for feature in Feature::ALL {
        let (was, is) = (is_on(&shown, feature), is_on(new, feature));
        if was == is {
            continue;
        }
        if old.name.is_default() {
            return Err(Error::DefaultFeatures);
        }
        if let Some(by) = content(model, &old.name) {
            return Err(Error::Feature { key: feature.key(), enabled: is, by });
        }
    }
    Ok(())
}
