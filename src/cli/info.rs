//! `warren info` and `warren version`: a server or an instance, for people to read.

use std::fmt::Write;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::client::Client;
use super::connection::{Answer, Connection};
use super::object::{SERVER, text, yes_no};
use super::output::{bytes_as_text, time_as_text, traffic};
use super::{Error, instance, output, table};

/// What about.
#[derive(Debug, Args)]
pub(super) struct Info {
    /// [remote:][instance]
    place: Option<String>,
    /// What the server's hardware is
    #[arg(long)]
    resources: bool,
    /// The log of the instance as well
    #[arg(long)]
    show_log: bool,
}

/// Runs it.
pub(super) async fn run(client: &Client, info: Info) -> Result<(), Error> {
    let (at, name) = client.at(info.place.as_deref().unwrap_or_default())?;
    if name.is_empty() && info.place.as_deref() != Some("") {
        if info.resources {
            return output::yaml(&at.get("/1.0/resources").await?, &["cpu", "memory", "gpu", "network", "storage"]);
        }
        return output::yaml(&at.get("/1.0").await?, SERVER.order);
    }
    let path = instance::path(&name)?;
    let failed = |e: Error| e.doing(format!("Cannot show {name}"));
    let instance = at.get(&format!("{path}?recursion=1")).await.map_err(failed)?;
    let mut out = String::new();
    describe(&instance, &mut out);
    output::print(&output::harmless(&out))?;
    if info.show_log { log(&at, &path).await.map_err(failed) } else { Ok(()) }
}

async fn log(at: &Connection, path: &str) -> Result<(), Error> {
    match at.ask(Method::GET, &format!("{path}/logs/lxc.log"), None).await? {
        Answer::Other(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(100)..].join("\n");
            output::print(&format!("\nLog:\n\n{last}\n\n"))
        }
        Answer::Json(_) => Err(Error::Broken("It is no log".to_owned())),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// Lines about an instance. Writing to a `String` cannot fail, so what `write!` returns says nothing.
fn describe(instance: &Value, out: &mut String) {
    let state = &instance["state"];
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name}: {value}");
    };
    line("Name", &text(instance, "name"));
    line("Status", &text(instance, "status").to_uppercase());
    let ephemeral = if instance["ephemeral"] == true { " (ephemeral)" } else { "" };
    line("Type", &format!("{}{ephemeral}", text(instance, "type")));
    line("Architecture", &text(instance, "architecture"));
    if !["", "none"].contains(&text(instance, "location").as_str()) {
        line("Location", &text(instance, "location"));
    }
    if number(&state["pid"]) > 0 {
        line("PID", &text(state, "pid"));
    }
    for (name, key) in [("Created", "created_at"), ("Last Used", "last_used_at")] {
        let shown = time_as_text(&text(instance, key));
        if !shown.is_empty() {
            line(name, &shown);
        }
    }
    if number(&state["pid"]) > 0 {
        resources(state, out);
    }
    let snapshots = instance["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !snapshots.is_empty() {
        let row = |snapshot: &Value| {
            let name = text(snapshot, "name");
            vec![
                name.rsplit('/').next().unwrap_or_default().to_owned(),
                time_as_text(&text(snapshot, "created_at")),
                time_as_text(&text(snapshot, "expires_at")),
                yes_no(snapshot["stateful"] == true),
            ]
        };
        let rows: Vec<Vec<String>> = snapshots.iter().map(row).collect();
        let drawn = table::drawn(&["NAME", "TAKEN AT", "EXPIRES AT", "STATEFUL"], &rows, true);
        let _ = write!(out, "\nSnapshots:\n{drawn}");
    }
}

fn resources(state: &Value, out: &mut String) {
    let _ = writeln!(out, "\nResources:\n  Processes: {}", text(state, "processes"));
    let disks = state["disk"].as_object().into_iter().flatten().filter(|(_, disk)| number(&disk["usage"]) > 0);
    for (at, (name, disk)) in disks.enumerate() {
        let head = if at == 0 { "  Disk usage:\n" } else { "" };
        let _ = writeln!(out, "{head}    {name}: {}", bytes_as_text(number(&disk["usage"])));
    }
    let seconds = number(&state["cpu"]["usage"]) / 1_000_000_000;
    let _ = writeln!(out, "  CPU usage:\n    CPU usage (in seconds): {seconds}");
    let memory = [
        ("Memory (current)", "usage"),
        ("Memory (peak)", "usage_peak"),
        ("Swap (current)", "swap_usage"),
        ("Swap (peak)", "swap_usage_peak"),
    ];
    let known = memory.into_iter().filter(|(_, key)| number(&state["memory"][key]) > 0);
    for (at, (name, key)) in known.enumerate() {
        let head = if at == 0 { "  Memory usage:\n" } else { "" };
        let _ = writeln!(out, "{head}    {name}: {}", bytes_as_text(number(&state["memory"][key])));
    }
    for (at, (name, network)) in state["network"].as_object().into_iter().flatten().enumerate() {
        let head = if at == 0 { "  Network usage:\n" } else { "" };
        let _ = writeln!(
            out,
            "{head}    {name}:\n      Type: {}\n      State: {}",
            text(network, "type"),
            text(network, "state").to_uppercase()
        );
        for (label, key) in [("Host interface", "host_name"), ("MAC address", "hwaddr")] {
            if !text(network, key).is_empty() {
                let _ = writeln!(out, "      {label}: {}", text(network, key));
            }
        }
        let counters = &network["counters"];
        let _ = writeln!(
            out,
            "      MTU: {}\n      Bytes received: {}\n      Bytes sent: {}\n      Packets received: {}\n      Packets sent: {}\n      IP addresses:",
            text(network, "mtu"),
            traffic(number(&counters["bytes_received"])),
            traffic(number(&counters["bytes_sent"])),
            number(&counters["packets_received"]),
            number(&counters["packets_sent"]),
        );
        for address in network["addresses"].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "        {}:  {}/{} ({})",
                text(address, "family"),
                text(address, "address"),
                text(address, "netmask"),
                text(address, "scope"),
            );
        }
    }
}

/// `version`.
pub(super) async fn version(client: &Client, remote: Option<&str>) -> Result<(), Error> {
    let at = client.remote(remote)?;
    let server = match at.get("/1.0").await {
        Ok(server) => text(&server["environment"], "server_version"),
        Err(_) => "unreachable".to_owned(),
    };
    output::print(&format!(
        "Client version: {}\nServer version: {}\n",
        env!("CARGO_PKG_VERSION"),
        output::harmless(&server)
    ))
}
