//! Managed networks as the database has them: brought up, looked after, renamed; and instances connected to them again.
//!
//! Every change of what a network is on the host is made in its turn ([`crate::network::Manager::turn`]), by what the database
//! then says.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::{Context, blocking, nics};
use crate::api::wire::Config;
use crate::db::{Model, Network, Phase, WarningKind};
use crate::device::{Nic, NicType, Set};
use crate::names::{AclName, DeviceName, NetworkName, ProjectName};
use crate::network::{self, BridgeSpec, Direction, NetworkKind, PortForward, Spec};

/// The old name of a network that is being renamed, in its configuration; nobody else's to see or set.
const RENAMED_FROM: &str = "volatile.renamed_from";

/// How often networks are looked after.
const ROUND: Duration = Duration::from_secs(180);

/// The configuration of a network without what is the daemon's own.
pub fn network_config(record: &Network) -> Config {
    let mut config = record.config.clone();
    config.remove(RENAMED_FROM);
    config
}

/// What a network is to be on the host, with its forwards and access control lists.
///
/// # Errors
/// [`Error::Network`]: of a key, a forward or a list that does not fit.
pub fn network_spec(model: &Model, record: &Network) -> Result<Spec, Error> {
    let kind = NetworkKind::parse(&record.kind)?;
    let mut spec = Spec::parse(kind, &record.name, &network_config(record))?;
    if let Spec::Bridge(spec) = &mut spec {
        let own =
            |forward: &&Arc<crate::db::Forward>| forward.project == record.project && forward.network == record.name;
        for forward in model.forwards.values().filter(own) {
            let checked = PortForward::parse(spec, forward.listen, &forward.config, &forward.ports)?;
            spec.forwards.push(checked);
        }
        if let Some(acls) = &mut spec.acls {
            for name in network::acl_names(&record.config) {
                let missing = || network::Error::Invalid {
                    reason: format!("Network ACL {name:?} does not exist: create it first"),
                };
                let key = (record.project.clone(), AclName::new(name.clone())?);
                let acl = model.acls.get(&key).ok_or_else(missing)?;
                acls.rules.extend(network::check_rules(Direction::Egress, &name, &acl.egress)?);
                acls.rules.extend(network::check_rules(Direction::Ingress, &name, &acl.ingress)?);
            }
        }
    }
    Ok(spec)
}

/// Refuses what clients may not put into a configuration.
///
/// # Errors
/// [`Error::Network`], [`Error::Config`].
pub fn check_network_config(name: &NetworkName, config: &Config) -> Result<(), Error> {
    if config.contains_key(RENAMED_FROM) {
        return Err(network::Error::UnknownKey { network: name.clone(), key: RENAMED_FROM.to_owned() }.into());
    }
    crate::config::bounded(config).map_err(Error::Config)
}

fn url(name: &NetworkName) -> String {
    format!("/1.0/networks/{name}")
}

/// Refuses a nic that asks of a network what that does not have.
pub(super) fn check_uplink(record: &Network, device: &DeviceName, nic: &Nic) -> Result<(), Error> {
    if record.kind == NetworkKind::Bridge.as_str() {
        return Ok(());
    }
    let plain = nic.traffic == crate::device::Traffic::default();
    if plain && nic.addresses.is_empty() && !nic.no_ipv4 && !nic.no_ipv6 {
        return Ok(());
    }
    let reason = format!(
        "network {} is of the type {}: it takes no addresses, limits, filters and routes, which are for bridges",
        record.name, record.kind
    );
    Err(Error::Plug { device: device.to_string(), reason })
}

/// Nics on networks that are an interface of the host become nics on that interface.
pub(super) fn linked(model: &Model, devices: &Set) -> Result<Set, Error> {
    let mut devices = devices.clone();
    for (device, nic) in &mut devices.nics {
        let NicType::Network(name) = &nic.kind else { continue };
        let Some(record) = model.network(&ProjectName::default(), name) else {
            return Err(Error::NoNetwork { device: device.to_string(), network: name.to_string() });
        };
        let kind = NetworkKind::parse(&record.kind)?;
        if kind == NetworkKind::Bridge {
            continue;
        }
        let Spec::Uplink(uplink) = Spec::parse(kind, name, &network_config(record))? else { continue };
        check_uplink(record, device, nic)?;
        nic.kind = if uplink.physical {
            NicType::Physical { parent: uplink.parent }
        } else {
            NicType::Macvlan { parent: uplink.parent }
        };
        nic.vlan = uplink.vlan;
        nic.mtu = nic.mtu.or(uplink.mtu);
    }
    Ok(devices)
}

impl Context {
    /// Brings a network to what `spec` says, and connects running instances again when its bridge had to be made anew. In
    /// the caller's turn.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub async fn network_up(&self, spec: &Spec) -> Result<(), Error> {
        let Spec::Bridge(spec) = spec else { return Ok(()) };
        let repaired = self.bridge_up(spec).await?;
        if !repaired.is_empty() {
            self.tell_repaired(&spec.name, &repaired).await;
        }
        Ok(())
    }

    /// Says that this was gone of a network, and is there again.
    async fn tell_repaired(&self, name: &NetworkName, faults: &[&str]) {
        let message = format!("{}: made again", faults.join(", "));
        tracing::warn!(network = %name, %message, "repaired");
        let project = ProjectName::default();
        self.db.raise_warning(WarningKind::NetworkRepaired, Some(&project), &url(name), &message).await;
    }

    /// [`Context::network_up`]; returns what had gone of it since it was brought up last.
    async fn bridge_up(&self, spec: &BridgeSpec) -> Result<Vec<&'static str>, Error> {
        let up = self.networks.up(spec).await?;
        let (project, url) = (ProjectName::default(), url(&spec.name));
        if up.missing.is_empty() {
            self.db.resolve_warnings(WarningKind::NetworkUnavailable, Some(&project), &url).await;
        } else {
            let names = up.missing.join(", ");
            let message = format!(
                "bridge.external_interfaces: the host has no interface {names}; it is put in within minutes once it is there"
            );
            self.db.raise_warning(WarningKind::NetworkUnavailable, Some(&project), &url, &message).await;
        }
        if up.is_fresh {
            let (dir, name) = (self.dir.clone(), spec.name.clone());
            blocking(move || {
                nics::reconnect(&dir, &name);
                Ok::<_, Error>(())
            })
            .await?;
        }
        Ok(up.repaired)
    }

    /// At the daemon's start: what a crash left of a network is finished or taken away, and it is brought up. What fails is a
    /// warning.
    pub async fn network_adopted(&self, record: &Network) {
        let _turn = self.networks.turn().await;
        let brought = async {
            if record.phase != Phase::Ready {
                self.networks.remove(&record.name).await?;
                let (project, name) = (record.project.clone(), record.name.clone());
                self.db.write(move |tx| tx.delete_network(&project, &name)).await?;
                self.db.forget_warnings(Some(&url(&record.name))).await;
                return Ok(());
            }
            self.finish_rename(record).await?;
            self.network_up(&network_spec(&self.db.model(), record)?).await
        };
        if let Err(error) = brought.await {
            tracing::error!(network = %record.name, %error, "the network is not up");
            let (kind, url) = (WarningKind::NetworkUnavailable, url(&record.name));
            self.db.raise_warning(kind, Some(&record.project), &url, &error.to_string()).await;
        }
    }

    /// Makes on the host what the database says of the name, once it does.
    async fn finish_rename(&self, record: &Network) -> Result<(), Error> {
        let Some(old) = record.config.get(RENAMED_FROM) else { return Ok(()) };
        let old = NetworkName::new(old.clone())?;
        if record.kind == NetworkKind::Bridge.as_str() {
            self.networks.rename(&old, &record.name).await?;
        }
        let done = Network { config: network_config(record), ..record.clone() };
        self.db.forget_warnings(Some(&url(&old))).await;
        Ok(self.db.write(move |tx| tx.put_network(done)).await?)
    }

    /// Gives a network that nobody uses another name. `check` sees the database at the moment of the change.
    ///
    /// # Errors
    /// Of the check, or [`Error::Network`]; then it has its old name.
    pub async fn rename_network<E>(
        &self,
        record: &Network,
        new: &NetworkName,
        check: impl FnOnce(&Model) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E>
    where
        E: From<Error> + From<crate::db::Error> + Send + 'static,
    {
        self.move_row(&record.name, record, new, check).await?;
        let renamed = async {
            let model = self.db.model();
            let moved = model.network(&record.project, new).cloned().ok_or(Error::NotFound)?;
            self.finish_rename(&moved).await?;
            self.network_up(&network_spec(&self.db.model(), &moved)?).await
        };
        let Err(error) = renamed.await else { return Ok(()) };
        // Back the same way, so that a crash on it leads there, too.
        let back = async {
            self.move_row(new, record, &record.name, |_| Ok::<_, Error>(())).await?;
            let model = self.db.model();
            let moved = model.network(&record.project, &record.name).cloned().ok_or(Error::NotFound)?;
            self.finish_rename(&moved).await?;
            self.network_up(&network_spec(&self.db.model(), &moved)?).await
        };
        if let Err(error) = back.await {
            tracing::error!(network = %record.name, %error, "giving a network its old name back");
        }
        Err(error.into())
    }

    async fn move_row<E: From<crate::db::Error> + Send + 'static>(
        &self,
        old: &NetworkName,
        record: &Network,
        new: &NetworkName,
        check: impl FnOnce(&Model) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let mut row = Network { name: new.clone(), config: network_config(record), ..record.clone() };
        row.config.insert(RENAMED_FROM.to_owned(), old.to_string());
        let old = old.clone();
        self.db
            .write(move |tx| {
                check(tx.model())?;
                Ok(tx.rename_network(&old, row)?)
            })
            .await
    }

    /// Before a nic is put into a bridge: what is gone of that is made again. Looks only, when all is there.
    pub(super) async fn touch_networks(&self, devices: &Set) -> Result<(), Error> {
        for nic in devices.nics.values() {
            let NicType::Network(name) = &nic.kind else { continue };
            let model = self.db.model();
            let Some(record) = model.network(&ProjectName::default(), name) else { continue };
            let spec = network_spec(&model, record)?;
            let Some(bridge) = spec.bridge() else { continue };
            if !self.networks.is_up(bridge).await? {
                self.repair_network(&record.project, name, true).await?;
            }
        }
        Ok(())
    }

    /// Makes again what is gone of a network, and says so. `now`: somebody needs it and wants to hear of a failure.
    async fn repair_network(&self, project: &ProjectName, name: &NetworkName, now: bool) -> Result<(), Error> {
        let _turn = self.networks.turn().await;
        let model = self.db.model();
        let Some(record) = model.network(project, name).filter(|record| record.phase == Phase::Ready) else {
            return Ok(());
        };
        let Spec::Bridge(spec) = network_spec(&model, record)? else { return Ok(()) };
        let (project, url) = (Some(project), url(name));
        let faults = self.networks.faults(&spec).await?;
        // One that waits for an interface, or whose assistance may have been flushed by others, is brought up each time.
        if !faults.is_empty() || spec.assist || !spec.external.is_empty() {
            if let Err(error) = self.bridge_up(&spec).await {
                let message = error.to_string();
                self.db.raise_warning(WarningKind::NetworkUnavailable, project, &url, &message).await;
                return if now { Err(error) } else { Ok(()) };
            }
            if !faults.is_empty() {
                self.tell_repaired(name, &faults).await;
            }
        }
        Ok(())
    }

    /// Tells what on the host obstructs a network, or that nothing does any more.
    pub async fn watch_network(&self, spec: &BridgeSpec) {
        let (project, url) = (ProjectName::default(), url(&spec.name));
        let told = async |kind, found: Vec<String>| {
            if found.is_empty() {
                self.db.resolve_warnings(kind, Some(&project), &url).await;
            } else {
                self.db.raise_warning(kind, Some(&project), &url, &found.join("; ")).await;
            }
        };
        match self.networks.obstacles(spec).await {
            Ok(found) => told(WarningKind::NetworkObstructed, found).await,
            Err(error) => tracing::error!(network = %spec.name, %error, "looking for what obstructs it"),
        }
        let asked = spec.clone();
        match blocking(move || Ok::<_, Error>(network::overlaps(&asked)?)).await {
            Ok(found) => {
                let found = found.into_iter().map(|overlap| format!("{}: {}", overlap.key, overlap.what)).collect();
                told(WarningKind::NetworkOverlap, found).await;
            }
            Err(error) => tracing::error!(network = %spec.name, %error, "comparing its addresses with the host's"),
        }
    }

    /// Looks after all networks once: what is gone is made again, what obstructs them is told.
    pub async fn tend_networks(&self) {
        let model = self.db.model();
        for record in model.networks.values().filter(|record| record.phase == Phase::Ready) {
            if let Err(error) = self.repair_network(&record.project, &record.name, false).await {
                tracing::error!(network = %record.name, %error, "looking after the network");
            }
            let now = self.db.model();
            // It may be gone meanwhile, and then nothing is to be said of it.
            let Some(record) = now.network(&record.project, &record.name) else { continue };
            if let Ok(Spec::Bridge(spec)) = network_spec(&now, record) {
                self.watch_network(&spec).await;
            }
        }
        self.db.forget_warnings(None).await;
    }

    /// When the host or all of the daemon goes down: takes the networks away on which nothing runs any more. Nobody makes them
    /// again in this life of the daemon.
    pub async fn take_networks_down(&self) {
        let turn = self.networks.turn().await;
        let dir = self.dir.clone();
        let used = blocking(move || Ok::<_, Error>(nics::parents(&dir))).await.unwrap_or_default();
        let model = self.db.model();
        for record in model.networks.values().filter(|record| !used.contains(record.name.as_str())) {
            if let Ok(Spec::Bridge(spec)) = network_spec(&model, record)
                && let Err(error) = self.networks.down(&spec.name).await
            {
                tracing::error!(network = %record.name, %error, "taking the network down");
            }
        }
        std::mem::forget(turn);
    }

    /// [`Context::tend_networks`], at once and every few minutes. `WARREN_NETWORK_ROUND` sets the seconds in between.
    pub async fn follow_networks(&self) {
        let networks = self.networks.clone();
        // With the runtime, as this.
        tokio::spawn(async move { networks.follow_leases().await });
        let set = std::env::var("WARREN_NETWORK_ROUND").ok().and_then(|text| text.parse().ok()).filter(|s| *s > 0);
        let mut rounds = tokio::time::interval(set.map_or(ROUND, Duration::from_secs));
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.tend_networks().await;
        }
    }
}
