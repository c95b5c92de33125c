//! Update: a new definition, checked whole, written at once. It counts from the next start on; `environment.*` and
//! `boot.*` count at once because they are read when they are needed.

use std::sync::Arc;

use super::addresses::{self, UUID};
use super::apply::apply;
use super::error::Error;
use super::snapshots::{HELD, restore};
use super::{Context, create, devices, guests, moves, nics, quota, ranges, rename, root_volume, stop, volumes};
use crate::api::wire::{Config, Devices};
use crate::config;
use crate::db::{Feature, Instance, Model, Profile};
use crate::device::Set;
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, ProfileName, ProjectName};
use crate::profile::{self, Expanded};
use crate::project;

/// What of an instance can be changed.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Own configuration.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// Kernel architecture; empty: as it is.
    pub architecture: String,
    /// In order of application.
    pub profiles: Vec<ProfileName>,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// Free text.
    pub description: String,
}

/// Makes the new definition out of an instance as it is when the change is written: of two changes at once none is lost.
/// Asked again when something else was changed meanwhile.
pub type Change = Box<dyn Fn(&Instance) -> Result<Definition, Error> + Send + Sync>;

/// Keys by which the daemon finds its way back after a crash, and what is shown elsewhere. No client changes them, and they
/// are no part of what a client saw when it changes something else.
pub fn is_own(key: &str) -> bool {
    let own = [
        stop::POWER,
        stop::RESTART,
        rename::MARKER,
        restore::MARKER,
        HELD,
        guests::READY,
        moves::MOVING,
        moves::MOVED_FROM,
        root_volume::RECORD,
    ];
    nics::is_live_key(key) || ranges::is_own(key) || own.contains(&key)
}

/// The same model with another state of a profile.
pub(super) fn with_profile(model: &Model, new: &Profile) -> Model {
    let mut next = model.clone();
    Arc::make_mut(&mut next.profiles).insert((new.project.clone(), new.name.clone()), Arc::new(new.clone()));
    next
}

/// Whether all users of a profile can live with it as it is in `model` and was not in `before`: each still has its root, where it lies.
///
/// # Errors
/// Of the first that cannot.
pub(super) fn check_profile(
    before: &Model,
    model: &Model,
    project: &ProjectName,
    name: &ProfileName,
) -> Result<(), Error> {
    for record in users_of(model, project, name) {
        let fits = || -> Result<(), Error> {
            let expanded = profile::expand_instance(model, record);
            config::check_together(&expanded.config)?;
            let devices = Set::parse(&expanded.devices)?;
            create::check_networks(model, &record.key, &devices)?;
            let was = Set::parse(&profile::expand_instance(before, record).devices)?;
            addresses::check_set(model, &record.key, &devices, Some(&was), None)?;
            volumes::check(model, &record.key.project, &devices)?;
            let pool = devices.root()?.pool.clone();
            if pool == record.pool { Ok(()) } else { Err(Error::PoolChange { from: record.pool.clone(), to: pool }) }
        };
        fits().map_err(|cause| Error::OfUser { key: record.key.clone(), cause: Box::new(cause) })?;
    }
    match model.profile(project, name) {
        Some(profile) => Ok(project::check_profile(model, profile)?),
        None => Ok(()),
    }
}

/// The instances that use a profile, of all projects that see it. `project` holds it.
pub fn users_of<'a>(
    model: &'a Model,
    project: &'a ProjectName,
    name: &'a ProfileName,
) -> impl Iterator<Item = &'a Arc<Instance>> {
    let uses = move |record: &&Arc<Instance>| {
        record.profiles.contains(name) && model.holder(&record.key.project, Feature::Profiles) == *project
    };
    model.instances.values().filter(uses)
}

/// What tells an instance from all others stays its own: the stock client's `copy --refresh` writes the whole configuration
/// of the source into the copy.
fn keep_identity(model: &Model, old: &Instance, config: &mut Config) {
    let is_identity = |key: &str| key == UUID || (key.starts_with("volatile.") && key.ends_with(".hwaddr"));
    let new = config.iter().filter(|(key, value)| is_identity(key) && old.config.get(*key) != Some(value));
    let of_another = |key: &str, value: &str| {
        let mut others = model.instances.values().filter(|other| other.key != old.key);
        others.any(|other| other.config.get(key).is_some_and(|theirs| theirs == value))
    };
    let taken: Vec<String> = new.filter(|(key, value)| of_another(key, value)).map(|(key, _)| key.clone()).collect();
    for key in taken {
        match old.config.get(&key) {
            Some(own) => config.insert(key, own.clone()),
            None => config.remove(&key),
        };
    }
    // Who leaves it out does not mean to take it away.
    if let (None, Some(id)) = (config.get(UUID), old.config.get(UUID)) {
        config.insert(UUID.to_owned(), id.clone());
    }
}

/// The record that `change` makes of `old`, checked whole but for addresses that others have ([`addresses::check_set`]), and
/// the identity in the configuration that it was made from.
pub(super) fn changed(
    context: &Context,
    model: &Model,
    old: &Instance,
    change: &Change,
) -> Result<(Instance, Expanded, Option<String>), Error> {
    let new = change(old)?;
    let twin = new.config.get(UUID).filter(|id| old.config.get(UUID) != Some(id)).cloned();
    config::validate_instance(&new.config, config::Scope::Instance)?;
    let mut record = old.clone();
    let expanded = profile::expand(model, &record.key.project, &new.profiles, &new.config, &new.devices)?;
    context.check_privilege(&expanded.config)?;
    config::check_together(&expanded.config)?;
    let devices = Set::parse(&expanded.devices)?;
    create::check_networks(model, &record.key, &devices)?;
    volumes::check(model, &record.key.project, &devices)?;
    if let Some((_, root)) = devices.root.as_ref().filter(|(_, root)| root.pool != record.pool) {
        return Err(Error::PoolChange { from: record.pool, to: root.pool.clone() });
    }
    record.config = new.config;
    // What the daemon knows of the running container is no client's to change, least of all one whose copy is old: after
    // a crash it would be taken for one that does not run.
    record.config.retain(|key, _| !is_own(key));
    record.config.extend(old.config.iter().filter(|(key, _)| is_own(key)).map(|(k, v)| (k.clone(), v.clone())));
    keep_identity(model, old, &mut record.config);
    if !new.architecture.is_empty() {
        context.host.check_architecture(&new.architecture)?;
        record.architecture = new.architecture;
    }
    record.devices = new.devices;
    record.profiles = new.profiles;
    record.ephemeral = new.ephemeral;
    record.description = new.description;
    if guests::needs_identity(&profile::expand_instance(model, old), &expanded) {
        guests::renew_identity(&mut record.config);
    }
    // Addresses of nics that are gone are forgotten; those of profiles stay.
    let gone = |key: &str| {
        let rest = key.strip_prefix("volatile.")?;
        // Names of devices may have dots. The longer of two that end alike goes first.
        let ends = ["last_state.hwaddr", "last_state.created", "last_state.mtu", "host_name", "hwaddr", "name"];
        let device = ends.iter().find_map(|end| rest.strip_suffix(end)?.strip_suffix('.'))?;
        (!expanded.devices.contains_key(device)).then_some(())
    };
    record.config.retain(|key, _| gone(key).is_none());
    create::give_addresses(&devices, &mut record.config)?;
    project::check_instance(model, &record)?;
    Ok((record, expanded, twin))
}

/// A running instance keeps its root disk, without which it would not come back; one that is down may do without for a
/// while.
pub(super) fn check_root(expanded: &Expanded) -> Result<(), Error> {
    Set::parse(&expanded.devices)?.root()?;
    Ok(())
}

/// Another definition; `pid`: of the init of a running container, which changes with it. It changes first: what is refused
/// there is not written down, and what cannot be written down is taken back.
pub(super) async fn update(
    context: &Arc<Context>,
    key: &InstanceKey,
    change: &Change,
    pid: Option<i32>,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    loop {
        let model = context.db.model();
        let old = model.instances.get(key).cloned().ok_or(Error::NotFound)?;
        let (mut record, expanded, twin) = changed(context, &model, &old, change)?;
        let before = profile::expand_instance(&model, &old);
        let (devices, was) = (Set::parse(&expanded.devices)?, Set::parse(&before.devices)?);
        addresses::check_set(&model, key, &devices, Some(&was), twin.as_deref())?;
        let held = addresses::leased(&model, &before, &old.config);
        if pid.is_some() {
            check_root(&expanded)?;
        }
        let quota = quota::change(context, key, &before, &expanded).await?;
        let applied = match pid {
            Some(pid) => match apply(context, key, pid, &before, &expanded).await {
                Ok(applied) => Some(applied),
                Err(error) => {
                    quota::undo(quota).await;
                    return Err(error);
                }
            },
            None => {
                if let Err(error) =
                    devices::check_sources(context, &key.project, &before.devices, &expanded.devices).await
                {
                    quota::undo(quota).await;
                    return Err(error);
                }
                None
            }
        };
        if let Some(applied) = &applied {
            applied.remember(&mut record.config);
        }
        let after = addresses::leased(&model, &expanded, &record.config);
        let going = held.difference(&after).cloned().collect();
        context.promise(&going, true).await;
        let written = context
            .db
            .write(move |tx| {
                let now = tx.model();
                // Only the actor changes its instance, but others change profiles, and rename them.
                let project = &old.key.project;
                let same = now.instances.get(&old.key).is_some_and(|now| Arc::ptr_eq(now, &old))
                    && record.profiles.iter().all(|name| {
                        let pair = now.profile(project, name).zip(model.profile(project, name));
                        pair.is_some_and(|(now, before)| Arc::ptr_eq(now, before))
                    });
                if same {
                    // Others of the project may have taken of its limits meanwhile.
                    project::check_instance(now, &record)?;
                    // Others take addresses and delete volumes, too.
                    addresses::check_set(now, &old.key, &devices, Some(&was), twin.as_deref())?;
                    volumes::check(now, project, &devices)?;
                    tx.put_instance(record)?;
                }
                Ok::<_, Error>(same)
            })
            .await;
        match written {
            Ok(true) => {
                context.guests.tell(key, &before, &expanded);
                context.give_back_gone(held, &[key]).await;
                break;
            }
            result => {
                context.promise(&going, false).await;
                if let Some(applied) = applied {
                    applied.undo().await;
                }
                quota::undo(quota).await;
                result?;
            }
        }
    }
    context.lifecycle("instance-updated", key, requestor);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that writes back what it has read must not be refused for what the daemon put there meanwhile.
    #[test]
    fn marks_are_keys_that_a_put_may_have() {
        for key in [POWER_KEYS, &[rename::MARKER, restore::MARKER, HELD, moves::MOVING, moves::MOVED_FROM]].concat() {
            assert!(is_own(key) && config::instance_row(key).is_some(), "{key}");
        }
    }

    const POWER_KEYS: &[&str] = &[stop::POWER, stop::RESTART, guests::READY];
}
