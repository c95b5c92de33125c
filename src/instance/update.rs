//! Update: a new definition, checked whole, written at once. It counts from the next start on; `environment.*` and
//! `boot.*` count at once because they are read when they are needed.

use std::sync::Arc;

use super::error::Error;
use super::{Context, create, rename, stop};
use crate::api::wire::{Config, Devices};
use crate::config;
use crate::db::{Instance, Model};
use crate::device::Set;
use crate::events::lifecycle::Requestor;
use crate::names::{InstanceKey, ProfileName, ProjectName};
use crate::profile;

/// What of an instance can be changed.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Own configuration.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// In order of application.
    pub profiles: Vec<ProfileName>,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// Free text.
    pub description: String,
}

/// Makes the new definition out of an instance as it is when the change is written: of two changes at once none is lost.
pub type Change = Box<dyn FnOnce(&Instance) -> Result<Definition, Error> + Send>;

/// Keys by which the daemon finds its way back after a crash.
fn is_own(key: &str) -> bool {
    let interface = key.starts_with("volatile.") && key.ends_with(".host_name");
    interface || [stop::POWER, stop::RESTART, rename::MARKER].contains(&key)
}

/// Whether all users of a profile can live with it as it is in `model`: each still has its root, where it lies.
///
/// # Errors
/// Of the first that cannot.
pub fn check_profile(model: &Model, project: &ProjectName, name: &ProfileName) -> Result<(), Error> {
    let users =
        model.instances.values().filter(|record| record.key.project == *project && record.profiles.contains(name));
    for record in users {
        let fits = || -> Result<(), Error> {
            let pool = Set::parse(&profile::expand_instance(model, record).devices)?.root()?.pool.clone();
            if pool == record.pool { Ok(()) } else { Err(Error::PoolChange { from: record.pool.clone(), to: pool }) }
        };
        fits().map_err(|cause| Error::OfUser { key: record.key.clone(), cause: Box::new(cause) })?;
    }
    Ok(())
}

pub(super) async fn update(
    context: &Arc<Context>,
    key: &InstanceKey,
    change: Change,
    requestor: Option<&Requestor>,
) -> Result<(), Error> {
    let changed = key.clone();
    let checking = Arc::clone(context);
    context
        .db
        .write(move |tx| {
            let model = tx.model();
            let mut record = model.instances.get(&changed).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            let new = change(&record)?;
            config::validate_instance(&new.config, config::Scope::Instance)?;
            let expanded = profile::expand(model, &changed.project, &new.profiles, &new.config, &new.devices)?;
            checking.check_privilege(&expanded.config)?;
            let devices = Set::parse(&expanded.devices)?;
            create::check_networks(model, &devices)?;
            if let Some((_, root)) = devices.root.as_ref().filter(|(_, root)| root.pool != record.pool) {
                return Err(Error::PoolChange { from: record.pool, to: root.pool.clone() });
            }
            let old = std::mem::replace(&mut record.config, new.config);
            // What the daemon knows of the running container is no client's to change, least of all one whose copy is old:
            // after a crash it would be taken for one that does not run.
            record.config.retain(|key, _| !is_own(key));
            record.config.extend(old.into_iter().filter(|(key, _)| is_own(key)));
            record.devices = new.devices;
            record.profiles = new.profiles;
            record.ephemeral = new.ephemeral;
            record.description = new.description;
            // Addresses of nics that are gone are forgotten; those of profiles stay.
            let gone = |key: &str| {
                let rest = key.strip_prefix("volatile.")?;
                let (device, field) = rest.split_once('.')?;
                let nic = matches!(field, "hwaddr" | "name" | "host_name");
                (nic && !expanded.devices.contains_key(device)).then_some(())
            };
            record.config.retain(|key, _| gone(key).is_none());
            create::give_addresses(&devices, &mut record.config)?;
            Ok(tx.put_instance(record)?)
        })
        .await?;
    context.lifecycle("instance-updated", key, requestor);
    Ok(())
}
