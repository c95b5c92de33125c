//! Our declaration of liblxc's ABI against the header that is installed: sizes and offsets by the C compiler.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

/// Members that the wrapper calls, and the last ones of the oldest version.
const MEMBERS: &[&str] = &[
    "name",
    "error_num",
    "daemonize",
    "state",
    "freeze",
    "unfreeze",
    "init_pid",
    "load_config",
    "start",
    "stop",
    "wait",
    "console_getfd",
    "attach",
    "migrate",
    "init_pidfd",
    "devpts_fd",
];

/// Sizes and offsets as the C compiler sees them with `include` as the first place to look for headers.
fn probe(include: &Path, header: &str, attach_options: &str) -> Vec<(String, usize)> {
    let dir = tempfile::tempdir().unwrap();
    let mut source = format!("#include <stddef.h>\n#include <stdio.h>\n{header}\nint main(void) {{\n");
    for member in MEMBERS {
        source.push_str(&format!("printf(\"{member} %zu\\n\", offsetof(struct lxc_container, {member}));\n"));
    }
    source.push_str(&format!("printf(\"attach_options %zu\\n\", sizeof({attach_options}));\n"));
    source.push_str("printf(\"migrate_opts %zu\\n\", sizeof(struct migrate_opts));\n");
    source.push_str("printf(\"container %zu\\n\", sizeof(struct lxc_container));\nreturn 0; }\n");
    let (file, program) = (dir.path().join("probe.c"), dir.path().join("probe"));
    std::fs::write(&file, source).unwrap();
    let built = Command::new("cc").arg("-I").arg(include).arg(&file).arg("-o").arg(&program).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The version a header belongs to, e.g. "6.0.4".
fn version_of(include: &Path) -> String {
    let text = std::fs::read_to_string(include.join("lxc/version.h")).unwrap();
    let line = text.lines().find(|line| line.contains("LXC_VERSION ")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

/// The structures only grow at their end: ours is that of 5.0, the oldest supported one.
fn compare_with(include: &Path) {
    let mut ours = probe(Path::new("vendor-headers"), "#include \"warren-lxc.h\"", "struct lxc_attach_options_t");
    let mut theirs = probe(include, "#include <lxc/lxccontainer.h>", "lxc_attach_options_t");
    let (own, installed) = (ours.pop().unwrap().1, theirs.pop().unwrap().1);
    assert!(own <= installed, "{own} > {installed}");
    assert_eq!(ours, theirs);
    assert_eq!(own, 568);
    assert_eq!(own, size_of::<lxc_sys::lxc_container>());
    assert_eq!(size_of::<lxc_sys::lxc_attach_options_t>(), 96);
    assert_eq!(size_of::<lxc_sys::migrate_opts>(), 80);
}

#[test]
fn our_declaration_has_the_layout_of_the_installed_header() {
    compare_with(Path::new("/usr/include"));
}

#[test]
fn our_declaration_has_the_layout_of_newer_headers() {
    // Unpacked from newer suites' packages by packaging/newer-headers, which packaging/setup --tests runs.
    for (suite, oldest) in [("trixie", 6), ("sid", 7)] {
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lxc-headers").join(suite).join("usr/include");
        assert!(include.exists(), "{} is missing: run packaging/setup --tests", include.display());
        let version = version_of(&include);
        let major: u32 = version.split('.').next().unwrap().parse().unwrap();
        assert!(major >= oldest, "{suite} has {version}");
        compare_with(&include);
    }
}

#[test]
fn the_client_links_neither_liblxc_nor_sqlite() {
    let client = env!("CARGO_BIN_EXE_warren");
    let linked = Command::new("ldd").arg(client).output().unwrap();
    assert!(!String::from_utf8_lossy(&linked.stdout).contains("liblxc"));
    let bytes = std::fs::read(client).unwrap();
    let needle = b"SQLite format 3";
    assert!(!bytes.windows(needle.len()).any(|window| window == needle));
}
