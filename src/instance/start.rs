//! Start: from the definition to a running container. Every step that leaves something pushes its reverse.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::Interest;

use super::actor::Live;
use super::addresses;
use super::error::Error;
use super::intercept;
use super::lease::Leases;
use super::limits;
use super::quota;
use super::render::{self, Plan};
use super::stop;
use super::undo::Undo;
use super::{
    Context, Stages, adopt, apparmor, blocking, confine, devices as plugs, guests, lxcfs, nics, proxies, ranges,
    shifting, templates,
};
use crate::api::wire::Config;
use crate::config;
use crate::db::Instance;
use crate::device::Set;
use crate::helper;
use crate::names::InstanceKey;
use crate::profile;
use crate::security::Confinement;
use crate::storage::VolumeId;
use crate::sys::cgroup::Hierarchies;
use crate::sys::mount as sys_mount;
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
    let nvidia = confine::nvidia_lines(&expanded.config)?;
    confine::load_modules(None, &expanded.config).await?;
    let devices = Set::parse(&expanded.devices)?;
    devices.root()?;
    let nesting = config::bool_of(&expanded.config, "security.nesting");
    let confinement = Confinement {
        privileged: config::bool_of(&expanded.config, "security.privileged"),
        nesting,
        // Engines inside need every controller.
        mount_cgroups: nesting && Hierarchies::of_host().is_some_and(Hierarchies::cpu_apart),
    };
    let map = ranges::id_map(context, &key.container(), &expanded.config)?;
    let planned = nics::plan(context, &devices, &expanded.config).await?;
    let interfaces: Vec<_> =
        planned.iter().enumerate().flat_map(|(index, (_, entry))| nics::lxc_lines(entry, index)).collect();
    stages.mark("plan");

    let container = context.container(key);
    let pool = context.pools.get(&record.pool)?;
    quota::settle(context, &record, &expanded).await?;
    let root = match leases.root_with(map.as_ref(), nesting).await? {
        Some(root) => root,
        None => {
            let root = shifting::mount(context, key, &pool, &expanded.config, map.as_ref()).await?;
            let volume = VolumeId::of(key);
            undo.push(blocking(move || pool.unmount(&volume).map_err(Error::from)));
            root
        }
    };
    if !confinement.privileged && config::bool_of(&expanded.config, "security.syscalls.intercept.mknod") {
        // What is made is to be used; what may be opened its control group says, whoever made it.
        let path = root.path.clone();
        let failed = |error| Error::Io { doing: "allow device nodes in", path: root.path.clone(), error };
        blocking(move || Ok::<_, Error>(sys_mount::allow_devices(&path))).await?.map_err(failed)?;
    }
    stages.mark("mount");
    templates::apply(context, &record, &expanded, &root.path, map.as_ref()).await?;
    stages.mark("templates");

    {
        let (context, name) = (Arc::clone(context), container.name.clone());
        undo.push(async move { limits::forget(&context, &name).await });
    }
    let limits = limits::lines(context, &container.name, &expanded.config).await?;
    {
        let (context, name) = (Arc::clone(context), container.name.clone());
        undo.push(async move { plugs::forget(&context, &name).await });
    }
    let plugged = plugs::prepare(context, key, &expanded, map.clone(), &root.path).await?;
    let logs = context.dir.logs(&container.name);
    let log = logs.join("lxc.log");
    let hook = helper::stop_hook(&context.dir.hook_socket(), &context.dir.spool(), &container.name);
    let policy = context.dir.seccomp(&container.name);
    let notify = intercept::lines(&expanded.config, confinement, &context.dir.calls_socket(), &container.name)?;
    confine::write_policy(&policy, &expanded.config, !notify.is_empty())?;
    {
        let (context, name) = (Arc::clone(context), container.name.clone());
        undo.push(async move {
            apparmor::forget(&context, &name).await;
            Ok(())
        });
    }
    let label = apparmor::prepare(context, &container.name, confinement, &expanded.config).await?;
    let mut lines = confinement.lxc_lines(&policy, context.host.device_rules, label.as_ref());
    lines.extend(nvidia);
    lines.extend(notify);
    let guest_dir = context.dir.guest();
    let text = render::render(&Plan {
        host_name: key.name.as_str(),
        root: &root.path,
        root_options: root.lxc_options.as_deref(),
        idmap: &map.as_ref().map(|map| map.lxc_lines()).unwrap_or_default(),
        confinement: &lines,
        limits: &limits,
        nics: &interfaces,
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
    let mut volatile = ranges::volatile(context, &container.name, map.as_ref(), root.stored.as_ref());
    volatile.extend(nics::volatile(&planned, &devices));
    remember(context, &record, volatile).await?;
    {
        let (context, key) = (Arc::clone(context), key.clone());
        undo.push(async move { forget(&context, &key).await });
    }
    // Only now: of what is remembered as running, a crash's clean-up takes these back.
    {
        let (context, name) = (Arc::clone(context), container.name.clone());
        undo.push(async move { nics::forget(&context, &name).await });
    }
    nics::prepare(context, key, &devices, &planned).await?;
    stages.mark("prepare");

    let started = match context.launcher.start(&container, &log).await {
        Ok(started) => started,
        Err(cause) => {
            let closed = map.as_ref().and_then(|_| closed_above(&root.path));
            return Err(failed(context, key, &expanded.config, cause, closed).await);
        }
    };
    stages.mark("liblxc");
    if !plugged.is_empty() {
        plugs::started(context, &container.name).await;
    }
    limits::started(context, &container.name, &expanded.config, started.init_pid).await;
    if let Err(error) = nics::started(context, &container.name, started.init_pid).await {
        // It runs. Its end, orderly, gives its interfaces back all the same.
        tracing::error!(container = %container.name, %error, "holding its network namespace");
    }
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

/// Why liblxc did not start a container with this expanded configuration. What hangs of the start is ended: the next one
/// would wait for it. `closed`: see [`closed_above`].
async fn failed(
    context: &Context,
    key: &InstanceKey,
    config: &Config,
    cause: helper::Error,
    closed: Option<PathBuf>,
) -> Error {
    let log: &[String] = match &cause {
        helper::Error::Lxc { log, .. } => log,
        helper::Error::Timeout { .. } => {
            for process in adopt::monitors(context, key).await {
                if let Err(error) = process::pidfd_signal(&process, libc::SIGKILL) {
                    tracing::warn!(instance = %key, %error, "ending a start that hangs");
                } else if let Ok(process) = watch(process, Interest::READABLE) {
                    // SIGKILL cannot be refused.
                    let _ = process.readable().await;
                }
            }
            &[]
        }
        _ => return Error::Helper(cause),
    };
    if let Some(path) = closed.filter(|_| log.iter().any(|line| line.contains("Permission denied"))) {
        return Error::ClosedDirectory { cause, path };
    }
    match confine::suspects(config, log) {
        suspects if suspects.is_empty() => Error::Helper(cause),
        suspects => Error::Start { cause, suspects },
    }
}

/// The first directory on the way to a root that others than its owner may not pass, as root of an unprivileged container is
/// one: the source of a pool may lie there.
fn closed_above(root: &Path) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let above: Vec<&Path> = root.ancestors().skip(1).collect();
    let closed = above.into_iter().rev().find(|dir| dir.metadata().is_ok_and(|found| found.mode() & 0o001 == 0));
    closed.map(Path::to_owned)
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

/// Remembers addresses and names, the time, and that it runs — before it does, so that a crash of the daemon from here
/// on finds the container at the next start.
async fn remember(context: &Context, record: &Instance, volatile: Vec<(String, String)>) -> Result<(), Error> {
    let key = record.key.clone();
    context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            // Here, so that of two at once one sees the other.
            addresses::check_start(tx.model(), &record)?;
            record.config.extend(volatile);
            record.config.insert(stop::POWER.to_owned(), "RUNNING".to_owned());
            record.config.remove(stop::RESTART);
            record.config.remove(templates::PENDING);
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
            record.config.retain(|key, _| !nics::is_live_key(key));
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
