//! Files of instances: the API, the stock client, SFTP; what is refused, what breaks off, and who races.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::http::Answer;
use support::sftp::{Long, Number, Sftp, Text};
use support::{Daemon, eventually};

fn get(daemon: &Daemon, instance: &str, path: &str) -> Answer {
    daemon.ask("GET", &format!("/1.0/instances/{instance}/files?path={path}"), &[], b"")
}

fn head(daemon: &Daemon, instance: &str, path: &str) -> Answer {
    daemon.ask("HEAD", &format!("/1.0/instances/{instance}/files?path={path}"), &[], b"")
}

fn post(daemon: &Daemon, instance: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    daemon.ask("POST", &format!("/1.0/instances/{instance}/files?path={path}"), headers, body)
}

fn delete(daemon: &Daemon, instance: &str, path: &str) -> Answer {
    daemon.ask("DELETE", &format!("/1.0/instances/{instance}/files?path={path}"), &[], b"")
}

/// Kind, owner, group and mode, as the headers tell them.
fn told(answer: &Answer) -> String {
    ["type", "uid", "gid", "mode"].map(|name| answer.header(&format!("X-LXD-{name}"))).join(" ")
}

fn sh(daemon: &Daemon, instance: &str, script: &str) -> String {
    daemon.lxc(&["exec", instance, "--", "sh", "-c", script]).ok()
}

/// The mounts of the roots of instances.
fn roots(daemon: &Daemon) -> usize {
    let place = daemon.state().join("storage-pools/p/containers");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(place.to_str().unwrap())).count()
}

/// Helper processes of the daemon, but for the one that waits for work.
fn helpers(daemon: &Daemon) -> usize {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap_or_default();
    let mine = |pid: &&str| {
        let uids = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // In an unprivileged container's user namespace, a helper is none of the host's root.
        uids.lines().any(|line| line.starts_with("Uid:") && !line.starts_with("Uid:\t0\t"))
    };
    // The main thread need not be the one that started it.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
    let others: Vec<String> =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
    let mut pids: Vec<&str> =
        others.iter().map(String::as_str).chain([children.as_str()]).flat_map(str::split_whitespace).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.iter().filter(|pid| mine(pid)).count()
}

#[test]
fn files_are_the_same_in_a_running_and_in_a_stopped_instance() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "up"]).ok();
    daemon.lxc(&["init", "bb", "down"]).ok();
    for c in ["up", "down"] {
        // A new file, a file that is there, an append.
        post(&daemon, c, "/root/f", &[], b"hello").is(200);
        assert_eq!(told(&get(&daemon, c, "/root/f").is(200)), "file 0 0 0644");
        let owner = [("x-lxd-UID", "5"), ("X-Incus-gid", "6"), ("X-LXD-mode", "0600")];
        post(&daemon, c, "/root/own", &owner, b"12345").is(200);
        assert_eq!(told(&head(&daemon, c, "/root/own").is(200)), "file 5 6 0600");
        // What is there keeps owner and mode, as with LXD 5.0.2, unless it is asked for by name.
        post(&daemon, c, "/root/own", &[("X-LXD-uid", "7"), ("X-LXD-mode", "0777")], b"abc").is(200);
        post(&daemon, c, "/root/own", &[("X-LXD-write", "append")], b"DEF").is(200);
        let answer = get(&daemon, c, "root/own").is(200);
        assert_eq!((told(&answer).as_str(), answer.text().as_str()), ("file 5 6 0600", "abcDEF"));
        assert_eq!(answer.header("content-disposition"), "inline;filename=own");
        assert!(answer.header("X-LXD-modified").ends_with(" +0000 UTC"));
        let named = [("X-LXD-uid", "7"), ("X-LXD-mode", "420"), ("X-LXD-modify-perm", "uid,mode")];
        post(&daemon, c, "/root/own", &named, b"abc").is(200);
        assert_eq!(told(&head(&daemon, c, "/root/own").is(200)), "file 7 6 0644");
        post(&daemon, c, "/root/empty", &[], b"").is(200);
        assert_eq!(get(&daemon, c, "/root/empty").is(200).header("content-length"), "0");

        // Directories.
        let directory = ("X-LXD-type", "directory");
        post(&daemon, c, "/root/d", &[directory], b"").is(200);
        assert_eq!(told(&head(&daemon, c, "/root/d").is(200)), "directory 0 0 0750");
        post(&daemon, c, "/root/d", &[directory, ("X-LXD-mode", "0700")], b"").is(200);
        assert_eq!(told(&head(&daemon, c, "/root/d/").is(200)), "directory 0 0 0750");
        post(&daemon, c, "/root/e", &[directory, ("X-LXD-mode", "01777"), ("X-LXD-gid", "9")], b"").is(200);
        let answer = get(&daemon, c, "/root/e").is(200);
        assert_eq!(
            (told(&answer).as_str(), answer.json()["metadata"].to_string().as_str()),
            ("directory 0 9 01777", "[]")
        );
        for name in ["a", "b%20c", "%22%0a", "%ff"] {
            post(&daemon, c, &format!("/root/d/{name}"), &[], name.as_bytes()).is(200);
        }
        assert_eq!(get(&daemon, c, "/root/d/%ff").is(200).text(), "%ff", "a name need be no text");
        let mut names: Vec<String> =
            serde_json::from_value(get(&daemon, c, "/root/d").json()["metadata"].clone()).unwrap();
        names.sort();
        assert_eq!(names, ["\"\n", "a", "b c", "\u{fffd}"]);

        // Links are themselves; what they point to is written through them.
        let link = ("X-LXD-type", "symlink");
        post(&daemon, c, "/root/l", &[link, ("X-LXD-uid", "3")], b"../root/made").is(200);
        let answer = get(&daemon, c, "/root/l").is(200);
        assert_eq!((told(&answer).as_str(), answer.text().as_str()), ("symlink 3 0 0777", "../root/made"));
        post(&daemon, c, "/root/l", &[link], b"../root/made").is(200);
        post(&daemon, c, "/root/l", &[link], b"elsewhere").refused(409, "/root/l");
        post(&daemon, c, "/root/l", &[], b"through").is(200);
        assert_eq!(get(&daemon, c, "/root/made").is(200).text(), "through");
        assert_eq!(get(&daemon, c, "/../../root/d/../made").is(200).text(), "through");

        // Gone again.
        delete(&daemon, c, "/root/d").refused(400, "not empty");
        delete(&daemon, c, "root/l").is(200);
        delete(&daemon, c, "/root/l").refused(404, "/root/l");
        get(&daemon, c, "/root/made").is(200);
        delete(&daemon, c, "/root/e").is(200);
    }
    assert_eq!(roots(&daemon), 2);
    eventually("the root that nobody uses is unmounted", || roots(&daemon) == 1);
    // What was pushed to the stopped one is there when it runs, with the ids that the container sees.
    daemon.lxc(&["start", "down"]).ok();
    assert_eq!(sh(&daemon, "down", "busybox stat -c %u:%g:%a /root/own"), "7:6:644\n");
    assert_eq!(sh(&daemon, "down", "cat /root/made"), "through");
    // Files of the kernel's tell no size, or a wrong one.
    assert!(get(&daemon, "up", "/proc/version").is(200).text().starts_with("Linux version"));
    assert_eq!(get(&daemon, "up", "/sys/kernel/mm/transparent_hugepage/enabled").text().lines().count(), 1);
    let url = "/1.0/containers/up/files?path=/root/made";
    assert_eq!(daemon.ask("GET", url, &[], b"").is(200).text(), "through");
}

#[test]
fn what_cannot_be_done_is_refused_by_name_and_leaves_nothing() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["launch", "bb", "c1"]).ok();
    sh(
        &daemon,
        "c1",
        "busybox mkfifo /root/pipe; busybox mkdir /tmp/small; echo old > /root/file; ln -s loop /root/loop",
    );
    sh(&daemon, "c1", "busybox mount -t tmpfs -o size=512k,mode=755 none /tmp/small; echo old > /tmp/small/old");
    let files = "/1.0/instances/c1/files";
    for (method, query, status, text) in [
        ("GET", "", 400, "path"),
        ("POST", "?path=", 400, "path"),
        ("DELETE", "", 400, "path"),
        ("GET", "?path=/etc/%00", 400, "NUL"),
        ("GET", "?path=/nothing", 404, "/nothing"),
        ("GET", "?path=/root/file/x", 404, "/root/file/x"),
        ("GET", "?path=/root/pipe", 400, "pipe"),
        ("GET", "?path=/dev/null", 400, "device"),
        ("GET", "?path=/root/loop/x", 400, "links"),
        ("GET", "?path=/proc/self/root/etc", 404, "/proc/self"),
        ("POST", "?path=/root/pipe", 400, "pipe"),
        ("POST", "?path=/dev/zero", 400, "device"),
        ("POST", "?path=/root/no/file", 404, "does not exist"),
        ("POST", "?path=/root/file/x", 400, "not a directory"),
        ("POST", "?path=/root", 400, "it is a directory"),
        ("POST", "?path=/", 400, "it is a directory"),
        ("POST", "?path=/root/new/", 400, "directory"),
        ("POST", "?path=/sys/kernel/x", 403, "/sys/kernel/x"),
        ("DELETE", "?path=/", 400, "root directory"),
        ("DELETE", "?path=/root/..", 400, "root directory"),
        // The kernel would take another namespace's mounts away together with the directory.
        ("DELETE", "?path=/proc", 400, "in use"),
        ("DELETE", "?path=/dev/null", 400, "in use"),
        ("DELETE", "?path=/root/file/", 400, "not a directory"),
        ("DELETE", "?path=/root/no/x", 404, "/root/no/x"),
        ("PUT", "?path=/root/file", 501, "not implemented"),
    ] {
        daemon.ask(method, &format!("{files}{query}"), &[], b"").refused(status, text);
    }
    head(&daemon, "c1", "/nothing").is(404);
    get(&daemon, "nosuch", "/etc").refused(404, "Instance not found");
    for (name, value, body) in [
        ("X-LXD-mode", "banana", "x"),
        ("X-LXD-mode", "010000", "x"),
        ("X-LXD-uid", "root", "x"),
        ("X-LXD-gid", "4294967295", "x"),
        ("X-LXD-type", "fifo", "x"),
        ("X-LXD-write", "sometimes", "x"),
    ] {
        post(&daemon, "c1", "/root/new", &[(name, value)], body.as_bytes()).refused(400, name);
    }
    for kind in ["file", "directory", "symlink"] {
        let headers = [("X-LXD-type", kind), ("X-LXD-gid", "4000000000")];
        post(&daemon, "c1", "/root/new", &headers, b"x").refused(400, "id map");
    }
    post(&daemon, "c1", "/root/new", &[("X-LXD-type", "symlink")], b"").refused(400, "body");
    post(&daemon, "c1", "/root/new", &[("X-LXD-type", "symlink")], &[b'a'; 5000]).refused(400, "4095");
    post(&daemon, "c1", "/root/new", &[("X-LXD-write", "append")], b"x").refused(404, "/root/new");
    let directory = [("X-LXD-type", "directory")];
    post(&daemon, "c1", "/root/file", &directory, b"").refused(409, "/root/file");
    post(&daemon, "c1", "/root/no/d", &directory, b"").refused(404, "does not exist");
    post(&daemon, "c1", &format!("/root/{}", "n".repeat(300)), &[], b"x").refused(400, "255");
    daemon.ask("GET", "/1.0/instances/c1/sftp", &[], b"").refused(400, "upgrade header");

    // No room: neither half a new file nor half an old one.
    // One body is noticed while it comes, one when it has come: it fits into the pipe to the helper.
    for size in [3 * 1024 * 1024, 800 * 1024] {
        let big = vec![b'x'; size];
        post(&daemon, "c1", "/tmp/small/new", &[], &big).refused(400, "no space");
        post(&daemon, "c1", "/tmp/small/old", &[], &big).refused(400, "no space");
        post(&daemon, "c1", "/tmp/small/old", &[("X-LXD-write", "append")], &big).refused(400, "no space");
    }
    assert_eq!(sh(&daemon, "c1", "ls -A /tmp/small; cat /tmp/small/old"), "old\nold\n");
    assert_eq!(sh(&daemon, "c1", "ls -A /root; cat /root/file"), "file\nloop\npipe\nold\n");
    // It fits once, but not twice: the old content stays.
    let half = vec![b'x'; 300 * 1024];
    post(&daemon, "c1", "/tmp/small/old", &[], &half).refused(400, "no space");
    post(&daemon, "c1", "/tmp/small/new", &[], &half).is(200);
    assert_eq!(sh(&daemon, "c1", "ls -A /tmp/small; cat /tmp/small/old"), "new\nold\nold\n");

    // A body that breaks off.
    sh(&daemon, "c1", "busybox chmod 640 /root/file; busybox ln /root/file /root/hard");
    for (path, write) in [("/root/new", "overwrite"), ("/root/file", "overwrite"), ("/root/file", "append")] {
        let fields = [("Content-Length", "1000000"), ("X-LXD-write", write), ("X-LXD-mode", "0777")];
        let mut stream = daemon.begin("POST", &format!("{files}?path={path}"), &fields);
        stream.write_all(&[b'x'; 100_000]).unwrap();
        drop(stream);
    }
    eventually("their helpers are gone", || helpers(&daemon) == 0);
    assert_eq!(sh(&daemon, "c1", "ls -A /root; cat /root/file"), "file\nhard\nloop\npipe\nold\n");
    // An overwrite keeps the file: its mode, and its other name.
    post(&daemon, "c1", "/root/hard", &[("X-LXD-mode", "0777")], b"new\n").is(200);
    assert_eq!(sh(&daemon, "c1", "busybox stat -c %a:%h /root/file; cat /root/file"), "640:2\nnew\n");
}

#[test]
fn the_stock_client_pushes_pulls_edits_and_deletes_trees_of_any_size() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["launch", "bb", "c1", "-c", "security.privileged=true"]).ok();
    daemon.lxc(&["init", "bb", "c2"]).ok();
    let tree = daemon.root.join("push/tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    let big: Vec<u8> = (0..9_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(tree.join("big"), &big).unwrap();
    std::fs::write(tree.join("sub/small"), "small").unwrap();
    std::os::unix::fs::symlink("sub/small", tree.join("link")).unwrap();
    for c in ["c1", "c2"] {
        let at = |path: &str| format!("{c}{path}");
        let out = daemon.root.join(format!("out-{c}"));
        daemon.lxc(&["file", "push", "-rp", tree.to_str().unwrap(), &at("/root/deep/")]).ok();
        daemon.lxc(&["file", "pull", "-rp", &at("/root/deep/tree"), out.to_str().unwrap()]).ok();
        assert_eq!(std::fs::read(out.join("tree/big")).unwrap(), big);
        assert_eq!(std::fs::read(out.join("tree/sub/small")).unwrap(), b"small");
        assert_eq!(std::fs::read_link(out.join("tree/link")).unwrap().to_str(), Some("sub/small"));
        // Twice: over what is there, shorter.
        let args = ["file", "push", "-", &at("/root/deep/tree/big"), "--mode", "0600"];
        daemon.lxc_with_input(&args, b"short").ok();
        assert_eq!(daemon.lxc(&["file", "pull", &at("/root/deep/tree/big"), "-"]).ok(), "short");
        daemon.lxc_with_input(&["file", "edit", &at("/etc/passwd")], b"root:x:0:0::/root:/bin/sh\nnew\n").ok();
        assert!(daemon.lxc(&["file", "pull", &at("/etc/passwd"), "-"]).ok().ends_with("\nnew\n"));
        daemon.lxc(&["file", "delete", &at("/root/deep/tree/sub")]).refused("not empty");
        daemon.lxc(&["file", "delete", &at("/root/deep/tree/big")]).ok();
        daemon.lxc(&["file", "pull", &at("/root/deep/tree/big"), "-"]).refused("/root/deep/tree/big");
    }
    // Events tell the path, and who asked.
    let mut monitor = Command::new("lxc")
        .args(["monitor", "--type=lifecycle", "--format=json"])
        .env("LXD_DIR", daemon.state())
        .env("LXD_CONF", daemon.root.join("conf"))
        .env("HOME", daemon.root.join("home"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(monitor.stdout.take().unwrap());
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let wanted = ["pushed", "retrieved", "deleted"]
        .map(|done| format!(r#""action":"instance-file-{done}","context":{{"path":"/root/event"}}"#));
    let mut heard = String::new();
    eventually("the three events", || {
        post(&daemon, "c2", "/root/event", &[], b"x").is(200);
        get(&daemon, "c2", "root/event").is(200);
        delete(&daemon, "c2", "/root/event").is(200);
        heard.extend(std::iter::from_fn(|| lines.recv_timeout(Duration::from_millis(100)).ok()));
        wanted.iter().all(|event| heard.contains(event))
    });
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}

#[test]
fn an_sftp_session_works_on_both_lives_through_a_start_and_ends_with_the_instance() {
    let daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    let mut sftp = Sftp::open(&daemon, "c1");
    assert_eq!(sftp.names("/"), ["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "var"]);
    let (path, other, folder) = (Text(b"/root/s/f"), Text(b"/root/s/g"), Text(b"/root/s"));
    assert_eq!(sftp.status(14, &[folder, Number(4), Number(0o711)]), 0);
    // OPEN to write, create and truncate, with a mode.
    let open = |flags, mode| [Text(b"/root/s/f"), Number(flags), Number(4), Number(mode)];
    let handle = sftp.handle(3, &open(2 | 8 | 16, 0o100_640)).unwrap();
    let data = vec![7; 200_000];
    assert_eq!(sftp.status(6, &[Text(&handle), Long(0), Text(&data)]), 0);
    assert_eq!(sftp.status(6, &[Text(&handle), Long(200_000), Text(b"end")]), 0);
    assert_eq!(sftp.status(200, &[Text(b"fsync@openssh.com"), Text(&handle)]), 0);
    assert_eq!(sftp.status(4, &[Text(&handle)]), 0);
    assert_eq!(sftp.status(4, &[Text(&handle)]), 4, "closed already");
    assert_eq!(sftp.content("/root/s/f").unwrap(), [data.as_slice(), b"end"].concat());
    assert_eq!(sftp.handle(3, &open(2 | 8 | 32, 0o644)), Err(4), "it exists");
    assert_eq!(sftp.handle(3, &[Text(b"/root/no"), Number(1), Number(0)]), Err(2));
    assert_eq!(sftp.handle(3, &[Text(b"/root"), Number(2), Number(0)]), Err(4));
    // A directory is opened to look at, and that only.
    let directory = sftp.handle(3, &[Text(b"/root/s"), Number(1), Number(0)]).unwrap();
    let (kind, stat) = sftp.ask(8, &[Text(&directory)]);
    assert_eq!((kind, &stat[20..24]), (105, &[0, 0, 0x41, 0xc9][..]));
    assert_eq!(sftp.status(5, &[Text(&directory), Long(0), Number(9)]), 4);
    assert_eq!(sftp.status(4, &[Text(&directory)]), 0);
    // Attributes: owner, mode, times; then size.
    let set = [path, Number(2 | 4 | 8), Number(5), Number(6), Number(0o600), Number(10), Number(20)];
    assert_eq!(sftp.status(9, &set), 0);
    assert_eq!(sftp.status(9, &[Text(b"/root/s/f"), Number(1), Long(3)]), 0);
    let (kind, stat) = sftp.ask(17, &[Text(b"/root/s/f")]);
    assert_eq!((kind, &stat[4..24]), (105, &[0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0x81, 0x80][..]));
    // Links and names.
    assert_eq!(sftp.status(20, &[Text(b"f"), Text(b"/root/s/l")]), 0);
    let (_, target) = sftp.ask(19, &[Text(b"/root/s/l")]);
    assert_eq!(&target[4..], b"\0\0\0\x01f\0\0\0\x01f\0\0\0\0");
    assert_eq!(sftp.status(200, &[Text(b"hardlink@openssh.com"), Text(b"/root/s/f"), other]), 0);
    assert_eq!(sftp.status(18, &[Text(b"/root/s/l"), Text(b"/root/s/g")]), 4, "RENAME replaces nothing");
    assert_eq!(sftp.status(200, &[Text(b"posix-rename@openssh.com"), Text(b"/root/s/l"), Text(b"/root/s/g")]), 0);
    assert_eq!(sftp.names("/root/s"), ["f", "g"]);
    let (_, real) = sftp.ask(16, &[Text(b"root/./s/../x")]);
    assert_eq!(&real[4..15], b"\0\0\0\x07/root/x");
    let (kind, room) = sftp.ask(200, &[Text(b"statvfs@openssh.com"), Text(b"/")]);
    assert_eq!((kind, room.len()), (201, 88));
    assert_eq!(sftp.status(200, &[Text(b"nosuch@example.com")]), 8);
    assert_eq!(sftp.status(99, &[]), 8);
    assert_eq!(sftp.status(6, &[Number(3)]), 5, "too short");

    // It starts: the session goes on, in the same files.
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(sh(&daemon, "c1", "busybox stat -c %u:%g:%a:%s /root/s/f"), "5:6:600:3\n");
    sh(&daemon, "c1", "echo inside > /root/s/inside");
    assert_eq!(sftp.content("/root/s/inside").unwrap(), b"inside\n");
    // One of the running container sees its mounts, and ends with it; the first one goes on.
    let mut running = Sftp::open(&daemon, "c1");
    assert!(running.content("/proc/version").unwrap().starts_with(b"Linux"));
    assert_eq!(running.handle(3, &[Text(b"/dev/null"), Number(1), Number(0)]), Err(4));
    assert_eq!(running.status(15, &[Text(b"/proc")]), 4, "a mount point");
    daemon.lxc(&["stop", "-f", "c1"]).ok();
    assert!(running.try_ask(16, &[Text(b".")]).is_none(), "cut");
    assert_eq!(sftp.content("/root/s/inside").unwrap(), b"inside\n");
    assert_eq!(sftp.status(13, &[Text(b"/root/s/inside")]), 0);
    daemon.lxc(&["start", "c1"]).ok();
    assert_eq!(sh(&daemon, "c1", "ls /root/s"), "f\ng\n");
    daemon.lxc(&["stop", "-f", "c1"]).ok();

    // Bounds: open files, the length of a packet.
    let mut greedy = Sftp::open(&daemon, "c1");
    let refused = (0..300).find_map(|n| {
        let handle = greedy.handle(3, &[Text(b"/etc/passwd"), Number(1), Number(0)]);
        handle.err().map(|code| (n, code))
    });
    assert_eq!(refused, Some((256, 4)));
    greedy.stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 3]).unwrap();
    assert!(greedy.try_ask(16, &[Text(b".")]).is_none());
    // A client that vanishes takes its helper along.
    let vanishing = Sftp::open(&daemon, "c1");
    assert!(helpers(&daemon) >= 2);
    drop((vanishing, greedy));
    eventually("only one helper is left", || helpers(&daemon) == 1);
    // Deletion refuses nothing and cuts.
    daemon.lxc(&["delete", "c1"]).ok();
    assert!(sftp.try_ask(16, &[Text(b".")]).is_none());
    assert_eq!(roots(&daemon), 0);
}

#[test]
fn a_root_that_was_mounted_for_its_files_is_unmounted_after_a_crash_and_at_the_end() {
    let mut daemon = Daemon::ready("overlay");
    daemon.lxc(&["init", "bb", "c1"]).ok();
    get(&daemon, "c1", "/etc").is(200);
    assert_eq!(roots(&daemon), 1);
    daemon.kill();
    assert_eq!(roots(&daemon), 1);
    daemon.start();
    assert_eq!(roots(&daemon), 0);
    let mut sftp = Sftp::open(&daemon, "c1");
    assert_eq!(roots(&daemon), 1);
    daemon.terminate();
    assert!(sftp.try_ask(16, &[Text(b".")]).is_none());
    assert_eq!(roots(&daemon), 0);
    daemon.start();
    // Another map is another mount: the start takes the lease back.
    let mut sftp = Sftp::open(&daemon, "c1");
    daemon.lxc(&["config", "set", "c1", "security.privileged=true"]).ok();
    daemon.lxc(&["start", "c1"]).ok();
    assert!(sftp.try_ask(16, &[Text(b".")]).is_none());
    assert_eq!(sh(&daemon, "c1", "cat /proc/self/uid_map").split_whitespace().nth(1), Some("0"));
}

/// The worst case for a path: the root is a plain directory of the host's, the container is privileged, and its processes
/// exchange directories and links while paths through them are resolved.
#[test]
fn no_path_leaves_the_root_while_a_process_inside_races() {
    let daemon = Daemon::ready("dir");
    daemon.lxc(&["init", "bb", "c1", "-c", "security.privileged=true"]).ok();
    let volume = daemon.state().join("storage-pools/p/containers/c1");
    let outside = [volume.clone(), volume.parent().unwrap().to_owned(), daemon.state()];
    for place in &outside {
        std::fs::write(place.join("canary"), "outside").unwrap();
    }
    let mut sftp = Sftp::open(&daemon, "c1");
    daemon.lxc(&["start", "c1"]).ok();
    let script = "mkdir -p /r/d/e/f /r/out; echo inside > /r/d/canary; echo inside > /r/d/e/f/canary
        (while :; do busybox mv -T /r/d /r/x; ln -s ../../../../../.. /r/d; busybox rm /r/d; ln -s / /r/d; busybox rm /r/d;
         busybox mv -T /r/x /r/d; done) >/dev/null 2>&1 &
        (while :; do busybox mv -T /r/d/e/f /r/out/f; busybox mv -T /r/out/f /r/d/e/f; done) >/dev/null 2>&1 &";
    let script = script.replace("mkdir", "busybox mkdir").replace("ln -s", "busybox ln -s");
    sh(&daemon, "c1", &format!("{script} sleep 0.2"));
    let host = volume.display().to_string();
    let paths = [
        "/r/d/canary".to_owned(),
        "/r/d/../canary".to_owned(),
        "/r/d/e/f/../../../../../../canary".to_owned(),
        "/r/d/e/f/../../../../canary".to_owned(),
        format!("/r/d{host}/canary"),
        format!("/r/d/e/f/../../../../../../../../../../..{host}/canary"),
    ];
    let (mut inside, mut nothing) = (0, 0);
    for round in 0..600 {
        let path = paths[round % paths.len()].as_bytes();
        match sftp.content(std::str::from_utf8(path).unwrap()) {
            Ok(content) => {
                assert_ne!(content, b"outside");
                inside += 1;
            }
            Err(_) => nothing += 1,
        }
        // Each of these would change what lies outside; refusals and successes inside are both right.
        if let Ok(handle) = sftp.handle(3, &[Text(&[path, b"-made"].concat()), Number(2 | 8), Number(0)]) {
            sftp.status(4, &[Text(&handle)]);
        }
        let _ = sftp.ask(9, &[Text(path), Number(1), Long(6)]);
        let _ = sftp.ask(14, &[Text(&[path, b"-dir"].concat()), Number(0)]);
        if round % 10 == 0 {
            let path = std::str::from_utf8(path).unwrap();
            let _ = post(&daemon, "c1", path, &[], b"inside");
            assert_ne!(get(&daemon, "c1", path).text(), "outside");
        }
        let _ = sftp.ask(13, &[Text(&[path, b"-made"].concat())]);
    }
    assert!(inside > 0 && nothing > 0, "the race did not happen: {inside} {nothing}");
    for place in &outside {
        assert_eq!(std::fs::read_to_string(place.join("canary")).unwrap(), "outside");
        for made in ["canary-made", "canary-dir"] {
            assert!(!support::exists(&place.join(made)), "{} was made", place.join(made).display());
        }
        std::fs::remove_file(place.join("canary")).unwrap();
    }
    daemon.lxc(&["stop", "-f", "c1"]).ok();
}
