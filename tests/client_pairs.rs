//! What changes things, by the stock client and by `warren`: the same lines, one client after the other on one daemon, and
//! what they print and their exit codes compared. Each list of lines leaves the daemon as it found it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use support::namespaces::isolated;
use support::tls::{Identity, local};
use support::{Daemon, Said, said};

/// Runs a line of shell in which `lxc` is one of both clients.
fn line(daemon: &Daemon, client: &str, line: &str) -> Said {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("lxc() {{ {client} \"$@\"; }}\n{line}")]).stdin(Stdio::null());
    let conf = daemon.root.join(if client.ends_with("warren") { "ours" } else { "theirs" });
    command.env("LXD_DIR", daemon.state()).env("LXD_CONF", &conf).env("WARREN_CONF", &conf);
    command.env("HOME", daemon.root.join("home")).env("ROOT", &daemon.root).env_remove("WARREN_SOCKET");
    said(&mut command)
}

/// What is new each time: identities, times, addresses of hardware.
fn settled(text: &str) -> String {
    let patterns = [
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        ("20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:.]+Z", "TIME"),
        ("20[0-9]{2}/[01][0-9]/[0-3][0-9] [0-9:]+ UTC", "TIME"),
        ("([0-9a-f]{2}:){5}[0-9a-f]{2}", "HWADDR"),
        ("[0-9a-f]{64}", "FINGERPRINT"),
    ];
    let mut text = text.to_owned();
    for (pattern, name) in patterns {
        text = regex_lite::Regex::new(pattern).unwrap().replace_all(&text, name).into_owned();
    }
    // `lxc` ends its line of progress on stdout, wherever that goes.
    text.trim_start().to_owned()
}

/// Compares both clients, line by line.
#[track_caller]
fn alike(daemon: &Daemon, lines: &[&str]) {
    let by = |client: &str| -> Vec<Said> { lines.iter().map(|words| line(daemon, client, words)).collect() };
    let (stock, ours) = (by("command lxc"), by(env!("CARGO_BIN_EXE_warren")));
    let mut differences = Vec::new();
    for ((line, stock), ours) in lines.iter().zip(stock).zip(ours) {
        assert!(!ours.err.contains("panicked"), "{line}: {}", ours.err);
        if (stock.code, settled(&stock.out)) != (ours.code, settled(&ours.out)) {
            differences.push(format!(
                "{line}\n-- lxc: {}\n{}{}\n-- warren: {}\n{}{}",
                stock.code, stock.out, stock.err, ours.code, ours.out, ours.err
            ));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n\n"));
}

#[test]
fn templates_metadata_trust_and_images() {
    let daemon = Daemon::ready("overlay");
    local(&daemon);
    let identity = Identity::new();
    std::fs::write(daemon.root.join("x.crt"), identity.known().pem).unwrap();
    let fingerprint = identity.known().fingerprint.to_string()[..12].to_owned();
    let lines = [
        "lxc init bb c1",
        "lxc config template create c1 t.tpl",
        "lxc config template create c1 t.tpl",
        "printf 'hello {{ container.name }}\\n' | lxc config template edit c1 t.tpl",
        "lxc config template show c1 t.tpl",
        "lxc config template list c1 -f csv",
        "lxc config template delete c1 t.tpl",
        "lxc config template delete c1 t.tpl",
        "lxc config metadata show c1 | sed s/busybox/Box/ | lxc config metadata edit c1",
        "lxc config metadata show c1",
        "echo 'properties: [' | lxc config metadata edit c1",
        "echo 'config: {user.e: f}' | lxc config edit c1",
        "lxc config show c1 | grep -v volatile",
        "lxc config device add c1 d none",
        "lxc config device set c1 d x=y",
        "lxc config device remove c1 d",
        "lxc config trust add $ROOT/x.crt --name mine --restricted --projects default",
        "lxc config trust add $ROOT/x.crt",
        "lxc config trust list -f csv",
        "lxc config trust show FP",
        "lxc config trust show FP | sed s/mine/other/ | lxc config trust edit FP",
        "lxc config trust show FP",
        "lxc config trust remove FP",
        "lxc config trust remove FP",
        "lxc config trust add --name tok | sed 's/[A-Za-z0-9+=]\\{60,\\}/TOKEN/'",
        "lxc config trust list-tokens -f csv | cut -d, -f1",
        "lxc config trust revoke-token tok",
        "lxc config trust revoke-token tok",
        "lxc image alias create a1 $(lxc image list -f csv -c F)",
        "lxc image alias rename a1 a2",
        "lxc image alias list -f csv",
        "lxc image alias delete a2",
        "lxc image alias delete a2",
        "lxc image set-property bb user.x y",
        "lxc image get-property bb user.x",
        "lxc image unset-property bb user.x",
        "lxc image unset-property bb user.x",
        "lxc image show bb | sed 's/public: false/public: true/' | lxc image edit bb",
        "lxc image list -f csv -c lp",
        "lxc image show bb | sed 's/public: true/public: false/' | lxc image edit bb",
        "lxc image refresh bb",
        "lxc image refresh nosuch",
        "lxc publish c1 --alias pub os=Published | sed 's/.*Instance/Instance/'",
        "lxc image list pub -f csv -c lptd",
        "lxc image get-property pub os",
        "lxc image delete pub",
        "lxc operation delete nosuch",
        "lxc warning acknowledge nosuch",
        "lxc warning delete nosuch",
        "lxc delete c1",
    ]
    .map(|line| line.replace("FP", &fingerprint));
    alike(&daemon, &lines.each_ref().map(String::as_str));
}

#[test]
fn profiles_projects_pools_and_volumes() {
    let daemon = Daemon::ready("overlay");
    alike(
        &daemon,
        &[
            "lxc init bb c1",
            "lxc profile create p1",
            "lxc profile create p1",
            "lxc profile device add p1 d none",
            "lxc profile device set p1 d user.a=b",
            "lxc profile device get p1 d type",
            "lxc profile device unset p1 d user.a",
            "lxc profile device list p1",
            "lxc profile device show p1",
            "lxc profile set p1 user.a=b user.c=d",
            "lxc profile unset p1 user.a",
            "lxc profile get p1 user.c",
            "lxc profile add c1 p1",
            "lxc profile add c1 p1",
            "lxc profile show p1",
            "lxc profile delete p1",
            "lxc profile remove c1 p1",
            "lxc profile remove c1 p1",
            "lxc profile device remove p1 d",
            "lxc profile device remove p1 d",
            "lxc profile copy p1 p2",
            "lxc profile rename p2 p3",
            "echo 'description: piped' | lxc profile edit p3",
            "lxc profile show p3",
            "lxc profile delete p1",
            "lxc profile delete p3",
            "lxc project create x -c features.images=false",
            "lxc project set x user.a=b",
            "lxc project get x user.a",
            "lxc project unset x user.a",
            "lxc project rename x y",
            "lxc project show y",
            "lxc project set y nonsense=z",
            "echo 'description: piped' | lxc project edit y",
            "lxc project list -f csv",
            "lxc project delete y",
            "lxc project delete y",
            "lxc storage create s dir",
            "lxc storage set s user.a=b",
            "lxc storage get s user.a",
            "lxc storage unset s user.a",
            "lxc storage show s | sed 's/description: \"\"/description: edited/' | lxc storage edit s",
            "lxc storage show s",
            "lxc storage set s nonsense=x",
            "lxc storage volume create s v user.a=b",
            "lxc storage volume create s v",
            "lxc storage volume set s v user.c=d",
            "lxc storage volume get s v user.c",
            "lxc storage volume unset s v user.c",
            "echo 'description: edited' | lxc storage volume edit s v",
            "lxc storage volume show s v",
            "lxc storage volume attach s v c1 data /data",
            "lxc storage volume attach s v c1 data /data",
            "lxc config device show c1",
            "lxc storage volume detach s v c1",
            "lxc storage volume attach-profile s v default data /data",
            "lxc profile device get default data path",
            "lxc storage volume detach-profile s v default",
            "lxc storage volume detach-profile s v default",
            "lxc storage volume snapshot s v",
            "lxc storage volume snapshot s v named --no-expiry",
            "lxc storage volume list s -f csv",
            "lxc storage volume show s v/named",
            "lxc storage volume restore s v named",
            "lxc storage volume rename s v/named v/other",
            "lxc storage volume copy s/v s/w --volume-only",
            "lxc storage volume rename s w z",
            "lxc storage volume move s/z p/z",
            "lxc storage volume list p -c nt -f csv",
            "lxc storage volume delete p z",
            "lxc storage volume delete s v/other",
            "lxc storage volume delete s v",
            "lxc storage delete s",
            "lxc storage delete s",
            "lxc delete c1",
            "lxc snapshot nosuch",
            "lxc copy nosuch x",
        ],
    );
}

#[test]
fn networks_forwards_and_acls() {
    isolated("networks_forwards_and_acls", || {
        let daemon = Daemon::ready("overlay");
        alike(
            &daemon,
            &[
                "lxc init bb c1",
                "lxc network create n1 ipv4.address=10.7.7.1/24 ipv4.nat=false ipv6.address=none",
                "lxc network create n1",
                "lxc network get n1 ipv4.address",
                "lxc network set n1 user.a=b",
                "lxc network unset n1 user.a",
                "lxc network set n1 nonsense=x",
                "lxc network show n1 | sed 's/description: \"\"/description: edited/' | lxc network edit n1",
                "lxc network show n1",
                "lxc network list -f csv",
                "lxc network info n1 | sed '/received\\|sent/d'",
                "lxc network list-leases n1",
                "lxc network list-leases n1 -f csv",
                "lxc network attach n1 c1 eth7",
                "lxc network attach n1 c1 eth7",
                "lxc config device show c1",
                "lxc network detach n1 c1",
                "lxc network detach n1 c1",
                "lxc network attach-profile n1 default eth7 eth0",
                "lxc profile device get default eth7 name",
                "lxc network detach-profile n1 default",
                "lxc network forward create n1 198.51.100.1 user.a=b",
                "lxc network forward create n1 198.51.100.1",
                "lxc network forward set n1 198.51.100.1 user.c=d",
                "lxc network forward get n1 198.51.100.1 user.c",
                "lxc network forward unset n1 198.51.100.1 user.c",
                "lxc network forward port add n1 198.51.100.1 tcp 80,90-92 10.7.7.5",
                "lxc network forward port add n1 198.51.100.1 udp 53 10.7.7.6 5353",
                "lxc network forward show n1 198.51.100.1",
                "lxc network forward port remove n1 198.51.100.1 udp 53",
                "lxc network forward port remove n1 198.51.100.1 udp 53",
                "echo 'description: edited' | lxc network forward edit n1 198.51.100.1",
                "lxc network forward list n1 -f csv",
                "lxc network forward list n1",
                "lxc network forward delete n1 198.51.100.1",
                "lxc network forward delete n1 198.51.100.1",
                "lxc network acl create a1 user.a=b",
                "lxc network acl set a1 user.c=d",
                "lxc network acl get a1 user.c",
                "lxc network acl unset a1 user.c",
                "lxc network acl rule add a1 ingress action=allow source=10.0.0.0/8 protocol=tcp destination_port=80",
                "lxc network acl rule add a1 egress action=drop",
                "lxc network acl rule add a1 nosuch action=drop",
                "lxc network acl show a1",
                "lxc network acl rule remove a1 egress action=drop",
                "lxc network acl rule remove a1 egress action=drop",
                "lxc network acl rename a1 a2",
                "echo 'description: edited' | lxc network acl edit a2",
                "lxc network acl list -f csv",
                "lxc network acl show-log a2",
                "lxc network acl delete a2",
                "lxc network acl delete a2",
                "lxc network rename n1 n2",
                "lxc network delete n2",
                "lxc network delete n2",
                "lxc delete c1",
            ],
        );
    });
}

#[test]
fn words_flags_and_questions() {
    let daemon = Daemon::ready("overlay");
    alike(
        &daemon,
        &[
            "lxc launch bb c1",
            "lxc init bb c2 --ephemeral=false",
            "lxc exec c1 sh -- -c 'echo hi $0 x'",
            "lxc exec c1 echo -- a -- -t",
            "lxc exec c1 -- echo a -- b",
            "lxc exec -- c1 echo -- b",
            "lxc exec c1 -t=false -- echo x",
            "lxc exec c1 -T=true -- echo x",
            "lxc exec c1 echo -n=t -- -n=t",
            "lxc list --all-projects=true -f csv",
            "lxc list --all-projects -f csv -c n",
            "lxc list --all-projects -c ns",
            "lxc list --all-projects --fast -c n",
            "lxc list --all-projects -f csv -c ns46tS",
            "lxc list --all-projects=maybe",
            "lxc list --all-projects --fast -f csv",
            "lxc list -f csv -c sn",
            "lxc list -f csv -c tn --debug=false",
            "lxc config show --expanded=false c2",
            "lxc --quiet=1 config show --expanded=0 c2",
            "lxc delete -i nosuch",
            "lxc delete -i c1/nosuch",
            "lxc delete -i c2; lxc list -f csv -c n",
            "echo n | lxc delete -i c2; lxc list -f csv -c n",
            "echo no | lxc delete -i c2 nosuch; lxc list -f csv -c n",
            "echo yes | lxc delete -i c2; lxc list -f csv -c n",
            "lxc storage volume info p nosuch",
            "lxc delete -f c1",
            "lxc --all >/dev/null",
            "lxc help --all >/dev/null",
            "lxc --sub-commands >/dev/null",
            "lxc help --sub-commands >/dev/null",
            "lxc list --sub-commands",
            "lxc list --all",
        ],
    );
}

#[test]
fn files_and_where_they_go() {
    let daemon = Daemon::ready("overlay");
    let tree = daemon.root.join("modes");
    for (name, mode) in [("sticky", 0o1777), ("group", 0o2755), ("plain", 0o700)] {
        let path = tree.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, mode) in [(&b"suid"[..], 0o4755), (b"nothing", 0), (b"odd\xff", 0o644), (b"odd\xfe", 0o640)] {
        let path = tree.join(OsStr::from_bytes(name));
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(b"to\xff"), tree.join("link")).unwrap();
    let pulls =
        |words: &str| format!("cd $ROOT; rm -rf out; mkdir out; cd out; lxc file pull {words}; echo $?; find . | sort");
    let pulls = [
        "-r c1/srv/pp new",
        "-r c1/srv/pp new/",
        "-r c1/srv/pp/ new",
        "-r c1/srv/pp .",
        "-r c1/srv/pp/a new",
        "-r -p c1/srv/pp deep/new",
        "-r c1/srv/pp c1/srv/qq new",
        "c1/srv/pp/a c1/srv/pp/n/b newdir",
        "c1/srv/pp/a newdir/",
        "c1/srv/pp/a new",
        "-p c1/srv/pp/a deep/new",
        "c1/srv/pp/a deep/new",
    ]
    .map(pulls);
    let mut lines = vec![
        "lxc launch bb c1",
        "lxc exec c1 -- sh -c 'set -e; busybox mkdir -p /srv/pp/n /srv/qq; echo a >/srv/pp/a; echo b >/srv/pp/n/b; echo c >/srv/qq/c'",
    ];
    lines.extend(pulls.iter().map(String::as_str));
    lines.push("cd $ROOT; rm -rf out; mkdir out; lxc file pull -r c1/srv/pp out/x && cat out/x/pp/n/b && test -d out/x/pp/n || echo NONE");
    lines.extend(["rm -rf $ROOT/out", "lxc delete -f c1"]);
    alike(&daemon, &lines);

    // What the stock client leaves of modes is less; of names it is the same.
    let ours = |words: &str| line(&daemon, env!("CARGO_BIN_EXE_warren"), words).ok();
    ours("lxc launch bb c1; lxc exec c1 -- busybox mkdir -p /srv");
    ours("lxc file push -r $ROOT/modes c1/srv; lxc file push $ROOT/modes/suid c1/srv/one");
    let modes =
        "lxc exec c1 -- sh -c 'cd /srv; for f in one modes/*; do busybox stat -c \"%a %n\" $f; done' | od -An -c -w200";
    let shown = ours(modes).replace(' ', "");
    let wanted = "4755one\\n2755modes/group\\n777modes/link\\n0modes/nothing\\n640modes/odd376\\n644modes/odd377\\n700modes/plain\\n1777modes/sticky\\n4755modes/suid\\n";
    assert_eq!(shown.replace('\n', ""), wanted);
    assert_eq!(ours("lxc exec c1 -- busybox readlink /srv/modes/link | od -An -c").replace(' ', "").trim(), "to377\\n");
    assert_eq!(
        ours("lxc file push $ROOT/modes/nothing c1/srv/mode --mode=1640; lxc exec c1 -- busybox stat -c %a /srv/mode"),
        "1640\n"
    );
}

#[test]
fn a_mount_ends_with_its_instance() {
    let daemon = Daemon::ready("overlay");
    let lines = "mkdir $ROOT/mnt; lxc launch bb c1; \
        (timeout -k 5 40 env lxc file mount c1/etc $ROOT/mnt; echo ended with $?) >$ROOT/said 2>&1 & \
        for i in $(seq 100); do [ -e $ROOT/mnt/passwd ] && break; sleep 0.1; done; [ -e $ROOT/mnt/passwd ] && echo mounted; \
        lxc stop -f c1; wait; tail -1 $ROOT/said; grep -q \"$ROOT/mnt \" /proc/self/mounts || echo gone; \
        fusermount3 -uz $ROOT/mnt 2>/dev/null; rmdir $ROOT/mnt; lxc delete c1";
    let ours = lines.replace("env lxc", env!("CARGO_BIN_EXE_warren"));
    let said = line(&daemon, env!("CARGO_BIN_EXE_warren"), &ours);
    assert!(said.out.contains("mounted\nended with 1\ngone\n"), "{}{}", said.out, said.err);
}
