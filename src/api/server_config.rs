//! `/` and `/1.0`: the server, its environment and its configuration.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use super::call::{Call, Trust, blocking};
use super::door;
use super::error::Error;
use super::extensions::EXTENSIONS;
use super::response::{self, Response};
use super::server::{Purpose, split};
use super::wire::Config;
use crate::auth::password;
use crate::config;
use crate::lxc;
use crate::sys::features;
use crate::sys::netlink::Socket;
use crate::volume;

type Result<T> = std::result::Result<T, Error>;

/// The version of LXD's API that is kept, for clients that compare it.
const SERVER_VERSION: &str = "5.0.2";
const PASSWORD: &str = "core.trust_password";
const HTTPS: &str = "core.https_address";

/// The API extensions of liblxc that `environment.lxc_features` tells of.
const LXC_FEATURES: &[&CStr] = &[
    c"cgroup2",
    c"core_scheduling",
    c"devpts_fd",
    c"idmapped_mounts_v2",
    c"mount_injection_file",
    c"network_gateway_device_route",
    c"network_ipvlan",
    c"network_l2proxy",
    c"network_phys_macvlan_mtu",
    c"network_veth_router",
    c"pidfd",
    c"seccomp_allow_deny_syntax",
    c"seccomp_notify",
    c"seccomp_proxy_send_notify_fd",
];

/// `GET /`.
pub async fn versions(_: Call) -> Result<Response> {
    Ok(response::sync(["/1.0"]))
}

/// The configuration as it is shown: hidden values are `true`. Text, for clients that take nothing else.
/// How the keys of proxies begin.
const PROXIES: &str = "core.proxy_";

fn shown(config: &Config) -> Config {
    config
        .iter()
        .map(|(key, value)| {
            let hidden = config::server_row(key).is_some_and(|row| row.hidden);
            (key.clone(), if hidden { "true".to_owned() } else { value.clone() })
        })
        .collect()
}

/// For those who only look: without the users and passwords of proxies.
fn without_users(config: &Config) -> Config {
    let hidden = |key: &str, value: &str| match key.starts_with(PROXIES) {
        true => crate::names::without_user(value),
        false => value.to_owned(),
    };
    config.iter().map(|(key, value)| (key.clone(), hidden(key, value))).collect()
}

/// The addresses that a listener is reached at: all global ones of the host for a wildcard.
pub(super) fn addresses(https: &str) -> Vec<String> {
    if https.is_empty() {
        return Vec::new();
    }
    // What cannot be read is never recorded.
    let Ok((host, port)) = split(https, Purpose::Api.port()) else { return Vec::new() };
    let fixed = || vec![if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }];
    let v6_too = match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => address.is_ipv6(),
        Err(_) if host.is_empty() || host == "*" => true,
        Ok(_) | Err(_) => return fixed(),
    };
    let found = Socket::open().and_then(|mut socket| socket.addresses()).unwrap_or_default();
    found
        .into_iter()
        .filter_map(|entry| match entry.address {
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() => Some(format!("{v4}:{port}")),
            IpAddr::V6(v6) if v6_too && !v6.is_loopback() && (v6.segments()[0] & 0xffc0) != 0xfe80 => {
                Some(format!("[{v6}]:{port}"))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect()
}

/// What os-release(5) says; it does not change under a running daemon.
fn os_release() -> &'static BTreeMap<String, String> {
    static FOUND: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            .collect()
    })
}

fn environment(call: &Call, project: &str) -> Value {
    let context = call.app.instances.context();
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let os = os_release();
    let os = |key: &str| os.get(key).cloned().unwrap_or_default();
    let mut kernel_features = features::kernel().clone();
    kernel_features.insert("idmapped_mounts", context.pools.probes().id_mapped_missing().is_none());
    // Texts, not booleans: so the API has it.
    let kernel_features: BTreeMap<_, _> =
        kernel_features.into_iter().map(|(name, is)| (name, is.to_string())).collect();
    let lxc_features: BTreeMap<_, _> =
        lxc::extensions(LXC_FEATURES).into_iter().map(|(name, is)| (name.to_string_lossy(), is.to_string())).collect();
    let drivers = context.pools.drivers();
    let kernel = text(uname.release());
    let version = |driver: &crate::storage::DriverKind| match driver {
        crate::storage::DriverKind::Dir => "1".to_owned(),
        // What these can do is the kernel's.
        crate::storage::DriverKind::Overlay | crate::storage::DriverKind::Btrfs => kernel.clone(),
    };
    let supported: Vec<Value> = drivers
        .iter()
        .map(|driver| json!({"Name": driver.as_str(), "Version": version(driver), "Remote": false}))
        .collect();
    let model = call.app.db.model();
    let in_use: Vec<&str> = drivers
        .iter()
        .map(|driver| driver.as_str())
        .filter(|driver| model.pools.values().any(|pool| pool.driver == **driver))
        .collect();
    json!({
        "addresses": addresses(model.config.get(HTTPS).map_or("", String::as_str)),
        "architectures": context.host.architectures,
        "certificate": call.app.certificate.pem,
        "certificate_fingerprint": call.app.certificate.fingerprint,
        "driver": "lxc",
        "driver_version": lxc::version(),
        "firewall": "nftables",
        "kernel": text(uname.sysname()),
        "kernel_architecture": text(uname.machine()),
        "kernel_features": kernel_features,
        "kernel_version": kernel,
        "lxc_features": lxc_features,
        "os_name": os("NAME"),
        "os_version": os("VERSION_ID"),
        "project": project,
        "server": "lxd",
        "server_clustered": false,
        "server_event_mode": "full-mesh",
        "server_name": text(uname.nodename()),
        "server_pid": std::process::id(),
        "server_version": SERVER_VERSION,
        "storage": in_use.join(" | "),
        "storage_version": "",
        "storage_supported_drivers": supported,
    })
}

/// `GET /1.0`.
pub async fn get(call: Call) -> Result<Response> {
    let mut server = json!({
        "api_extensions": EXTENSIONS, "api_status": "stable", "api_version": "1.0", "public": false,
        "auth": "untrusted", "auth_methods": ["tls"],
    });
    if call.trust == Trust::Untrusted {
        return Ok(response::sync(server));
    }
    let config = match call.trust {
        Trust::Trusted => Arc::clone(&call.app.db.model().config),
        Trust::ReadOnly => Arc::new(without_users(&call.app.db.model().config)),
        Trust::Restricted(_) | Trust::Untrusted => Arc::default(),
    };
    let project = call.query("project").unwrap_or("default").to_owned();
    let etag = response::etag(shown(&config));
    if let Some(object) = server.as_object_mut() {
        object.insert("auth".to_owned(), "trusted".into());
        object.insert("config".to_owned(), json!(shown(&config)));
        object.insert("environment".to_owned(), environment(&call, &project));
    }
    Ok(response::tagged(server, &etag))
}

async fn body(call: &mut Call) -> Result<Config> {
    let body: Map<String, Value> = call.json().await?;
    let map = match body.get("config") {
        None | Some(Value::Null) => return Ok(Config::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Error::Field { name: "config", reason: "it must be a map of texts".to_owned() }),
    };
    let has_password = call.app.db.model().config.contains_key(PASSWORD);
    map.iter()
        // A hidden key is shown so: set, and to stay. Where none is set, it says nothing.
        .filter(|(key, value)| has_password || !(*key == PASSWORD && **value == Value::Bool(true)))
        .map(|(key, value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            Value::Bool(true) if key == PASSWORD => Ok((key.clone(), "true".to_owned())),
            Value::Null => Ok((key.clone(), String::new())),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(Error::Field { name: "config", reason: format!("the value of {key:?} must be a text") })
            }
        })
        .collect()
}

/// `PUT /1.0`: replaces the whole configuration.
pub async fn put(mut call: Call) -> Result<Response> {
    let new = body(&mut call).await?;
    change(&call, new, false).await
}

/// `PATCH /1.0`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let new = body(&mut call).await?;
    change(&call, new, true).await
}

async fn change(call: &Call, named: Config, merge: bool) -> Result<Response> {
    config::validate_server(&named)?;
    // One change at a time: the listener and the database move together.
    let _guard = call.app.config_lock.lock().await;
    let old = Arc::clone(&call.app.db.model().config);
    call.if_match().check(shown(&old))?;
    let mut new = if merge { (*old).clone() } else { Config::new() };
    for (key, value) in named {
        match (key.as_str(), value.as_str()) {
            (PASSWORD, "true") if old.contains_key(PASSWORD) => {
                new.insert(key, old.get(PASSWORD).cloned().unwrap_or_default());
            }
            (PASSWORD, "") | (_, "") => {
                new.remove(&key);
            }
            (PASSWORD, _) => {
                new.insert(key, blocking(move || password::hash(&value)).await?);
            }
            (_, _) => {
                new.insert(key, value);
            }
        }
    }
    let roles = |config: &Config| config.get(door::ROLES).cloned();
    let doors = call.app.doors.get().map(Vec::as_slice).unwrap_or_default();
    if roles(&old) != roles(&new) {
        door::check(&call.app.db.model(), &new)?;
        door::follow(doors, &new).map_err(|error| Error::Field {
            name: door::ROLES,
            reason: format!("the socket cannot be opened to more groups by an access list: {error}"),
        })?;
    }
    let closed = |old: &Config| {
        if let Err(error) = door::follow(doors, old) {
            tracing::error!(%error, "closing the socket to groups without a role");
        }
    };
    // The listeners first: an address that cannot be had is never recorded.
    if let Some(listeners) = call.app.listeners.get()
        && let Err(error) = listeners.follow(&old, &new).await
    {
        closed(&old);
        return Err(error.into());
    }
    let written = write(call, &old, new).await;
    if let Err(error) = written {
        closed(&old);
        if let Some(listeners) = call.app.listeners.get() {
            listeners.go_to(&old).await;
        }
        return Err(error);
    }
    let proxy = |key: &str| key.starts_with(PROXIES);
    let now = Arc::clone(&call.app.db.model().config);
    let proxies = |config: &Config| {
        let found = config.iter().filter(|(key, _)| proxy(key));
        found.map(|(key, value)| (key.clone(), value.clone())).collect::<Config>()
    };
    if proxies(&old) != proxies(&now) {
        call.app.remotes.forget_lists().await;
    }
    call.app.sockets.review();
    call.lifecycle("config-updated", "/1.0");
    Ok(response::empty())
}

/// Writes the configuration down, and moves what it says lies elsewhere.
async fn write(call: &Call, old: &Config, new: Config) -> Result<()> {
    let moves = Arc::new(volume::Moves::prepare(&call.app.instances, old, &new).await?);
    let asked = Arc::clone(&moves);
    let written = call.app.db.write(move |tx| {
        asked.check(tx.model())?;
        Ok::<_, Error>(tx.set_config(new)?)
    });
    if let Err(error) = written.await {
        moves.undo().await;
        return Err(error);
    }
    if let Err(error) = moves.finish().await {
        let old = old.clone();
        call.app.db.write(move |tx| Ok::<_, Error>(tx.set_config(old)?)).await?;
        moves.undo().await;
        return Err(error.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_value_is_never_shown() {
        let config = [(PASSWORD.to_owned(), "hash".to_owned()), ("user.a".to_owned(), "b".to_owned())].into();
        assert_eq!(shown(&config)[PASSWORD], "true");
        assert_eq!(shown(&config)["user.a"], "b");
    }

    #[test]
    fn who_only_looks_sees_no_password_of_a_proxy() {
        let config = [
            ("core.proxy_https".to_owned(), "http://user:word@h:1".to_owned()),
            ("user.a".to_owned(), "b@c".to_owned()),
        ];
        let shown = without_users(&config.into());
        assert_eq!((shown["core.proxy_https"].as_str(), shown["user.a"].as_str()), ("http://***@h:1", "b@c"));
    }

    #[test]
    fn a_fixed_address_is_shown_as_it_is() {
        assert_eq!(addresses("127.0.0.1:99"), ["127.0.0.1:99"]);
        assert_eq!(addresses("[::1]:99"), ["[::1]:99"]);
        for v6 in ["::1", "[::1]", "[::1]:"] {
            assert_eq!(addresses(v6), ["[::1]:8443"], "{v6}");
        }
        assert_eq!(addresses("127.0.0.1"), ["127.0.0.1:8443"]);
        assert_eq!(addresses("localhost:99"), ["localhost:99"]);
        assert!(addresses("0.0.0.0:99").iter().all(|address| !address.starts_with('[')));
        assert!(addresses("").is_empty());
    }
}
