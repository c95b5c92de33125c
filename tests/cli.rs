//! The client `warren` beside the stock client, over the network, and before servers that mean it ill.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::namespaces::isolated;
use support::{Daemon, Said, run, said};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// The client with a configuration of its own.
fn client(conf: &Path, socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(WARREN);
    for name in ["WARREN_DIR", "LXD_SOCKET", "LXD_DIR", "LXD_CONF", "WARREN_PROJECT", "LXD_PROJECT"] {
        command.env_remove(name);
    }
    command.env("WARREN_CONF", conf).env("WARREN_SOCKET", socket).env("HOME", conf).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// A daemon and a client's configuration beside it.
struct User {
    conf: PathBuf,
    socket: PathBuf,
}

impl User {
    fn of(daemon: &Daemon) -> Self {
        Self { conf: daemon.root.join("warren-conf"), socket: daemon.socket() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        client(&self.conf, &self.socket, arguments)
    }

    fn warren(&self, arguments: &[&str]) -> Said {
        let said = said(&mut self.command(arguments));
        assert!(!said.err.contains("panicked"), "{arguments:?}: {}", said.err);
        said
    }

    fn fed(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Commands that change nothing, or the same each time: what both clients print of them, and their exit codes, are equal.
const SAME: &[&str] = &[
    "config show",
    "config show c1",
    "config show c1 --expanded",
    "config show c1/snap0",
    "config set c2 user.a=b user.c=d",
    "config set c2 user.a b",
    "config get c2 user.a",
    "config get c2 user.nosuch",
    "config get c2 image.os -e",
    "config unset c2 user.nosuch",
    "config set c2 limits.cpu=xx",
    "config set core.nonsense=1",
    "config device list c1",
    "config device list c2",
    "config device show c2",
    "config device get c2 none type",
    "config device get c2 nosuch type",
    "config device set c2 nosuch a=b",
    "config device remove c1 root",
    "config metadata show c1",
    "config template list c1",
    "config template list c1 -f json",
    "config template show c1 nosuch",
    "config trust list",
    "config trust list -f csv",
    "config trust show abc",
    "profile list",
    "profile list -f csv",
    "profile list -f compact",
    "profile list -f yaml",
    "profile list -f json",
    "profile show default",
    "profile show nosuch",
    "profile set web user.a=b",
    "profile get web user.a",
    "profile get web user.b",
    "profile device list web",
    "profile device show web",
    "profile assign c2 default,web",
    "profile assign c2 ''",
    "profile assign c2 default",
    "profile delete default",
    "project list",
    "project list -f csv",
    "project show default",
    "project info default",
    "project info default -f json",
    "project get default features.images",
    "project switch nosuch",
    "project delete default",
    "list",
    "list -f csv",
    "list -f compact",
    "list --fast",
    "list -f csv -c nbdDlNufFP",
    "list -c n,user.a:A,image.os,devices:root.path:RP,image.os:o:3",
    "list --all-projects -f csv",
    "list status=running -c n",
    "list type=container status=stopped",
    "list c.* -c n",
    "list c1 c2",
    "list i.os=busybox -c n",
    "list user.a=b -c n",
    "list nosuch:",
    "list -c n,",
    "list -c Q",
    "list -f nosuch",
    "info c2",
    "info nosuch",
    "image list",
    "image list -c lLfFpdatsu",
    "image list os=busybox -c f",
    "image info bb",
    "image show bb",
    "image alias list",
    "image alias create b2 nosuch",
    "image get-property bb os",
    "image get-property bb nosuch",
    "image set-property bb user.x y",
    "image info nosuch",
    "image delete nosuch",
    "image copy bb local:",
    "network list",
    "network list -f csv",
    "network show nosuch",
    "network acl list",
    "network acl show a1",
    "network acl show nosuch",
    "network acl get a1 user.nosuch",
    "storage list",
    "storage list -f csv",
    "storage show p",
    "storage get p user.nosuch",
    "storage show nosuch",
    "storage volume list p",
    "storage volume list p -c nu",
    "storage volume show p v1",
    "storage volume show p container/c1",
    "storage volume show p nosuch",
    "storage volume get p v1 user.nosuch",
    "storage volume list nosuch",
    "operation show nosuch",
    "warning list",
    "warning list --all",
    "warning show nosuch",
    "alias list",
    "remote get-default",
    "snapshot nosuch",
    "restore c1 nosuch",
    "copy c1 c1",
    "move nosuch x",
    "rename nosuch x",
    "delete nosuch",
    "delete c1",
    "start c1",
    "stop c2",
    "exec c2 true",
    "exec c1 -- echo a",
    "exec c1 -- sh -c 'exit 7'",
    "console c1 --show-log",
    "file pull c1/etc/passwd -",
    "file pull c1/nosuch -",
    "file delete c1/nosuch",
    "cluster list",
    "query /1.0/nosuch",
    "nosuch",
    "list --nosuch",
];

#[test]
fn both_clients_say_the_same() {
    let daemon = Daemon::ready("overlay");
    let user = User::of(&daemon);
    for setup in [
        &["launch", "bb", "c1"][..],
        &["init", "bb", "c2"],
        &["snapshot", "c1"],
        &["profile", "create", "web"],
        &["profile", "device", "add", "web", "none", "none"],
        &["config", "device", "add", "c2", "none", "none"],
        &["network", "acl", "create", "a1"],
        &["network", "acl", "rule", "add", "a1", "ingress", "action=allow", "description=a: b"],
        &["storage", "volume", "create", "p", "v1", "user.x=10:30"],
    ] {
        user.warren(setup).ok();
    }
    let mut differences = Vec::new();
    for line in SAME {
        let both = [format!("lxc {line}"), format!("{WARREN} {line}")].map(|line| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &line]).stdin(Stdio::null());
            shell.env("LXD_DIR", daemon.state()).env("LXD_CONF", daemon.root.join("conf"));
            shell.env("WARREN_CONF", &user.conf).env("HOME", daemon.root.join("home"));
            said(&mut shell)
        });
        let [stock, ours] = both;
        if (stock.code, &stock.out) != (ours.code, &ours.out) {
            differences.push(format!(
                "{line}\n-- lxc: {}\n{}{}\n-- warren: {}\n{}{}",
                stock.code, stock.out, stock.err, ours.code, ours.out, ours.err
            ));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n\n"));
}

#[test]
fn things_are_made_changed_and_unmade() {
    let daemon = Daemon::ready("overlay");
    let user = User::of(&daemon);
    let ok = |arguments: &[&str]| user.warren(arguments).ok();
    assert_eq!(ok(&["profile", "create", "a"]), "Profile a created\n");
    assert_eq!(ok(&["profile", "copy", "a", "b"]), "");
    assert_eq!(ok(&["profile", "rename", "b", "c"]), "Profile b renamed to c\n");
    assert_eq!(ok(&["profile", "delete", "c"]), "Profile c deleted\n");
    // Edited from a pipe, and by an editor, which is asked again after a mistake.
    user.fed(&["profile", "edit", "a"], "config:\n  user.n: 5\ndescription: new\ndevices: {}\n").ok();
    assert_eq!(ok(&["profile", "get", "a", "user.n"]), "5\n");
    user.fed(&["profile", "edit", "a"], "config: [").refused("no YAML");
    user.fed(&["profile", "edit", "a"], "config:\n  nonsense: x\n").refused("nonsense");
    assert_eq!(ok(&["init", "bb", "c1", "-c", "user.a=b", "-p", "default", "-p", "a"]), "Creating c1\n");
    let given = "config:\n  user.b: c\ndescription: from a file\n";
    user.fed(&["init", "bb", "c2", "-c", "user.a=b"], given).ok();
    assert_eq!(ok(&["list", "c2", "-f", "csv", "-c", "n,user.a,user.b,d"]).trim(), "c2,b,c,from a file");
    ok(&["config", "device", "override", "c1", "root", "user.x=y"]);
    assert_eq!(ok(&["config", "device", "get", "c1", "root", "user.x"]), "y\n");
    ok(&["config", "device", "set", "c1", "root", "user.x", "z"]);
    ok(&["config", "device", "unset", "c1", "root", "user.x"]);
    assert_eq!(ok(&["config", "device", "remove", "c1", "root"]), "Device root removed from c1\n");
    ok(&["snapshot", "c1", "s1"]);
    user.warren(&["snapshot", "c1", "s1"]).refused("already exists");
    ok(&["snapshot", "c1", "s1", "--reuse", "--no-expiry"]);
    ok(&["rename", "c1/s1", "c1/s2"]);
    ok(&["move", "c1/s2", "c1/s3"]);
    ok(&["restore", "c1", "s3"]);
    ok(&["copy", "c1", "c3", "-c", "user.a=x"]);
    assert_eq!(ok(&["config", "get", "c3", "user.a"]), "x\n");
    assert_eq!(ok(&["list", "c3", "-f", "csv", "-c", "nS"]), "c3,1\n");
    ok(&["copy", "c1/s3", "c4", "--no-profiles", "-d", "root,type=disk,path=/,pool=p"]);
    ok(&["move", "c4", "c5"]);
    ok(&["project", "create", "other", "-c", "features.images=false", "-c", "features.profiles=false"]);
    ok(&["copy", "c5", "c6", "--target-project", "other"]);
    assert_eq!(ok(&["list", "-f", "csv", "-c", "n", "--project", "other"]), "c6\n");
    ok(&["project", "switch", "other"]);
    assert_eq!(ok(&["list", "-f", "csv", "-c", "n"]), "c6\n");
    ok(&["delete", "c6"]);
    ok(&["project", "switch", "default"]);
    assert_eq!(ok(&["project", "delete", "other"]), "Project other deleted\n");
    ok(&["delete", "c1/s3", "c2", "c3", "c5"]);
    user.warren(&["delete", "c1", "--target", "x"]).refused("no clusters");
    ok(&["storage", "volume", "create", "p", "v1"]);
    ok(&["storage", "volume", "snapshot", "p", "v1", "s1"]);
    assert!(ok(&["storage", "volume", "info", "p", "v1"]).contains("| s1 "));
    ok(&["storage", "volume", "copy", "p/v1", "p/v2"]);
    ok(&["storage", "volume", "move", "p/v2", "p/v3"]);
    ok(&["storage", "volume", "attach", "p", "v3", "c1", "/mnt"]);
    user.warren(&["storage", "volume", "delete", "p", "v3"]).refused("");
    ok(&["storage", "volume", "detach", "p", "v3", "c1"]);
    ok(&["storage", "volume", "restore", "p", "v1", "s1"]);
    ok(&["storage", "volume", "rename", "p", "v1/s1", "v1/s2"]);
    ok(&["storage", "volume", "delete", "p", "v1/s2"]);
    ok(&["storage", "volume", "delete", "p", "v1"]);
    ok(&["storage", "volume", "delete", "p", "v3"]);
    ok(&["alias", "add", "names", "list -f csv -c n @ARGS@"]);
    assert_eq!(ok(&["names", "c1"]), "c1\n");
    ok(&["alias", "rename", "names", "n"]);
    ok(&["alias", "remove", "n"]);
    user.warren(&["alias", "remove", "n"]).refused("Alias n doesn't exist");
    let export = daemon.root.join("out");
    ok(&["image", "alias", "create", "b2", ok(&["image", "list", "-f", "csv", "-c", "F"]).trim()]);
    ok(&["image", "export", "b2", export.to_str().unwrap()]);
    let (meta, root) = daemon.busybox();
    for (ending, original) in [("tar.xz", meta), ("root.squashfs", root)] {
        let written = std::fs::read(export.with_extension(ending)).unwrap();
        assert!(written == std::fs::read(original).unwrap(), "{ending}");
    }
    ok(&["image", "alias", "delete", "b2"]);
    ok(&["delete", "c1"]);
}

#[test]
fn trees_of_files_go_there_and_back() {
    let daemon = Daemon::ready("overlay");
    let user = User::of(&daemon);
    let ok = |arguments: &[&str]| user.warren(arguments).ok();
    ok(&["launch", "bb", "c1"]);
    let tree = daemon.root.join("a tree");
    for number in 0..40 {
        let dir = tree.join(format!("d{}/e ü", number % 7));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{number}")), vec![b'x'; number * 10_000]).unwrap();
    }
    std::fs::set_permissions(tree.join("d0/e ü/f0"), std::fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("nowhere at all", tree.join("link")).unwrap();
    let text = tree.to_str().unwrap();
    user.warren(&["file", "push", text, "c1/root/"]).refused("--recursive");
    ok(&["file", "push", "-r", "-p", text, "c1/srv/deep/"]);
    let back = daemon.root.join("back");
    ok(&["file", "pull", "-r", "-p", "c1/srv/deep/a tree", &format!("{}/", back.display())]);
    run(Command::new("diff").arg("-r").arg("--no-dereference").arg(&tree).arg(back.join("a tree")));
    let mode = std::fs::metadata(back.join("a tree/d0/e ü/f0")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o751);
    user.fed(&["file", "push", "-", "c1/root/in", "--mode", "0640", "--uid", "7", "--gid", "8"], "hello").ok();
    assert_eq!(
        ok(&["exec", "c1", "--", "sh", "-c", "busybox stat -c '%u %g %a' /root/in; cat /root/in"]),
        "7 8 640\nhello"
    );
    // An editor that adds a line; owner and mode stay.
    let mut edit = user.command(&["file", "edit", "c1/root/in"]);
    edit.env("EDITOR", "sh -c 'printf more >> \"$1\"' sh").env_remove("VISUAL");
    // With a terminal on stdin only.
    edit = {
        let mut script = Command::new("script");
        let words = edit.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        script.args(["-qec", &format!("{WARREN} {words}"), "/dev/null"]).stdin(Stdio::null());
        for (name, value) in edit.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script
    };
    said(&mut edit).ok();
    assert_eq!(
        ok(&["exec", "c1", "--", "sh", "-c", "busybox stat -c '%u %a' /root/in; cat /root/in"]),
        "7 640\nhellomore"
    );
    ok(&["file", "delete", "c1/root/in"]);
    user.warren(&["file", "push", "/etc/hosts", "c1/root/x", "--mode", "9"]).refused("octal");
    user.warren(&["file", "push", "/etc/hosts", "c1/no/such"]).refused("Cannot write c1/no/such");
    user.warren(&["file", "pull", "c1/srv", "."]).refused("--recursive");
    user.warren(&["file", "mount", "c1"]).refused("no servers of SFTP by SSH");
    ok(&["delete", "-f", "c1"]);
}

#[test]
fn completion_and_pages() {
    let daemon = Daemon::ready("overlay");
    let user = User::of(&daemon);
    user.warren(&["init", "bb", "c1"]).ok();
    for shell in ["bash", "zsh", "fish"] {
        assert!(user.warren(&["completion", shell]).ok().contains("completion-names"), "{shell}");
    }
    let script = daemon.root.join("completion");
    std::fs::write(&script, user.warren(&["completion", "bash"]).ok()).unwrap();
    run(Command::new("bash").arg("-n").arg(&script));
    assert_eq!(user.warren(&["completion-names", "--", "exec"]).ok(), "c1\n");
    // Then servers of images.
    assert!(user.warren(&["completion-names", "--", "launch"]).ok().starts_with("bb\nimages:\n"));
    assert!(user.warren(&["completion-names", "--", "remote", "switch"]).ok().contains("ubuntu-daily\n"));
    // A server that is away offers nothing and says nothing.
    let away = client(&user.conf, Path::new("/nosuch/socket"), &["completion-names", "--", "exec"]).output().unwrap();
    assert!(away.status.success() && away.stdout.is_empty() && away.stderr.is_empty());
    let pages = daemon.root.join("man");
    user.warren(&["manpage", pages.to_str().unwrap()]).ok();
    for page in ["warren.1", "warren-launch.1", "warren-storage-volume-create.1"] {
        assert!(std::fs::read_to_string(pages.join(page)).unwrap().contains(".TH"), "{page}");
    }
    let top = user.warren(&["top", "-n", "1"]).ok();
    assert!(top.contains("| NAME | CPU |"), "{top}");
    user.warren(&["top", "-d", "0"]).refused("--delay");
}

/// A daemon that listens at this address with the password "pw".
fn listening(address: &str) -> Daemon {
    let daemon = Daemon::ready("overlay");
    User::of(&daemon)
        .warren(&["config", "set", &format!("core.https_address={address}"), "core.trust_password=pw"])
        .ok();
    daemon
}

#[test]
fn a_remote_is_asked_about_trusted_and_used() {
    isolated("a_remote_is_asked_about_trusted_and_used", || {
        let mut far = listening("127.0.0.1:9443");
        let here = Daemon::ready("overlay");
        let user = User::of(&here);
        let ok = |arguments: &[&str]| user.warren(arguments).ok();
        let add = ["remote", "add", "far", "127.0.0.1:9443"];
        let with = |more: &[&'static str]| [&add[..], more].concat();
        // Nobody answers, no, and another fingerprint.
        user.warren(&add).refused("Nobody answered");
        user.fed(&add, "n\n").refused("Nothing was added");
        user.fed(&add, &format!("{}\n", "ab".repeat(32))).refused("another fingerprint");
        user.warren(&with(&["--accept-certificate", "--password", "wrong"])).refused("far does not trust this client");
        user.warren(&with(&["--token", "nonsense"])).refused("no token");
        assert!(!ok(&["remote", "list", "-f", "csv"]).contains("far"));
        assert!(!user.conf.join("servercerts/far.crt").exists());
        // The fingerprint that is shown, typed; then the password.
        let shown = user.fed(&add, "n\n").out;
        let fingerprint = shown.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
        assert_eq!(fingerprint.len(), 64, "{shown}");
        user.fed(&add, &format!("{fingerprint}\npw\n")).ok();
        user.warren(&add).refused("Remote far exists as <https://127.0.0.1:9443>");
        let key = std::fs::metadata(user.conf.join("client.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        assert!(ok(&["remote", "list", "-f", "csv"]).contains("far,https://127.0.0.1:9443,lxd,tls,NO,NO,NO\n"));

        ok(&["launch", "far:bb", "far:c1"]);
        assert_eq!(ok(&["list", "far:", "-f", "csv", "-c", "ns"]), "c1,RUNNING\n");
        assert_eq!(far.status("c1"), "Running");
        assert_eq!(ok(&["exec", "far:c1", "--", "echo", "over tls"]), "over tls\n");
        user.fed(&["file", "push", "-", "far:c1/root/x"], "text").ok();
        assert_eq!(ok(&["file", "pull", "far:c1/root/x", "-"]), "text");
        assert_eq!(user.warren(&["exec", "far:c1", "--", "sh", "-c", "exit 9"]).code, 9);
        assert!(ok(&["config", "show", "far:"]).contains("core.https_address: 127.0.0.1:9443\n"));
        assert!(ok(&["config", "trust", "list", "far:", "-f", "csv"]).starts_with("client,"));
        assert_eq!(ok(&["query", "far:/1.0/instances"]).matches("c1").count(), 1);
        user.warren(&["query", "far:1.0"]).refused("begins with /");
        // What the stock client knows is taken over, and what it shows is the same.
        ok(&["remote", "switch", "far"]);
        assert_eq!(ok(&["list", "-f", "csv", "-c", "n"]), "c1\n");
        assert_eq!(ok(&["list", "--force-local", "-f", "csv", "-c", "n"]), "");
        user.warren(&["remote", "remove", "far"]).refused("default remote");
        ok(&["remote", "rename", "far", "away"]);
        assert_eq!(ok(&["remote", "get-default"]), "away\n");
        assert_eq!(ok(&["list", "away:", "-f", "csv", "-c", "n"]), "c1\n");
        ok(&["remote", "switch", "local"]);
        let other = User { conf: here.root.join("other-conf"), socket: here.socket() };
        let theirs = user.conf.to_str().unwrap();
        assert_eq!(other.warren(&["remote", "import-lxc", theirs]).ok(), "Remotes taken over: away\n");
        assert_eq!(other.warren(&["list", "away:", "-f", "csv", "-c", "n"]).ok(), "c1\n");
        let mut stock = Command::new("lxc");
        stock.env("LXD_CONF", &user.conf).env("LXD_DIR", here.state()).env("HOME", here.root.join("home"));
        assert_eq!(said(stock.args(["list", "away:", "-f", "csv", "-c", "n"])).ok(), "c1\n");

        // Another certificate than before.
        far.terminate();
        for file in ["server.crt", "server.key"] {
            std::fs::remove_file(far.state().join(file)).unwrap();
        }
        far.start();
        let changed = user.warren(&["list", "away:"]);
        assert!(changed.err.starts_with("Error: The server behind away: shows another certificate"), "{}", changed.err);
        assert!(
            changed.err.contains("Known: ") && changed.err.contains("warren remote remove away"),
            "{}",
            changed.err
        );
        ok(&["remote", "remove", "away"]);
        user.fed(&add, "y\n").ok();
        ok(&["delete", "-f", "far:c1"]);
        ok(&["remote", "set-url", "far", "https://127.0.0.1:1"]);
        user.warren(&["list", "far:"]).refused("Cannot reach https://127.0.0.1:1");
        user.warren(&["remote", "set-url", "local", "https://x"]).refused("static");
        user.warren(&["remote", "rename", "far", "a:b"]).refused("no plain word");
        user.warren(&["remote", "add", "x", "http://127.0.0.1"]).refused("only https");
        user.warren(&["remote", "add", "x", "http://127.0.0.1", "--protocol", "simplestreams"]).refused("https");
        ok(&["remote", "add", "x", "https://example.org/images", "--protocol", "simplestreams"]);
        user.warren(&["start", "x:c1"]).refused("x: is an image server");
    });
}

/// A server that answers each connection with these bytes, whatever it is asked, and `endless` after them.
fn hostile(socket: &Path, answer: String, endless: bool) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head);
        let _ = stream.write_all(answer.as_bytes());
        let more = vec![b' '; 1 << 20];
        while endless && stream.write_all(&more).is_ok() {}
    })
}

#[test]
fn hostile_servers_do_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let conf = root.path().join("conf");
    let json = |metadata: &str| {
        let body = format!(r#"{{"type":"sync","status":"Success","status_code":200,"metadata":{metadata}}}"#);
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let escape = r"[31m]0;owned";
    let error = format!(r#"{{"type":"error","error":"no{escape}","error_code":400}}"#);
    let error =
        format!("HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{error}", error.len());
    let instances = format!(
        r#"[{{"name":"a{escape}","status":"Run{escape}","type":5,"state":{{"network":[1]}},"profiles":{{}},"snapshots":7}}]"#
    );
    let cases: Vec<(&[&str], String, i32)> = vec![
        (&["list"], json(&instances), 0),
        (&["list", "-f", "compact"], json(&instances), 0),
        (&["list", "-f", "yaml"], json(&instances), 0),
        (&["list"], json("{}"), 1),
        (&["list"], json("[[[]]]"), 1),
        (&["list"], error, 1),
        (&["info", "c1"], json(&instances), 0),
        (
            &["profile", "show", "x"],
            json(&format!(r#"{{"config":{{"k{escape}":"v{escape}"}},"devices":3,"name":[]}}"#)),
            0,
        ),
        (&["profile", "get", "x", "k"], json(&format!(r#"{{"config":{{"k":"v{escape}"}}}}"#)), 0),
        (&["profile", "list"], json("[null, 5, {\"used_by\": {}}]"), 0),
        (&["image", "list"], json("[{\"aliases\": 5, \"size\": \"big\", \"properties\": []}]"), 0),
        (&["network", "list"], json("\"x\""), 0),
        (&["operation", "list"], json("[[]]"), 0),
        (&["config", "trust", "list"], json("[{\"certificate\": \"nonsense\"}]"), 0),
        (&["storage", "info", "p"], json("{\"used_by\": [\"///\", 5]}"), 1),
        (
            &["list"],
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{{{{{".to_owned(),
            1,
        ),
        (&["list"], "nonsense\r\n\r\n".to_owned(), 1),
        (&["list"], String::new(), 1),
        (&["list"], "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(), 1),
    ];
    for (number, (arguments, answer, code)) in cases.into_iter().enumerate() {
        let socket = root.path().join(format!("socket{number}"));
        let server = hostile(&socket, answer.clone(), false);
        let said = said(&mut client(&conf, &socket, arguments));
        server.join().unwrap();
        assert_eq!(said.code, code, "{arguments:?} {answer}: {}{}", said.out, said.err);
        let printed = said.out + &said.err;
        assert!(!printed.contains('\x1b') && !printed.contains("panicked"), "{arguments:?}: {printed:?}");
    }
    // A body without end is left before memory is.
    let socket = root.path().join("endless");
    let server = hostile(&socket, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n".to_owned(), true);
    let said = said(&mut client(&conf, &socket, &["list"]));
    server.join().unwrap();
    assert!(said.code == 1 && said.err.contains("longer than"), "{}", said.err);
}

#[test]
fn a_server_that_is_silent_or_speaks_no_tls() {
    let root = tempfile::tempdir().unwrap();
    let conf = root.path().join("conf");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9\r\n");
    });
    let said = said(&mut client(&conf, Path::new("/nosuch"), &["remote", "add", "x", &address]));
    server.join().unwrap();
    assert!(said.code == 1 && said.err.contains(&format!("Cannot reach https://{address}")), "{}", said.err);
    assert_eq!(said.err.lines().count(), 3, "{}", said.err);
}

#[test]
fn a_configuration_that_is_broken_is_said_to_be() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("config.yml"), "remotes: [").unwrap();
    let said = said(&mut client(root.path(), Path::new("/nosuch"), &["list"]));
    assert!(said.code == 1 && said.err.contains("config.yml is not understood"), "{}", said.err);
}
