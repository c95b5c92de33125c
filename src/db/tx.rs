//! A transaction's view: typed writes that change the file and the draft of the model together.

use std::sync::Arc;

use diesel::prelude::*;

use super::error::Error;
use super::model::{
    Acl, Alias, Certificate, Forward, ForwardKey, Image, Instance, InstanceSnapshot, Model, Network, Pool, Profile,
    Project, TrustToken, Volume, VolumeSnapshot,
};
use super::schema;
use super::tables::{
    AclRow, AliasRow, CertificateRow, ConfigRow, ForwardRow, ImageRow, InstanceRow, NetworkRow, PoolRow, ProfileRow,
    ProjectRow, SnapshotRow, TrustTokenRow, VolumeRow, VolumeSnapshotRow,
};
use crate::api::wire::Config;
use crate::names::{
    AclName, AliasName, Fingerprint, InstanceKey, NetworkName, PoolName, ProfileName, ProjectName, SnapshotKey,
    VolumeKey, VolumeSnapshotKey,
};

/// What a closure given to [`crate::db::Database::write`] works on.
pub struct Tx<'a> {
    pub(super) connection: &'a mut SqliteConnection,
    pub(super) model: Model,
}

macro_rules! put {
    (@pk $dsl:ident, [$one:ident]) => { $dsl::$one };
    (@pk $dsl:ident, [$($field:ident),+]) => { ($($dsl::$field),+) };
    ($(#[$doc:meta])* $name:ident, $record:ty, $table:ident, $pk:tt, $row:expr, $map:ident, $key:expr) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the statement fails; the savepoint is then rolled back.
        pub fn $name(&mut self, mut record: $record) -> Result<(), Error> {
            record.tidy();
            // An upsert, not `REPLACE`: replacing would delete the row first and cascade to its aliases.
            let row = $row(&record)?;
            use schema::$table::dsl;
            diesel::insert_into(dsl::$table)
                .values(&row)
                .on_conflict(put!(@pk dsl, $pk))
                .do_update()
                .set(&row)
                .execute(self.connection)?;
            Arc::make_mut(&mut self.model.$map).insert($key(&record), Arc::new(record));
            Ok(())
        }
    };
}

/// To set a value to nothing is how clients of LXD's API unset it: no empty one is kept.
trait Tidy {
    fn tidy(&mut self) {}
}

fn tidy(config: &mut Config) {
    config.retain(|_, value| !value.is_empty());
}

impl Tidy for Instance {
    fn tidy(&mut self) {
        tidy(&mut self.config);
        self.devices.values_mut().for_each(tidy);
    }
}

impl Tidy for InstanceSnapshot {
    fn tidy(&mut self) {
        tidy(&mut self.config);
        self.devices.values_mut().for_each(tidy);
    }
}

impl Tidy for Profile {
    fn tidy(&mut self) {
        tidy(&mut self.config);
        self.devices.values_mut().for_each(tidy);
    }
}

impl Tidy for Image {
    fn tidy(&mut self) {
        tidy(&mut self.properties);
    }
}

impl Tidy for Pool {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for Volume {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for VolumeSnapshot {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for Network {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for Forward {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for Acl {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for Project {
    fn tidy(&mut self) {
        tidy(&mut self.config);
    }
}

impl Tidy for Alias {}
impl Tidy for Certificate {}
impl Tidy for TrustToken {}

impl Tx<'_> {
    /// The model as this transaction has it so far.
    pub fn model(&self) -> &Model {
        &self.model
    }

    put!(
        /// Adds or replaces a project.
        put_project, Project, projects, [name], ProjectRow::of, projects, |r: &Project| r.name.clone()
    );
    put!(
        /// Adds or replaces a profile.
        put_profile, Profile, profiles, [project, name], ProfileRow::of, profiles, |r: &Profile| (r.project.clone(), r.name.clone())
    );
    put!(
        /// Adds or replaces an instance.
        put_instance, Instance, instances, [project, name], InstanceRow::of, instances, |r: &Instance| r.key.clone()
    );
    put!(
        /// Adds or replaces a snapshot of an instance.
        put_snapshot, InstanceSnapshot, snapshots, [project, instance, name], SnapshotRow::of, snapshots,
        |r: &InstanceSnapshot| r.key.clone()
    );
    put!(
        /// Adds or replaces an alias.
        put_alias, Alias, aliases, [project, name], |r: &Alias| Ok::<_, Error>(AliasRow::of(r)), aliases,
        |r: &Alias| (r.project.clone(), r.name.clone())
    );
    put!(
        /// Adds or replaces a storage pool.
        put_pool, Pool, pools, [name], PoolRow::of, pools, |r: &Pool| r.name.clone()
    );
    put!(
        /// Adds or replaces a custom volume.
        put_volume, Volume, volumes, [pool, project, name], VolumeRow::of, volumes, |r: &Volume| r.key.clone()
    );
    put!(
        /// Adds or replaces a snapshot of a custom volume.
        put_volume_snapshot, VolumeSnapshot, volume_snapshots, [pool, project, volume, name], VolumeSnapshotRow::of,
        volume_snapshots, |r: &VolumeSnapshot| r.key.clone()
    );
    put!(
        /// Adds or replaces a network.
        put_network, Network, networks, [project, name], NetworkRow::of, networks, |r: &Network| (r.project.clone(), r.name.clone())
    );
    put!(
        /// Adds or replaces a forward of a network.
        put_forward, Forward, network_forwards, [project, network, listen], ForwardRow::of, forwards, Forward::key
    );
    put!(
        /// Adds or replaces an access control list.
        put_acl, Acl, network_acls, [project, name], AclRow::of, acls, |r: &Acl| (r.project.clone(), r.name.clone())
    );
    put!(
        /// Adds or replaces a trusted certificate.
        put_certificate, Certificate, certificates, [fingerprint], CertificateRow::of, certificates,
        |r: &Certificate| r.fingerprint.clone()
    );
    put!(
        /// Adds or replaces a token for a client to come.
        put_trust_token, TrustToken, trust_tokens, [id], TrustTokenRow::of, trust_tokens, |r: &TrustToken| r.id
    );
    put!(
        /// Adds or replaces an image.
        put_image, Image, images, [project, fingerprint], ImageRow::of, images, |r: &Image| (r.project.clone(), r.fingerprint.clone())
    );

    /// Replaces the whole configuration of the server.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn set_config(&mut self, config: Config) -> Result<(), Error> {
        diesel::delete(schema::server_config::table).execute(self.connection)?;
        for (key, value) in &config {
            let row = ConfigRow { key: key.clone(), value: value.clone() };
            diesel::insert_into(schema::server_config::table).values(&row).execute(self.connection)?;
        }
        self.model.config = Arc::new(config);
        Ok(())
    }

    /// Removes a profile.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_profile(&mut self, project: &ProjectName, name: &ProfileName) -> Result<(), Error> {
        diesel::delete(schema::profiles::table.find((project.as_str(), name.as_str()))).execute(self.connection)?;
        Arc::make_mut(&mut self.model.profiles).remove(&(project.clone(), name.clone()));
        Ok(())
    }

    /// Removes an instance and its snapshots.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_instance(&mut self, key: &InstanceKey) -> Result<(), Error> {
        diesel::delete(schema::instances::table.find((key.project.as_str(), key.name.as_str())))
            .execute(self.connection)?;
        Arc::make_mut(&mut self.model.instances).remove(key);
        // The file's snapshots went by `ON DELETE CASCADE`.
        if !self.model.snapshots_of(key).is_empty() {
            Arc::make_mut(&mut self.model.snapshots).retain(|snapshot, _| snapshot.instance != *key);
        }
        Ok(())
    }

    /// Removes a snapshot of an instance.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_snapshot(&mut self, key: &SnapshotKey) -> Result<(), Error> {
        let row = (key.instance.project.as_str(), key.instance.name.as_str(), key.name.as_str());
        diesel::delete(schema::snapshots::table.find(row)).execute(self.connection)?;
        Arc::make_mut(&mut self.model.snapshots).remove(key);
        Ok(())
    }

    /// Removes an image and its aliases.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn delete_image(&mut self, project: &ProjectName, fingerprint: &Fingerprint) -> Result<(), Error> {
        diesel::delete(schema::images::table.find((project.as_str(), fingerprint.as_str())))
            .execute(self.connection)?;
        Arc::make_mut(&mut self.model.images).remove(&(project.clone(), fingerprint.clone()));
        // The file's aliases went by `ON DELETE CASCADE`.
        Arc::make_mut(&mut self.model.aliases).retain(|_, a| !(a.project == *project && a.target == *fingerprint));
        Ok(())
    }

    /// Removes an alias.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_alias(&mut self, project: &ProjectName, name: &AliasName) -> Result<(), Error> {
        diesel::delete(schema::aliases::table.find((project.as_str(), name.as_str()))).execute(self.connection)?;
        Arc::make_mut(&mut self.model.aliases).remove(&(project.clone(), name.clone()));
        Ok(())
    }

    /// Removes a storage pool.
    ///
    /// # Errors
    /// When the statement fails, or instances still refer to it.
    pub fn delete_pool(&mut self, name: &PoolName) -> Result<(), Error> {
        diesel::delete(schema::pools::table.find(name.as_str())).execute(self.connection)?;
        Arc::make_mut(&mut self.model.pools).remove(name);
        Ok(())
    }

    /// Removes a custom volume and its snapshots.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_volume(&mut self, key: &VolumeKey) -> Result<(), Error> {
        let row = (key.pool.as_str(), key.project.as_str(), key.name.as_str());
        diesel::delete(schema::volumes::table.find(row)).execute(self.connection)?;
        Arc::make_mut(&mut self.model.volumes).remove(key);
        // The file's snapshots went by `ON DELETE CASCADE`.
        if !self.model.snapshots_of_volume(key).is_empty() {
            Arc::make_mut(&mut self.model.volume_snapshots).retain(|snapshot, _| snapshot.volume != *key);
        }
        Ok(())
    }

    /// Removes a snapshot of a custom volume.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_volume_snapshot(&mut self, key: &VolumeSnapshotKey) -> Result<(), Error> {
        let volume = &key.volume;
        let row = (volume.pool.as_str(), volume.project.as_str(), volume.name.as_str(), key.name.as_str());
        diesel::delete(schema::volume_snapshots::table.find(row)).execute(self.connection)?;
        Arc::make_mut(&mut self.model.volume_snapshots).remove(key);
        Ok(())
    }

    /// Removes a forward.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_forward(&mut self, key: &ForwardKey) -> Result<(), Error> {
        let row = (key.0.as_str(), key.1.as_str(), key.2.to_string());
        diesel::delete(schema::network_forwards::table.find(row)).execute(self.connection)?;
        Arc::make_mut(&mut self.model.forwards).remove(key);
        Ok(())
    }

    /// Removes an access control list.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_acl(&mut self, project: &ProjectName, name: &AclName) -> Result<(), Error> {
        diesel::delete(schema::network_acls::table.find((project.as_str(), name.as_str()))).execute(self.connection)?;
        Arc::make_mut(&mut self.model.acls).remove(&(project.clone(), name.clone()));
        Ok(())
    }

    /// Gives a network another name, with its forwards. What else names it is the caller's.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn rename_network(&mut self, old: &NetworkName, new: Network) -> Result<(), Error> {
        let of_it: Vec<_> =
            self.model.forwards.values().filter(|f| f.project == new.project && f.network == *old).cloned().collect();
        let (project, name) = (new.project.clone(), new.name.clone());
        self.put_network(new)?;
        for forward in of_it {
            self.delete_forward(&forward.key())?;
            self.put_forward(Forward { network: name.clone(), ..(*forward).clone() })?;
        }
        self.delete_network(&project, old)
    }

    /// Removes a network, with its forwards.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_network(&mut self, project: &ProjectName, name: &NetworkName) -> Result<(), Error> {
        let of_it: Vec<_> = self.model.forwards.keys().filter(|k| k.0 == *project && k.1 == *name).cloned().collect();
        of_it.iter().try_for_each(|key| self.delete_forward(key))?;
        diesel::delete(schema::networks::table.find((project.as_str(), name.as_str()))).execute(self.connection)?;
        Arc::make_mut(&mut self.model.networks).remove(&(project.clone(), name.clone()));
        Ok(())
    }

    /// Removes a token.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_trust_token(&mut self, id: &uuid::Uuid) -> Result<(), Error> {
        diesel::delete(schema::trust_tokens::table.find(id.to_string())).execute(self.connection)?;
        Arc::make_mut(&mut self.model.trust_tokens).remove(id);
        Ok(())
    }

    /// Removes a trusted certificate.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_certificate(&mut self, fingerprint: &Fingerprint) -> Result<(), Error> {
        diesel::delete(schema::certificates::table.find(fingerprint.as_str())).execute(self.connection)?;
        Arc::make_mut(&mut self.model.certificates).remove(fingerprint);
        Ok(())
    }
}
