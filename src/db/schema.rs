//! The tables, for diesel, and the SQL that makes them.
//!
//! Maps and lists are JSON text: they are read and written whole, and the model answers every query.

diesel::table! { server_config (key) { key -> Text, value -> Text, } }
diesel::table! { projects (name) { name -> Text, description -> Text, config -> Text, } }
diesel::table! { profiles (project, name) {
    project -> Text, name -> Text, description -> Text, config -> Text, devices -> Text,
} }
diesel::table! { instances (project, name) {
    project -> Text, name -> Text, phase -> Text, description -> Text, architecture -> Text, ephemeral -> Bool,
    profiles -> Text, config -> Text, devices -> Text, created_at -> BigInt, last_used_at -> BigInt, pool -> Text,
} }
diesel::table! { snapshots (project, instance, name) {
    project -> Text, instance -> Text, name -> Text, number -> BigInt, phase -> Text, description -> Text,
    architecture -> Text, ephemeral -> Bool, profiles -> Text, config -> Text, devices -> Text, created_at -> BigInt,
    expires_at -> BigInt, last_used_at -> BigInt,
} }
diesel::table! { images (project, fingerprint) {
    project -> Text, fingerprint -> Text, phase -> Text, filename -> Text, size -> BigInt, public -> Bool,
    auto_update -> Bool, cached -> Bool, architecture -> Text, properties -> Text, profiles -> Text,
    created_at -> BigInt, expires_at -> BigInt, last_used_at -> BigInt, uploaded_at -> BigInt, update_source -> Text,
    is_expiry_set -> Bool,
} }
diesel::table! { aliases (project, name) { project -> Text, name -> Text, description -> Text, target -> Text, } }
diesel::table! { pools (name) { name -> Text, phase -> Text, driver -> Text, description -> Text, config -> Text, } }
diesel::table! { volumes (pool, project, name) {
    pool -> Text, project -> Text, name -> Text, phase -> Text, description -> Text, config -> Text,
    created_at -> BigInt, renamed_from -> Text,
} }
diesel::table! { volume_snapshots (pool, project, volume, name) {
    pool -> Text, project -> Text, volume -> Text, name -> Text, number -> BigInt, phase -> Text, description -> Text,
    config -> Text, created_at -> BigInt, expires_at -> BigInt, renamed_from -> Text,
} }
diesel::table! { networks (project, name) {
    project -> Text, name -> Text, phase -> Text, kind -> Text, description -> Text, config -> Text,
} }
diesel::table! { certificates (fingerprint) {
    fingerprint -> Text, kind -> Text, name -> Text, restricted -> Bool, projects -> Text, pem -> Text,
} }
diesel::table! { trust_tokens (id) {
    id -> Text, secret -> Text, name -> Text, restricted -> Bool, projects -> Text, addresses -> Text,
    created_at -> BigInt, expires_at -> BigInt,
} }
diesel::table! { network_forwards (project, network, listen) {
    project -> Text, network -> Text, listen -> Text, description -> Text, config -> Text, ports -> Text,
} }
diesel::table! { network_acls (project, name) {
    project -> Text, name -> Text, description -> Text, config -> Text, egress -> Text, ingress -> Text,
} }
diesel::table! { warnings (uuid) {
    uuid -> Text, kind -> Text, project -> Text, entity -> Text, status -> Text, message -> Text, count -> BigInt,
    first_seen -> BigInt, last_seen -> BigInt,
} }

/// The schema's versions in order: entry `i` leads from version `i` to `i + 1` (`PRAGMA user_version`).
pub(super) const MIGRATIONS: &[&str] = &[
    r#"
CREATE TABLE server_config (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE projects (name TEXT PRIMARY KEY NOT NULL, description TEXT NOT NULL, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE profiles (project TEXT NOT NULL REFERENCES projects (name), name TEXT NOT NULL,
  description TEXT NOT NULL, config TEXT NOT NULL, devices TEXT NOT NULL, PRIMARY KEY (project, name)) WITHOUT ROWID;
CREATE TABLE pools (name TEXT PRIMARY KEY NOT NULL, phase TEXT NOT NULL, driver TEXT NOT NULL,
  description TEXT NOT NULL, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (project TEXT NOT NULL REFERENCES projects (name), name TEXT NOT NULL, phase TEXT NOT NULL,
  description TEXT NOT NULL, architecture TEXT NOT NULL, ephemeral INTEGER NOT NULL, profiles TEXT NOT NULL,
  config TEXT NOT NULL, devices TEXT NOT NULL, created_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL,
  pool TEXT NOT NULL REFERENCES pools (name), PRIMARY KEY (project, name)) WITHOUT ROWID;
CREATE TABLE images (project TEXT NOT NULL REFERENCES projects (name), fingerprint TEXT NOT NULL, phase TEXT NOT NULL,
  filename TEXT NOT NULL, size INTEGER NOT NULL, public INTEGER NOT NULL, auto_update INTEGER NOT NULL,
  cached INTEGER NOT NULL, architecture TEXT NOT NULL, properties TEXT NOT NULL, profiles TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL,
  uploaded_at INTEGER NOT NULL, PRIMARY KEY (project, fingerprint)) WITHOUT ROWID;
CREATE TABLE aliases (project TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, target TEXT NOT NULL,
  PRIMARY KEY (project, name),
  FOREIGN KEY (project, target) REFERENCES images (project, fingerprint) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE networks (project TEXT NOT NULL REFERENCES projects (name), name TEXT NOT NULL, phase TEXT NOT NULL,
  kind TEXT NOT NULL, description TEXT NOT NULL, config TEXT NOT NULL, PRIMARY KEY (project, name)) WITHOUT ROWID;
CREATE TABLE certificates (fingerprint TEXT PRIMARY KEY NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  restricted INTEGER NOT NULL, projects TEXT NOT NULL, pem TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO projects VALUES ('default', 'Default LXD project', '{}');
INSERT INTO profiles VALUES ('default', 'default', 'Default LXD profile', '{}', '{}');
INSERT INTO profiles VALUES ('default', 'docker', 'Docker inside containers', '{"security.nesting":"true"}', '{}');
"#,
    r#"
UPDATE projects SET config = '{"features.images":"true","features.networks":"true","features.profiles":"true",
"features.storage.volumes":"true"}' WHERE name = 'default';
"#,
    r#"
CREATE TABLE snapshots (project TEXT NOT NULL, instance TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
  phase TEXT NOT NULL, description TEXT NOT NULL, architecture TEXT NOT NULL, ephemeral INTEGER NOT NULL,
  profiles TEXT NOT NULL, config TEXT NOT NULL, devices TEXT NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL, PRIMARY KEY (project, instance, name),
  FOREIGN KEY (project, instance) REFERENCES instances (project, name) ON DELETE CASCADE) WITHOUT ROWID;
"#,
    r#"
CREATE TABLE network_forwards (project TEXT NOT NULL REFERENCES projects (name), network TEXT NOT NULL,
  listen TEXT NOT NULL, description TEXT NOT NULL, config TEXT NOT NULL, ports TEXT NOT NULL,
  PRIMARY KEY (project, network, listen)) WITHOUT ROWID;
CREATE TABLE network_acls (project TEXT NOT NULL REFERENCES projects (name), name TEXT NOT NULL,
  description TEXT NOT NULL, config TEXT NOT NULL, egress TEXT NOT NULL, ingress TEXT NOT NULL,
  PRIMARY KEY (project, name)) WITHOUT ROWID;
CREATE TABLE warnings (uuid TEXT PRIMARY KEY NOT NULL, kind TEXT NOT NULL, project TEXT NOT NULL, entity TEXT NOT NULL,
  status TEXT NOT NULL, message TEXT NOT NULL, count INTEGER NOT NULL, first_seen INTEGER NOT NULL,
  last_seen INTEGER NOT NULL) WITHOUT ROWID;
"#,
    r#"
CREATE TABLE volumes (pool TEXT NOT NULL REFERENCES pools (name), project TEXT NOT NULL REFERENCES projects (name),
  name TEXT NOT NULL, phase TEXT NOT NULL, description TEXT NOT NULL, config TEXT NOT NULL, created_at INTEGER NOT NULL,
  renamed_from TEXT NOT NULL, PRIMARY KEY (pool, project, name)) WITHOUT ROWID;
CREATE TABLE volume_snapshots (pool TEXT NOT NULL, project TEXT NOT NULL, volume TEXT NOT NULL, name TEXT NOT NULL,
  number INTEGER NOT NULL, phase TEXT NOT NULL, description TEXT NOT NULL, config TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, renamed_from TEXT NOT NULL,
  PRIMARY KEY (pool, project, volume, name),
  FOREIGN KEY (pool, project, volume) REFERENCES volumes (pool, project, name) ON DELETE CASCADE) WITHOUT ROWID;
"#,
    r#"
ALTER TABLE images ADD COLUMN update_source TEXT NOT NULL DEFAULT 'null';
"#,
    r#"
CREATE TABLE trust_tokens (id TEXT PRIMARY KEY NOT NULL, secret TEXT NOT NULL, name TEXT NOT NULL,
  restricted INTEGER NOT NULL, projects TEXT NOT NULL, addresses TEXT NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL) WITHOUT ROWID;
"#,
    r#"
ALTER TABLE images ADD COLUMN is_expiry_set INTEGER NOT NULL DEFAULT 0;
"#,
];
