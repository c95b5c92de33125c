//! Tokens, and certificates that are exchanged.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::objects::{caller, certificates, forget_certificates, trust};
use super::support::Daemon;
use super::{Verb, done, shown};

fn nothing(_: &Daemon, _: &str) {}

/// The operations that stand for tokens.
fn tokens(daemon: &Daemon) -> Vec<Value> {
    let running = shown(daemon, "/1.0/operations?recursion=1")["running"].clone();
    let tokens = running.as_array().cloned().unwrap_or_default().into_iter();
    tokens.filter(|operation| operation["class"] == "token").collect()
}

/// There is one, as a whole, or none.
fn one_or_none(daemon: &Daemon, name: &str) {
    let tokens = tokens(daemon);
    assert!(tokens.len() < 2, "{tokens:?}");
    for token in tokens {
        assert_eq!(token["metadata"]["request"]["name"], name);
        assert_eq!(token["metadata"]["secret"].as_str().unwrap().len(), 64);
    }
}

fn revoke_all(daemon: &Daemon, _: &str) {
    for token in tokens(daemon) {
        done(daemon, "DELETE", &format!("/1.0/operations/{}", token["id"].as_str().unwrap()), "");
    }
}

fn other() -> &'static String {
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap().cert.pem())
}

pub(super) const TRUST: &[Verb] = &[
    Verb {
        name: "make a token",
        prepare: nothing,
        // Answered at once: there is nothing to wait for, and a wait would last.
        act: |caller, name| {
            let body = json!({"token": true, "name": name}).to_string();
            drop(caller.send("POST", "/1.0/certificates", &[], body.as_bytes()));
        },
        holds: one_or_none,
        tidy: revoke_all,
    },
    Verb {
        name: "revoke a token",
        prepare: |daemon, name| {
            let (status, answer) =
                daemon.api("POST", "/1.0/certificates", &json!({"token": true, "name": name}).to_string());
            assert_eq!(status, 202, "{answer}");
        },
        act: |caller, _| {
            let Some(list) = caller.call("GET", "/1.0/operations", "") else { return };
            let Some(url) = list["metadata"]["running"][0].as_str() else { return };
            caller.call("DELETE", url, "");
        },
        holds: one_or_none,
        tidy: revoke_all,
    },
    Verb {
        name: "renew a certificate",
        prepare: |daemon, name| drop(trust(&caller(daemon), name).unwrap()),
        act: |caller, _| {
            let Some(list) = caller.call("GET", "/1.0/certificates", "") else { return };
            let Some(url) = list["metadata"][0].as_str() else { return };
            caller.call("PATCH", url, &json!({"certificate": other()}).to_string());
        },
        holds: |daemon, name| {
            let there = certificates(daemon);
            assert_eq!(there.len(), 1, "{there:?}");
            assert_eq!(shown(daemon, &there[0])["name"], name);
        },
        tidy: forget_certificates,
    },
];
