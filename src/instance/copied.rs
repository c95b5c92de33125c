//! What a copy takes over of the definition of its source: told when it is asked for, so that it can be refused at once, and
//! read again in the turn of the source's task, where its files are, too.

use std::sync::Arc;

use super::create::{self, CopyOf, RootSource};
use super::error::Error;
use super::update::Definition;
use super::{Context, root_volume, snapshots, volumes};
use crate::api::wire::{Config, Devices};
use crate::config;
use crate::db::{Instance, Model, Phase};
use crate::device::Set;
use crate::names::{InstanceKey, ProfileName};
use crate::profile;

/// What the request says of a copy itself: it goes before what the source has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Configuration.
    pub config: Config,
    /// Devices.
    pub devices: Devices,
    /// `None`: those of the source.
    pub profiles: Option<Vec<ProfileName>>,
    /// Empty: the source's.
    pub architecture: String,
}

/// The definition of a copy; without what only its source is.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NoSnapshot`].
pub fn definition_of_copy(model: &Model, copy: &CopyOf) -> Result<Definition, Error> {
    let (config, devices, architecture, profiles) = match &copy.snapshot {
        Some(name) => {
            let of = snapshots::find(model, &copy.instance, name)?;
            (&of.config, &of.devices, &of.architecture, &of.profiles)
        }
        None => {
            let of = model.instances.get(&copy.instance).ok_or(Error::NotFound)?;
            (&of.config, &of.devices, &of.architecture, &of.profiles)
        }
    };
    let asked = &copy.asked;
    let mut config = config.clone();
    config.retain(|key, _| !key.starts_with("volatile.") || key == "volatile.base_image" || key == root_volume::RECORD);
    config.extend(asked.config.clone());
    let mut devices = devices.clone();
    devices.extend(asked.devices.clone());
    Ok(Definition {
        config,
        devices,
        architecture: if asked.architecture.is_empty() { architecture } else { &asked.architecture }.clone(),
        profiles: asked.profiles.clone().unwrap_or_else(|| profiles.clone()),
        ephemeral: false,
        description: String::new(),
    })
}

/// In the turn of the source's task: the rows of the copy `to`, which is being made, are brought to what the source is now.
pub(super) async fn read_again(context: &Arc<Context>, of: &CopyOf, to: &InstanceKey) -> Result<(), Error> {
    let (checking, of, to) = (Arc::clone(context), of.clone(), to.clone());
    context
        .db
        .write(move |tx| {
            let model = tx.model().clone();
            let old = model.instances.get(&to).filter(|record| record.phase == Phase::Creating);
            let record = redefined(&checking, &model, old.ok_or(Error::NotFound)?, &of)?;
            for snapshot in model.snapshots_of(&to) {
                tx.delete_snapshot(&snapshot.key)?;
            }
            tx.put_instance(record.clone())?;
            for snapshot in create::rows_of_snapshots(&model, &record, &RootSource::Copy(of)) {
                tx.put_snapshot(snapshot)?;
            }
            Ok(())
        })
        .await
}

fn redefined(context: &Context, model: &Model, old: &Instance, of: &CopyOf) -> Result<Instance, Error> {
    let new = definition_of_copy(model, of)?;
    let mut record = Instance { profiles: new.profiles, architecture: new.architecture, ..old.clone() };
    if record.architecture.is_empty() {
        record.architecture.clone_from(&old.architecture);
    }
    // Where it lies, and what tells it from others, it has already.
    let own = old.config.iter().filter(|(key, _)| key.starts_with("volatile.") && !new.config.contains_key(*key));
    record.config = own.map(|(key, value)| (key.clone(), value.clone())).chain(new.config.clone()).collect();
    let expanded = profile::expand(model, &old.key.project, &record.profiles, &new.config, &new.devices)?;
    record.devices = create::root_in(new.devices, &expanded.devices, &old.pool);
    config::validate_instance(&record.config, config::Scope::Instance)?;
    context.check_privilege(&expanded.config)?;
    config::check_together(&expanded.config)?;
    let devices = Set::parse(&profile::expand_instance(model, &record).devices)?;
    create::check_networks(model, &old.key, &devices)?;
    volumes::check(model, &old.key.project, &devices)?;
    create::give_addresses(&devices, &mut record.config)?;
    Ok(record)
}
