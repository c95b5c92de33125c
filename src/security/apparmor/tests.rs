use std::collections::BTreeSet;

use super::*;

fn names() -> Names {
    Names::of("c1", Path::new("/var/lib/warren"))
}

fn confinement(privileged: bool, nesting: bool) -> Confinement {
    Confinement { privileged, nesting, mount_cgroups: false }
}

fn text(privileged: bool, nesting: bool, namespace: bool) -> String {
    Parts::built_in().profile(&names(), confinement(privileged, nesting), namespace).with("")
}

#[test]
fn names_are_those_of_lxd() {
    let names = names();
    assert_eq!(names.profile, "lxd-c1_</var/lib/warren>");
    assert_eq!(names.namespace, "lxd-c1_<var-lib-warren>");
    assert_eq!(names.label(false).as_str(), "lxd-c1_</var/lib/warren>");
    assert_eq!(names.label(true).as_str(), "lxd-c1_</var/lib/warren>//&:lxd-c1_<var-lib-warren>:");
    let root = Path::new("/var/lib/warren");
    assert!(Names::is_profile(&names.profile, root) && Names::is_namespace(&names.namespace, root));
    for other in ["lxd-c1_</var/lib/lxd>", "lxd-c1_</var/lib/warren>//x", "man", "/x_</var/lib/warren>"] {
        assert!(!Names::is_profile(other, root) && !Names::is_namespace(other, root), "{other}");
    }
}

#[test]
fn nothing_in_a_name_means_something_in_a_profile() {
    for (container, root) in [("c1", "/a b\"{*}"), ("x\"*{y", "/v"), ("c1", "/ä\n"), ("a/b", "/v")] {
        let names = Names::of(container, Path::new(root));
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-<>".contains(c);
        assert!(names.profile.chars().all(plain) && names.namespace.chars().all(plain), "{names:?}");
        assert!(!names.namespace.contains('/'), "{names:?}");
        assert!(Names::is_profile(&names.profile, Path::new(root)));
    }
    assert_ne!(Names::of("a*", Path::new("/v")), Names::of("b*", Path::new("/v")));
}

#[test]
fn an_unprivileged_container_has_no_rule_that_denies() {
    for nesting in [false, true] {
        let text = text(false, nesting, nesting);
        let denies = |line: &str| line.split_whitespace().any(|word| word == "deny");
        let rules = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert_eq!(rules.filter(|line| denies(line)).count(), 0, "{text}");
        assert!(text.contains("\n  mount,\n"));
    }
}

#[test]
fn a_privileged_one_mounts_all_only_with_nesting() {
    assert!(!text(true, false, false).contains("\n  mount,\n"));
    assert!(text(true, true, false).contains("\n  mount,\n"));
    assert!(text(true, true, true).contains("  change_profile -> \":lxd-c1_<var-lib-warren>:*\",\n"));
    for (nesting, namespace) in [(true, false), (false, true), (false, false)] {
        assert!(!text(true, nesting, namespace).contains("change_profile"));
    }
    for privileged in [false, true] {
        assert!(text(privileged, false, false).contains("signal peer=\"lxd-c1_</var/lib/warren>{,//*}\","));
        assert!(!text(privileged, true, true).contains('%'));
    }
}

/// A pattern of apparmor.d(5) (Globbing) against a path: enough of it for the parts.
fn fits(pattern: &str, path: &str) -> bool {
    fn alternatives(pattern: &str) -> Vec<String> {
        let Some(open) = pattern.find('{') else { return vec![pattern.to_owned()] };
        let close = open + pattern[open..].find('}').unwrap();
        let (before, after) = (&pattern[..open], &pattern[close + 1..]);
        let choices = pattern[open + 1..close].split(',');
        choices.flat_map(|choice| alternatives(&format!("{before}{choice}{after}"))).collect()
    }
    fn one(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=path.len()).any(|n| one(rest, &path[n..])),
            [b'*', rest @ ..] => {
                let end = path.iter().position(|c| *c == b'/').unwrap_or(path.len());
                (0..=end).any(|n| one(rest, &path[n..]))
            }
            [b'?', rest @ ..] => path.first().is_some_and(|c| *c != b'/') && one(rest, &path[1..]),
            [b'[', b'^', rest @ ..] => {
                let close = rest.iter().position(|c| *c == b']').unwrap();
                path.first().is_some_and(|c| !rest[..close].contains(c)) && one(&rest[close + 1..], &path[1..])
            }
            [c, rest @ ..] => path.first() == Some(c) && one(rest, &path[1..]),
        }
    }
    alternatives(pattern).iter().any(|pattern| one(pattern.as_bytes(), path.as_bytes()))
}

/// Whether a profile denies to write this path.
fn denied(profile: &str, path: &str) -> bool {
    let rules = profile.lines().filter_map(|line| line.trim().strip_prefix("deny ")?.strip_suffix(','));
    rules.filter_map(|rule| rule.rsplit_once(' ')).any(|(pattern, rights)| rights.contains('w') && fits(pattern, path))
}

#[test]
fn the_switches_of_the_machine_are_denied_and_nothing_of_namespaces() {
    let (plain, nesting) = (text(true, false, false), text(true, true, true));
    for path in [
        "/proc/sysrq-trigger",
        "/proc/kcore",
        "/proc/keys",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/kernel/keys/maxkeys",
        "/proc/sys/kernel/usermodehelper/bset",
        "/proc/sys/kernel/ns_x",
        "/proc/sys/kernel",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/fs/suid_dumpable",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/net2",
        "/proc/irq/1/smp_affinity",
    ] {
        // The directory's own name is no file that is written.
        let wanted = path != "/proc/sys/kernel";
        assert_eq!((denied(&plain, path), denied(&nesting, path)), (wanted, wanted), "{path}");
    }
    for path in [
        "/sys/kernel/uevent_helper",
        "/sys/kernel/security/apparmor/.replace",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        "/sys/module/kernel/parameters/panic",
        "/sys/devices/system/cpu/cpu0/online",
        "/sys/devices/pci0000:00/0000:00:01.0/remove",
        "/sys/devices/virtual/block/loop0/queue/scheduler",
        "/sys/fs/bpf/x",
        "/sys/firmware/efi/efivars/x",
        // Of a /proc that is mounted nowhere.
        "/sys/kernel/core_pattern",
        "/sys/vm/drop_caches",
        "/sysrq-trigger",
        // Of such a /sys.
        "/kernel/uevent_helper",
        "/power/state",
    ] {
        assert_eq!((denied(&plain, path), denied(&nesting, path)), (true, false), "{path}");
    }
    for path in [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/sem",
        "/proc/sys/kernel/msgmni",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/fs/mqueue/msg_max",
        "/proc/self/oom_score_adj",
        "/proc/1/attr/current",
        "/sys/fs/cgroup/system.slice/cgroup.procs",
        "/sys/devices/virtual/net/eth0/queues/rx-0/rps_cpus",
        "/etc/passwd",
        "/modules",
        "/keys/x",
        "/var/kernel/x",
    ] {
        assert!(!denied(&plain, path) && !denied(&nesting, path), "{path}");
    }
}

/// On the machine that the tests run on: what of its own /proc/sys root of the host could switch.
#[test]
fn each_file_of_this_kernels_switches_is_denied_or_known() {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(&entry.path(), found),
                Ok(_) | Err(_) => drop(found.insert(entry.path().display().to_string())),
            }
        }
    }
    let profile = text(true, false, false);
    let mut files = BTreeSet::new();
    walk(Path::new("/proc/sys"), &mut files);
    assert!(files.len() > 100);
    let known =
        ["net/", "fs/mqueue/", "kernel/hostname", "kernel/domainname", "kernel/sem", "kernel/shm", "kernel/msg"];
    let known = known.map(|name| format!("/proc/sys/{name}"));
    for file in files {
        let own = file == "/proc/sys/kernel/ns_last_pid" || known.iter().any(|start| file.starts_with(start.as_str()));
        assert_eq!(denied(&profile, &file), !own, "{file}");
    }
}

#[test]
fn no_rule_about_mounts_is_read_as_leave_to_mount_all() {
    for line in text(true, false, false).lines().filter(|line| line.trim_start().starts_with("mount ")) {
        let options =
            line.split_once("options=(").and_then(|(_, rest)| rest.split_once(')')).map(|(options, _)| options);
        assert!(line.contains("fstype=(") || options.is_some_and(|options| !options.contains(',')), "{line}");
        assert!(!line.contains("proc") && !line.contains("sysfs"), "{line}");
    }
}

#[test]
fn proc_and_sys_are_not_elsewhere() {
    let head = Parts::built_in().head;
    let elsewhere = head.lines().find_map(|line| line.strip_prefix("@{ELSEWHERE}=")).unwrap().to_owned();
    for path in ["/proc", "/proc/", "/proc/sys/kernel", "/sys", "/sys/fs", "/"] {
        assert!(!fits(&elsewhere, path), "{path}");
    }
    for path in ["/mnt", "/mnt/proc", "/p", "/pro", "/proc2", "/process/x", "/s", "/srv", "/sysroot", "/home/a b"] {
        assert!(fits(&elsewhere, path), "{path}");
    }
}

#[test]
fn raw_text_is_at_the_end_and_can_be_exchanged() {
    let profile = Parts::built_in().profile(&names(), confinement(false, false), false);
    for raw in ["", "  deny /x r,", "  deny /x r,\n", "  # raw.apparmor\n  deny /x r,\n"] {
        let text = profile.with(raw);
        assert!(text.ends_with(&format!("{}\n}}\n", raw.trim_end_matches('\n'))), "{text}");
        assert_eq!(Profile::of(&text), Some(profile.clone()), "{raw:?}");
    }
    let text = profile.with("first\nsecond");
    assert_eq!(text.lines().nth(profile.lines_before()), Some("first"));
    assert_eq!(Profile::of("profile x {\n}\n"), None);
}

#[test]
fn parts_of_a_directory_count_if_they_are_whole_and_of_this_format() {
    let dir = std::env::temp_dir().join(format!("warren-test-parts-{}", std::process::id()));
    assert_eq!(Parts::of(&dir).unwrap(), None);
    fs::create_dir(&dir).unwrap();
    assert!(Parts::of(&dir).unwrap_err().to_string().contains("version"));
    for file in FILES {
        fs::write(dir.join(file), format!("  # the distribution's {file} of %PROFILE%\n{MARK}\n")).unwrap();
    }
    for bad in ["", "format 2\nedition 1\n", "edition 1\nformat 1\n", "format 1\n", "format 1 edition 1"] {
        fs::write(dir.join("version"), bad).unwrap();
        assert!(Parts::of(&dir).unwrap_err().to_string().contains("\"format 1\""), "{bad:?}");
    }
    fs::write(dir.join("version"), "format 1\nedition 7.1-debian2\n").unwrap();
    let parts = Parts::of(&dir).unwrap().unwrap();
    assert_eq!(parts.edition(), "7.1-debian2");
    let profile = parts.profile(&names(), confinement(true, false), false);
    let text = profile.with("x,");
    assert!(
        text.contains("edition 7.1-debian2") && text.contains("distribution's privileged-own of lxd-c1_<"),
        "{text}"
    );
    assert_eq!((Profile::of(&text), text.matches(MARK).count()), (Some(profile), 1));
    fs::remove_file(dir.join("own")).unwrap();
    assert!(Parts::of(&dir).unwrap_err().to_string().contains("/own: "));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_parts_built_in_are_of_this_format() {
    assert!(!Parts::built_in().edition().is_empty());
    for file in FILES.iter().chain(&["version"]) {
        let text = fs::read_to_string(Path::new("src/security/apparmor").join(file)).unwrap();
        assert!(text.ends_with('\n') && !text.contains(MARK), "{file}");
    }
}
