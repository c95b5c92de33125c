//! A daemon of its own for each test: state directory, client configuration, network. Dropped, it is shut down, and what
//! it left on the host fails the test.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod api;
pub mod authority;
pub mod broken_server;
pub mod caller;
pub mod http;
pub mod image_server;
pub mod instances;
pub mod namespaces;
pub mod peers;
pub mod place;
pub mod scanner;
pub mod sftp;
pub mod tarball;
pub mod terminal;
pub mod tls;
pub mod tree;
pub mod websocket;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use warren::state_dir::StateDir;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running `warrend`.
pub struct Daemon {
    pub root: PathBuf,
    child: Option<Child>,
    env: Vec<(String, String)>,
}

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// Fails the test unless the command failed with a message that contains `text`.
    #[track_caller]
    pub fn refused(self, text: &str) {
        assert_ne!(self.code, 0, "it should have been refused: {}", self.out);
        assert!(self.err.contains(text), "{:?} is not in: {}", text, self.err);
    }
}

pub fn warrend() -> &'static str {
    env!("CARGO_BIN_EXE_warrend")
}

/// Polls until `done`, at most 20 s. For what gives no event to wait for.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Daemon {
    /// A fresh daemon, initialised by nobody.
    pub fn bare() -> Self {
        Self::with_env(&[])
    }

    /// A fresh daemon with these environment variables.
    pub fn with_env(env: &[(&str, &str)]) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = std::env::var(namespaces::ID).unwrap_or_else(|_| std::process::id().to_string());
        let root = PathBuf::from(format!("/var/tmp/warren-test-{id}-{number}"));
        std::fs::create_dir_all(root.join("home")).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut daemon = Self { root, child: None, env };
        daemon.start();
        daemon
    }

    /// A fresh daemon with pool `p` of this driver, a root disk in the default profile, and the image `bb`.
    pub fn ready(driver: &str) -> Self {
        let daemon = Self::bare();
        daemon.set_up(driver);
        daemon
    }

    pub fn set_up(&self, driver: &str) {
        self.lxc(&["storage", "create", "p", driver]).ok();
        self.lxc(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=p"]).ok();
        let (meta, root) = self.busybox();
        self.lxc(&["image", "import", meta.to_str().unwrap(), root.to_str().unwrap(), "--alias", "bb"]).ok();
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.state().join("unix.socket")
    }

    /// What a container of an overlay pool changed.
    pub fn upper(&self, pool: &str, container: &str) -> PathBuf {
        let pool = self.state().join("storage-pools").join(pool);
        let record = std::fs::read(pool.join("containers").join(container).join("volume.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        pool.join("layers").join(record["upper"].as_str().unwrap()).join("fs")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A file of the control group of a running container, by the names of version 1 and 2.
    pub fn cgroup_file(&self, name: &str, controller: &str, v1: &str, v2: &str) -> PathBuf {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", self.instance_pid(name))).unwrap();
        let of = |wanted: &str| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let here = controllers.split(',').any(|controller| controller == wanted);
                here.then(|| path.trim_start_matches('/').to_owned())
            })
        };
        match of(controller) {
            Some(group) => Path::new("/sys/fs/cgroup").join(controller).join(group).join(v1),
            None => Path::new("/sys/fs/cgroup").join(of("").unwrap()).join(v2),
        }
    }

    /// Sends the daemon a signal by its name.
    pub fn signal(&self, name: &str) {
        run(Command::new("kill").args(["-s", name, &self.pid().to_string()]));
    }

    /// Sets an environment variable for the starts from here on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the daemon (again) and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        self.verb(&["waitready", "--timeout", "20"]).ok();
    }

    /// Starts the daemon (again), without waiting.
    pub fn spawn(&mut self) {
        self.spawn_by(&[]);
    }

    /// The same by a program that executes what it is given, such as `env --ignore-signal`.
    pub fn spawn_by(&mut self, starter: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.root.join("log")).unwrap();
        let words = [starter, &[warrend()]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.arg("--state-dir").arg(self.state()).args(["--debug", "--group", "root"]);
        command.envs(self.env.clone()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM: the daemon ends, the containers go on.
    pub fn terminate(&mut self) {
        self.end_by(rustix::process::Signal::TERM);
    }

    /// Ends the daemon by this signal.
    pub fn end_by(&mut self, signal: rustix::process::Signal) {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Waits for a daemon that was asked to end otherwise.
    pub fn ended(&mut self) {
        assert!(self.child.take().unwrap().wait().unwrap().success());
    }

    /// `warrend <verb>`.
    pub fn verb(&self, arguments: &[&str]) -> Said {
        let output = Command::new(warrend()).arg("--state-dir").arg(self.state()).args(arguments).output().unwrap();
        Said::of(&output)
    }

    pub fn verb_with_input(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = Command::new(warrend());
        command.arg("--state-dir").arg(self.state()).args(arguments);
        with_input(command, input.as_bytes())
    }

    pub fn client(&self) -> Command {
        let mut command = Command::new("lxc");
        command
            .env("LXD_DIR", self.state())
            .env("LXD_CONF", self.root.join("conf"))
            .env("HOME", self.root.join("home"));
        command
    }

    /// The stock client.
    pub fn lxc(&self, arguments: &[&str]) -> Said {
        Said::of(&self.client().args(arguments).stdin(Stdio::null()).output().unwrap())
    }

    pub fn lxc_with_input(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut command = self.client();
        command.args(arguments);
        with_input(command, input)
    }

    /// A shell's command in an instance whose calls are intercepted: there liblxc 5.0.2 loses one in some hundred programs
    /// at its start (docs/interception.md). Only one that has been connected runs the command, so it runs once.
    pub fn inside(&self, instance: &str, command: &str) -> Said {
        let command = format!("read go; [ \"$go\" = go ] || exit 1; {command}");
        loop {
            let said = self.lxc_with_input(&["exec", instance, "--", "sh", "-c", &command], b"go\n");
            if !said.err.contains("it was ended, run it again") {
                return said;
            }
        }
    }

    /// The stock client on a terminal: types each second text when it has seen the first one, then, again and again until
    /// it ends, the keys of `leave`. Both streams are `out`.
    pub fn lxc_on_terminal(&self, arguments: &[&str], talk: &[(&str, &str)], leave: &str) -> Said {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let ptx = rustix::pty::openpt(flags | rustix::pty::OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::unlockpt(&ptx).unwrap();
        let pts = || Stdio::from(rustix::pty::ioctl_tiocgptpeer(&ptx, flags).unwrap());
        let mut command = self.client();
        let mut child = command.args(arguments).stdin(pts()).stdout(pts()).stderr(pts()).spawn().unwrap();
        // Its copies of the other end would keep the terminal open.
        drop(command);
        let (mut out, mut talk) = (Vec::new(), talk.iter());
        let (mut next, mut keys) = (talk.next(), leave.bytes().cycle());
        let mut buffer = [0; 4096];
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", String::from_utf8_lossy(&out));
            // One key at a time, with a pause, as fingers do: the stock client knows its escape only so.
            let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let mut fds = [rustix::event::PollFd::new(&ptx, rustix::event::PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&pause)).unwrap() == 0 {
                if let (None, Some(key)) = (next, keys.next()) {
                    rustix::io::write(&ptx, &[key]).unwrap();
                }
                continue;
            }
            // EIO when the client has ended.
            let Ok(count @ 1..) = rustix::io::read(&ptx, &mut buffer) else { break };
            out.extend_from_slice(&buffer[..count]);
            while let Some((wanted, typed)) = next {
                if !String::from_utf8_lossy(&out).contains(wanted) {
                    break;
                }
                rustix::io::write(&ptx, typed.as_bytes()).unwrap();
                next = talk.next();
            }
        }
        let code = child.wait().unwrap().code().unwrap_or(-1);
        Said { code, out: String::from_utf8_lossy(&out).into_owned(), err: String::new() }
    }

    /// One request over the socket: HTTP status, and the whole JSON answer.
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.api_raw(method, path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    pub fn api_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
        let (status, json) = self.request(method, path, headers, body);
        (status, serde_json::from_str(&json[json.find('{').unwrap()..=json.rfind('}').unwrap()]).unwrap())
    }

    /// The same for an answer that is not JSON: what follows the head, with the marks of a chunked body.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        let (head, body) = self.exchange(method, path, headers, body);
        (head[9..12].parse().unwrap(), body)
    }

    /// The head of an answer, and what follows it.
    pub fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (String, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // A refusal may come before the whole body is sent.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        (head.to_owned(), body.to_owned())
    }

    /// A request whose operation is waited for: its final status code and error.
    pub fn operation(&self, method: &str, path: &str, body: &str) -> (u64, String, Value) {
        let (status, answer) = self.api(method, path, body);
        assert_eq!(status, 202, "{answer}");
        let (_, done) = self.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap()), "");
        let operation = &done["metadata"];
        (
            operation["status_code"].as_u64().unwrap(),
            operation["err"].as_str().unwrap().to_owned(),
            operation["metadata"].clone(),
        )
    }

    /// The state of an instance, in a word.
    pub fn status(&self, name: &str) -> String {
        self.status_in("default", name)
    }

    /// The same of one in a project.
    pub fn status_in(&self, project: &str, name: &str) -> String {
        let (_, answer) = self.api("GET", &format!("/1.0/instances/{name}?project={project}"), "");
        answer["metadata"]["status"].as_str().unwrap_or("none").to_owned()
    }

    pub fn instance_pid(&self, name: &str) -> i64 {
        let (_, answer) = self.api("GET", &format!("/1.0/instances/{name}/state"), "");
        answer["metadata"]["pid"].as_i64().unwrap()
    }

    /// Metadata tarball and squashfs of a busybox whose init boots in milliseconds.
    pub fn busybox(&self) -> (PathBuf, PathBuf) {
        let (meta, root) = (self.root.join("meta.tar.xz"), self.root.join("root.squashfs"));
        if root.exists() {
            return (meta, root);
        }
        let tree = self.busybox_tree();
        run(Command::new("mksquashfs").arg(tree.join("rootfs")).arg(&root).args(["-quiet", "-no-progress"]));
        run(Command::new("tar").arg("-C").arg(&tree).arg("-cJf").arg(&meta).arg("metadata.yaml"));
        (meta, root)
    }

    /// The same as one tarball.
    pub fn busybox_unified(&self) -> PathBuf {
        let file = self.root.join("unified.tar.gz");
        run(Command::new("tar")
            .arg("-C")
            .arg(self.busybox_tree())
            .arg("-czf")
            .arg(&file)
            .args(["metadata.yaml", "rootfs"]));
        file
    }

    fn busybox_tree(&self) -> PathBuf {
        let tree = self.root.join("tree");
        let rootfs = tree.join("rootfs");
        if rootfs.exists() {
            return tree;
        }
        for dir in ["bin", "sbin", "dev", "proc", "sys", "etc", "root", "tmp", "run", "var/lib"] {
            std::fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in
            "sh ls cat true false ps ip udhcpc sleep hostname id env pwd tty stty echo head poweroff reboot".split(' ')
        {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::os::unix::fs::symlink("../bin/busybox", rootfs.join("sbin/init")).unwrap();
        let script =
            "#!/bin/sh\nip link set lo up\n[ -e /sys/class/net/eth0 ] && udhcpc -i eth0 -b -q -s /etc/dhcp &\n";
        let dhcp = "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add $ip/$mask dev $interface\nexit 0\n";
        for (name, text) in [
            ("inittab", "::sysinit:/etc/rc\n::respawn:/bin/sleep 100000\n"),
            ("passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("rc", script),
            ("dhcp", dhcp),
        ] {
            std::fs::write(rootfs.join("etc").join(name), text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(rootfs.join("etc").join(name), mode).unwrap();
        }
        let metadata = "architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: busybox\n";
        std::fs::write(tree.join("metadata.yaml"), metadata).unwrap();
        tree
    }

    /// All projects but `default`, with the images, profiles and ACLs of them; there are no instances any more.
    fn delete_projects(&self) {
        let (_, list) = self.api("GET", "/1.0/projects", "");
        for project in list["metadata"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if project == "/1.0/projects/default" {
                continue;
            }
            let (_, shown) = self.api("GET", project, "");
            for url in shown["metadata"]["used_by"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let (status, answer) = self.api("DELETE", url, "");
                if status == 202 {
                    self.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap_or_default()), "");
                }
            }
            self.api("DELETE", project, "");
        }
    }

    /// What of this daemon is on the host: mounts, control groups, processes. (Interfaces and firewall rules bear no mark
    /// of their daemon: packaging/test compares those of the host before and after all tests.)
    pub fn leftovers(&self) -> Vec<String> {
        // With the slash: another test's directory may begin with the same name.
        let root = &format!("{}/", self.root.display());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found: Vec<String> = mounts.lines().filter(|line| line.contains(root)).map(str::to_owned).collect();
        let group = StateDir::new(self.state()).cgroup();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            // The group itself may stay while the daemon runs; what is below it belongs to containers.
            for below in std::fs::read_dir(hierarchy.path().join(&group)).into_iter().flatten().flatten() {
                if below.file_name().to_string_lossy().starts_with("lxc.") && below.file_name() != "lxc.pivot" {
                    found.push(below.path().display().to_string());
                }
            }
            if self.child.is_none() && hierarchy.path().join(&group).exists() {
                found.push(hierarchy.path().join(&group).display().to_string());
            }
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            if entry.file_name().to_string_lossy().parse::<u32>().is_err() {
                continue;
            }
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(root) {
                found.push(command);
            }
        }
        found
    }
}

/// Runs a command to its end.
pub fn said(command: &mut Command) -> Said {
    Said::of(&command.output().unwrap())
}

fn with_input(mut command: Command, input: &[u8]) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Said::of(&child.wait_with_output().unwrap())
}

#[track_caller]
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
            self.start();
        }
        // Everything is deleted by the API, so that clean-up itself is tested.
        let (_, list) = self.api("GET", "/1.0/instances?all-projects=true", "");
        for url in list["metadata"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let state = format!("{path}/state?{query}");
            let (status, answer) = self.api("PUT", &state, r#"{"action":"stop","force":true}"#);
            if status == 202 {
                self.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap_or_default()), "");
            }
            let (status, answer) = self.api("DELETE", url, "");
            if status == 202 {
                self.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap_or_default()), "");
            }
        }
        self.api("PUT", "/1.0/profiles/default", "{}");
        // Volumes first: a project with any stays.
        let (_, pools) = self.api("GET", "/1.0/storage-pools", "");
        for pool in pools["metadata"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let (_, list) = self.api("GET", &format!("{pool}/volumes/custom?all-projects=true"), "");
            let urls = list["metadata"].as_array().into_iter().flatten().filter_map(Value::as_str);
            // Snapshots go with their volume.
            for url in urls.filter(|url| !url.contains("/snapshots/")) {
                self.api("DELETE", url, "");
            }
        }
        self.delete_projects();
        for kind in ["images", "networks?recursion=1", "network-acls", "storage-pools"] {
            let (_, list) = self.api("GET", &format!("/1.0/{kind}"), "");
            for object in list["metadata"].as_array().into_iter().flatten() {
                let url = match object {
                    Value::String(url) => url.clone(),
                    network if network["managed"] == true => {
                        format!("/1.0/networks/{}", network["name"].as_str().unwrap_or_default())
                    }
                    _ => continue,
                };
                let (status, answer) = self.api("DELETE", &url, "");
                if status == 202 {
                    self.api("GET", &format!("{}/wait", answer["operation"].as_str().unwrap_or_default()), "");
                }
            }
        }
        let down = self.verb(&["shutdown", "--timeout", "60"]);
        if let Some(mut child) = self.child.take() {
            if down.code != 0 {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        let left = self.leftovers();
        let dirs: Vec<String> = [
            "containers",
            "images",
            "snapshots",
            "devices",
            "backups",
            "storage-pools",
            "networks",
            "run/spool",
            "run/lxc",
        ]
        .iter()
        .filter(|dir| std::fs::read_dir(self.state().join(dir)).is_ok_and(|mut entries| entries.next().is_some()))
        .map(|dir| (*dir).to_owned())
        .collect();
        let log = std::fs::read_to_string(self.root.join("log")).unwrap_or_default();
        let panicked = log.contains("panicked");
        if std::thread::panicking() {
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            eprintln!("the daemon's last words:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        } else {
            assert!(down.code == 0, "shutdown: {}", down.err);
            assert!(left.is_empty(), "left behind: {left:#?}");
            assert!(dirs.is_empty(), "not empty after everything was deleted: {dirs:?}");
            assert!(!panicked, "the daemon panicked: see its log");
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Whether a path exists below the state directory.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
