//! What an LXD has, however it was found out.

use crate::api::wire::{AclRule, Config, Devices, ForwardPort};

/// How it was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The running LXD was asked.
    Api,
    /// Its database was read.
    Database {
        /// LXD ended without writing down its last changes.
        stale: bool,
    },
    /// Only the records of instances beside their files were there.
    Backups,
}

/// An LXD.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) source: Source,
    /// Servers of its cluster; 1 without one.
    pub(super) members: usize,
    pub(super) config: Config,
    pub(super) certificates: usize,
    pub(super) projects: Vec<Project>,
    pub(super) pools: Vec<Pool>,
    pub(super) networks: Vec<Network>,
    pub(super) acls: Vec<Acl>,
    pub(super) forwards: Vec<Forward>,
    pub(super) zones: Vec<Zone>,
    pub(super) profiles: Vec<Profile>,
    pub(super) images: Vec<Image>,
    pub(super) volumes: Vec<Volume>,
    pub(super) instances: Vec<Instance>,
}

impl Found {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            members: 1,
            config: Config::new(),
            certificates: 0,
            projects: Vec::new(),
            pools: Vec::new(),
            networks: Vec::new(),
            acls: Vec::new(),
            forwards: Vec::new(),
            zones: Vec::new(),
            profiles: Vec::new(),
            images: Vec::new(),
            volumes: Vec::new(),
            instances: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) config: Config,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) config: Config,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) project: String,
    pub(super) name: String,
    /// In words of the API.
    pub(super) kind: String,
    pub(super) config: Config,
}

/// Rules of a firewall for networks.
#[derive(Debug)]
pub(super) struct Acl {
    pub(super) project: String,
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) ingress: Vec<AclRule>,
    pub(super) egress: Vec<AclRule>,
}

/// An address of a network that leads to others.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) project: String,
    pub(super) network: String,
    pub(super) listen: String,
    pub(super) config: Config,
    pub(super) ports: Vec<ForwardPort>,
}

/// Names that are served by DNS to other servers.
#[derive(Debug)]
pub(super) struct Zone {
    pub(super) project: String,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Profile {
    pub(super) project: String,
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) devices: Devices,
}

#[derive(Debug)]
pub(super) struct Image {
    pub(super) project: String,
    pub(super) fingerprint: String,
    pub(super) aliases: Vec<String>,
    pub(super) is_machine: bool,
}

/// A custom volume.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) project: String,
    pub(super) pool: String,
    pub(super) name: String,
    pub(super) is_block: bool,
    pub(super) config: Config,
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) project: String,
    pub(super) name: String,
    pub(super) is_machine: bool,
    /// It has a saved state of its processes.
    pub(super) is_stateful: bool,
    /// Where that is known.
    pub(super) is_running: bool,
    pub(super) config: Config,
    pub(super) devices: Devices,
    /// With what its profiles give it.
    pub(super) expanded_devices: Devices,
    pub(super) snapshots: usize,
}
