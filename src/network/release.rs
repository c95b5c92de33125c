//! Giving leases back in the name of a guest that is gone: dnsmasq takes messages of DHCP, and nothing else, about its leases.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use super::dnsmasq::{self, Files};
use super::host::fail;
use super::leases::{self, Line};
use super::{Error, Net4};
use crate::names::NetworkName;
use crate::sys::netlink::{MacAddr, Socket};
use crate::sys::udp;

/// How long dnsmasq gets to write its lease file without them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at the file; every hundred times it is told again.
const STEP: Duration = Duration::from_millis(1);

/// Begins the names of files that stand for leases which are to be given back: who dies meanwhile does it at its next start.
const PROMISE: &str = "release.";

/// Whether the leases of `mac` are to be given back, from now on.
///
/// # Errors
/// [`Error::File`].
pub(super) fn promise(files: &Files, mac: MacAddr, is_to_be: bool) -> Result<(), Error> {
    let path = files.dir.join(format!("{PROMISE}{mac}"));
    if !is_to_be {
        return dnsmasq::remove(&path);
    }
    fs::write(&path, "").map_err(|source| Error::File { operation: "write", path, source })
}

/// Whose leases are still to be given back.
pub(super) fn promised(files: &Files) -> Vec<MacAddr> {
    let entries = fs::read_dir(&files.dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(PROMISE)?.parse().ok()).collect()
}

/// Gives back all leases of `mac`. Without a dnsmasq they are taken out of its file.
///
/// # Errors
/// [`Error::File`]; [`Error::Invalid`] when dnsmasq keeps them: they end by themselves.
pub(super) fn release(network: &NetworkName, files: &Files, mac: MacAddr) -> Result<(), Error> {
    let path = files.leases();
    let read = || leases::read(files);
    let of_mac = |text: &str| -> Vec<Line> {
        leases::parse_leases(text, 0).into_iter().filter(|line| line.mac == Some(mac)).collect()
    };
    let text = read();
    let lines = of_mac(&text);
    if lines.is_empty() {
        return Ok(());
    }
    if dnsmasq::running(files).is_none() {
        let gone: Vec<IpAddr> = lines.iter().map(|line| line.address).collect();
        // In its place: it belongs to dnsmasq's account.
        return fs::write(&path, leases::without(&text, &gone)).map_err(|source| Error::File {
            operation: "write",
            path,
            source,
        });
    }
    let until = Instant::now() + PATIENCE;
    for round in 0_u32.. {
        if round.is_multiple_of(100) {
            for line in &lines {
                tell(network, line, mac, &text)?;
            }
        }
        std::thread::sleep(STEP);
        if of_mac(&read()).is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            break;
        }
    }
    let reason = format!("dnsmasq of network {network} keeps the leases of {mac} until they end");
    Err(Error::Invalid { reason })
}

fn tell(network: &NetworkName, line: &Line, mac: MacAddr, text: &str) -> Result<(), Error> {
    let name = network.as_str();
    let mut socket = Socket::open().map_err(fail(name))?;
    let Some(link) = socket.link(name).map_err(fail(name))? else { return Ok(()) };
    let failed =
        |source: io::Error| Error::Invalid { reason: format!("giving back a lease of network {name}: {source}") };
    match line.address {
        IpAddr::V4(address) => {
            let own = socket.addresses().map_err(fail(name))?.into_iter().find_map(|own| match own.address {
                IpAddr::V4(server) if own.index == link.index => {
                    Net4 { address: server, prefix: own.prefix }.contains(address).then_some(server)
                }
                _ => None,
            });
            // One of a subnet that the network no longer has; dnsmasq gives nothing out of it.
            let Some(server) = own else { return Ok(()) };
            let message = release4(mac, address, server, leases::bytes(&line.client).as_deref());
            udp::by_interface(name).and_then(|socket| socket.send_to(&message, (server, 67))).map_err(failed)?;
        }
        IpAddr::V6(address) => {
            let Some(message) = release6(address, line, text) else { return Ok(()) };
            // All servers of the link (RFC 8415, 7.1); the kernel hands it to dnsmasq, too.
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
            let to = SocketAddrV6::new(group, 547, 0, link.index);
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|own| own.send_to(&message, to)).map_err(failed)?;
        }
    }
    Ok(())
}

/// DHCPRELEASE (RFC 2131, 2 and 4.4.6; options of RFC 2132).
fn release4(mac: MacAddr, address: Ipv4Addr, server: Ipv4Addr, client: Option<&[u8]>) -> Vec<u8> {
    let mut message = vec![0; 236];
    // From a client, by Ethernet, whose addresses have six bytes.
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[12..16].copy_from_slice(&address.octets());
    message[28..34].copy_from_slice(&mac.0);
    message.extend([99, 130, 83, 99, 53, 1, 7, 54, 4]);
    message.extend(server.octets());
    if let Some((client, length)) = client.and_then(|client| Some((client, u8::try_from(client.len()).ok()?))) {
        message.extend([61, length]);
        message.extend(client);
    }
    message.push(255);
    message.resize(message.len().max(300), 0);
    message
}

/// RELEASE (RFC 8415, 8 and 18.2.7; options of 21.2 to 21.6). `None`: the lease or the file is not whole.
fn release6(address: Ipv6Addr, line: &Line, text: &str) -> Option<Vec<u8>> {
    let server = leases::bytes(text.lines().find_map(|line| line.strip_prefix("duid "))?.trim())?;
    let client = leases::bytes(&line.client)?;
    let (temporary, id) = match line.id.strip_prefix('T') {
        Some(id) => (true, id),
        None => (false, line.id.as_str()),
    };
    let id: u32 = id.parse().ok()?;
    let option = |code: u16, body: &[u8]| -> Option<Vec<u8>> {
        let length = u16::try_from(body.len()).ok()?;
        Some([&code.to_be_bytes()[..], &length.to_be_bytes(), body].concat())
    };
    // No lifetimes.
    let held = option(5, &[&address.octets()[..], &[0; 8]].concat())?;
    let times: &[u8] = if temporary { &[] } else { &[0; 8] };
    let association = option(if temporary { 4 } else { 3 }, &[&id.to_be_bytes()[..], times, &held].concat())?;
    Some([&[8, 0, 0, 1][..], &option(1, &client)?, &option(2, &server)?, &association].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_what_their_server_asks_for() {
        let (mac, address, server) =
            (MacAddr([2, 0, 0, 0, 0, 9]), Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 1));
        let message = release4(mac, address, server, Some(&[1, 2]));
        assert_eq!((message.len(), &message[12..16], &message[28..34]), (300, &[10, 0, 0, 9][..], &mac.0[..]));
        assert_eq!(message[236..254], [99, 130, 83, 99, 53, 1, 7, 54, 4, 10, 0, 0, 1, 61, 2, 1, 2, 255]);

        let text =
            "duid 00:01\n9 T7 fd42::9 * 00:03:00:01:02:00:00:00:00:09\n9 7 fd42::8 * 00:03:00:01:02:00:00:00:00:09\n";
        let lines = leases::parse_leases(text, 0);
        let nine: Ipv6Addr = "fd42::9".parse().unwrap();
        let message = release6(nine, &lines[0], text).unwrap();
        assert_eq!(message[..8], [8, 0, 0, 1, 0, 1, 0, 10]);
        assert_eq!(message[18..32], [0, 2, 0, 2, 0, 1, 0, 4, 0, 32, 0, 0, 0, 7]);
        assert_eq!(message.len(), 32 + 4 + 24);
        assert_eq!(release6(nine, &lines[1], text).unwrap().len(), 32 + 8 + 4 + 24);
        assert_eq!(release6(nine, &lines[0], ""), None);
    }
}
