//! Composition: build, adopt, serve, shut down; and the administrative verbs.

mod activate;
mod admin;
mod dialogue;
mod doctor;
mod import;
mod init;
mod local;
mod pages;
mod pools;
mod sql;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use init::fuzz as fuzz_preseed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::api::app::App;
use crate::api::door::{self, Door};
use crate::api::entry::Handler;
use crate::api::listeners::Listeners;
use crate::api::{Router, server::Server};
use crate::auth::{ServerCertificate, server_config};
use crate::db::{Database, Phase};
use crate::events::{Bus, Log, LogLevel};
use crate::helper::{Launcher, hook};
use crate::instance::{AppArmor, Balancer, Calls, Context, Guests, Host, Manager, Ranges, Shifts, Sources};
use crate::network;
use crate::ops::Operations;
use crate::ops::socket::Sockets;
use crate::security::DeviceRules;
use crate::state_dir::{self, MAX_SOCKET_PATH, StateDir};
use crate::sys::cgroup::{Hierarchies, Version};
use crate::sys::{activation, memory, peercred, process};
use crate::{guest, image, storage, volume};

/// At the end, an instance that is in the middle of something is not waited for longer than this.
const REST: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs system containers and speaks LXD's API.
#[derive(Debug, Parser)]
#[command(name = "warrend", version, disable_help_subcommand = true)]
struct Arguments {
    /// State directory [default: $WARREN_DIR, $LXD_DIR, /var/lib/warren]
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,
    /// Group that may use the socket
    #[arg(long, global = true)]
    group: Option<String>,
    /// Log to this file as well
    #[arg(long, global = true)]
    logfile: Option<PathBuf>,
    /// Log everything
    #[arg(long, short = 'd', global = true)]
    debug: bool,
    /// Log what happens
    #[arg(long, short = 'v', global = true)]
    verbose: bool,
    /// An administrative verb; none runs the daemon
    #[command(subcommand)]
    verb: Option<admin::Verb>,
}

/// How often old recordings of commands are looked for.
const EXPIRY: std::time::Duration = std::time::Duration::from_secs(3600);

/// Clients get this long to take the last words of their websockets.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(3);

/// Where everything lies, by flag or environment.
fn state_dir(flag: Option<PathBuf>) -> StateDir {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = flag.or_else(|| variable("WARREN_DIR")).or_else(|| variable("LXD_DIR"));
    StateDir::new(real(root.unwrap_or_else(|| PathBuf::from(state_dir::USUAL))))
}

/// Without links on the way: the kernel tells of mounts by such paths. Of what is not there yet, its directory.
fn real(path: PathBuf) -> PathBuf {
    let real = std::fs::canonicalize(&path).or_else(|error| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if error.kind() == std::io::ErrorKind::NotFound && !path.is_symlink() => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            std::fs::canonicalize(parent).map(|parent| parent.join(name))
        }
        _ => Err(error),
    });
    // What is wrong with it, whoever makes it will tell.
    real.unwrap_or(path)
}

/// Entry of everything but helper and hook. `arguments` are those behind the program's name.
pub fn main(arguments: Vec<String>) -> ExitCode {
    // Scripts write `lxd $LEVEL` quoted: an empty argument is none.
    let arguments = arguments.into_iter().filter(|argument| !argument.is_empty());
    let arguments = match Arguments::try_parse_from(std::iter::once("warrend".to_owned()).chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no failures; clap knows which stream is theirs.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let dir = state_dir(arguments.state_dir.clone());
    if let Some(verb) = arguments.verb {
        return admin::run(verb, &dir, arguments.debug);
    }
    let inherited = activation::listen_fds();
    process::raise_open_files();
    memory::give_back();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(1024 * 1024)
        .thread_name("warrend")
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(&arguments, dir, inherited));
            // Blocking work that nobody waits for any more must not hold up the end.
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
            result
        }
        Err(error) => Err(format!("cannot start the runtime: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // The last line says why, whatever the log level.
            crate::cli::output::note(&format!("Error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

fn start_log(arguments: &Arguments, bus: &Bus) -> Result<Log, String> {
    let level = match (arguments.debug, arguments.verbose) {
        (true, _) => LogLevel::Debug,
        (false, true) => LogLevel::Info,
        (false, false) => LogLevel::Warning,
    };
    let open = |path: &PathBuf| {
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.map_err(|e| format!("cannot open the log file {}: {e}", path.display()))
    };
    let file = arguments.logfile.as_ref().map(open).transpose()?;
    Log::start(level, file, bus.clone()).map_err(|e| e.to_string())
}

/// Whether one of these environment variables says this.
fn says(names: &[&str], word: bool) -> bool {
    let said = |name| std::env::var(name).ok().and_then(|text| crate::config::parse_bool(&text)) == Some(word);
    names.iter().any(said)
}

fn host() -> Host {
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    let rules = match Hierarchies::of_host().and_then(|found| found.version_of("devices")) {
        Some(Version::V1) => DeviceRules::Cgroup1,
        // On cgroup 2 there is no devices controller to find: rules are programs.
        Some(Version::V2) | None => DeviceRules::Cgroup2,
    };
    Host {
        architectures: image::runs(&machine),
        device_rules: rules,
        unprivileged_only: says(&["WARREN_UNPRIVILEGED_ONLY", "LXD_UNPRIVILEGED_ONLY"], true),
    }
}

/// Builds everything that needs no other part running.
fn build(dir: &StateDir, bus: Bus, log: Log) -> Result<Arc<App>, String> {
    dir.create().map_err(|e| format!("cannot set up the state directory: {e}"))?;
    let (db, damaged) = Database::open(&dir.database()).map_err(|e| e.to_string())?;
    for error in damaged {
        tracing::error!(%error, "left out");
    }
    let db = Arc::new(db);
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let certificate = ServerCertificate::load_or_create(dir.root(), &host_name).map_err(|e| e.to_string())?;
    let images = image::Store::open(dir.images()).map_err(|e| e.to_string())?;
    let instances = Arc::new(Manager::new(Context {
        db: Arc::clone(&db),
        bus: bus.clone(),
        launcher: Launcher::new(),
        pools: Arc::new(storage::Registry::new(dir.root().to_owned())),
        networks: network::Manager::new(dir.root()),
        images: Arc::new(images),
        dir: dir.clone(),
        cpus: Balancer::default(),
        ranges: Ranges::default(),
        shifts: Shifts::default(),
        guests: Guests::default(),
        sources: Sources::default(),
        apparmor: AppArmor::find(says(&["WARREN_SECURITY_APPARMOR", "LXD_SECURITY_APPARMOR"], false)),
        host: host(),
    }));
    let ops = Operations::new(bus.clone());
    let remotes = Arc::new(crate::remote::Remotes::new(Arc::clone(instances.context()), ops.clone()));
    Ok(Arc::new(App {
        db,
        ops,
        bus,
        sockets: Sockets::default(),
        instances,
        remotes,
        rendered: crate::api::Rendered::new(dir.clone()),
        limiter: crate::auth::password::RateLimiter::default(),
        authority: crate::auth::Authority::new(dir.root()),
        certificate,
        listeners: OnceLock::new(),
        doors: OnceLock::new(),
        is_ready: watch::Sender::new(false),
        ended: Notify::new(),
        config_lock: tokio::sync::Mutex::new(()),
        streams: crate::api::streams::Streams::default(),
        metrics: crate::api::metrics::Metrics::default(),
        log,
    }))
}

/// Opens pools, finishes or undoes what a crash left of images. What fails degrades, it never stops the daemon.
async fn recover(app: &Arc<App>) {
    let model = app.db.model();
    let context = Arc::clone(app.instances.context());
    let (pools, records) = (Arc::clone(&context.pools), Arc::clone(&model.pools));
    let opened = tokio::task::spawn_blocking(move || {
        // One whose making or deletion a crash interrupted has no volumes: it is cleared as it is.
        let expected = records.values().filter(|record| record.phase == Phase::Ready);
        expected.for_each(|record| pools.open(record));
    })
    .await;
    if let Err(error) = opened {
        tracing::error!(%error, "opening the storage pools");
    }
    volume::settle_server(app.instances.context()).await;
    volume::settle(app.instances.context()).await;
    for image in model.images.values().filter(|image| image.phase != Phase::Ready) {
        if let Err(error) = crate::api::remove_image(app, image).await {
            tracing::error!(image = %image.fingerprint, %error, "clearing an interrupted upload or deletion");
        }
    }
}

/// Brings the networks up; the slowest part of a start, for it runs other programs.
async fn networks_up(app: Arc<App>) {
    let model = app.db.model();
    for record in model.networks.values() {
        app.instances.context().network_adopted(record).await;
    }
}

/// Pools are cleared last: their volumes are, by the instances, before.
async fn clear_pools(app: &Arc<App>) {
    let model = app.db.model();
    for record in model.pools.values().filter(|record| record.phase != Phase::Ready).cloned() {
        let pools = Arc::clone(&app.instances.context().pools);
        let half = Arc::clone(&record);
        match tokio::task::spawn_blocking(move || pools.undo(&half)).await {
            Ok(Ok(())) => {}
            // Its row stays, so that the next start tries again.
            Ok(Err(error)) => {
                tracing::error!(pool = %record.name, %error, "clearing a half-made pool");
                continue;
            }
            Err(error) => {
                tracing::error!(pool = %record.name, %error, "clearing a half-made pool");
                continue;
            }
        }
        let name = record.name.clone();
        if let Err(error) = app.db.write(move |tx| tx.delete_pool(&name)).await {
            tracing::error!(pool = %record.name, %error, "forgetting a half-made pool");
        }
    }
}

fn unix_listeners(
    arguments: &Arguments,
    dir: &StateDir,
    inherited: Vec<std::os::fd::OwnedFd>,
) -> Result<Vec<std::os::unix::net::UnixListener>, String> {
    if !inherited.is_empty() {
        return Ok(inherited.into_iter().map(Into::into).collect());
    }
    let path = dir.socket();
    let group = match &arguments.group {
        None => None,
        Some(group) => Some(peercred::group_id(group).map_err(|e| format!("--group: {e}"))?),
    };
    let listener =
        activation::bind_unix(&path, group, 0o660).map_err(|e| format!("cannot listen on {}: {e}", path.display()))?;
    Ok(vec![listener])
}

/// Anybody inside may connect: who it is counts.
fn guest_listener(dir: &StateDir) -> std::io::Result<tokio::net::UnixListener> {
    let listener = activation::bind_unix(&dir.guest_socket(), None, 0o666)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

async fn run(arguments: &Arguments, dir: StateDir, inherited: Vec<std::os::fd::OwnedFd>) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("warrend must run as root".to_owned());
    }
    crate::helper::remember_program();
    let bus = Bus::default();
    let log = start_log(arguments, &bus)?;
    crate::sys::program::path();
    if !dir.socket_fits() {
        let path = dir.socket();
        return Err(format!("the path {} is longer than the {MAX_SOCKET_PATH} bytes of a socket's", path.display()));
    }
    std::fs::create_dir_all(dir.root()).map_err(|e| format!("cannot create {}: {e}", dir.root().display()))?;
    // Bound first: a second daemon in this directory must touch nothing.
    let is_own = inherited.is_empty();
    let listeners = unix_listeners(arguments, &dir, inherited)?;
    let app = build(&dir, bus, log)?;
    let tls = server_config(&app.certificate).map_err(|e| e.to_string())?;
    let router = Router::new(Arc::clone(&app)).map_err(|e| e.to_string())?;
    let router = Arc::new(router);
    let server = Server::new(Arc::clone(&router) as Arc<dyn Handler>, tls);
    let hooks = hook::Listener::bind(&dir.hook_socket()).map_err(|e| format!("cannot listen for hooks: {e}"))?;
    let told = Arc::clone(&app);
    tokio::spawn(hooks.serve(move |record| told.instances.hook(&record)));
    let calls = Calls::bind(&dir.calls_socket()).map_err(|e| format!("cannot listen for system calls: {e}"))?;
    tokio::spawn(calls.serve(Arc::clone(app.instances.context())));
    let networks = tokio::spawn(networks_up(Arc::clone(&app)));
    recover(&app).await;
    crate::api::trust_tokens::resume(&app).await;
    // Signals are taken before anyone is told that we are ready.
    let mut terminate = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()]
        .map(|kind| signal(kind).map_err(|e| e.to_string()));
    let mut power = signal(SignalKind::from_raw(libc::SIGPWR)).map_err(|e| e.to_string())?;
    let ran = app.instances.adopt_all().await;
    clear_pools(&app).await;
    // Its own was moved there after it was bound.
    let place = is_own.then(|| dir.socket());
    let doors: Vec<Door> = listeners.iter().map(|listener| Door::of(listener, place.clone())).collect();
    if let Err(error) = door::follow(&doors, &app.db.model().config) {
        tracing::error!(%error, "the groups of core.unix_roles cannot connect");
    }
    for (listener, door) in listeners.into_iter().zip(&doors) {
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| e.to_string())?;
        server.serve_unix(listener, door.clone());
    }
    // Set once, here.
    let _ = app.doors.set(doors);
    // One that could not be made is no reason not to serve the API.
    match guest_listener(&dir) {
        Ok(listener) => drop(guest::Server::serve(Arc::clone(&app), listener)),
        Err(error) => tracing::error!(%error, "containers cannot ask the daemon by /dev/lxd/sock"),
    }
    // From here on questions are answered; changes wait until all is ready.
    if let Err(error) = networks.await {
        tracing::error!(%error, "bringing the networks up");
    }
    app.instances.context().keep_promises().await;
    let listeners = Listeners::new(server, router);
    listeners.go_to(&app.db.model().config).await;
    // Set once, here.
    let _ = app.listeners.set(listeners);
    app.is_ready.send_replace(true);
    activation::notify("READY=1");
    tracing::info!("ready");
    let expiring = Arc::clone(&app);
    tokio::spawn(async move {
        let mut hours = tokio::time::interval(EXPIRY);
        loop {
            hours.tick().await;
            expiring.instances.expire_logs(std::time::SystemTime::now()).await;
        }
    });
    let following = Arc::clone(&app);
    tokio::spawn(async move { following.instances.follow_lxcfs().await });
    let following = Arc::clone(&app);
    tokio::spawn(async move { following.instances.follow_sources().await });
    let following = Arc::clone(&app);
    tokio::spawn(async move { following.instances.follow_hardware().await });
    let following = Arc::clone(app.instances.context());
    tokio::spawn(async move { following.follow_networks().await });
    tokio::spawn(crate::api::streams::follow(Arc::clone(&app)));
    tokio::spawn(crate::api::standing::follow(Arc::clone(&app)));
    tokio::spawn(pools::follow(Arc::clone(&app)));
    let starting = Arc::clone(&app);
    tokio::spawn(async move { starting.instances.autostart(&ran).await });
    tokio::spawn(Arc::clone(&app.remotes).follow());
    let following = Arc::clone(&app);
    tokio::spawn(async move { volume::follow_schedules(&following.instances).await });
    let ended = {
        let [first, second, third] = &mut terminate;
        let (Ok(first), Ok(second), Ok(third)) = (first, second, third) else {
            return Err("cannot take signals".to_owned());
        };
        tokio::select! {
            _ = first.recv() => "SIGTERM",
            _ = second.recv() => "SIGINT",
            _ = third.recv() => "SIGQUIT",
            _ = power.recv() => {
                app.instances.bring_down().await;
                "SIGPWR"
            }
            () = app.ended.notified() => {
                // The request that asked for it is answered before the socket closes.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                "shutdown"
            }
        }
    };
    tracing::info!(by = ended, "ending");
    if tokio::time::timeout(REST, app.instances.rest()).await.is_err() {
        tracing::warn!("some instances are still at work");
    }
    if matches!(ended, "SIGPWR" | "shutdown") {
        app.instances.context().take_networks_down().await;
    }
    let pools = Arc::clone(&app.instances.context().pools);
    // An overlay holds its layers, so the mounts of images may go even while containers run on.
    let _ = tokio::task::spawn_blocking(move || pools.rest()).await;
    if let Some(hierarchies) = Hierarchies::of_host() {
        hierarchies.remove_parent(&app.instances.context().dir.cgroup());
    }
    activation::notify("STOPPING=1");
    // First: who listens to events still gets those that are on their way.
    app.sockets.close(FAREWELL).await;
    app.bus.close();
    app.instances.context().guests.close();
    let closing = Arc::clone(&app);
    let _ = tokio::task::spawn_blocking(move || closing.db.close()).await;
    // One that was handed over goes on being listened to by whoever starts this daemon again.
    if is_own {
        remove_socket(&dir.socket());
    }
    remove_socket(&dir.guest_socket());
    remove_socket(&dir.hook_socket());
    remove_socket(&dir.calls_socket());
    Ok(())
}

/// A socket that stays is replaced by the next start.
fn remove_socket(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(at.join("there")).unwrap();
        for (to, name) in [("there", "link"), ("gone", "dangling")] {
            std::os::unix::fs::symlink(at.join(to), at.join(name)).unwrap();
        }
        assert_eq!(real(at.join("link")), at.join("there"));
        assert_eq!(real(at.join("link/new")), at.join("there/new"));
        assert_eq!(real(at.join("there/../new")), at.join("new"));
        // Whoever makes these says what is wrong.
        assert_eq!(real(at.join("dangling")), at.join("dangling"));
        assert_eq!(real(at.join("gone/new")), at.join("gone/new"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(real("not-there".into()), here.join("not-there"));
        assert_eq!(real("src".into()), here.join("src"));
    }
}
