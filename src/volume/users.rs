//! Who has a custom volume: instances and profiles as a disk, by their own devices; the daemon itself.

use std::collections::BTreeMap;
use std::fmt;

use super::error::Error;
use crate::api::wire::Devices;
use crate::config::ServerVolume;
use crate::db::{self, Model, Tx};
use crate::device;
use crate::names::{InstanceKey, ProfileName, ProjectName, VolumeKey};

/// One that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// An instance.
    Instance(InstanceKey),
    /// A profile.
    Profile(ProjectName, ProfileName),
    /// The daemon itself. Volumes that it uses are those of the default project.
    Server(ProjectName, ServerVolume),
}

impl User {
    /// Its project.
    pub fn project(&self) -> &ProjectName {
        match self {
            Self::Instance(key) => &key.project,
            Self::Profile(project, _) | Self::Server(project, _) => project,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let (kind, project, name) = match self {
            Self::Instance(key) => ("instances", &key.project, key.name.as_str()),
            Self::Profile(project, name) => ("profiles", project, name.as_str()),
            Self::Server(..) => return "/1.0".to_owned(),
        };
        let query = if project.is_default() { String::new() } else { format!("?project={project}") };
        format!("/1.0/{kind}/{name}{query}")
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(key) => write!(f, "the instance {}", key.name),
            Self::Profile(_, name) => write!(f, "the profile {name}"),
            Self::Server(_, what) => write!(f, "the server itself ({})", what.key()),
        }
    }
}

fn each<'a>(model: &'a Model, mut found: impl FnMut(VolumeKey, User)) {
    for what in ServerVolume::ALL {
        if let Some(key) = what.of(&model.config) {
            let user = User::Server(key.project.clone(), what);
            found(key, user);
        }
    }
    let mut look = |project: &'a ProjectName, devices: &'a Devices, user: &dyn Fn() -> User| {
        for (pool, name) in device::volumes(devices) {
            found(VolumeKey { pool, project: model.project_of_volumes(project), name }, user());
        }
    };
    for record in model.instances.values() {
        look(&record.key.project, &record.devices, &|| User::Instance(record.key.clone()));
    }
    for record in model.profiles.values() {
        look(&record.project, &record.devices, &|| User::Profile(record.project.clone(), record.name.clone()));
    }
}

/// The users of all volumes, looked for once.
#[derive(Debug, Default)]
pub struct Users(BTreeMap<VolumeKey, Vec<User>>);

impl Users {
    /// Of every volume.
    pub fn of(model: &Model) -> Self {
        let mut all: BTreeMap<VolumeKey, Vec<User>> = BTreeMap::new();
        each(model, |key, user| {
            let users = all.entry(key).or_default();
            if !users.contains(&user) {
                users.push(user);
            }
        });
        Self(all)
    }

    /// Of one volume.
    pub fn of_one(model: &Model, volume: &VolumeKey) -> Vec<User> {
        let mut users = Vec::new();
        each(model, |key, user| {
            if key == *volume && !users.contains(&user) {
                users.push(user);
            }
        });
        users
    }

    /// Those of one of the volumes.
    pub fn get(&self, volume: &VolumeKey) -> &[User] {
        self.0.get(volume).map_or(&[], Vec::as_slice)
    }
}

/// Refuses a volume that the daemon itself uses.
pub(super) fn not_the_servers(model: &Model, volume: &VolumeKey) -> Result<(), Error> {
    match model.server_use(volume) {
        None => Ok(()),
        Some(what) => Err(Error::InUse { by: vec![User::Server(volume.project.clone(), what)], hidden: 0 }),
    }
}

/// Has the disks of instances and profiles that name `from` name `to`, of the same project.
pub(super) fn follow(tx: &mut Tx<'_>, from: &VolumeKey, to: &VolumeKey) -> Result<(), Error> {
    let model = tx.model().clone();
    let change = |project: &ProjectName, devices: &Devices| {
        let mut devices = devices.clone();
        let mut any = false;
        for device in devices.values_mut() {
            let names = device::volume_of(device).is_some_and(|(pool, name)| {
                (pool, name) == (from.pool.clone(), from.name.clone())
                    && model.project_of_volumes(project) == from.project
            });
            if !names {
                continue;
            }
            any = true;
            let below = device.get("source").and_then(|source| source.split_once('/')).map(|(_, below)| below);
            let source = match below {
                Some(below) => format!("{}/{below}", to.name),
                None => to.name.to_string(),
            };
            device.insert("source".to_owned(), source);
            device.insert("pool".to_owned(), to.pool.to_string());
        }
        any.then_some(devices)
    };
    for record in model.instances.values() {
        if let Some(devices) = change(&record.key.project, &record.devices) {
            tx.put_instance(db::Instance { devices, ..(**record).clone() })?;
        }
    }
    for record in model.profiles.values() {
        if let Some(devices) = change(&record.project, &record.devices) {
            tx.put_profile(db::Profile { devices, ..(**record).clone() })?;
        }
    }
    Ok(())
}
