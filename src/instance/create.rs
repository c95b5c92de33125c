//! Create: a row (phase `creating`), then the root volume, then phase `ready`. A crash in between is undone at the
//! next start.

use std::sync::Arc;

use super::copied::Asked;
use super::error::Error;
use super::networks::check_uplink;
use super::{Context, Stages, addresses, blocking, guests, quota, rename, snapshots, templates, volumes};
use crate::api::wire::{Config, Devices};
use crate::config;
use crate::db::{self, Model, Phase};
use crate::device::{Nic, NicType, Set};
use crate::events::lifecycle::Requestor;
use crate::image;
use crate::names::{DeviceName, Fingerprint, InstanceKey, PoolName, ProfileName, ProjectName, SnapshotName};
use crate::network::{self, BridgeSpec};
use crate::profile;
use crate::project;
use crate::storage::{self, VolumeId};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// This image.
    Image {
        /// The project whose image it is.
        project: ProjectName,
        /// Which one.
        fingerprint: Fingerprint,
    },
    /// Nowhere: it is empty.
    Empty,
    /// Another instance.
    Copy(CopyOf),
}

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOf {
    /// The instance.
    pub instance: InstanceKey,
    /// As it was then; `None`: as it is.
    pub snapshot: Option<SnapshotName>,
    /// Its snapshots are copied, too.
    pub snapshots: bool,
    /// What is said of the copy itself.
    pub asked: Asked,
}

/// The rows of the snapshots that come along with a copy.
pub(super) fn rows_of_snapshots(model: &Model, new: &db::Instance, source: &RootSource) -> Vec<db::InstanceSnapshot> {
    let RootSource::Copy(CopyOf { instance, snapshot: None, snapshots: true, .. }) = source else { return Vec::new() };
    let whole = model.snapshots_of(instance).into_iter().filter(|record| record.phase == Phase::Ready);
    whole.map(|record| row_of_snapshot(model, new, record)).collect()
}

/// The row of a snapshot that comes along with a copy.
pub(super) fn row_of_snapshot(model: &Model, new: &db::Instance, of: &db::InstanceSnapshot) -> db::InstanceSnapshot {
    let mut copy = of.clone();
    copy.key.instance = new.key.clone();
    copy.phase = Phase::Creating;
    // Identity and addresses are the source's own.
    copy.config.retain(|key, _| !key.starts_with("volatile.") || key == "volatile.base_image");
    copy.devices = with_root_in(model, &copy, &new.pool);
    copy
}

/// The own devices of a snapshot whose volume lies in `pool`: its root disk says so, itself or by a profile.
pub(super) fn with_root_in(model: &Model, of: &db::InstanceSnapshot, pool: &PoolName) -> Devices {
    let project = &of.key.instance.project;
    let expanded = profile::expand_known(model, project, &of.profiles, &of.config, &of.devices).devices;
    root_in(of.devices.clone(), &expanded, pool)
}

/// Own devices among which the root disk is in `pool`, if it is not by a profile (`expanded`).
pub(super) fn root_in(mut own: Devices, expanded: &Devices, pool: &PoolName) -> Devices {
    let is_root = |device: &Config| {
        device.get("type").is_some_and(|kind| kind == "disk") && device.get("path").is_some_and(|path| path == "/")
    };
    let (name, mut root) = match expanded.iter().find(|(_, device)| is_root(device)) {
        Some((_, root)) if root.get("pool").is_some_and(|found| *found == *pool.as_str()) => return own,
        Some((name, root)) => (name.clone(), root.clone()),
        None => {
            ("root".to_owned(), [("type", "disk"), ("path", "/")].map(|(k, v)| (k.to_owned(), v.to_owned())).into())
        }
    };
    root.insert("pool".to_owned(), pool.to_string());
    own.insert(name, root);
    own
}

/// A new instance, parsed.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// Its project and name.
    pub key: InstanceKey,
    /// Kernel architecture; empty: the image's, else the host's.
    pub architecture: String,
    /// In order of application.
    pub profiles: Vec<ProfileName>,
    /// Own configuration.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// Free text.
    pub description: String,
    /// Its root.
    pub source: RootSource,
}

/// The row of a new instance. `uuid`: its identity.
///
/// # Errors
/// With everything that can be checked before anything is made.
pub(super) fn row(context: &Context, model: &Model, new: NewInstance, uuid: String) -> Result<db::Instance, Error> {
    config::validate_instance(&new.config, config::Scope::Instance)?;
    project::require(model, &new.key.project)?;
    if model.instances.contains_key(&new.key) || rename::still_named(model, &new.key, None) {
        return Err(Error::Exists { key: new.key });
    }
    let mut own_devices = new.devices;
    if let RootSource::Copy(copy) = &new.source
        && let Some(source) = model.instances.get(&copy.instance)
    {
        give_root(model, &new.key.project, &new.profiles, &mut own_devices, &source.pool)?;
    }
    let expanded = profile::expand(model, &new.key.project, &new.profiles, &new.config, &own_devices)?;
    context.check_privilege(&expanded.config)?;
    config::check_together(&expanded.config)?;
    let devices = Set::parse(&expanded.devices)?;
    check_networks(model, &new.key, &devices)?;
    if !matches!(new.source, RootSource::Copy(_)) {
        addresses::check_set(model, &new.key, &devices, None, None)?;
    }
    volumes::check(model, &new.key.project, &devices)?;
    let pool = devices.root()?.pool.clone();
    if !model.pools.get(&pool).is_some_and(|record| record.phase == Phase::Ready) {
        return Err(Error::NoSuchPool(pool));
    }
    // Before anything is written down: it could not be taken back.
    context.pools.get(&pool)?;
    if let RootSource::Copy(copy) = &new.source {
        let source = model.instances.get(&copy.instance).filter(|record| record.phase == Phase::Ready);
        context.pools.get(&source.ok_or(Error::NotFound)?.pool)?;
        if let Some(name) = &copy.snapshot {
            snapshots::find(model, &copy.instance, name)?;
        }
    }
    let mut architecture = new.architecture;
    let mut config = new.config;
    config.insert("volatile.uuid".to_owned(), uuid);
    let trigger = if matches!(new.source, RootSource::Copy(_)) { templates::COPY } else { templates::CREATE };
    config.insert(templates::PENDING.to_owned(), trigger.to_owned());
    guests::renew_identity(&mut config);
    give_addresses(&devices, &mut config)?;
    if let RootSource::Image { project, fingerprint } = &new.source {
        let image = model.image(project, fingerprint).filter(|image| image.phase == Phase::Ready);
        let image = image.ok_or_else(|| Error::ImageMissing { what: fingerprint.to_string() })?;
        if architecture.is_empty() {
            architecture.clone_from(&image.architecture);
        }
        // A property may be called anything; one whose name makes no key would keep the instance from being changed.
        let properties = image.properties.iter().map(|(key, value)| (format!("image.{key}"), value.clone()));
        config.extend(properties.filter(|(key, _)| config::is_instance_key(key)));
        config.insert("volatile.base_image".to_owned(), fingerprint.to_string());
    }
    if architecture.is_empty() {
        context.host.architecture().clone_into(&mut architecture);
    }
    context.host.check_architecture(&architecture)?;
    let record = db::Instance {
        key: new.key,
        phase: Phase::Creating,
        description: new.description,
        architecture,
        ephemeral: new.ephemeral,
        profiles: new.profiles,
        config,
        devices: own_devices,
        created_at: db::now(),
        last_used_at: 0,
        pool,
    };
    project::check_instance(model, &record)?;
    Ok(record)
}

/// Gives an instance that comes with its volume a root disk of its own on that volume's pool, where the profiles of its
/// project have none.
pub(super) fn give_root(
    model: &Model,
    project: &ProjectName,
    profiles: &[ProfileName],
    devices: &mut Devices,
    pool: &PoolName,
) -> Result<(), Error> {
    let expanded = profile::expand(model, project, profiles, &Config::new(), devices)?;
    if Set::parse(&expanded.devices)?.root.is_some() {
        return Ok(());
    }
    let numbered = (0..).map(|number: u32| format!("root{number}"));
    let mut names = std::iter::once("root".to_owned()).chain(numbered);
    if let Some(name) = names.find(|name| !expanded.devices.contains_key(name)) {
        let pairs = [("type", "disk"), ("path", "/"), ("pool", pool.as_str())];
        devices.insert(name, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
    Ok(())
}

/// Writes the row of a new instance. From here on the name is taken.
pub(super) async fn reserve(context: &Arc<Context>, new: NewInstance) -> Result<db::Instance, Error> {
    let uuid = uuid::Uuid::new_v4().to_string();
    let checking = Arc::clone(context);
    context
        .db
        .write(move |tx| {
            let source = new.source.clone();
            let record = row(&checking, tx.model(), new, uuid)?;
            tx.put_instance(record.clone())?;
            for snapshot in rows_of_snapshots(tx.model(), &record, &source) {
                tx.put_snapshot(snapshot)?;
            }
            Ok(record)
        })
        .await
}

/// Refuses nics on managed networks that are not there, and fixed addresses that these do not have.
pub(super) fn check_networks(model: &Model, key: &InstanceKey, devices: &Set) -> Result<(), Error> {
    check_present(model, &key.project, devices)?;
    devices.nics.iter().try_for_each(|(device, nic)| check_addresses(model, &key.project, device, nic))
}

/// Refuses nics on managed networks that are not there.
///
/// # Errors
/// [`Error::NoNetwork`].
fn check_present(model: &Model, project: &ProjectName, devices: &Set) -> Result<(), Error> {
    for (device, nic) in &devices.nics {
        let NicType::Network(network) = &nic.kind else { continue };
        match model.network(project, network) {
            Some(record) => check_uplink(record, device, nic)?,
            None => return Err(Error::NoNetwork { device: device.to_string(), network: network.to_string() }),
        }
    }
    Ok(())
}

impl Context {
    /// Refuses devices of a profile that have managed networks which are not there.
    ///
    /// # Errors
    /// [`Error::NoNetwork`], [`Error::Device`].
    pub fn check_networks(&self, project: &ProjectName, devices: &Devices) -> Result<(), Error> {
        check_present(&self.db.model(), project, &Set::parse(devices)?)
    }
}

fn check_addresses(model: &Model, project: &ProjectName, device: &DeviceName, nic: &Nic) -> Result<(), Error> {
    let NicType::Network(network) = &nic.kind else { return Ok(()) };
    if nic.addresses.is_empty() {
        return Ok(());
    }
    let Some(record) = model.network(project, network) else { return Ok(()) };
    let spec = BridgeSpec::parse(network, &super::network_config(record))?;
    let refuse = |reason: String| Err(Error::Plug { device: device.to_string(), reason });
    if let Some(address) = nic.ipv4_address() {
        match spec.ipv4.as_ref().filter(|ipv4| ipv4.dhcp) {
            None => return refuse(format!("ipv4.address: network {network} gives out no IPv4 addresses (ipv4.dhcp)")),
            Some(ipv4) if !ipv4.address.contains(address) || ipv4.address.address == address => {
                let net = ipv4.address.network();
                return refuse(format!("ipv4.address {address} is not one of network {network} ({net}) for instances"));
            }
            Some(_) => {}
        }
    }
    if let Some(address) = nic.ipv6_address() {
        match spec.ipv6.as_ref().filter(|ipv6| ipv6.dhcp && ipv6.stateful) {
            None => {
                return refuse(format!("ipv6.address needs ipv6.dhcp and ipv6.dhcp.stateful on network {network}"));
            }
            Some(ipv6) if !ipv6.address.contains(address) || ipv6.address.address == address => {
                let net = ipv6.address.network();
                return refuse(format!("ipv6.address {address} is not one of network {network} ({net}) for instances"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Gives nics their addresses when they come, not at the first start: who prepares a DHCP server asks for them before.
pub(super) fn give_addresses(devices: &Set, config: &mut Config) -> Result<(), Error> {
    for (device, nic) in &devices.nics {
        let key = format!("volatile.{device}.hwaddr");
        let own = !matches!(nic.kind, NicType::Physical { .. } | NicType::Ipvlan { .. });
        if own && nic.hwaddr.is_none() && config.get(&key).is_none_or(String::is_empty) {
            config.insert(key, network::random_mac()?.to_string());
        }
    }
    Ok(())
}

/// Makes the root volume of a reserved instance and calls it ready; a failure takes everything back. That of a copy has
/// been made by the task of its source: `copied`.
pub(super) async fn build(
    context: &Arc<Context>,
    record: &db::Instance,
    source: &RootSource,
    copied: Result<(), Error>,
    requestor: Option<&Requestor>,
    stages: &mut Stages,
) -> Result<(), Error> {
    let result = match copied {
        Ok(()) => volume(context, record, source, stages).await,
        Err(error) => Err(error),
    };
    if let Err(cause) = result {
        return Err(match take_back(context, record).await {
            Ok(()) => cause,
            Err(failure) => Error::Undo { cause: Box::new(cause), failures: vec![failure] },
        });
    }
    context.created(record, requestor);
    // Those that came with a copy.
    for snapshot in context.db.model().snapshots_of(&record.key) {
        context.snapshot_lifecycle("instance-snapshot-created", &snapshot.key, &[], requestor);
    }
    Ok(())
}

async fn volume(
    context: &Arc<Context>,
    record: &db::Instance,
    source: &RootSource,
    stages: &mut Stages,
) -> Result<(), Error> {
    let pool = context.pools.get(&record.pool)?;
    let volume = VolumeId::of(&record.key);
    match source {
        RootSource::Copy(_) => {}
        RootSource::Empty => blocking(move || pool.create_empty(&volume).map_err(Error::from)).await?,
        RootSource::Image { fingerprint, .. } => {
            let image = context.images.get(fingerprint).map_err(|error| match error {
                away @ image::Error::Away => Error::Image(away),
                _ => Error::ImageMissing { what: fingerprint.to_string() },
            })?;
            blocking(move || pool.create_from_image(&volume, &image).map_err(Error::from)).await?;
        }
    }
    quota::begin(context, record).await?;
    stages.mark("volume");
    let (root, container) = (context.dir.root().to_owned(), record.key.container());
    let path = context.pools.get(&record.pool)?.path(&VolumeId::of(&record.key));
    let snapshots = context.pools.get(&record.pool)?.snapshots_of(&VolumeId::of(&record.key));
    blocking(move || {
        storage::link_instance(&root, &container, &path)?;
        if snapshots.exists() {
            storage::link_snapshots(&root, &container, &snapshots)?;
        }
        Ok::<_, Error>(())
    })
    .await?;
    let (key, source) = (record.key.clone(), source.clone());
    context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            record.phase = Phase::Ready;
            let snapshots: Vec<_> = tx.model().snapshots_of(&key).into_iter().cloned().collect();
            for snapshot in snapshots {
                tx.put_snapshot(db::InstanceSnapshot { phase: Phase::Ready, ..(*snapshot).clone() })?;
            }
            if let RootSource::Image { project, fingerprint } = source
                && let Some(image) = tx.model().image(&project, &fingerprint)
            {
                let mut image = (**image).clone();
                image.last_used_at = db::now();
                tx.put_image(image)?;
            }
            Ok::<(), Error>(tx.put_instance(record)?)
        })
        .await?;
    stages.mark("record");
    Ok(())
}

/// Removes what a failed or interrupted creation left.
pub(super) async fn take_back(context: &Arc<Context>, record: &db::Instance) -> Result<(), Error> {
    let pool = context.pools.get(&record.pool)?;
    super::delete::remove_files(context, record, Some(pool)).await?;
    let key = record.key.clone();
    context.db.write(move |tx| Ok::<(), Error>(tx.delete_instance(&key)?)).await
}
