//! What a network card tells about its link: ethtool(8)'s ioctl.
//!
//! Source: `<linux/ethtool.h>`, `struct ethtool_link_settings` and `struct ethtool_drvinfo`. The masks of the first are
//! as long as the kernel wants them: it is asked once with length zero and answers with the negative of the right one.
#![allow(unsafe_code, reason = "SIOCETHTOOL has no safe interface")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINKSETTINGS: u32 = 0x4c;
/// Longest mask that is read, in words of 32 bits; the kernel has four.
const MAX_WORDS: usize = 32;

/// The state of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) duplex: &'static str,
    pub(super) port: &'static str,
    pub(super) transceiver: &'static str,
    pub(super) auto_negotiation: bool,
    pub(super) modes: Vec<String>,
    pub(super) ports: Vec<String>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Settings {
    command: u32,
    speed: u32,
    duplex: u8,
    port: u8,
    phy_address: u8,
    autoneg: u8,
    mdio_support: u8,
    crossover: u8,
    crossover_control: u8,
    words: i8,
    transceiver: u8,
    master_slave: [u8; 2],
    rate_matching: u8,
    reserved: [u32; 7],
    /// Supported, advertised, and the partner's, one after the other.
    masks: [u32; 3 * MAX_WORDS],
}

#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    rest: [u8; 96],
}

/// `struct ifreq` with its pointer.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut libc::c_void,
    rest: [u8; 16],
}

/// Asks about `interface`. `T` begins with the command and is as long as the kernel's answer to it.
fn ask<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    let mut request =
        InterfaceRequest { name: [0; libc::IFNAMSIZ], data: std::ptr::from_mut(argument).cast(), rest: [0; 16] };
    if interface.len() >= request.name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the request and what it points to live until the call returns; both structures have the kernel's layout
    // and are at least as long as it writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, std::ptr::from_mut(&mut request)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The link of an interface; `None` when its driver does not tell.
pub(super) fn link(interface: &str) -> Option<Link> {
    let mut settings = Settings {
        command: ETHTOOL_GLINKSETTINGS,
        speed: 0,
        duplex: 0,
        port: 0,
        phy_address: 0,
        autoneg: 0,
        mdio_support: 0,
        crossover: 0,
        crossover_control: 0,
        words: 0,
        transceiver: 0,
        master_slave: [0; 2],
        rate_matching: 0,
        reserved: [0; 7],
        masks: [0; 3 * MAX_WORDS],
    };
    ask(interface, &mut settings).ok()?;
    let words = usize::try_from(-i32::from(settings.words)).ok().filter(|words| (1..=MAX_WORDS).contains(words))?;
    settings.command = ETHTOOL_GLINKSETTINGS;
    settings.words = i8::try_from(words).ok()?;
    ask(interface, &mut settings).ok()?;
    Some(describe(&settings, words))
}

fn describe(settings: &Settings, words: usize) -> Link {
    let supported = &settings.masks[..words];
    let has = |bit: usize| supported.get(bit / 32).is_some_and(|word| word & (1 << (bit % 32)) != 0);
    let names = |table: &[(usize, &str)]| {
        table.iter().filter(|(bit, _)| has(*bit)).map(|(_, name)| (*name).to_owned()).collect()
    };
    Link {
        duplex: match settings.duplex {
            0 => "half",
            1 => "full",
            _ => "",
        },
        port: match settings.port {
            0 => "twisted pair",
            1 => "AUI",
            2 => "media-independent",
            3 => "fibre",
            4 => "BNC",
            5 => "direct attach",
            0xef => "none",
            0xff => "other",
            _ => "",
        },
        transceiver: match settings.transceiver {
            0 => "internal",
            1 => "external",
            _ => "",
        },
        auto_negotiation: settings.autoneg == 1,
        modes: names(MODES),
        ports: names(PORTS),
    }
}

/// The version of the card's firmware, as its driver tells it.
pub(super) fn firmware(interface: &str) -> Option<String> {
    let mut info =
        DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], version: [0; 32], firmware: [0; 32], rest: [0; 96] };
    ask(interface, &mut info).ok()?;
    let end = info.firmware.iter().position(|byte| *byte == 0).unwrap_or(info.firmware.len());
    let text = String::from_utf8_lossy(&info.firmware[..end]).trim().to_owned();
    (!text.is_empty() && text != "N/A").then_some(text)
}

/// Bits of the masks that are connectors.
const PORTS: &[(usize, &str)] =
    &[(7, "twisted pair"), (8, "AUI"), (9, "media-independent"), (10, "fibre"), (11, "BNC"), (16, "backplane")];

/// Bits of the masks that are speeds, as ethtool(8) writes them.
#[rustfmt::skip]
const MODES: &[(usize, &str)] = &[
    (0, "10baseT/Half"), (1, "10baseT/Full"), (2, "100baseT/Half"), (3, "100baseT/Full"), (4, "1000baseT/Half"),
    (5, "1000baseT/Full"), (12, "10000baseT/Full"), (15, "2500baseX/Full"), (17, "1000baseKX/Full"),
    (18, "10000baseKX4/Full"), (19, "10000baseKR/Full"), (21, "20000baseMLD2/Full"), (22, "20000baseKR2/Full"),
    (23, "40000baseKR4/Full"), (24, "40000baseCR4/Full"), (25, "40000baseSR4/Full"), (26, "40000baseLR4/Full"),
    (27, "56000baseKR4/Full"), (28, "56000baseCR4/Full"), (29, "56000baseSR4/Full"), (30, "56000baseLR4/Full"),
    (31, "25000baseCR/Full"), (32, "25000baseKR/Full"), (33, "25000baseSR/Full"), (34, "50000baseCR2/Full"),
    (35, "50000baseKR2/Full"), (36, "100000baseKR4/Full"), (37, "100000baseSR4/Full"), (38, "100000baseCR4/Full"),
    (39, "100000baseLR4_ER4/Full"), (40, "50000baseSR2/Full"), (41, "1000baseX/Full"), (42, "10000baseCR/Full"),
    (43, "10000baseSR/Full"), (44, "10000baseLR/Full"), (45, "10000baseLRM/Full"), (46, "10000baseER/Full"),
    (47, "2500baseT/Full"), (48, "5000baseT/Full"), (52, "50000baseKR/Full"), (53, "50000baseSR/Full"),
    (54, "50000baseCR/Full"), (55, "50000baseLR_ER_FR/Full"), (56, "50000baseDR/Full"), (57, "100000baseKR2/Full"),
    (58, "100000baseSR2/Full"), (59, "100000baseCR2/Full"), (60, "100000baseLR2_ER2_FR2/Full"),
    (61, "100000baseDR2/Full"), (62, "200000baseKR4/Full"), (63, "200000baseSR4/Full"),
    (64, "200000baseLR4_ER4_FR4/Full"), (65, "200000baseDR4/Full"), (66, "200000baseCR4/Full"),
    (67, "100baseT1/Full"), (68, "1000baseT1/Full"), (69, "400000baseKR8/Full"), (70, "400000baseSR8/Full"),
    (71, "400000baseLR8_ER8_FR8/Full"), (72, "400000baseDR8/Full"), (73, "400000baseCR8/Full"),
    (75, "100000baseKR/Full"), (76, "100000baseSR/Full"), (77, "100000baseLR_ER_FR/Full"), (78, "100000baseCR/Full"),
    (79, "100000baseDR/Full"), (80, "200000baseKR2/Full"), (81, "200000baseSR2/Full"),
    (82, "200000baseLR2_ER2_FR2/Full"), (83, "200000baseDR2/Full"), (84, "200000baseCR2/Full"),
    (85, "400000baseKR4/Full"), (86, "400000baseSR4/Full"), (87, "400000baseLR4_ER4_FR4/Full"),
    (88, "400000baseDR4/Full"), (89, "400000baseCR4/Full"), (90, "100baseFX/Half"), (91, "100baseFX/Full"),
    (92, "10baseT1L/Full"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_size() {
        assert_eq!(size_of::<Settings>() - 3 * 4 * MAX_WORDS, 48);
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn the_loopback_interface_tells_nothing_and_a_missing_one_neither() {
        assert_eq!(link("nosuchif0"), None);
        assert_eq!(firmware("nosuchif0"), None);
        assert_eq!(link("a-name-that-is-too-long"), None);
    }

    #[test]
    fn bits_become_words() {
        let mut masks = [0; 3 * MAX_WORDS];
        (masks[0], masks[1]) = (1 << 5 | 1 << 7, 1 << (47 - 32));
        let settings = Settings {
            command: 0,
            speed: 0,
            duplex: 1,
            port: 3,
            phy_address: 0,
            autoneg: 1,
            mdio_support: 0,
            crossover: 0,
            crossover_control: 0,
            words: 4,
            transceiver: 1,
            master_slave: [0; 2],
            rate_matching: 0,
            reserved: [0; 7],
            masks,
        };
        let link = describe(&settings, 4);
        assert_eq!(link.modes, ["1000baseT/Full", "2500baseT/Full"]);
        assert_eq!(link.ports, ["twisted pair"]);
        assert_eq!(
            (link.duplex, link.port, link.transceiver, link.auto_negotiation),
            ("full", "fibre", "external", true)
        );
    }
}
