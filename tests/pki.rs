//! The edge of HTTPS: an authority and what it revoked, proxies that say where clients are, protocols and suites.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use support::api::{done, get, refused};
use support::authority::{Authority, place};
use support::tls::{Client, Identity, PATIENCE, VERSIONS, local, set, tls, tls_with};
use support::{Daemon, run, said};

#[test]
fn an_authority_vouches_for_clients_until_it_revokes_them() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let [one, two, old, early] =
        [(1, (-1, 9)), (2, (-1, 9)), (3, (-9, -1)), (4, (1, 9))].map(|(serial, days)| ours.client(serial, days));
    let stranger = foreign.client(1, (-1, 9));
    let auth = |identity: &Identity| Client::connect(address, &tls(&VERSIONS, Some(identity))).auth();
    // Without the file the key says nothing, and with the file alone nobody is trusted.
    assert_eq!(set(&daemon, "core.trust_ca_certificates", "true").0, 200);
    assert_eq!(auth(&one), "untrusted");
    place(&daemon, "server.ca", &ours.pem);
    assert_eq!(auth(&one), "trusted");
    assert_eq!(set(&daemon, "core.trust_ca_certificates", "false").0, 200);
    assert_eq!(auth(&one), "untrusted");
    assert_eq!(set(&daemon, "core.trust_ca_certificates", "true").0, 200);
    for (identity, wanted) in [
        (&two, "trusted"),
        (&old, "untrusted"),
        (&early, "untrusted"),
        (&stranger, "untrusted"),
        (&Identity::new(), "untrusted"),
    ] {
        assert_eq!(auth(identity), wanted);
    }
    // Another's certificate without its key.
    let forged = Identity { certificate: one.certificate.clone(), key: Arc::clone(&stranger.key) };
    assert!(Client::connect(address, &tls(&VERSIONS, Some(&forged))).try_ask("GET", "/1.0", "").is_err());

    // The store counts, too: what another has signed, and limits.
    stranger.trust(&daemon);
    assert_eq!(auth(&stranger), "trusted");
    let limited = json!({"name": "two", "restricted": true, "projects": [], "certificate": two.known().pem});
    done(&daemon, "POST", "/1.0/certificates", &limited);
    Client::connect(address, &tls(&VERSIONS, Some(&two))).get("/1.0/instances").refused(403, "not authorized");

    // Revoked on a connection that stands, and nothing brings it back; the other authority's number 1 is another.
    let mut standing = Client::connect(address, &tls(&VERSIONS, Some(&one)));
    assert_eq!(standing.auth(), "trusted");
    place(&daemon, "ca.crl", &ours.revoke(&[1, 2]));
    assert_eq!(standing.auth(), "untrusted");
    standing.get("/1.0/instances").refused(403, "not authorized");
    assert_eq!((auth(&one), auth(&two), auth(&stranger)), ("untrusted".into(), "untrusted".into(), "trusted".into()));
    let body = json!({"type": "client", "certificate": one.known().pem});
    refused(&daemon, "POST", "/1.0/certificates", &body, 403, "revoked by ca.crl");
    assert_eq!(set(&daemon, "core.trust_password", "sesame").0, 200);
    standing.ask("POST", "/1.0/certificates", r#"{"password": "sesame"}"#).refused(403, "revoked by ca.crl");
    refused(&daemon, "PATCH", &stranger.url(), &json!({"certificate": one.known().pem}), 403, "revoked by ca.crl");
    // A file that is no list changes nothing, a better one does.
    place(&daemon, "ca.crl", "nonsense");
    let fresh = ours.client(9, (-1, 9));
    assert_eq!((auth(&one), auth(&fresh)), ("untrusted".into(), "trusted".into()));
    place(&daemon, "ca.crl", &ours.revoke(&[2]));
    assert_eq!((auth(&one), auth(&two)), ("trusted".into(), "untrusted".into()));
    place(&daemon, "server.ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_eq!(auth(&fresh), "trusted");
    std::fs::remove_file(daemon.state().join("server.ca")).unwrap();
    assert_eq!((auth(&fresh), auth(&stranger)), ("untrusted".into(), "trusted".into()));
    std::fs::remove_file(daemon.state().join("ca.crl")).unwrap();
}

#[test]
fn an_authority_between_counts_until_one_of_the_two_revokes() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let root = Authority::new("root");
    let (between, shown) = root.below("between", 7, true);
    let (other, other_shown) = root.below("other", 8, true);
    let (fake, fake_shown) = root.below("fake", 9, false);
    // Numbers are the issuer's: the client of one has that of the other authority.
    let [one, two] = [between.client(8, (-1, 9)), between.client(2, (-1, 9))];
    let third = other.client(2, (-1, 9));
    let auth = |identity: &Identity, chain: &[CertificateDer<'static>]| {
        Client::connect(address, &tls_with(&VERSIONS, Some(identity), chain)).auth()
    };
    let clients = || {
        [(&one, &shown), (&two, &shown), (&third, &other_shown)]
            .map(|(identity, between)| auth(identity, std::slice::from_ref(between)))
    };
    place(&daemon, "server.ca", &root.pem);
    assert_eq!(set(&daemon, "core.trust_ca_certificates", "true").0, 200);
    assert_eq!(clients(), ["trusted", "trusted", "trusted"]);
    // Without what stands between nobody can know; with another's, or what is no authority, neither.
    assert_eq!(auth(&one, &[]), "untrusted");
    assert_eq!(auth(&one, std::slice::from_ref(&other_shown)), "untrusted");
    assert_eq!(auth(&one, &[other_shown.clone(), shown.clone()]), "trusted", "in any order");
    assert_eq!(auth(&fake.client(1, (-1, 9)), std::slice::from_ref(&fake_shown)), "untrusted");

    // By the one between: its client alone. By the root: all below it.
    place(&daemon, "ca.crl", &between.revoke(&[2]));
    assert_eq!(clients(), ["trusted", "untrusted", "trusted"]);
    place(&daemon, "ca.crl", &root.revoke(&[8]));
    assert_eq!(clients(), ["trusted", "trusted", "untrusted"]);
    // Lists of both in one file.
    place(&daemon, "ca.crl", &(between.revoke(&[8]) + &root.revoke(&[8])));
    assert_eq!(clients(), ["untrusted", "trusted", "untrusted"]);
    place(&daemon, "ca.crl", &root.revoke(&[7]));
    assert_eq!(clients(), ["untrusted", "untrusted", "trusted"]);
    assert_eq!(auth(&one, &[]), "untrusted", "it does not help to keep it to oneself");
    // The one between alone may be the authority, too; then nobody has to show it.
    place(&daemon, "ca.crl", &between.revoke(&[2]));
    place(&daemon, "server.ca", &between.pem);
    assert_eq!(clients(), ["trusted", "untrusted", "untrusted"]);
    assert_eq!((auth(&one, &[]), auth(&two, &[])), ("trusted".into(), "untrusted".into()));
}

#[test]
fn a_list_that_could_not_be_read_yet_trusts_nobody() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let authority = Authority::new("ours");
    let (signed, own) = (authority.client(1, (-1, 9)), Identity::new());
    signed.trust(&daemon);
    own.trust(&daemon);
    place(&daemon, "ca.crl", "nonsense");
    place(&daemon, "server.ca", &authority.pem);
    let auth = |identity: &Identity| Client::connect(address, &tls(&VERSIONS, Some(identity))).auth();
    assert_eq!((auth(&signed), auth(&own)), ("untrusted".into(), "trusted".into()));
    place(&daemon, "ca.crl", &authority.revoke(&[7]));
    assert_eq!((auth(&signed), auth(&own)), ("trusted".into(), "trusted".into()));
    for file in ["server.ca", "ca.crl"] {
        std::fs::remove_file(daemon.state().join(file)).unwrap();
    }
}

#[test]
fn the_authority_may_be_one_of_openssl() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    assert_eq!(set(&daemon, "core.trust_ca_certificates", "true").0, 200);
    let dir = daemon.root.join("ca");
    std::fs::create_dir(&dir).unwrap();
    let openssl = |arguments: &str| {
        run(Command::new("openssl").current_dir(&dir).args(arguments.split(' ')));
    };
    std::fs::write(dir.join("ext"), "extendedKeyUsage=clientAuth\nbasicConstraints=CA:false\n").unwrap();
    std::fs::write(dir.join("index"), "").unwrap();
    let lax = "openssl_conf=o\n[o]\nssl_conf=s\n[s]\nsystem_default=d\n[d]\nCipherString=DEFAULT@SECLEVEL=0\n";
    std::fs::write(dir.join("lax"), lax).unwrap();
    std::fs::write(dir.join("number"), "01\n").unwrap();
    std::fs::write(
        dir.join("cnf"),
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=9\n\
         certificate=ca.crt\nprivate_key=ca.key\npolicy=p\nnew_certs_dir=.\nserial=ca.srl\nunique_subject=no\n\
         [p]\ncommonName=supplied\n",
    )
    .unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 9 -subj /CN=ca");
    openssl("req -newkey rsa:2048 -nodes -keyout me.key -out me.csr -subj /CN=me");
    openssl("x509 -req -in me.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out me.crt -days 9 -extfile ext");
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    place(&daemon, "server.ca", &read("ca.crt"));
    let by = |certificate: &str| {
        let url = format!("https://{address}/1.0");
        let mut command = Command::new("curl");
        // Whatever a client would show: the daemon must know what is weak.
        command.current_dir(&dir).env("OPENSSL_CONF", dir.join("lax"));
        command.args(["-sk", "--cert", certificate, "--key", "me.key", &url]);
        let answer: Value = serde_json::from_str(&said(&mut command).ok()).unwrap();
        answer["metadata"]["auth"].clone()
    };
    assert_eq!(by("me.crt"), "trusted");
    // Without extensions it makes version 1: as good, while it is valid, and by this authority's key.
    let first = |arguments: &str, out: &str| {
        openssl(&format!("{arguments} -in me.csr -out {out}"));
        let shown = said(Command::new("openssl").current_dir(&dir).args(["x509", "-noout", "-text", "-in", out])).ok();
        assert!(shown.contains("Version: 1"), "{shown}");
    };
    first("x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 9", "first.crt");
    first("ca -batch -notext -config cnf -startdate 20200101000000Z -enddate 20210101000000Z", "old.crt");
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -days 9 -subj /CN=ca");
    first("x509 -req -CA other.crt -CAkey other.key -CAcreateserial -days 9", "foreign.crt");
    first("x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -sha1", "weak.crt");
    std::fs::write(dir.join("ext"), "extendedKeyUsage=serverAuth\n").unwrap();
    openssl("x509 -req -in me.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 9 -extfile ext");
    for (certificate, wanted) in [
        ("first", "trusted"),
        ("old", "untrusted"),
        ("foreign", "untrusted"),
        ("weak", "untrusted"),
        ("server", "untrusted"),
    ] {
        assert_eq!(by(&format!("{certificate}.crt")), wanted, "{certificate}");
    }
    let log = std::fs::read_to_string(daemon.root.join("log")).unwrap();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("names the authority in server.ca")).collect();
    assert!(told.len() == 3 && told[2].contains("client authentication"), "{told:?}");
    for certificate in ["me", "first"] {
        openssl(&format!("ca -config cnf -revoke {certificate}.crt"));
    }
    openssl("ca -config cnf -gencrl -out ca.crl");
    place(&daemon, "ca.crl", &read("ca.crl"));
    assert_eq!((by("me.crt"), by("first.crt")), (json!("untrusted"), json!("untrusted")));
    for file in ["server.ca", "ca.crl"] {
        std::fs::remove_file(daemon.state().join(file)).unwrap();
    }
}

/// A connection over TLS that begins with these bytes.
fn through(address: SocketAddr, header: &[u8], identity: &Identity) -> Client {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(header).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let config = tls(&VERSIONS, Some(identity));
    Client(StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream))
}

/// Where the daemon thinks that the client is which makes a profile: by the event of it.
fn told(daemon: &Daemon, client: &mut Client, name: &str) -> Result<String, std::io::Error> {
    let mut events = support::websocket::Socket::connect(daemon, "/1.0/events?type=lifecycle").unwrap();
    let answer = client.try_ask("POST", "/1.0/profiles", &json!({"name": name}).to_string())?;
    assert_eq!(answer.status, 201, "{answer:?}");
    let event = events.next_json();
    assert_eq!(event["metadata"]["source"], format!("/1.0/profiles/{name}"));
    Ok(event["metadata"]["requestor"]["address"].as_str().unwrap().to_owned())
}

#[test]
fn a_trusted_proxy_says_where_its_client_is() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let identity = Identity::new();
    identity.trust(&daemon);
    for bad in ["nonsense", "127.0.0.0/8", "127.0.0.1,,", "localhost"] {
        refused(&daemon, "PATCH", "/1.0", &json!({"config": {"core.https_trusted_proxy": bad}}), 400, "IP address");
    }
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 555 8443\r\n".to_vec();
    let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 555 8443\r\n".to_vec();
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[192, 0, 2, 8, 192, 0, 2, 1, 2, 43, 32, 251]].concat();
    let local_command = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    // From anywhere else such a header is no TLS.
    assert_eq!(set(&daemon, "core.https_trusted_proxy", "192.0.2.9, ::1").0, 200);
    assert!(told(&daemon, &mut through(address, &v1, &identity), "x").is_err());
    assert!(told(&daemon, &mut through(address, b"", &identity), "plain").unwrap().starts_with("127.0.0.1:"));
    assert_eq!(set(&daemon, "core.https_trusted_proxy", "192.0.2.9, 127.0.0.1").0, 200);
    for (header, wanted) in [
        (v1.clone(), "192.0.2.7:555"),
        (v6, "[2001:db8::7]:555"),
        (v2, "192.0.2.8:555"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
        (local_command, "127.0.0.1:"),
        // As with LXD, who says nothing is what he seems.
        (Vec::new(), "127.0.0.1:"),
    ] {
        let name = format!("p{}", wanted.len() + header.len());
        let found = told(&daemon, &mut through(address, &header, &identity), &name).unwrap();
        assert!(found.starts_with(wanted), "{found}");
    }
    for wrong in [
        b"PROXY nonsense\r\n".to_vec(),
        b"PROXY TCP4 x y 1 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.1 555 8443 and so on without end ............................................"
            .to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab".to_vec(),
    ] {
        assert!(told(&daemon, &mut through(address, &wrong, &identity), "x").is_err());
    }
    // Guesses are counted by client, not by proxy.
    assert_eq!(set(&daemon, "core.trust_password", "sesame").0, 200);
    let guess = |header: &[u8]| {
        let mut client = through(address, header, &Identity::new());
        client.ask("POST", "/1.0/certificates", r#"{"type": "client", "password": "x"}"#).json()["error"].clone()
    };
    let errors: Vec<Value> = (0..6).map(|_| guess(&v1)).collect();
    assert!(errors[5].as_str().unwrap().contains("Too many"), "{errors:?}");
    assert_eq!(guess(b"PROXY TCP4 192.0.2.77 192.0.2.1 555 8443\r\n"), "not authorized");
    assert_eq!(set(&daemon, "core.https_trusted_proxy", "").0, 200);
    assert!(told(&daemon, &mut through(address, &v1, &identity), "x").is_err());
    for profile in get(&daemon, "/1.0/profiles").as_array().unwrap() {
        let url = profile.as_str().unwrap();
        if !url.ends_with("/default") && !url.ends_with("/docker") {
            done(&daemon, "DELETE", url, &Value::Null);
        }
    }
}

/// What `openssl s_client` agrees on with the daemon, with these options: protocol and suite.
fn agreed(address: SocketAddr, options: &[&str]) -> Option<(String, String)> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string()]).args(options).stdin(Stdio::null());
    let out = said(&mut command).out;
    let line = out.lines().find(|line| line.starts_with("New, "))?;
    let (protocol, suite) = line.trim_start_matches("New, ").split_once(", Cipher is ")?;
    (suite != "(NONE)").then(|| (protocol.to_owned(), suite.to_owned()))
}

#[test]
fn only_modern_suites_are_agreed_on() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let all = said(Command::new("openssl").args(["ciphers", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"])).ok();
    let known: Vec<&str> = all.trim().split(':').filter(|name| !name.starts_with("TLS_")).collect();
    assert!(known.len() > 50, "{known:?}");
    let taken: BTreeSet<String> = known
        .iter()
        .filter_map(|suite| agreed(address, &["-tls1_2", "-cipher", &format!("{suite}:@SECLEVEL=0")]))
        .map(|(_, suite)| suite)
        .collect();
    let wanted = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"];
    assert_eq!(taken, wanted.map(str::to_owned).into());
    let taken: BTreeSet<String> = [
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_CCM_8_SHA256",
    ]
    .iter()
    .filter_map(|suite| agreed(address, &["-tls1_3", "-ciphersuites", suite]))
    .map(|(_, suite)| suite)
    .collect();
    assert_eq!(taken.len(), 3, "{taken:?}");
    for old in ["-tls1", "-tls1_1"] {
        assert_eq!(agreed(address, &[old, "-cipher", "ALL:@SECLEVEL=0"]), None, "{old}");
    }
    // Left to itself, the newest.
    assert_eq!(agreed(address, &[]).unwrap().0, "TLSv1.3");
}

/// Who makes a client of TLS 1.3 speak 1.2 is found out: the last eight bytes of the server's random number say that it
/// could have done better (RFC 8446, 4.1.3).
#[test]
fn a_downgrade_is_seen_by_the_client() {
    let daemon = Daemon::bare();
    let address = local(&daemon);
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2c, 1, 0]);
    hello.extend([0, 22, 0, 10, 0, 4, 0, 2, 0, 0x17, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 5, 3]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], hello.as_slice()].concat()).unwrap();
    // Head of the record, head of the message, version, random number.
    let mut answer = [0; 5 + 4 + 2 + 32];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[5]), (0x16, 2), "a ServerHello");
    assert_eq!(&answer[35..], b"DOWNGRD\x01");
}
