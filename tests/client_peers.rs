//! Our client against LXD 5.0.2 and Incus 6.0: each verb does there what it does with us.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::peers::{INCUS, Kind, LXD, Peer};
use support::{Daemon, Said, said};

/// `warren` with a configuration of its own in `home`.
fn warren(home: &Path, words: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    command.args(words.split(' ')).env("HOME", home).env("WARREN_CONF", home.join("warren")).env("LC_ALL", "C.UTF-8");
    said(command.stdin(Stdio::null()))
}

/// The secret that the peer's own client is given for a new one of ours.
fn token(peer: &Peer, ca: &Path, name: &str) -> String {
    let arguments: &[&str] = match peer.kind.client {
        "incus" => &["config", "trust", "add", name],
        _ => &["config", "trust", "add", "--name", name],
    };
    peer.client(ca, arguments).ok().trim().lines().last().unwrap().to_owned()
}

fn drives(kind: Kind) {
    let ours = Daemon::bare();
    let (meta, root) = ours.busybox();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let (home, ca) = (place.path().join("home"), place.path().join("ca.pem"));
    std::fs::create_dir(&home).unwrap();
    std::fs::write(&ca, "").unwrap();
    let peer = Peer::start(kind, &ca);
    let w = |words: &str| warren(&home, words);
    let is = |words: &str, wanted: &str| assert_eq!(w(words).ok(), wanted, "{words}");

    // A token is good for one client, and a wrong one for none.
    let secret = token(&peer, &ca, "one");
    let add = format!("remote add far {} --accept-certificate", peer.url);
    w(&format!("{add} --token {secret}")).ok();
    w(&format!("remote add again {} --accept-certificate", peer.url)).ok();
    let other = place.path().join("other");
    std::fs::create_dir(&other).unwrap();
    assert_ne!(warren(&other, &format!("{add} --token {secret}")).code, 0);
    assert_ne!(warren(&other, &format!("{add} --password wrong")).code, 0);
    if peer.kind.client == "lxc" {
        peer.client(&ca, &["config", "set", "core.trust_password", "word"]).ok();
        warren(&other, &format!("{add} --password word")).ok();
    }
    w("remote switch far").ok();
    let trusted: Value = serde_json::from_str(&w("config trust list --format json").ok()).unwrap();
    assert!(trusted.as_array().unwrap().iter().any(|one| one["name"] == "one"), "{trusted}");

    w(&format!("image import {} {} --alias bb", meta.display(), root.display())).ok();
    is("image list -f csv -c la", "bb,x86_64\n");
    w("profile create small").ok();
    w("profile set small limits.processes 100").ok();
    w("launch bb c1 -p default -p small -c user.a=b").ok();
    is("list -f csv -c ns", "c1,RUNNING\n");
    is("config get c1 user.a", "b\n");
    is("exec c1 --env A=b -- sh -c echo\t$A", "b\n");
    assert_eq!(w("exec c1 -- false").code, 1);
    let file = place.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    w(&format!("file push {} c1/root/file", file.display())).ok();
    is("file pull c1/root/file -", "kept");
    w("config device add c1 data disk source=/usr path=/mnt/usr readonly=true").ok();
    is("config device list c1", "data\n");
    w("snapshot c1 s1").ok();
    w("file delete c1/root/file").ok();
    w("restore c1 s1").ok();
    is("file pull c1/root/file -", "kept");
    for (verb, state) in
        [("pause", "FROZEN"), ("start", "RUNNING"), ("restart --force", "RUNNING"), ("stop --force", "STOPPED")]
    {
        w(&format!("{verb} c1")).ok();
        is("list c1 -f csv -c s", &format!("{state}\n"));
    }
    w("copy c1 c2").ok();
    w("move c2 c3").ok();
    is("list -f csv -c nS", "c1,1\nc3,1\n");
    w("publish c3 --alias made").ok();
    w("init made c4").ok();
    w("delete c3 c4").ok();
    w("storage volume create p v").ok();
    w("storage volume attach p v c1 /mnt/v").ok();
    w("start c1").ok();
    w("exec c1 -- sh -c echo>/mnt/v/x").ok();
    w("delete c1 --force").ok();
    w("storage volume delete p v").ok();
    w("profile delete small").ok();
    w("project create blue").ok();
    is("list --project blue -f csv", "");
    w("project delete blue").ok();
    for image in ["bb", "made"] {
        w(&format!("image delete {image}")).ok();
    }
    is("image list -f csv", "");
    w("info").ok();
    w("operation list").ok();
    w("warning list").ok();
}

#[test]
fn our_client_drives_lxd() {
    drives(LXD);
}

#[test]
fn our_client_drives_incus() {
    drives(INCUS);
}
