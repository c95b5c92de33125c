//! `warren list`.

use std::net::IpAddr;

use clap::Args;
use regex_lite::Regex;
use serde_json::Value;

use super::client::Client;
use super::object::{INSTANCE, text};
use super::output::{bytes_as_text, time_as_text};
use super::table::{Format, show, sort};
use super::{Error, output};

/// Which instances, and what of them.
#[derive(Debug, Args)]
pub(super) struct List {
    /// [remote:], then filters that must all fit: the beginning of a name, a regular expression, key=value
    filter: Vec<String>,
    /// Columns: n name, s state, 4 and 6 addresses, t type, S snapshots, a architecture, b pool, c created, d description, D disk usage, e project, f and F image, l last used, m and M memory, N processes, p pid, P profiles, u CPU; [config:|devices:]key[:name][:width] (ns46tS)
    #[arg(short, long)]
    columns: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The columns nsacPt, which are known without a look at each instance
    #[arg(long, conflicts_with = "columns")]
    fast: bool,
    /// Of all projects
    #[arg(long)]
    all_projects: bool,
}

/// What is shown of an instance.
enum Column {
    /// One of the known ones.
    Known(char),
    /// A value of the expanded configuration or of a device.
    Key { device: Option<String>, key: String, name: String, width: Option<usize> },
}

impl Column {
    fn header(&self) -> &str {
        match self {
            Self::Key { name, .. } => name,
            Self::Known(letter) => match letter {
                'n' => "NAME",
                's' => "STATE",
                '4' => "IPV4",
                '6' => "IPV6",
                't' => "TYPE",
                'S' => "SNAPSHOTS",
                'a' => "ARCHITECTURE",
                'b' => "STORAGE POOL",
                'c' => "CREATED AT",
                'd' => "DESCRIPTION",
                'D' => "DISK USAGE",
                'e' => "PROJECT",
                'f' | 'F' => "BASE IMAGE",
                'l' => "LAST USED AT",
                'L' => "LOCATION",
                'm' => "MEMORY USAGE",
                'M' => "MEMORY USAGE%",
                'N' => "PROCESSES",
                'p' => "PID",
                'P' => "PROFILES",
                'u' => "CPU USAGE",
                _ => "",
            },
        }
    }

    /// Whether the instance's state or snapshots must be known for it.
    fn needs_state(&self) -> bool {
        matches!(self, Self::Known('4' | '6' | 'S' | 'D' | 'm' | 'M' | 'N' | 'p' | 'u'))
    }

    /// The fields of an instance that it is made of.
    fn fields(&self) -> &'static [&'static str] {
        match self {
            Self::Known(letter) => match letter {
                'n' => &["name"],
                's' => &["status"],
                't' => &["type", "ephemeral"],
                'S' => &["snapshots"],
                'a' => &["architecture"],
                'b' => &["expanded_devices"],
                'c' => &["created_at"],
                'd' => &["description"],
                'e' => &["project"],
                'f' | 'F' => &["expanded_config"],
                'l' => &["last_used_at"],
                'L' => &["location"],
                'P' => &["profiles"],
                _ => &["state"],
            },
            Self::Key { device: Some(_), .. } => &["expanded_devices"],
            Self::Key { device: None, .. } => &["expanded_config"],
        }
    }

    fn cell(&self, instance: &Value, memory: u64) -> String {
        let letter = match self {
            Self::Known(letter) => *letter,
            Self::Key { device, key, width, .. } => {
                let value = match device {
                    Some(device) => text(&instance["expanded_devices"][device], key),
                    None => text(&instance["expanded_config"], key),
                };
                return match width {
                    Some(width) => value.chars().take(*width).collect(),
                    None => value,
                };
            }
        };
        let state = &instance["state"];
        let config = &instance["expanded_config"];
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let used = number(&state["memory"]["usage"]);
        match letter {
            'n' => text(instance, "name"),
            's' => text(instance, "status").to_uppercase(),
            '4' => addresses(state, "inet"),
            '6' => addresses(state, "inet6"),
            't' if instance["ephemeral"] == true => format!("{} (EPHEMERAL)", text(instance, "type").to_uppercase()),
            't' => text(instance, "type").to_uppercase(),
            'S' => super::object::count(instance, "snapshots"),
            'a' => text(instance, "architecture"),
            'b' => root_pool(instance),
            'c' => time_as_text(&text(instance, "created_at")),
            'd' => text(instance, "description"),
            'D' => disk_usage(state),
            'e' => text(instance, "project"),
            'f' => text(config, "volatile.base_image").chars().take(12).collect(),
            'F' => text(config, "volatile.base_image"),
            'l' => time_as_text(&text(instance, "last_used_at")),
            'L' => text(instance, "location"),
            'm' if used > 0 => bytes_as_text(used),
            'M' if used > 0 && memory > 0 => {
                #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
                let part = 100.0 * used as f64 / memory as f64;
                format!("{part:.1}%")
            }
            'N' if number(&state["pid"]) > 0 => text(state, "processes"),
            'p' if number(&state["pid"]) > 0 => text(state, "pid"),
            'P' => {
                let names = instance["profiles"].as_array().into_iter().flatten().filter_map(Value::as_str);
                names.collect::<Vec<_>>().join("\n")
            }
            'u' if number(&state["pid"]) > 0 => format!("{}s", number(&state["cpu"]["usage"]) / 1_000_000_000),
            _ => String::new(),
        }
    }
}

/// Reads the columns: letters with or without commas, and keys.
fn columns(words: &str) -> Result<Vec<Column>, Error> {
    let mut found = Vec::new();
    for part in words.split(',') {
        if part.is_empty() {
            return Err(Error::Usage(format!(
                "Empty column entry (redundant, leading or trailing command) in '{words}'"
            )));
        }
        if !part.contains(['.', ':']) {
            for letter in part.chars() {
                if letter == 'L' {
                    return Err(Error::Usage("Can't specify column L when not clustered".to_owned()));
                }
                if Column::Known(letter).header().is_empty() {
                    return Err(Error::Usage(format!("Unknown column shorthand char '{letter}' in '{part}'")));
                }
                found.push(Column::Known(letter));
            }
            continue;
        }
        found.push(key_column(part)?);
    }
    Ok(found)
}

fn key_column(part: &str) -> Result<Column, Error> {
    let mut words: Vec<&str> = part.split(':').collect();
    let of_device = words[0] == "devices";
    if matches!(words[0], "devices" | "config") && words.len() > 1 {
        words.remove(0);
    }
    let (device, key) = match words[0].split_once('.') {
        Some((device, key)) if of_device => (Some(device.to_owned()), key),
        None if of_device => {
            return Err(Error::Usage(format!("Invalid device column '{part}': it is devices:<device>.<key>")));
        }
        _ => (None, words[0]),
    };
    let name = words
        .get(1)
        .filter(|name| !name.is_empty())
        .map_or_else(|| words[0].to_uppercase().replace('.', " "), |name| name.to_uppercase());
    let width = match words.get(2) {
        None | Some(&"-1") => None,
        Some(&"0") => Some(name.chars().count()),
        Some(width) => {
            Some(width.parse().map_err(|_| Error::Usage(format!("Invalid max width '{width}' in '{part}'")))?)
        }
    };
    if words.len() > 3 {
        return Err(Error::Usage(format!("Invalid column '{part}': it is [config:|devices:]key[:name][:width]")));
    }
    Ok(Column::Key { device, key: key.to_owned(), name, width })
}

/// The global addresses of a family, a line each.
fn addresses(state: &Value, family: &str) -> String {
    let mut lines = Vec::new();
    for (interface, network) in state["network"].as_object().into_iter().flatten() {
        for address in network["addresses"].as_array().into_iter().flatten() {
            if address["family"] == family && address["scope"] == "global" {
                lines.push(format!("{} ({interface})", text(address, "address")));
            }
        }
    }
    lines.join("\n")
}

fn root_pool(instance: &Value) -> String {
    let devices = instance["expanded_devices"].as_object().into_iter().flatten();
    let root = devices.into_iter().find(|(_, device)| device["type"] == "disk" && device["path"] == "/");
    root.map(|(_, device)| text(device, "pool")).unwrap_or_default()
}

fn disk_usage(state: &Value) -> String {
    let used = state["disk"]["root"]["usage"].as_u64().unwrap_or_default();
    if used > 0 { bytes_as_text(used) } else { String::new() }
}

/// Whether an address of the family lies in a network (or is that address).
fn address_in(state: &Value, family: &str, wanted: &str) -> bool {
    let (base, bits) = match wanted.split_once('/') {
        Some((base, bits)) => (base, bits.parse::<u32>().ok()),
        None => (wanted, None),
    };
    let bits_of = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let Ok((base, all)) = base.parse::<IpAddr>().map(bits_of) else { return false };
    let shift = all - bits.unwrap_or(all).min(all);
    let within = |text: &str| {
        text.parse::<IpAddr>().map(bits_of).is_ok_and(|(address, size)| {
            size == all && address.checked_shr(shift).unwrap_or(0) == base.checked_shr(shift).unwrap_or(0)
        })
    };
    let networks = state["network"].as_object().into_iter().flatten();
    networks.into_iter().any(|(_, network)| {
        let addresses = network["addresses"].as_array().into_iter().flatten();
        addresses.into_iter().any(|address| address["family"] == family && within(&text(address, "address")))
    })
}

/// Whether a key is meant by an abbreviation: `u.blah` is `user.blah`.
fn abbreviates(short: &str, key: &str) -> bool {
    let (mut short, mut key) = (short.split('.'), key.split('.'));
    loop {
        match (short.next(), key.next()) {
            (None, None) => return true,
            (Some(short), Some(part)) if part.starts_with(short) => {}
            _ => return false,
        }
    }
}

/// Whether a value is like a regular expression: like the whole of it, unless that says itself where it begins or ends.
fn is_like(pattern: &str, value: &str) -> bool {
    let whole = if pattern.contains(['^', '$']) { pattern.to_owned() } else { format!("^{pattern}$") };
    Regex::new(&whole).is_ok_and(|pattern| pattern.is_match(value))
}

/// Whether a value is the wanted one, in any case of letters or as a regular expression.
fn fits(wanted: &str, value: &str) -> bool {
    value.eq_ignore_ascii_case(wanted) || is_like(wanted, value)
}

/// Whether one filter lets an instance through.
fn passes(word: &str, instance: &Value) -> bool {
    let Some((key, wanted)) = word.split_once('=') else {
        let name = text(instance, "name");
        return name.starts_with(word) || is_like(word, &name);
    };
    let any = |value: &str| wanted.split(',').any(|wanted| fits(wanted, value));
    match key {
        "state" | "status" => any(&text(instance, "status")),
        "type" | "architecture" | "location" | "ephemeral" | "project" | "name" | "description" => {
            any(&text(instance, key))
        }
        "ipv4" => wanted.split(',').any(|wanted| address_in(&instance["state"], "inet", wanted)),
        "ipv6" => wanted.split(',').any(|wanted| address_in(&instance["state"], "inet6", wanted)),
        _ => {
            let config = instance["expanded_config"].as_object().into_iter().flatten();
            config
                .into_iter()
                .filter(|(known, _)| abbreviates(key, known))
                .any(|(_, value)| value.as_str().is_some_and(|value| value == wanted || is_like(wanted, value)))
        }
    }
}

/// Lists instances.
pub(super) async fn list(client: &Client, list: &List) -> Result<(), Error> {
    let (remote, filters) = client.filtered(&list.filter);
    let at = client.connection(&remote)?;
    let words = match &list.columns {
        // Who names the columns gets those.
        Some(named) => named,
        None if list.fast && list.all_projects => "ensacPt",
        None if list.fast => "nsacPt",
        None if list.all_projects => "ens46tS",
        None => "ns46tS",
    };
    let columns = columns(words)?;
    // Objects are shown whole.
    let whole = matches!(list.format, Format::Json | Format::Yaml);
    let by_address = filters.iter().any(|word| word.starts_with("ipv4=") || word.starts_with("ipv6="));
    let recursion = if whole || by_address || columns.iter().any(Column::needs_state) { 2 } else { 1 };
    let projects = if list.all_projects { "&all-projects=true" } else { "" };
    let path = format!("/1.0/instances?recursion={recursion}{projects}");
    let mut objects = if whole || !filters.is_empty() {
        match at.get(&path).await? {
            Value::Array(objects) => objects,
            _ => return Err(Error::Broken("It is no list of instances".to_owned())),
        }
    } else {
        at.get_fields(&path, &columns.iter().flat_map(Column::fields).copied().collect::<Vec<_>>()).await?
    };
    objects.retain(|instance| filters.iter().all(|word| passes(word, instance)));
    let memory = match columns.iter().any(|column| matches!(column, Column::Known('M'))) {
        true => at.get("/1.0/resources").await?["memory"]["total"].as_u64().unwrap_or_default(),
        false => 0,
    };
    let mut rows: Vec<Vec<String>> = if whole {
        Vec::new()
    } else {
        objects.iter().map(|instance| columns.iter().map(|column| column.cell(instance, memory)).collect()).collect()
    };
    sort(&mut rows);
    let headers: Vec<String> = columns.iter().map(|column| output::harmless(column.header())).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    show(list.format, &headers, &rows, &objects, INSTANCE.order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_names_and_values() {
        let object = serde_json::json!({
            "name": "web1", "status": "Running", "ephemeral": false, "expanded_config": {"user.a": "B", "security.x": "t"},
            "state": {"network": {"eth0": {"addresses": [{"family": "inet", "scope": "global", "address": "10.1.2.3"}]}}},
        });
        let matches = |words: &[&str]| words.iter().all(|word| passes(word, &object));
        for good in [
            &[][..],
            &["we"],
            &["web", "w"],
            &["^w"],
            &["1$"],
            &["^w|x"],
            &["status=running"],
            &["status=stopped,running"],
            &["web", "user.a=B"],
            &["ephemeral=false"],
            &["u.a=B"],
            &["s.x=t"],
            &["w.*1"],
            &["user.a=[AB]"],
            &["ipv4=10.1.2.3"],
            &["ipv4=10.0.0.0/8"],
        ] {
            assert!(matches(good), "{good:?}");
        }
        for bad in [
            &["db"][..],
            &["db", "web"],
            &["status=stopped"],
            &["web", "user.a=b"],
            &["nosuch=x"],
            &["db", "state=running"],
            &["eb1"],
            &["ipv4=10.1.2.4"],
            &["ipv6=::/0"],
            &["("],
        ] {
            assert!(!matches(bad), "{bad:?}");
        }
    }

    #[test]
    fn columns_are_letters_and_keys() {
        let headers = |words: &str| columns(words).unwrap().iter().map(|c| c.header().to_owned()).collect::<Vec<_>>();
        assert_eq!(headers("n,user.x:y"), ["NAME", "Y"]);
        assert_eq!(headers("ns,image.os,devices:root.path:RP:3"), ["NAME", "STATE", "IMAGE OS", "RP"]);
        for bad in ["", "n,", "Q", "L", "devices:root", "user.a:b:x"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }
}
