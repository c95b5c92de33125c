//! What a change would do, without doing it.

use std::collections::BTreeSet;

use super::addresses;
use super::error::Error;
use super::manager::Manager;
use super::update::{self, Change};
use crate::api::wire::{ChangedDevice, ChangedKey, Preview, PreviewedInstance};
use crate::config;
use crate::db::{Model, Profile};
use crate::device::{self, Set};
use crate::names::{InstanceKey, Projects};
use crate::profile::{self, Expanded};

/// What differs for one instance. `running`: whether it would have to follow now.
fn compare(key: &InstanceKey, before: &Expanded, after: &Expanded, running: bool) -> PreviewedInstance {
    let effect = |live: bool| match (running, live) {
        (false, _) => "next start",
        (true, true) => "now",
        (true, false) => "restart",
    };
    let keys: BTreeSet<&String> = before.config.keys().chain(after.config.keys()).collect();
    let config = keys.into_iter().filter_map(|key| {
        let (old, new) = (before.config.get(key), after.config.get(key));
        let live = config::instance_row(key).is_some_and(|row| row.live);
        (old != new).then(|| ChangedKey {
            key: key.clone(),
            old: old.cloned().unwrap_or_default(),
            new: new.cloned().unwrap_or_default(),
            effect: effect(live).to_owned(),
        })
    });
    let names: BTreeSet<&String> = before.devices.keys().chain(after.devices.keys()).collect();
    let devices = names.into_iter().filter(|name| before.devices.get(*name) != after.devices.get(*name));
    let changes_live = |name: &String| {
        let states = [before.devices.get(name), after.devices.get(name)];
        states.into_iter().flatten().all(device::is_live)
    };
    PreviewedInstance {
        name: key.name.to_string(),
        running,
        config: config.collect(),
        devices: devices
            .map(|name| ChangedDevice { name: name.clone(), effect: effect(changes_live(name)).to_owned() })
            .collect(),
    }
}

impl Manager {
    fn runs(&self, key: &InstanceKey) -> bool {
        self.snapshot(key).pid != 0
    }

    /// What a changed definition would do.
    ///
    /// # Errors
    /// As [`Manager::update`] would give them, but for what only the kernel knows.
    pub fn preview(&self, key: &InstanceKey, change: &Change) -> Result<Preview, Error> {
        let model = self.context().db.model();
        let old = model.instances.get(key).cloned().ok_or(Error::NotFound)?;
        let (_, after, twin) = update::changed(self.context(), &model, &old, change)?;
        if self.runs(key) {
            update::check_root(&after)?;
        }
        let before = profile::expand_instance(&model, &old);
        let (devices, was) = (Set::parse(&after.devices)?, Set::parse(&before.devices)?);
        addresses::check_set(&model, key, &devices, Some(&was), twin.as_deref())?;
        Ok(Preview { instances: vec![compare(key, &before, &after, self.runs(key))] })
    }

    /// What a changed profile would do to its users in the projects that may be seen.
    ///
    /// # Errors
    /// As [`Manager::change_profile`] would give them, but for what only the kernel knows.
    pub fn preview_profile(&self, model: &Model, new: &Profile, seen: &Projects) -> Result<Preview, Error> {
        let next = update::with_profile(model, new);
        update::check_profile(model, &next, &new.project, &new.name)?;
        let users = update::users_of(model, &new.project, &new.name).filter(|record| seen.holds(&record.key.project));
        let shown = users.map(|record| {
            let (before, after) = (profile::expand_instance(model, record), profile::expand_instance(&next, record));
            compare(&record.key, &before, &after, self.runs(&record.key))
        });
        Ok(Preview { instances: shown.collect() })
    }
}
