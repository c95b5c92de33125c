//! `warren list`.

use clap::Args;
use serde_json::Value;

use super::Error;
use super::client::Client;
use super::table::{Format, show};
use crate::api::wire::Instance;

/// Which instances, and what of them.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only names that begin so; key=value: only those of this status, type or configuration
    filter: Vec<String>,
    /// Columns: n name, s state, 4 and 6 addresses, t type, S snapshots, a architecture, c created, p pid, P profiles
    #[arg(short, long, default_value = "ns46tS")]
    columns: String,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// The global addresses of a family, a line each.
fn addresses(instance: &Instance, family: &str) -> String {
    let networks = instance.state.iter().filter_map(|state| state.network.as_ref()).flatten();
    let lines = networks.flat_map(|(interface, network)| {
        network
            .addresses
            .iter()
            .filter(|address| address.family == family && address.scope == "global")
            .map(move |address| format!("{} ({interface})", address.address))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn cell(column: char, instance: &Instance) -> Option<(&'static str, String)> {
    Some(match column {
        'n' => ("NAME", instance.name.clone()),
        's' => ("STATE", instance.status.to_uppercase()),
        '4' => ("IPV4", addresses(instance, "inet")),
        '6' => ("IPV6", addresses(instance, "inet6")),
        't' => ("TYPE", instance.kind.to_uppercase()),
        'S' => ("SNAPSHOTS", instance.snapshots.as_ref().map_or(0, Vec::len).to_string()),
        'a' => ("ARCHITECTURE", instance.architecture.clone()),
        'c' => ("CREATED AT", instance.created_at.clone()),
        'p' => ("PID", instance.state.as_ref().filter(|s| s.pid > 0).map(|s| s.pid.to_string()).unwrap_or_default()),
        'P' => ("PROFILES", instance.profiles.join("\n")),
        _ => return None,
    })
}

/// Whether one of the names begins that of the instance, and every key has its value.
fn matches(filter: &[String], object: &Value) -> bool {
    let name = object["name"].as_str().unwrap_or_default();
    let mut prefixes = filter.iter().filter(|word| !word.contains('=')).peekable();
    let named = prefixes.peek().is_none() || prefixes.any(|prefix| name.starts_with(prefix.as_str()));
    let has = |key: &str, wanted: &str| {
        let key = if key == "state" { "status" } else { key };
        match (&object[key], &object["expanded_config"][key]) {
            (Value::String(text), _) => text.eq_ignore_ascii_case(wanted),
            (Value::Bool(value), _) => value.to_string() == wanted,
            (_, Value::String(text)) => text == wanted,
            _ => false,
        }
    };
    named && filter.iter().filter_map(|word| word.split_once('=')).all(|(key, wanted)| has(key, wanted))
}

/// Lists instances.
pub(super) async fn list(client: &Client, list: &List) -> Result<(), Error> {
    let columns: Vec<char> = list.columns.chars().filter(|c| *c != ',').collect();
    let mut headers = Vec::new();
    for column in &columns {
        let header = cell(*column, &Instance::default());
        headers.push(header.ok_or_else(|| Error::Usage(format!("There is no column {column:?}")))?.0);
    }
    let value = client.remote(None)?.get("/1.0/instances?recursion=2").await?;
    let mut objects: Vec<Value> = value.as_array().cloned().unwrap_or_default();
    objects.retain(|object| matches(&list.filter, object));
    let mut rows = Vec::new();
    for object in &objects {
        let instance: Instance = serde_json::from_value(object.clone()).map_err(|e| Error::Broken(e.to_string()))?;
        rows.push(columns.iter().filter_map(|column| Some(cell(*column, &instance)?.1)).collect());
    }
    show(list.format, &headers, &rows, &objects, super::object::INSTANCE.order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_names_and_values() {
        let object = serde_json::json!({
            "name": "web1", "status": "Running", "ephemeral": false, "expanded_config": {"user.a": "B"},
        });
        let matches = |words: &[&str]| matches(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), &object);
        for good in [&[][..], &["we"], &["db", "web"], &["status=running"], &["web", "user.a=B"], &["ephemeral=false"]]
        {
            assert!(matches(good), "{good:?}");
        }
        for bad in [&["db"][..], &["status=stopped"], &["web", "user.a=b"], &["nosuch=x"], &["db", "state=running"]] {
            assert!(!matches(bad), "{bad:?}");
        }
    }
}
