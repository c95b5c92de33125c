use proptest::prelude::*;

use super::*;

fn apparmor() -> AppArmor {
    AppArmor {
        kernel: Err(Missing::Kernel),
        parser: Some(Parser::find().unwrap()),
        parts: Parts::built_in(),
        switched_off: false,
    }
}

fn message(raw: &str) -> String {
    apparmor().check(raw).map_or_else(|error| error.to_string(), |()| "taken".to_owned())
}

#[test]
fn every_profile_compiles() {
    let apparmor = apparmor();
    let parser = apparmor.parser.as_ref().unwrap();
    let raws = [
        "",
        "deny /etc/shadow r,",
        "  mount fstype=nfs,\n  mount options=(rw, bind) /a/ -> /b/,\n",
        "profile browser {\n  file,\n}\n/usr/bin/x cx -> browser,",
        "include <abstractions/base>\n",
    ];
    for (privileged, nesting, namespace) in [
        (false, false, false),
        (false, true, false),
        (false, true, true),
        (true, false, false),
        (true, true, false),
        (true, true, true),
    ] {
        for (container, root) in [("c1", "/var/lib/warren"), ("project_c1", "/srv/my state/{x}")] {
            let names = Names::of(container, Path::new(root));
            let confinement = Confinement { privileged, nesting, mount_cgroups: nesting };
            let profile = apparmor.parts.profile(&names, confinement, namespace);
            for raw in raws {
                let found = parser.names(&profile.with(raw)).unwrap();
                assert_eq!(found.iter().filter(|name| !name.contains("//")).collect::<Vec<_>>(), [&names.profile]);
                parser.check(&profile.with(raw)).unwrap_or_else(|error| panic!("{error}:\n{}", profile.with(raw)));
            }
        }
    }
}

#[test]
fn what_the_parser_refuses_is_told_with_the_line() {
    assert_eq!(message("deny /x r,\ndeny /y w,"), "taken");
    let said = message("deny /x r,\n  bogus,\n");
    assert!(
        said.contains("\"raw.apparmor\"") && said.contains("line 2 of it") && said.contains("syntax error"),
        "{said}"
    );
    let said = message("deny /x r");
    assert!(said.contains("line 2 of it"), "the brace stands where the comma should: {said}");
    for raw in ["include <no/such/file>", "\"", "{", "deny /{a r,", "}", "profile x {", "deny /x \\"] {
        assert!(message(raw).contains("raw.apparmor"), "{raw}");
    }
}

#[test]
fn raw_text_stays_in_its_profile() {
    for raw in [
        "}\nprofile evil flags=(complain) {",
        "}\n/usr/bin/evil {\n  file,",
        "} profile \"lxd-c_</>\" {",
        "} profile :other:evil {",
        "}\nprofile \"lxd-c_</x>\" { }\nprofile \"lxd-c_</>//x\" {",
        "profile x { }\n}\nprofile evil {",
    ] {
        let said = message(raw);
        assert!(said.contains("raw.apparmor") && said != "taken", "{raw}: {said}");
    }
    assert!(message("}\nprofile evil {").contains("defines \"evil\""));
    assert_eq!(message("profile x {\n  file,\n}\n"), "taken");
}

/// How many profiles a compiled text holds: each begins with its name (libapparmor's `policy_cache`, the kernel's
/// `unpack_profile`): the string "profile" of a struct.
fn compiled(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = std::process::Command::new("apparmor_parser")
        .args(["--quiet", "--skip-cache", "--stdout", "--kernel-features", "/etc/apparmor.d/abi/3.0"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is taken compiles to one profile, and what it defines lies below that.
    #[test]
    fn no_text_opens_another_profile(
        words in proptest::collection::vec(proptest::sample::select(&[
            "}", "{", "profile", "evil", " ", "\n", "#", "\"", "\\", "}\nprofile evil {", "^evil {", "hat evil {", "file,",
            "deny /{a,b} r,", "/usr/bin/evil", "@{X}=/evil", "flags=(complain)", ":evil:", "->", ",", "include <evil>",
        ][..]), 0..9),
    ) {
        let raw = words.concat();
        let apparmor = apparmor();
        if apparmor.check(&raw).is_ok() {
            let names = Names::of("c", Path::new("/"));
            let confinement = Confinement { privileged: false, nesting: false, mount_cgroups: false };
            let binary = compiled(&apparmor.parts.profile(&names, confinement, false).with(&raw));
            let text = String::from_utf8_lossy(&binary);
            // A profile's struct begins with its name: a string that is named "name" or follows "profile".
            for (at, _) in text.match_indices("profile\0") {
                let rest: String = text[at + 8..].chars().take(80).collect();
                prop_assert!(rest.contains(&names.profile), "{raw:?}: {rest:?}");
            }
        }
    }
}

#[test]
fn a_file_is_written_whole_and_only_when_it_changes() {
    use std::os::unix::fs::MetadataExt;
    let root = std::env::temp_dir().join(format!("warren-test-aa-write-{}", std::process::id()));
    let dir = StateDir::new(root.clone());
    dir.create().unwrap();
    let path = dir.apparmor("c1");
    write(&path, "one").unwrap();
    let first = std::fs::metadata(&path).unwrap();
    write(&path, "one").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), first.ino());
    write(&path, "two").unwrap();
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), first.ino());
    let cached = dir.apparmor_cache().join("abc.0");
    std::fs::create_dir(&cached).unwrap();
    for file in [cached.join("lxd-c1"), cached.join("lxd-c2"), unfinished(&path)] {
        std::fs::write(file, "x").unwrap();
    }
    remove(&dir, "c1").unwrap();
    remove(&dir, "c1").unwrap();
    assert!(cached.join("lxd-c2").exists() && !cached.join("lxd-c1").exists());
    assert_eq!(std::fs::read_dir(dir.root().join("security/apparmor/profiles")).unwrap().count(), 0);
    std::fs::remove_dir_all(root).unwrap();
}
