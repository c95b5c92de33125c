//! `usb`, `gpu`, `unix-hotplug`: hardware that is known by what it is, wherever its nodes stand.

use std::fmt::Write;

use super::unix::{number, owner, refuse};
use super::{Error, Properties};
use crate::api::wire::Config;

/// What kind of hardware, and which of it beside its identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Usb,
    Hotplug,
    Gpu { id: Option<u32>, pci: Option<String> },
}

/// Hardware with these identifiers, none or many, as it comes and goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    which: Which,
    vendor: Option<String>,
    product: Option<String>,
    uid: u32,
    gid: u32,
    mode: u32,
    /// Without any nothing starts.
    pub required: bool,
}

/// What a piece of the host's hardware is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A USB device, by its node on the bus.
    Usb {
        /// A hub, of the mainboard or not.
        hub: bool,
    },
    /// Nodes that a driver made for a USB device, as of a serial line or a disk.
    UsbNode,
    /// A graphics card.
    Gpu {
        /// Its number (`/dev/dri/card0`).
        card: Option<u32>,
    },
}

/// A piece of the host's hardware.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// What it is.
    pub class: Class,
    /// Vendor, four hexadecimal digits.
    pub vendor: &'a str,
    /// Product, four hexadecimal digits.
    pub product: &'a str,
    /// Its address on the PCI bus, with the domain.
    pub pci: &'a str,
}

impl Matched {
    /// Whether this piece is meant.
    pub fn fits(&self, candidate: &Candidate<'_>) -> bool {
        let same =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|id| id.eq_ignore_ascii_case(found));
        if !same(&self.vendor, candidate.vendor) || !same(&self.product, candidate.product) {
            return false;
        }
        match (&self.which, candidate.class) {
            // Who holds a hub can cut others off: none is given by the way.
            (Which::Usb, Class::Usb { hub }) => !hub || self.vendor.is_some() || self.product.is_some(),
            (Which::Hotplug, Class::UsbNode) => true,
            (Which::Gpu { id, pci }, Class::Gpu { card }) => (id.is_none() || *id == card) && same(pci, candidate.pci),
            (Which::Usb | Which::Hotplug | Which::Gpu { .. }, _) => false,
        }
    }

    /// The properties of the device node that stands for it inside.
    pub fn node(&self, block: bool, path: &str, (major, minor): (u32, u32)) -> Config {
        [
            ("type", if block { "unix-block" } else { "unix-char" }.to_owned()),
            ("path", path.to_owned()),
            ("major", major.to_string()),
            ("minor", minor.to_string()),
            ("uid", self.uid.to_string()),
            ("gid", self.gid.to_string()),
            ("mode", format!("{:o}", self.mode)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// Why it cannot be had, when none of it is there.
    pub fn absent(&self) -> String {
        let (what, way) = match &self.which {
            Which::Usb => ("USB device", "connect it, or set required=false"),
            Which::Hotplug => ("USB device with a device node", "connect it, load its driver, or set required=false"),
            Which::Gpu { .. } => (
                "graphics card with a device node",
                "load its driver, or remove the device; \"lxc info --resources\" lists those that are there",
            ),
        };
        let mut text = format!("the host has no {what}");
        let mut word = " with";
        let mut add = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{word} {name}={value}");
            word = "";
        };
        if let Some(vendor) = &self.vendor {
            add("vendorid", vendor);
        }
        if let Some(product) = &self.product {
            add("productid", product);
        }
        if let Which::Gpu { id, pci } = &self.which {
            if let Some(id) = id {
                add("id", &id.to_string());
            }
            if let Some(pci) = pci {
                add("pci", pci);
            }
        }
        format!("{text}: {way}")
    }
}

type Identifiers = (Option<String>, Option<String>);

fn identifiers(properties: &mut Properties<'_>) -> Result<Identifiers, Error> {
    let mut read = |property: &'static str| {
        let Some(text) = properties.take(property) else { return Ok(None) };
        // As with LXD: in capitals they would be refused there when the instance moves.
        if text.len() != 4 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refuse(properties, property, text, "four hexadecimal digits in lower case"));
        }
        Ok(Some(text.to_owned()))
    };
    Ok((read("vendorid")?, read("productid")?))
}

pub(super) fn parse_usb(properties: Properties<'_>) -> Result<Matched, Error> {
    parse_connected(properties, Which::Usb)
}

pub(super) fn parse_hotplug(properties: Properties<'_>) -> Result<Matched, Error> {
    parse_connected(properties, Which::Hotplug)
}

fn parse_connected(mut properties: Properties<'_>, which: Which) -> Result<Matched, Error> {
    let (vendor, product) = identifiers(&mut properties)?;
    if which == Which::Hotplug && vendor.is_none() && product.is_none() {
        return Err(Error::MissingProperty {
            device: properties.device.to_string(),
            property: "vendorid",
            hint: "set vendorid= or productid=, or both",
        });
    }
    let (uid, gid, mode) = owner(&mut properties, 0o660)?;
    let required = properties.flag("required")?.unwrap_or(false);
    properties.end()?;
    Ok(Matched { which, vendor, product, uid, gid, mode, required })
}

/// An address on the PCI bus, `0000:01:00.0`; the domain may be left out.
fn pci_address(text: &str) -> Option<String> {
    let whole = if text.matches(':').count() == 1 { format!("0000:{text}") } else { text.to_owned() };
    let (domain, rest) = whole.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let hexadecimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths = (4..=8).contains(&domain.len()) && bus.len() == 2 && slot.len() == 2 && function.len() == 1;
    let fits = lengths && [domain, bus, slot, function].into_iter().all(hexadecimal);
    fits.then(|| whole.to_ascii_lowercase())
}

pub(super) fn parse_gpu(mut properties: Properties<'_>) -> Result<Matched, Error> {
    if let Some(kind) = properties.take("gputype").filter(|kind| *kind != "physical") {
        let expected = "only \"physical\" is supported: mdev is for virtual machines, mig and sriov are not there";
        return Err(refuse(&properties, "gputype", kind, expected));
    }
    let (vendor, product) = identifiers(&mut properties)?;
    let id = number(&mut properties, "id")?;
    let pci = match properties.take("pci") {
        None => None,
        Some(text) => {
            let address = pci_address(text);
            Some(address.ok_or_else(|| refuse(&properties, "pci", text, "an address such as 0000:01:00.0"))?)
        }
    };
    if let Some(pci) = &pci
        && (id.is_some() || vendor.is_some() || product.is_some())
    {
        return Err(refuse(&properties, "pci", pci, "it names one card: leave out id, vendorid and productid"));
    }
    if let Some(id) = id
        && (vendor.is_some() || product.is_some())
    {
        return Err(refuse(&properties, "id", &id.to_string(), "it names one card: leave out vendorid and productid"));
    }
    let (uid, gid, mode) = owner(&mut properties, 0o660)?;
    properties.end()?;
    // As with LXD: an instance that is to compute does not start without its card.
    Ok(Matched { which: Which::Gpu { id, pci }, vendor, product, uid, gid, mode, required: true })
}
