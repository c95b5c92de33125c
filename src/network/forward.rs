//! Ports of the host that the firewall hands on to an instance: two chains for each, in a table of the daemon's own.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

/// What is handed on, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The host's address.
    pub listen: IpAddr,
    /// Each port of it, and where it leads.
    pub ports: Vec<(u16, SocketAddr)>,
}

/// The chains of a forward: for what comes in, what the host itself sends, and what an instance sends to itself.
const CHAINS: [(&str, &str); 3] = [
    ("pre", "type nat hook prerouting priority -100; policy accept;"),
    ("out", "type nat hook output priority -100; policy accept;"),
    ("post", "type nat hook postrouting priority 100; policy accept;"),
];

/// The chain's name, whatever the names of instance and device are made of.
fn chain(kind: &str, owner: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, owner.as_bytes());
    format!("{kind}.{}", hex::encode(&digest.as_ref()[..12]))
}

/// Afterwards the owner has none, whatever was there.
fn clear(table: &str, owner: &str) -> String {
    let mut script = format!("add table inet {table}\n");
    for (kind, hook) in CHAINS {
        let chain = chain(kind, owner);
        let _ = writeln!(script, "add chain inet {table} {chain} {{ {hook} }}");
        let _ = writeln!(script, "flush chain inet {table} {chain}\ndelete chain inet {table} {chain}");
    }
    script
}

/// The script of nft(8). Pure.
fn script(table: &str, owner: &str, forward: &Forward) -> String {
    let mut script = clear(table, owner);
    let (family, listen, protocol) =
        (if forward.listen.is_ipv4() { "ip" } else { "ip6" }, forward.listen, forward.protocol);
    for (kind, hook) in CHAINS {
        let _ = writeln!(script, "add chain inet {table} {} {{ {hook} }}", chain(kind, owner));
    }
    for (port, to) in &forward.ports {
        for kind in ["pre", "out"] {
            let chain = chain(kind, owner);
            let _ = writeln!(
                script,
                "add rule inet {table} {chain} {family} daddr {listen} {protocol} dport {port} dnat {family} to {to}"
            );
        }
    }
    let mut targets: Vec<SocketAddr> = forward.ports.iter().map(|(_, to)| *to).collect();
    targets.sort();
    targets.dedup();
    for to in targets {
        let (chain, ip, port) = (chain("post", owner), to.ip(), to.port());
        let _ = writeln!(
            script,
            "add rule inet {table} {chain} {family} saddr {ip} {family} daddr {ip} {protocol} dport {port} masquerade"
        );
    }
    script
}

/// Puts a forward in place of what `owner` had. Blocking.
///
/// # Errors
/// What nft(8) says.
pub fn apply_forward(table: &str, owner: &str, forward: &Forward) -> Result<(), String> {
    run(&script(table, owner, forward))
}

/// Takes away what `owner` has, and the table with the last. Blocking.
///
/// # Errors
/// What nft(8) says.
pub fn remove_forward(table: &str, owner: &str) -> Result<(), String> {
    run(&clear(table, owner))?;
    let listed = Command::new("nft").args(["list", "table", "inet", table]).stdin(Stdio::null()).output();
    let empty = listed
        .is_ok_and(|listed| listed.status.success() && !String::from_utf8_lossy(&listed.stdout).contains("chain "));
    if empty { run(&format!("delete table inet {table}\n")) } else { Ok(()) }
}

fn run(script: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let spawned = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the program \"nft\" is missing: install the package nftables".to_owned(),
        _ => format!("nft cannot be started: {error}"),
    });
    let mut child = spawned?;
    if let Some(mut stdin) = child.stdin.take() {
        // When nft ends early its own words are the error.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("nft: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("the firewall refuses: {}", words.lines().next().unwrap_or("nft said nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_address_and_port() {
        let to = "10.1.2.3:8080".parse().unwrap();
        let forward = Forward { protocol: "tcp", listen: "192.0.2.1".parse().unwrap(), ports: vec![(80, to)] };
        let script = script("t", "c1/web", &forward);
        assert!(script.contains(" ip daddr 192.0.2.1 tcp dport 80 dnat ip to 10.1.2.3:8080\n"), "{script}");
        assert!(script.contains("ip saddr 10.1.2.3 ip daddr 10.1.2.3 tcp dport 8080 masquerade"), "{script}");
        let to = "[fd00::2]:53".parse().unwrap();
        let forward = Forward { protocol: "udp", listen: "fd00::1".parse().unwrap(), ports: vec![(53, to)] };
        assert!(super::script("t", "x", &forward).contains("dnat ip6 to [fd00::2]:53\n"));
    }
}
