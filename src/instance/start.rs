//! Start: from the definition to a running container. Every step that leaves something pushes its reverse.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;

use super::actor::Live;
use super::error::Error;
use super::lease::Leases;
use super::limits;
use super::render::{self, Plan};
use super::stop;
use super::undo::Undo;
use super::{Context, Stages, blocking, confine, devices as plugs, guests, lxcfs, proxies, ranges};
use crate::config;
use crate::db::Instance;
use crate::device::{NicPlan, Set, plan_nics};
use crate::helper;
use crate::names::InstanceKey;
use crate::network;
use crate::profile;
use crate::security::Confinement;
use crate::sys::process;
use crate::sys::watch::watch;

/// Starts the instance and returns its handles. A root that is mounted for others is used as it is.
pub(super) async fn start(
    context: &Arc<Context>,
    key: &InstanceKey,
    leases: &mut Leases,
    stages: &mut Stages,
) -> Result<Live, Error> {
    let mut undo = Undo::default();
    match steps(context, key, leases, stages, &mut undo).await {
        Ok(live) => {
            undo.disarm();
            Ok(live)
        }
        Err(error) => Err(undo.run(error).await),
    }
}

async fn steps(
    context: &Arc<Context>,
    key: &InstanceKey,
    leases: &mut Leases,
    stages: &mut Stages,
    undo: &mut Undo,
) -> Result<Live, Error> {
    let model = context.db.model();
    let record = model.instances.get(key).cloned().ok_or(Error::NotFound)?;
    let expanded = profile::expand_instance(&model, &record);
    context.check_privilege(&expanded.config)?;
    config::check_together(&expanded.config)?;
    confine::load_modules(None, &expanded.config).await?;
    let devices = Set::parse(&expanded.devices)?;
    devices.root()?;
    let confinement = Confinement {
        privileged: config::bool_of(&expanded.config, "security.privileged"),
        nesting: config::bool_of(&expanded.config, "security.nesting"),
    };
    let map = ranges::id_map(context, &key.container(), &expanded.config)?;
    let nics = plan(&devices, &expanded.config)?;
    check_parents(&nics)?;
    stages.mark("plan");

    let container = context.container(key);
    let pool = context.pools.get(&record.pool)?;
    let root = match leases.root_with(map.as_ref()).await? {
        Some(root) => root,
        None => {
            let (mounting, volume, map) = (Arc::clone(&pool), container.name.clone(), map.clone());
            let root = blocking(move || mounting.mount(&volume, map.as_ref()).map_err(Error::from)).await?;
            let volume = container.name.clone();
            undo.push(blocking(move || pool.unmount(&volume).map_err(Error::from)));
            root
        }
    };
    stages.mark("mount");

    {
        let (context, name) = (Arc::clone(context), container.name.clone());
        undo.push(async move { limits::forget(&context, &name).await });
    }
    let limits = limits::lines(context, &container.name, &expanded.config).await?;
    {
        let (context, name) = (Arc::clone(context), container.name.clone());
        undo.push(async move { plugs::forget(&context, &name).await });
    }
    let plugged =
        plugs::prepare(context, &container.name, &devices, &expanded.devices, map.clone(), &root.path).await?;
    let logs = context.dir.logs(&container.name);
    let log = logs.join("lxc.log");
    let hook = helper::stop_hook(&context.dir.hook_socket(), &context.dir.spool(), &container.name);
    let policy = context.dir.seccomp(&container.name);
    confine::write_policy(&policy, &expanded.config)?;
    let lines = confinement.lxc_lines(&policy, context.host.device_rules, context.host.apparmor);
    let guest_dir = context.dir.guest();
    let text = render::render(&Plan {
        host_name: key.name.as_str(),
        root: &root.path,
        root_options: root.lxc_options.as_deref(),
        idmap: &map.as_ref().map(|map| map.lxc_lines()).unwrap_or_default(),
        confinement: &lines,
        limits: &limits,
        nics: &nics,
        plugs: &plugged,
        cgroup: &context.dir.cgroup(),
        config: &expanded.config,
        log: &log,
        console_log: &logs.join(super::logs::CONSOLE),
        stop_hook: &hook,
        lxcfs: lxcfs::look().await.as_ref(),
        nesting: confinement.nesting,
        guest: guests::wanted(&expanded.config).then_some(guest_dir.as_path()),
        architecture: &record.architecture,
    });
    write_config(&logs, &container.config, &text)?;
    let mut volatile = ranges::volatile(context, &container.name, map.as_ref());
    volatile.extend(addresses(&devices, &nics));
    remember(context, &record, volatile).await?;
    {
        let (context, key) = (Arc::clone(context), key.clone());
        undo.push(async move { forget(&context, &key).await });
    }
    // Only now: of what is remembered as running, a crash's clean-up takes these back.
    for nic in &nics {
        if let Some(name) = &nic.network {
            let host = network::Host {
                instance: container.name.clone(),
                hostname: key.name.to_string(),
                device: nic.device.clone(),
                mac: nic.hwaddr.parse().map_err(|_| Error::Random)?,
                ipv4: None,
                ipv6: None,
            };
            context.networks.add_host(name, host).await?;
            let (networks, name) = (context.networks.clone(), name.clone());
            let (instance, device) = (container.name.clone(), nic.device.clone());
            undo.push(async move { networks.remove_host(&name, &instance, &device).await.map_err(Error::from) });
        }
    }
    stages.mark("prepare");

    let started = context.launcher.start(&container, &log).await?;
    stages.mark("liblxc");
    if !plugged.is_empty() {
        plugs::started(context, &container.name).await;
    }
    limits::started(context, &container.name, &expanded.config, started.init_pid).await;
    let running = live(started.init_pid, started.init_pidfd)?;
    if devices.proxies.is_empty() {
        return Ok(running);
    }
    if let Err(error) = proxies::started(context, key, running.pid, &expanded).await {
        // What else the start has made is only taken away from a container that is down.
        stop::down(&running).await;
        proxies::forget(context, &container.name).await?;
        return Err(error);
    }
    stages.mark("proxies");
    Ok(running)
}

fn plan(devices: &Set, config: &crate::api::wire::Config) -> Result<Vec<NicPlan>, Error> {
    // Asked for before: the planning itself is pure.
    let count = devices.nics.len();
    let mut macs = Vec::with_capacity(count);
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        macs.push(network::random_mac()?.to_string());
        names.push(network::random_veth()?);
    }
    let (mut macs, mut names) = (macs.into_iter(), names.into_iter());
    Ok(plan_nics(&devices.nics, config, || macs.next().unwrap_or_default(), || names.next().unwrap_or_default())?)
}

/// liblxc's words about a missing bridge name neither device nor key; so it is looked for before.
fn check_parents(nics: &[NicPlan]) -> Result<(), Error> {
    for nic in nics {
        if let Some(parent) = &nic.link
            && !Path::new("/sys/class/net").join(parent).exists()
        {
            return Err(Error::NoParent { device: nic.device.to_string(), parent: parent.clone() });
        }
    }
    Ok(())
}

fn write_config(logs: &Path, path: &Path, text: &str) -> Result<(), Error> {
    let failed = |doing, path: &Path, error| Error::Io { doing, path: path.to_owned(), error };
    std::fs::create_dir_all(logs).map_err(|e| failed("create", logs, e))?;
    // Each start has its own logs: what liblxc says about this one, and what its console shows, stand alone in them.
    for log in ["lxc.log", super::logs::CONSOLE, super::logs::OLD_CONSOLE].map(|name| logs.join(name)) {
        match std::fs::remove_file(&log) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", &log, error)),
        }
    }
    std::fs::write(path, text).map_err(|e| failed("write", path, e))
}

/// What is remembered of the interfaces.
fn addresses(devices: &Set, nics: &[NicPlan]) -> Vec<(String, String)> {
    let known = |nic: &NicPlan| devices.nics.get(&nic.device).map(|configured| nic.volatile(configured));
    nics.iter().filter_map(known).flatten().collect()
}

/// Remembers addresses and names, the time, and that it runs — before it does, so that a crash of the daemon from here
/// on finds the container at the next start.
async fn remember(context: &Context, record: &Instance, volatile: Vec<(String, String)>) -> Result<(), Error> {
    let key = record.key.clone();
    context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            record.config.extend(volatile);
            record.config.insert(stop::POWER.to_owned(), "RUNNING".to_owned());
            record.config.remove(stop::RESTART);
            record.config.remove(guests::READY);
            record.last_used_at = crate::db::now();
            Ok(tx.put_instance(record)?)
        })
        .await
}

async fn forget(context: &Context, key: &InstanceKey) -> Result<(), Error> {
    let key = key.clone();
    context
        .db
        .write(move |tx| {
            let Some(record) = tx.model().instances.get(&key) else { return Ok(()) };
            let mut record = (**record).clone();
            record.config.insert(stop::POWER.to_owned(), "STOPPED".to_owned());
            record.config.remove(stop::RESTART);
            ranges::forget(&mut record.config);
            record.config.retain(|key, _| !(key.starts_with("volatile.") && key.ends_with(".host_name")));
            Ok(tx.put_instance(record)?)
        })
        .await
}

/// The handles of a container whose init is `pid`. Its parent is liblxc's monitor.
pub(super) fn live(pid: i32, init: OwnedFd) -> Result<Live, Error> {
    let failed = |doing, error| Error::Io { doing, path: format!("/proc/{pid}").into(), error };
    let monitor =
        process::parent_of(pid).and_then(process::pidfd_open).map_err(|error| failed("find the monitor of", error))?;
    let watch = |fd: OwnedFd| watch(fd, Interest::READABLE).map_err(|error| failed("watch", error));
    Ok(Live { pid, init: watch(init)?, monitor: watch(monitor)? })
}
