//! A stopped LXD: its database, which it writes out when it ends, else the records beside the files of instances.
//!
//! LXD 5.0.2 keeps changes in segments (`open-*` while it runs) below `database/global`, and at its end writes
//! `db.bin` and `db.bin-wal`, a database of SQLite with all of them. Both are copied: reading one with a log of
//! writes wants to write beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::api;
use super::found::{Acl, Forward, Found, Image, Instance, Network, Pool, Profile, Project, Source, Volume, Zone};
use crate::api::wire::{Config, Devices};
use crate::db::sql::{self, Answer};

/// Types of devices by the numbers of the database, as LXD 5.0.2 writes them.
const DEVICES: [&str; 12] = [
    "none",
    "nic",
    "disk",
    "unix-char",
    "unix-block",
    "usb",
    "gpu",
    "infiniband",
    "proxy",
    "unix-hotplug",
    "tpm",
    "pci",
];

/// Types of networks by their numbers.
const NETWORKS: [&str; 5] = ["bridge", "macvlan", "sriov", "ovn", "physical"];

/// The number of virtual machines among types of instances and images.
const MACHINE: &str = "1";

pub(super) fn read(directory: &Path) -> Result<Found, String> {
    let global = directory.join("database/global");
    if !global.join("db.bin").exists() {
        return backups(directory);
    }
    let is_segment = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("open-");
    let stale = fs::read_dir(&global).map_err(|e| failed(&global, &e))?.flatten().any(is_segment);
    let copy = Copy::of(&global).map_err(|e| failed(&global, &e))?;
    all(&Tables(&copy.0), stale).map_err(|reason| {
        format!("{reason}: this LXD writes its database otherwise than 5.0 does; start it, so that it can be asked")
    })
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Copies of the database's files, for root only; gone with it.
struct Copy(PathBuf);

impl Copy {
    fn of(global: &Path) -> io::Result<Self> {
        let place = std::env::temp_dir().join(format!("warrend-import-{}", std::process::id()));
        // Fails where something is already: nobody else has made it.
        fs::DirBuilder::new().mode(0o700).create(&place)?;
        let copy = Self(place);
        for (from, to) in [("db.bin", "db.sqlite"), ("db.bin-wal", "db.sqlite-wal")] {
            match fs::copy(global.join(from), copy.0.join(to)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays is root's, and of no use to anybody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The database's tables.
struct Tables<'a>(&'a Path);

impl Tables<'_> {
    /// Rows of `N` columns; NULL is an empty text.
    fn rows<const N: usize>(&self, query: &str) -> Result<Vec<[String; N]>, String> {
        let answers = sql::read(self.0, query).map_err(|e| e.to_string())?;
        let rows = answers.into_iter().flat_map(|answer| match answer {
            Answer::Rows { rows, .. } => rows,
            Answer::Affected(_) => Vec::new(),
        });
        rows.map(|row| {
            let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            row.try_into().map_err(|_| format!("{query}: a row has another number of columns"))
        })
        .collect()
    }

    /// The keys of all objects of a kind, by their numbers.
    fn configs(&self, table: &str, owner: &str) -> Result<BTreeMap<String, Config>, String> {
        let mut found: BTreeMap<String, Config> = BTreeMap::new();
        for [id, key, value] in self.rows(&format!("SELECT {owner}, key, value FROM {table}"))? {
            found.entry(id).or_default().insert(key, value);
        }
        Ok(found)
    }

    /// The devices of all objects of a kind, by their numbers.
    fn devices(&self, table: &str, owner: &str, device: &str) -> Result<BTreeMap<String, Devices>, String> {
        let mut configs = self.configs(&format!("{table}_config"), device)?;
        let mut found: BTreeMap<String, Devices> = BTreeMap::new();
        for [id, of, name, kind] in self.rows(&format!("SELECT id, {owner}, name, type FROM {table}"))? {
            let mut device = configs.remove(&id).unwrap_or_default();
            device.insert("type".to_owned(), word(&DEVICES, &kind));
            found.entry(of).or_default().insert(name, device);
        }
        Ok(found)
    }
}

/// The word that a number stands for.
fn word(words: &[&str], number: &str) -> String {
    let found = number.parse::<usize>().ok().and_then(|index| words.get(index));
    found.map_or_else(|| number.to_owned(), |word| (*word).to_owned())
}

fn all(tables: &Tables<'_>, stale: bool) -> Result<Found, String> {
    let mut found = Found::new(Source::Database { stale });
    found.members = tables.rows::<1>("SELECT id FROM nodes")?.len();
    found.config = tables.rows("SELECT key, value FROM config")?.into_iter().map(|[key, value]| (key, value)).collect();
    found.certificates = tables.rows::<1>("SELECT id FROM certificates")?.len();
    let mut configs = tables.configs("projects_config", "project_id")?;
    for [id, name] in tables.rows("SELECT id, name FROM projects ORDER BY id")? {
        found.projects.push(Project { name, config: configs.remove(&id).unwrap_or_default() });
    }
    let mut configs = tables.configs("storage_pools_config", "storage_pool_id")?;
    for [id, name, driver] in tables.rows("SELECT id, name, driver FROM storage_pools ORDER BY name")? {
        found.pools.push(Pool { name, driver, config: configs.remove(&id).unwrap_or_default() });
    }
    let mut configs = tables.configs("networks_config", "network_id")?;
    let query = "SELECT n.id, p.name, n.name, n.type FROM networks n JOIN projects p ON p.id = n.project_id ORDER BY p.id, n.name";
    for [id, project, name, kind] in tables.rows(query)? {
        let (kind, config) = (word(&NETWORKS, &kind), configs.remove(&id).unwrap_or_default());
        found.networks.push(Network { project, name, kind, config });
    }
    beside_networks(tables, &mut found)?;
    images(tables, &mut found)?;
    volumes(tables, &mut found)?;
    instances(tables, &mut found)?;
    Ok(found)
}

/// Rules and ports stand there as the API has them, in bytes.
fn listed<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<Vec<T>, String> {
    let text = if text.is_empty() { "null" } else { text };
    let value: Value = serde_json::from_str(text).map_err(|e| format!("{what}: {e}"))?;
    api::parsed(&value, what)
}

fn beside_networks(tables: &Tables<'_>, found: &mut Found) -> Result<(), String> {
    let mut configs = tables.configs("networks_forwards_config", "network_forward_id")?;
    let query = "SELECT f.id, p.name, n.name, f.listen_address, CAST(f.ports AS TEXT) FROM networks_forwards f \
        JOIN networks n ON n.id = f.network_id JOIN projects p ON p.id = n.project_id \
        ORDER BY p.id, n.name, f.listen_address";
    for [id, project, network, listen, ports] in tables.rows(query)? {
        let (config, ports) = (configs.remove(&id).unwrap_or_default(), listed(&ports, "ports of a forward")?);
        found.forwards.push(Forward { project, network, listen, config, ports });
    }
    let mut configs = tables.configs("networks_acls_config", "network_acl_id")?;
    let query = "SELECT a.id, p.name, a.name, CAST(a.ingress AS TEXT), CAST(a.egress AS TEXT) FROM networks_acls a \
        JOIN projects p ON p.id = a.project_id ORDER BY p.id, a.name";
    for [id, project, name, ingress, egress] in tables.rows(query)? {
        let (ingress, egress) = (listed(&ingress, "rules of an ACL")?, listed(&egress, "rules of an ACL")?);
        found.acls.push(Acl { project, name, config: configs.remove(&id).unwrap_or_default(), ingress, egress });
    }
    let query =
        "SELECT p.name, z.name FROM networks_zones z JOIN projects p ON p.id = z.project_id ORDER BY p.id, z.name";
    found.zones.extend(tables.rows(query)?.into_iter().map(|[project, name]| Zone { project, name }));
    Ok(())
}

fn images(tables: &Tables<'_>, found: &mut Found) -> Result<(), String> {
    let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for [image, name] in tables.rows("SELECT image_id, name FROM images_aliases ORDER BY name")? {
        aliases.entry(image).or_default().push(name);
    }
    let query = "SELECT i.id, p.name, i.fingerprint, i.type FROM images i JOIN projects p ON p.id = i.project_id ORDER BY p.id, i.fingerprint";
    for [id, project, fingerprint, kind] in tables.rows(query)? {
        let aliases = aliases.remove(&id).unwrap_or_default();
        found.images.push(Image { project, fingerprint, aliases, is_machine: kind == MACHINE });
    }
    Ok(())
}

/// Custom volumes have the type 2, blocks the content type 1.
fn volumes(tables: &Tables<'_>, found: &mut Found) -> Result<(), String> {
    let mut configs = tables.configs("storage_volumes_config", "storage_volume_id")?;
    let query = "SELECT v.id, p.name, s.name, v.name, v.content_type FROM storage_volumes v \
        JOIN projects p ON p.id = v.project_id JOIN storage_pools s ON s.id = v.storage_pool_id \
        WHERE v.type = 2 ORDER BY p.id, s.name, v.name";
    for [id, project, pool, name, content] in tables.rows(query)? {
        let config = configs.remove(&id).unwrap_or_default();
        found.volumes.push(Volume { project, pool, name, is_block: content == "1", config });
    }
    Ok(())
}

fn instances(tables: &Tables<'_>, found: &mut Found) -> Result<(), String> {
    let mut configs = tables.configs("profiles_config", "profile_id")?;
    let devices = tables.devices("profiles_devices", "profile_id", "profile_device_id")?;
    let query =
        "SELECT x.id, p.name, x.name FROM profiles x JOIN projects p ON p.id = x.project_id ORDER BY p.id, x.name";
    for [id, project, name] in tables.rows(query)? {
        let (config, devices) =
            (configs.remove(&id).unwrap_or_default(), devices.get(&id).cloned().unwrap_or_default());
        found.profiles.push(Profile { project, name, config, devices });
    }
    let mut given: BTreeMap<String, Devices> = BTreeMap::new();
    for [instance, profile] in
        tables.rows("SELECT instance_id, profile_id FROM instances_profiles ORDER BY apply_order")?
    {
        given.entry(instance).or_default().extend(devices.get(&profile).cloned().unwrap_or_default());
    }
    let mut snapshots: BTreeMap<String, usize> = BTreeMap::new();
    for [instance] in tables.rows("SELECT instance_id FROM instances_snapshots")? {
        *snapshots.entry(instance).or_default() += 1;
    }
    let mut configs = tables.configs("instances_config", "instance_id")?;
    let mut own = tables.devices("instances_devices", "instance_id", "instance_device_id")?;
    let query = "SELECT i.id, p.name, i.name, i.type, i.stateful FROM instances i JOIN projects p ON p.id = i.project_id ORDER BY p.id, i.name";
    for [id, project, name, kind, stateful] in tables.rows(query)? {
        let devices = own.remove(&id).unwrap_or_default();
        let mut expanded_devices = given.remove(&id).unwrap_or_default();
        expanded_devices.extend(devices.clone());
        found.instances.push(Instance {
            project,
            name,
            is_machine: kind == MACHINE,
            is_stateful: stateful == "1",
            is_running: false,
            config: configs.remove(&id).unwrap_or_default(),
            devices,
            expanded_devices,
            snapshots: snapshots.remove(&id).unwrap_or_default(),
        });
    }
    Ok(())
}

/// A record of an instance is at most this long; its own keys hold 64 KiB each at most, and there are few.
const LONGEST: u64 = 16 << 20;

/// Instances by `backup.yaml` beside their files, as far as their pools are mounted; what else there is remains unknown.
fn backups(directory: &Path) -> Result<Found, String> {
    let mut found = Found::new(Source::Backups);
    let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for pool in below(&directory.join("storage-pools")) {
        for kind in ["containers", "virtual-machines"] {
            for file in below(&pool.join(kind)).map(|instance| instance.join("backup.yaml")) {
                let length = match fs::metadata(&file) {
                    Ok(metadata) => metadata.len(),
                    Err(_) => continue,
                };
                if length > LONGEST {
                    return Err(format!("{} is longer than a record of an instance", file.display()));
                }
                let text = fs::read_to_string(&file).map_err(|e| failed(&file, &e))?;
                let record: Value = serde_norway::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
                one_backup(&record, &mut found);
            }
        }
    }
    if found.instances.is_empty() {
        return Err(format!(
            "{} has no database that was written out, and no instance in a pool that is mounted: start LXD, so that it \
             can be asked",
            directory.display()
        ));
    }
    found.instances.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    Ok(found)
}

fn one_backup(record: &Value, found: &mut Found) {
    let project = record["container"]["project"].as_str().unwrap_or("default").to_owned();
    let snapshots = record["snapshots"].as_array().map_or(0, Vec::len);
    found.instances.push(api::instance(&project, &record["container"], snapshots));
    let pool = api::pool(&record["pool"]);
    if !found.pools.iter().any(|other| other.name == pool.name) {
        found.pools.push(pool);
    }
    for profile in record["profiles"].as_array().into_iter().flatten() {
        let profile = api::profile(&project, profile);
        if !found.profiles.iter().any(|other| (&other.project, &other.name) == (&profile.project, &profile.name)) {
            found.profiles.push(profile);
        }
    }
}
