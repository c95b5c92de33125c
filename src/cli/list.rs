//! `warren list`.

use clap::Args;
use serde_json::Value;

use super::Error;
use super::connection::Connection;
use super::table::{Format, show};
use crate::api::wire::Instance;

/// Which instances, and what of them.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only names that begin so
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

/// Lists instances.
pub(super) async fn list(connection: &Connection, list: &List) -> Result<(), Error> {
    let value = connection.get("/1.0/instances?recursion=2").await?;
    let mut objects: Vec<Value> = value.as_array().cloned().unwrap_or_default();
    objects.retain(|object| {
        let name = object["name"].as_str().unwrap_or_default();
        list.filter.is_empty() || list.filter.iter().any(|prefix| name.starts_with(prefix.as_str()))
    });
    let columns: Vec<char> = list.columns.chars().filter(|c| *c != ',').collect();
    let mut headers = Vec::new();
    for column in &columns {
        let header = cell(*column, &Instance::default());
        headers.push(header.ok_or_else(|| Error::Usage(format!("There is no column {column:?}")))?.0);
    }
    let mut rows = Vec::new();
    for object in &objects {
        let instance: Instance = serde_json::from_value(object.clone()).map_err(|e| Error::Broken(e.to_string()))?;
        rows.push(columns.iter().filter_map(|column| Some(cell(*column, &instance)?.1)).collect());
    }
    show(list.format, &headers, &rows, &objects)
}
