//! Rows and records: a row struct per table, and the two conversions.

use diesel::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::model::{
    Acl, Alias, Certificate, CertificateKind, Forward, Image, Instance, InstanceSnapshot, Model, Network, Phase, Pool,
    Profile, Project, TrustToken, Volume, VolumeSnapshot,
};
use super::schema;
use crate::names::{InstanceKey, NameError, SnapshotKey, VolumeKey, VolumeSnapshotKey};

fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Statement { reason: e.to_string() })
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| Error::Row { what: what.to_owned(), reason: e.to_string() })
}

fn named<T>(what: &str, name: Result<T, NameError>) -> Result<T, Error> {
    name.map_err(|e| Error::Row { what: what.to_owned(), reason: e.to_string() })
}

fn phase(what: &str, text: &str) -> Result<Phase, Error> {
    Phase::parse(text).ok_or_else(|| Error::Row { what: what.to_owned(), reason: format!("unknown phase {text:?}") })
}

macro_rules! row {
    ($row:ident, $module:path, ($($pk:ident),*), { $($field:ident : $type:ty),* $(,)? }) => {
        #[derive(Queryable, Insertable, Selectable, AsChangeset)]
        #[diesel(table_name = $module, primary_key($($pk),*))]
        pub(super) struct $row { $(pub(super) $field: $type),* }
    };
}

row!(ConfigRow, schema::server_config, (key), { key: String, value: String });
row!(ProjectRow, schema::projects, (name), { name: String, description: String, config: String });
row!(ProfileRow, schema::profiles, (project, name), {
    project: String, name: String, description: String, config: String, devices: String,
});
row!(InstanceRow, schema::instances, (project, name), {
    project: String, name: String, phase: String, description: String, architecture: String, ephemeral: bool,
    profiles: String, config: String, devices: String, created_at: i64, last_used_at: i64, pool: String,
});
row!(SnapshotRow, schema::snapshots, (project, instance, name), {
    project: String, instance: String, name: String, number: i64, phase: String, description: String,
    architecture: String, ephemeral: bool, profiles: String, config: String, devices: String, created_at: i64,
    expires_at: i64, last_used_at: i64,
});
row!(ImageRow, schema::images, (project, fingerprint), {
    project: String, fingerprint: String, phase: String, filename: String, size: i64, public: bool,
    auto_update: bool, cached: bool, architecture: String, properties: String, profiles: String,
    created_at: i64, expires_at: i64, last_used_at: i64, uploaded_at: i64, update_source: String, is_expiry_set: bool,
});
row!(AliasRow, schema::aliases, (project, name), { project: String, name: String, description: String, target: String });
row!(PoolRow, schema::pools, (name), {
    name: String, phase: String, driver: String, description: String, config: String,
});
row!(VolumeRow, schema::volumes, (pool, project, name), {
    pool: String, project: String, name: String, phase: String, description: String, config: String, created_at: i64,
    renamed_from: String,
});
row!(VolumeSnapshotRow, schema::volume_snapshots, (pool, project, volume, name), {
    pool: String, project: String, volume: String, name: String, number: i64, phase: String, description: String,
    config: String, created_at: i64, expires_at: i64, renamed_from: String,
});
row!(NetworkRow, schema::networks, (project, name), {
    project: String, name: String, phase: String, kind: String, description: String, config: String,
});
row!(CertificateRow, schema::certificates, (fingerprint), {
    fingerprint: String, kind: String, name: String, restricted: bool, projects: String, pem: String,
});
row!(TrustTokenRow, schema::trust_tokens, (id), {
    id: String, secret: String, name: String, restricted: bool, projects: String, addresses: String, created_at: i64,
    expires_at: i64,
});
row!(ForwardRow, schema::network_forwards, (project, network, listen), {
    project: String, network: String, listen: String, description: String, config: String, ports: String,
});
row!(AclRow, schema::network_acls, (project, name), {
    project: String, name: String, description: String, config: String, egress: String, ingress: String,
});

impl ProjectRow {
    pub(super) fn of(record: &Project) -> Result<Self, Error> {
        Ok(Self {
            name: record.name.to_string(),
            description: record.description.clone(),
            config: json(&record.config)?,
        })
    }

    fn record(self) -> Result<Project, Error> {
        let what = format!("projects/{}", self.name);
        Ok(Project {
            name: named(&what, self.name.parse())?,
            config: parse(&what, &self.config)?,
            description: self.description,
        })
    }
}

impl ProfileRow {
    pub(super) fn of(record: &Profile) -> Result<Self, Error> {
        Ok(Self {
            project: record.project.to_string(),
            name: record.name.to_string(),
            description: record.description.clone(),
            config: json(&record.config)?,
            devices: json(&record.devices)?,
        })
    }

    fn record(self) -> Result<Profile, Error> {
        let what = format!("profiles/{}/{}", self.project, self.name);
        Ok(Profile {
            project: named(&what, self.project.parse())?,
            name: named(&what, self.name.parse())?,
            config: parse(&what, &self.config)?,
            devices: parse(&what, &self.devices)?,
            description: self.description,
        })
    }
}

impl InstanceRow {
    pub(super) fn of(record: &Instance) -> Result<Self, Error> {
        Ok(Self {
            project: record.key.project.to_string(),
            name: record.key.name.to_string(),
            phase: record.phase.as_str().to_owned(),
            description: record.description.clone(),
            architecture: record.architecture.clone(),
            ephemeral: record.ephemeral,
            profiles: json(&record.profiles)?,
            config: json(&record.config)?,
            devices: json(&record.devices)?,
            created_at: record.created_at,
            last_used_at: record.last_used_at,
            pool: record.pool.to_string(),
        })
    }

    fn record(self) -> Result<Instance, Error> {
        let what = format!("instances/{}/{}", self.project, self.name);
        Ok(Instance {
            key: InstanceKey { project: named(&what, self.project.parse())?, name: named(&what, self.name.parse())? },
            phase: phase(&what, &self.phase)?,
            description: self.description,
            architecture: self.architecture,
            ephemeral: self.ephemeral,
            profiles: parse(&what, &self.profiles)?,
            config: parse(&what, &self.config)?,
            devices: parse(&what, &self.devices)?,
            created_at: self.created_at,
            last_used_at: self.last_used_at,
            pool: named(&what, self.pool.parse())?,
        })
    }
}

impl SnapshotRow {
    pub(super) fn of(record: &InstanceSnapshot) -> Result<Self, Error> {
        Ok(Self {
            project: record.key.instance.project.to_string(),
            instance: record.key.instance.name.to_string(),
            name: record.key.name.to_string(),
            number: record.number,
            phase: record.phase.as_str().to_owned(),
            description: record.description.clone(),
            architecture: record.architecture.clone(),
            ephemeral: record.ephemeral,
            profiles: json(&record.profiles)?,
            config: json(&record.config)?,
            devices: json(&record.devices)?,
            created_at: record.created_at,
            expires_at: record.expires_at,
            last_used_at: record.last_used_at,
        })
    }

    fn record(self) -> Result<InstanceSnapshot, Error> {
        let what = format!("snapshots/{}/{}/{}", self.project, self.instance, self.name);
        let instance =
            InstanceKey { project: named(&what, self.project.parse())?, name: named(&what, self.instance.parse())? };
        Ok(InstanceSnapshot {
            key: SnapshotKey { instance, name: named(&what, self.name.parse())? },
            number: self.number,
            phase: phase(&what, &self.phase)?,
            description: self.description,
            architecture: self.architecture,
            ephemeral: self.ephemeral,
            profiles: parse(&what, &self.profiles)?,
            config: parse(&what, &self.config)?,
            devices: parse(&what, &self.devices)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
        })
    }
}

impl ImageRow {
    pub(super) fn of(record: &Image) -> Result<Self, Error> {
        Ok(Self {
            project: record.project.to_string(),
            fingerprint: record.fingerprint.to_string(),
            phase: record.phase.as_str().to_owned(),
            filename: record.filename.clone(),
            size: record.size,
            public: record.public,
            auto_update: record.auto_update,
            cached: record.cached,
            architecture: record.architecture.clone(),
            properties: json(&record.properties)?,
            profiles: json(&record.profiles)?,
            created_at: record.created_at,
            expires_at: record.expires_at,
            last_used_at: record.last_used_at,
            uploaded_at: record.uploaded_at,
            is_expiry_set: record.is_expiry_set,
            update_source: json(&record.update_source)?,
        })
    }

    fn record(self) -> Result<Image, Error> {
        let what = format!("images/{}/{}", self.project, self.fingerprint);
        Ok(Image {
            project: named(&what, self.project.parse())?,
            fingerprint: named(&what, self.fingerprint.parse())?,
            phase: phase(&what, &self.phase)?,
            filename: self.filename,
            size: self.size,
            public: self.public,
            auto_update: self.auto_update,
            cached: self.cached,
            architecture: self.architecture,
            properties: parse(&what, &self.properties)?,
            profiles: parse(&what, &self.profiles)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
            uploaded_at: self.uploaded_at,
            is_expiry_set: self.is_expiry_set,
            update_source: parse(&what, &self.update_source)?,
        })
    }
}

impl AliasRow {
    pub(super) fn of(record: &Alias) -> Self {
        Self {
            project: record.project.to_string(),
            name: record.name.to_string(),
            description: record.description.clone(),
            target: record.target.to_string(),
        }
    }

    fn record(self) -> Result<Alias, Error> {
        let what = format!("aliases/{}/{}", self.project, self.name);
        Ok(Alias {
            project: named(&what, self.project.parse())?,
            name: named(&what, self.name.parse())?,
            target: named(&what, self.target.parse())?,
            description: self.description,
        })
    }
}

impl PoolRow {
    pub(super) fn of(record: &Pool) -> Result<Self, Error> {
        Ok(Self {
            name: record.name.to_string(),
            phase: record.phase.as_str().to_owned(),
            driver: record.driver.clone(),
            description: record.description.clone(),
            config: json(&record.config)?,
        })
    }

    fn record(self) -> Result<Pool, Error> {
        let what = format!("pools/{}", self.name);
        Ok(Pool {
            name: named(&what, self.name.parse())?,
            phase: phase(&what, &self.phase)?,
            driver: self.driver,
            description: self.description,
            config: parse(&what, &self.config)?,
        })
    }
}

/// A name that may be none.
fn perhaps<T: std::str::FromStr<Err = NameError>>(what: &str, text: &str) -> Result<Option<T>, Error> {
    if text.is_empty() { Ok(None) } else { named(what, text.parse()).map(Some) }
}

impl VolumeRow {
    pub(super) fn of(record: &Volume) -> Result<Self, Error> {
        Ok(Self {
            pool: record.key.pool.to_string(),
            project: record.key.project.to_string(),
            name: record.key.name.to_string(),
            phase: record.phase.as_str().to_owned(),
            description: record.description.clone(),
            config: json(&record.config)?,
            created_at: record.created_at,
            renamed_from: record.renamed_from.as_ref().map(ToString::to_string).unwrap_or_default(),
        })
    }

    fn record(self) -> Result<Volume, Error> {
        let what = format!("volumes/{}/{}/{}", self.pool, self.project, self.name);
        Ok(Volume {
            key: VolumeKey {
                pool: named(&what, self.pool.parse())?,
                project: named(&what, self.project.parse())?,
                name: named(&what, self.name.parse())?,
            },
            phase: phase(&what, &self.phase)?,
            config: parse(&what, &self.config)?,
            created_at: self.created_at,
            renamed_from: perhaps(&what, &self.renamed_from)?,
            description: self.description,
        })
    }
}

impl VolumeSnapshotRow {
    pub(super) fn of(record: &VolumeSnapshot) -> Result<Self, Error> {
        Ok(Self {
            pool: record.key.volume.pool.to_string(),
            project: record.key.volume.project.to_string(),
            volume: record.key.volume.name.to_string(),
            name: record.key.name.to_string(),
            number: record.number,
            phase: record.phase.as_str().to_owned(),
            description: record.description.clone(),
            config: json(&record.config)?,
            created_at: record.created_at,
            expires_at: record.expires_at,
            renamed_from: record.renamed_from.as_ref().map(ToString::to_string).unwrap_or_default(),
        })
    }

    fn record(self) -> Result<VolumeSnapshot, Error> {
        let what = format!("volume_snapshots/{}/{}/{}/{}", self.pool, self.project, self.volume, self.name);
        let volume = VolumeKey {
            pool: named(&what, self.pool.parse())?,
            project: named(&what, self.project.parse())?,
            name: named(&what, self.volume.parse())?,
        };
        Ok(VolumeSnapshot {
            key: VolumeSnapshotKey { volume, name: named(&what, self.name.parse())? },
            number: self.number,
            phase: phase(&what, &self.phase)?,
            config: parse(&what, &self.config)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
            renamed_from: perhaps(&what, &self.renamed_from)?,
            description: self.description,
        })
    }
}

impl NetworkRow {
    pub(super) fn of(record: &Network) -> Result<Self, Error> {
        Ok(Self {
            project: record.project.to_string(),
            name: record.name.to_string(),
            phase: record.phase.as_str().to_owned(),
            kind: record.kind.clone(),
            description: record.description.clone(),
            config: json(&record.config)?,
        })
    }

    fn record(self) -> Result<Network, Error> {
        let what = format!("networks/{}/{}", self.project, self.name);
        Ok(Network {
            project: named(&what, self.project.parse())?,
            name: named(&what, self.name.parse())?,
            phase: phase(&what, &self.phase)?,
            kind: self.kind,
            description: self.description,
            config: parse(&what, &self.config)?,
        })
    }
}

impl ForwardRow {
    pub(super) fn of(record: &Forward) -> Result<Self, Error> {
        Ok(Self {
            project: record.project.to_string(),
            network: record.network.to_string(),
            listen: record.listen.to_string(),
            description: record.description.clone(),
            config: json(&record.config)?,
            ports: json(&record.ports)?,
        })
    }

    fn record(self) -> Result<Forward, Error> {
        let what = format!("network_forwards/{}/{}/{}", self.project, self.network, self.listen);
        let listen = self
            .listen
            .parse()
            .map_err(|_| Error::Row { what: what.clone(), reason: format!("{:?} is no address", self.listen) })?;
        Ok(Forward {
            project: named(&what, self.project.parse())?,
            network: named(&what, self.network.parse())?,
            listen,
            description: self.description,
            config: parse(&what, &self.config)?,
            ports: parse(&what, &self.ports)?,
        })
    }
}

impl AclRow {
    pub(super) fn of(record: &Acl) -> Result<Self, Error> {
        Ok(Self {
            project: record.project.to_string(),
            name: record.name.to_string(),
            description: record.description.clone(),
            config: json(&record.config)?,
            egress: json(&record.egress)?,
            ingress: json(&record.ingress)?,
        })
    }

    fn record(self) -> Result<Acl, Error> {
        let what = format!("network_acls/{}/{}", self.project, self.name);
        Ok(Acl {
            project: named(&what, self.project.parse())?,
            name: named(&what, self.name.parse())?,
            description: self.description,
            config: parse(&what, &self.config)?,
            egress: parse(&what, &self.egress)?,
            ingress: parse(&what, &self.ingress)?,
        })
    }
}

impl CertificateRow {
    pub(super) fn of(record: &Certificate) -> Result<Self, Error> {
        Ok(Self {
            fingerprint: record.fingerprint.to_string(),
            kind: record.kind.as_str().to_owned(),
            name: record.name.clone(),
            restricted: record.restricted,
            projects: json(&record.projects)?,
            pem: record.pem.clone(),
        })
    }

    fn record(self) -> Result<Certificate, Error> {
        let what = format!("certificates/{}", self.fingerprint);
        Ok(Certificate {
            fingerprint: named(&what, self.fingerprint.parse())?,
            kind: CertificateKind::parse(&self.kind)
                .ok_or_else(|| Error::Row { what: what.clone(), reason: format!("unknown type {:?}", self.kind) })?,
            name: self.name,
            restricted: self.restricted,
            projects: parse(&what, &self.projects)?,
            pem: self.pem,
        })
    }
}

impl TrustTokenRow {
    pub(super) fn of(record: &TrustToken) -> Result<Self, Error> {
        Ok(Self {
            id: record.id.to_string(),
            secret: record.secret.clone(),
            name: record.name.clone(),
            restricted: record.restricted,
            projects: json(&record.projects)?,
            addresses: json(&record.addresses)?,
            created_at: record.created_at,
            expires_at: record.expires_at,
        })
    }

    fn record(self) -> Result<TrustToken, Error> {
        let what = format!("trust_tokens/{}", self.id);
        Ok(TrustToken {
            id: self.id.parse().map_err(|_| Error::Row { what: what.clone(), reason: "no UUID".to_owned() })?,
            secret: self.secret,
            name: self.name,
            restricted: self.restricted,
            projects: parse(&what, &self.projects)?,
            addresses: parse(&what, &self.addresses)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
        })
    }
}

/// Reads the whole database. A damaged row is left out and reported; it never stops the daemon.
pub(super) fn load(connection: &mut SqliteConnection) -> Result<(Model, Vec<Error>), Error> {
    let mut damaged = Vec::new();
    let mut model = Model::default();
    macro_rules! read {
        ($table:ident, $row:ty, $map:ident, $key:expr) => {{
            let rows = schema::$table::table.select(<$row>::as_select()).load(connection)?;
            let map = std::sync::Arc::make_mut(&mut model.$map);
            for row in rows {
                match row.record() {
                    Ok(record) => {
                        map.insert($key(&record), std::sync::Arc::new(record));
                    }
                    Err(error) => damaged.push(error),
                }
            }
        }};
    }
    let rows = schema::server_config::table.select(ConfigRow::as_select()).load(connection)?;
    model.config = std::sync::Arc::new(rows.into_iter().map(|row| (row.key, row.value)).collect());
    read!(projects, ProjectRow, projects, |r: &Project| r.name.clone());
    read!(profiles, ProfileRow, profiles, |r: &Profile| (r.project.clone(), r.name.clone()));
    read!(pools, PoolRow, pools, |r: &Pool| r.name.clone());
    read!(instances, InstanceRow, instances, |r: &Instance| r.key.clone());
    read!(snapshots, SnapshotRow, snapshots, |r: &InstanceSnapshot| r.key.clone());
    read!(volumes, VolumeRow, volumes, |r: &Volume| r.key.clone());
    read!(volume_snapshots, VolumeSnapshotRow, volume_snapshots, |r: &VolumeSnapshot| r.key.clone());
    read!(images, ImageRow, images, |r: &Image| (r.project.clone(), r.fingerprint.clone()));
    read!(aliases, AliasRow, aliases, |r: &Alias| (r.project.clone(), r.name.clone()));
    read!(networks, NetworkRow, networks, |r: &Network| (r.project.clone(), r.name.clone()));
    read!(network_forwards, ForwardRow, forwards, Forward::key);
    read!(network_acls, AclRow, acls, |r: &Acl| (r.project.clone(), r.name.clone()));
    model.warnings = std::sync::Arc::new(super::warnings::load(connection, &mut damaged)?);
    read!(certificates, CertificateRow, certificates, |r: &Certificate| r.fingerprint.clone());
    read!(trust_tokens, TrustTokenRow, trust_tokens, |r: &TrustToken| r.id);
    Ok((model, damaged))
}
