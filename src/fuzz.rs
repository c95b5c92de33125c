//! The parsers of what others write, one function each, for `fuzz/` (cargo-fuzz) and for a few seconds of every test run.
//! Only with the feature `fuzzing`, which nothing that is installed has. None may panic, hang, or fill the memory.

use std::borrow::Cow;

use crate::api::wire;
use crate::auth::ClientCertificate;
use crate::device::Set;
use crate::image::Metadata;
use crate::names::NetworkName;
use crate::network::BridgeSpec;

/// A parser.
pub type Target = fn(&[u8]);

/// All of them by the names of their programs and of their directories of seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("cgroup", cgroup),
    ("devices", devices),
    ("filter", filter),
    ("hardware", hardware),
    ("idmap", idmap),
    ("json", json),
    ("leases", leases),
    ("metadata", metadata),
    ("multipart", multipart),
    ("netlink", netlink),
    ("network", network),
    ("notify", notify),
    ("pack", pack),
    ("preseed", preseed),
    ("proxy", proxy),
    ("query", query),
    ("sftp", sftp),
    ("simplestreams", simplestreams),
    ("tarball", tarball),
    ("template", template),
    ("trust", trust),
];

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// `/proc/<pid>/mountinfo` and `/proc/<pid>/cgroup`.
pub fn cgroup(bytes: &[u8]) {
    crate::sys::cgroup::fuzz(&text(bytes));
}

/// Devices of an instance or profile, as JSON.
pub fn devices(bytes: &[u8]) {
    if let Ok(devices) = serde_json::from_slice::<wire::Devices>(bytes) {
        let _ = crate::device::validate(&devices);
        let _ = Set::parse(&devices);
        crate::device::pools(&devices);
    }
}

/// `?filter=`.
pub fn filter(bytes: &[u8]) {
    crate::api::fuzz_filter(&text(bytes));
}

/// Files of /proc and /sys about the hardware.
pub fn hardware(bytes: &[u8]) {
    crate::sys::hardware::fuzz(bytes);
}

/// `/etc/subuid`.
pub fn idmap(bytes: &[u8]) {
    crate::security::idmap::fuzz(&text(bytes));
}

/// Bodies of requests.
pub fn json(bytes: &[u8]) {
    fn body<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
        // What was read can be written and read again.
        if let Ok(body) = serde_json::from_slice::<T>(bytes)
            && let Ok(text) = serde_json::to_vec(&body)
        {
            let _ = serde_json::from_slice::<T>(&text);
        }
    }
    body::<wire::InstancesPost>(bytes);
    body::<wire::InstancePut>(bytes);
    body::<wire::InstancesPut>(bytes);
    body::<wire::InstanceStatePut>(bytes);
    body::<wire::ExecPost>(bytes);
    body::<wire::ConsolePost>(bytes);
    body::<wire::ExecControl>(bytes);
    body::<wire::Profile>(bytes);
    body::<wire::Image>(bytes);
    body::<wire::ImageAlias>(bytes);
    body::<wire::ImageOrigin>(bytes);
    body::<wire::ImageExportPost>(bytes);
    body::<wire::ImageMetadata>(bytes);
    body::<wire::StoragePool>(bytes);
    body::<wire::Network>(bytes);
    body::<wire::CertificatesPost>(bytes);
}

/// dnsmasq's leases and the files of hosts.
pub fn leases(bytes: &[u8]) {
    crate::network::fuzz_leases(&text(bytes));
}

/// `metadata.yaml`, of an image and of an instance.
pub fn metadata(bytes: &[u8]) {
    let _ = Metadata::parse(bytes);
    let _ = serde_norway::from_slice::<wire::ImageMetadata>(bytes);
}

/// The body of a split image, in two pieces as a network may bring it.
pub fn multipart(bytes: &[u8]) {
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    let pieces = [first, rest].map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece)));
    let mut parts = crate::multipart::parts(futures_util::stream::iter(pieces), "b");
    let mut reading = std::pin::pin!(async {
        while let Ok(Some(mut part)) = parts.next_field().await {
            let _ = part.name();
            while let Ok(Some(_)) = part.chunk().await {}
        }
    });
    // All is there: it waits for nothing but its next turn.
    while futures_util::FutureExt::now_or_never(reading.as_mut()).is_none() {}
}

/// Replies of rtnetlink.
pub fn netlink(bytes: &[u8]) {
    crate::sys::netlink::fuzz(bytes);
}

/// The configuration of a network, as JSON.
pub fn network(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<wire::Config>(bytes)
        && let Ok(name) = NetworkName::new("br0")
    {
        let _ = BridgeSpec::parse(&name, &config);
    }
}

/// Messages of liblxc's monitor about system calls.
pub fn notify(bytes: &[u8]) {
    crate::sys::notify::fuzz(bytes);
}

/// What files are called and have, as it is written into the tarball of an image.
pub fn pack(bytes: &[u8]) {
    crate::image::fuzz_pack(bytes);
}

/// The YAML of `init --preseed`.
pub fn preseed(bytes: &[u8]) {
    crate::daemon::fuzz_preseed(&text(bytes));
}

/// Addresses of proxies.
pub fn proxy(bytes: &[u8]) {
    if let Ok(address) = crate::device::Address::parse(&text(bytes)) {
        // The number of sockets is told before they are made.
        assert!(address.count() >= address.sockets().count());
    }
}

/// Query strings.
pub fn query(bytes: &[u8]) {
    crate::api::fuzz_query(&text(bytes));
}

/// Fields of SFTP packets.
pub fn sftp(bytes: &[u8]) {
    crate::helper::fuzz_sftp(bytes);
}

/// The lists of image servers, and addresses.
pub fn simplestreams(bytes: &[u8]) {
    crate::remote::fuzz_streams(bytes);
    if let Ok(url) = crate::fetch::Url::parse(&text(bytes)) {
        let _ = (url.join("x"), url.below("y"));
    }
}

/// An image as it arrives: compression, tar, the rules of entries, `metadata.yaml`, the head of a squashfs.
pub fn tarball(bytes: &[u8]) {
    crate::image::fuzz_tarball(bytes);
}

/// Templates of images.
pub fn template(bytes: &[u8]) {
    crate::template::fuzz(&text(bytes));
}

/// What comes from those whom nobody trusts yet: certificates, tokens, the header of a proxy.
pub fn trust(bytes: &[u8]) {
    let _ = ClientCertificate::parse(&text(bytes));
    let _ = ClientCertificate::from_der(bytes);
    crate::api::fuzz_token(&text(bytes));
    crate::api::fuzz_proxied(bytes);
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use proptest::prelude::{Strategy, any, proptest};
    use proptest::sample::Index;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// What is done, where from, where to, with what.
    type Step = (u8, Index, Index, u8);

    /// Cuts a seed, swaps bytes, repeats a piece, or puts a piece of another one in.
    fn mutated() -> impl Strategy<Value = (Index, Index, Vec<Step>)> {
        let step = (0..6u8, any::<Index>(), any::<Index>(), any::<u8>());
        (any::<Index>(), any::<Index>(), proptest::collection::vec(step, 1..6))
    }

    fn apply(mut bytes: Vec<u8>, other: &[u8], steps: &[Step]) -> Vec<u8> {
        for (kind, at, to, byte) in steps {
            let (at, to) = (at.index(bytes.len() + 1), to.index(bytes.len() + 1));
            let (from, to) = (at.min(to), at.max(to));
            match kind {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(from..to)),
                2 => drop(bytes.splice(from..from, bytes[from..to].to_vec())),
                3 => drop(bytes.splice(at..at, other[..usize::from(*byte).min(other.len())].to_vec())),
                4 if at < bytes.len() => bytes[at] = *byte,
                _ if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
                _ => bytes.push(*byte),
            }
            bytes.truncate(1 << 16);
        }
        bytes
    }

    #[test]
    fn seeds_pass_every_target() {
        for (name, target) in TARGETS {
            seeds(name).iter().for_each(|seed| target(seed));
        }
    }

    proptest! {
        #[test]
        fn what_is_nearly_right_breaks_no_parser((seed, other, steps) in mutated()) {
            for (name, target) in TARGETS {
                let seeds = seeds(name);
                let (seed, other) = (&seeds[seed.index(seeds.len())], &seeds[other.index(seeds.len())]);
                let bytes = apply(seed.clone(), other, &steps);
                let start = Instant::now();
                target(&bytes);
                assert!(start.elapsed() < Duration::from_secs(5), "{name} takes too long for {bytes:?}");
            }
        }
    }
}
