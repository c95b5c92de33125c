//! docs/clients.md: every verb of the stock client, and what of it `warren` and the clients of others have.
//!
//! The verbs and flags are those of the help of Debian's `lxc` (5.0.2); `warren` must have each, or it stands here why
//! not. `WARREN_WRITE_DOCS=1 cargo test --test matrix` writes the page anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A verb of the stock client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Verb {
    /// Its words.
    words: String,
    /// Its own flags: short and long forms.
    flags: Vec<String>,
    /// Other last words of it.
    aliases: Vec<String>,
    /// Whether it has verbs of its own.
    group: bool,
}

/// Verbs (with all below them) that are refused, by what the error says, and why.
const REFUSED: &[(&str, &str, &str)] = &[
    ("cluster", "There are no clusters here", "each host stands for itself"),
    ("network peer", "There are no peerings of networks here", "they belong to OVN, which is not there"),
    ("network zone", "There are no DNS zones here", "dnsmasq answers for the instances of a network"),
    ("export", "There are no backups of instances yet here", "comes later"),
    ("import", "There are no backups of instances yet here", "comes later"),
    ("storage volume export", "There are no backups of volumes yet here", "comes later"),
    ("storage volume import", "There are no backups of volumes yet here", "comes later"),
];

/// Flags that are understood and refused where they name something, or do nothing: verb (empty: any), flag, why.
const FLAGS: &[(&str, &str, &str)] = &[
    ("", "--target", "names a member of a cluster; refused, as there are none (`none` and nothing pass)"),
    ("", "--destination-target", "the same"),
    ("copy", "--mode", "to another server: Warren as a server does not send or take instances yet; refused by it"),
    ("move", "--mode", "the same"),
    ("storage volume copy", "--mode", "of volumes, the same"),
    ("storage volume move", "--mode", "the same"),
    ("image copy", "--vm", "virtual machines: there are none; refused"),
    ("image export", "--vm", "the same"),
    ("image info", "--vm", "the same"),
    ("image show", "--vm", "the same"),
    ("file mount", "--listen", "a server of SFTP by SSH; refused: files are mounted at a directory"),
    ("file mount", "--auth-user", "the same"),
    ("file mount", "--no-auth", "the same"),
    ("remote add", "--domain", "of Candid, which is not spoken; refused"),
    ("help", "--all", "no command is hidden from `warren help` but those that are refused"),
    ("", "--sub-commands", "absent: `warren <verb> --help` lists what is below a verb"),
];

/// What is meant by verbs in the language of pylxd, and stands so in its tests.
const PYLXD: &[(&str, &str)] = &[
    ("config get", "one.config"),
    ("config set", "one.save("),
    ("delete", ".get(\"p2\").delete("),
    ("exec", "one.execute("),
    ("file delete", "files.delete("),
    ("file pull", "files.get("),
    ("file push", "files.put("),
    ("image alias create", "add_alias("),
    ("image alias delete", "delete_alias("),
    ("image delete", "uploaded.delete("),
    ("image edit", "image.save("),
    ("image import", "images.create("),
    ("image show", "images.get("),
    ("info", "client.host_info"),
    ("init", "instances.create("),
    ("list", "instances.all("),
    ("monitor", "client.events("),
    ("pause", ".freeze("),
    ("profile create", "profiles.create("),
    ("profile delete", "profiles.get(\"net\").delete("),
    ("profile edit", "profile.save("),
    ("profile rename", "profile.rename("),
    ("profile show", "profiles.get("),
    ("project create", "projects.create("),
    ("rename", "one.rename("),
    ("restart", ".restart("),
    ("snapshot", "snapshots.create("),
    ("start", ".start("),
    ("stop", ".stop("),
    ("storage create", "storage_pools.create("),
    ("storage info", "resources.get()"),
    ("storage show", "storage_pools.get("),
    ("storage volume create", "volumes.create("),
    ("storage volume delete", ".get(\"custom\", \"w\").delete("),
    ("storage volume list", "volumes.all("),
    ("storage volume show", "volumes.get("),
    ("storage volume snapshot", "volume.snapshots.create("),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What a client says of a verb, and whether it knows it. No server is there to ask.
fn help(program: &str, words: &[&str]) -> (bool, String) {
    let nowhere = root().join("target/tmp/no-such-configuration");
    let mut command = Command::new(program);
    for name in ["LXD_DIR", "LXD_CONF", "LXD_SOCKET", "WARREN_DIR", "WARREN_CONF", "WARREN_SOCKET", "HOME"] {
        command.env(name, &nowhere);
    }
    let output = command.args(words).arg("--help").output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Lines below a heading, up to the next one.
fn below<'a>(text: &'a str, heading: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().skip_while(move |line| *line != heading).skip(1);
    lines.take_while(|line| line.is_empty() || line.starts_with(' ')).map(str::trim).filter(|line| !line.is_empty())
}

/// All verbs below these words.
fn walk(words: &[&str], found: &Mutex<BTreeSet<Verb>>) {
    let (known, text) = help("lxc", words);
    assert!(known, "lxc {words:?}: {text}");
    let children: Vec<&str> =
        below(&text, "Available Commands:").filter_map(|line| line.split_whitespace().next()).collect();
    if !words.is_empty() {
        let flags = below(&text, "Flags:").flat_map(|line| {
            line.split("  ").next().unwrap().split(", ").map(|flag| flag.split([' ', '[']).next().unwrap().to_owned())
        });
        let aliases = below(&text, "Aliases:").flat_map(|line| line.split(", ").skip(1)).map(str::to_owned);
        found.lock().unwrap().insert(Verb {
            words: words.join(" "),
            flags: flags.filter(|flag| flag.starts_with('-')).collect(),
            aliases: aliases.collect(),
            group: !children.is_empty(),
        });
    }
    std::thread::scope(|scope| {
        for (at, child) in children.iter().enumerate() {
            let next = [words, &[child]].concat();
            // Two processors: one half of the verbs each.
            if words.is_empty() && at % 2 == 0 {
                scope.spawn(move || walk(&next, found));
            } else {
                walk(&next, found);
            }
        }
    });
}

fn verbs() -> BTreeSet<Verb> {
    let found = Mutex::default();
    walk(&[], &found);
    found.into_inner().unwrap()
}

fn refused(words: &str) -> Option<&'static (&'static str, &'static str, &'static str)> {
    REFUSED.iter().find(|(verb, ..)| words == *verb || words.starts_with(&format!("{verb} ")))
}

fn excused(words: &str, flag: &str) -> Option<&'static str> {
    FLAGS.iter().find(|(verb, known, _)| (verb.is_empty() || *verb == words) && *known == flag).map(|(.., why)| *why)
}

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// What of a verb `warren` lacks without a reason.
fn lacks(verb: &Verb) -> Vec<String> {
    let words: Vec<&str> = verb.words.split(' ').collect();
    if let Some((_, says, _)) = refused(&verb.words) {
        let output = Command::new(WARREN).args(&words).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let good = output.status.code() == Some(1) && told.contains(says);
        return if good { Vec::new() } else { vec![format!("{}: is not refused by {says:?}: {told}", verb.words)] };
    }
    if verb.words == "help" {
        return Vec::new();
    }
    let (known, text) = help(WARREN, &words);
    let usage = format!("Usage: warren {}", verb.words);
    if !known || !text.lines().any(|line| line == usage || line.starts_with(&format!("{usage} "))) {
        return vec![format!("{}: absent", verb.words)];
    }
    let has = |flag: &str| {
        text.lines().any(|line| {
            let mut words = line.split([' ', ',', '=', '[']).filter(|word| !word.is_empty()).take(4);
            line.trim_start().starts_with('-') && words.any(|word| word == flag)
        })
    };
    let flags = verb.flags.iter().filter(|flag| !has(flag) && excused(&verb.words, flag).is_none());
    let mut lacks: Vec<String> = flags.map(|flag| format!("{} {flag}: absent", verb.words)).collect();
    for alias in &verb.aliases {
        let other: Vec<&str> = [&words[..words.len() - 1], &[alias.as_str()]].concat();
        if !help(WARREN, &other).0 {
            lacks.push(format!("{}: the alias {alias} is absent", verb.words));
        }
    }
    lacks
}

/// By client, the verbs that its tests run: the words of each list of arguments in tests/, as they stand there.
fn tested(verbs: &BTreeSet<Verb>) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut note = |client: &'static str, words: &[&str]| {
        for length in 1..=words.len().min(5) {
            let of = |word: &str| verbs.iter().find(|verb| verb.words == word && !verb.group);
            let head = words[..length].join(" ");
            // By its proper name, if it was called by another.
            let (before, last) = head.rsplit_once(' ').map_or(("", head.as_str()), |(before, last)| (before, last));
            let proper = verbs.iter().find(|verb| {
                let (parent, _) = verb.words.rsplit_once(' ').unwrap_or(("", ""));
                parent == before && verb.aliases.iter().any(|alias| alias == last)
            });
            if let Some(verb) = of(&head).or(proper) {
                found.entry(client).or_default().insert(verb.words.clone());
            }
        }
    };
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let ours = matches!(
            file.as_str(),
            "cli" | "client" | "client_hostile" | "client_pty" | "client_remotes" | "completion" | "file_mount"
        );
        if file == "matrix" {
            continue;
        }
        for (at, _) in text.match_indices("&[\"") {
            let Some(list) = text[at + 2..].split(']').next() else { continue };
            let words: Vec<&str> = list.split(',').map(|word| word.trim().trim_matches('"')).collect();
            let before = &text[..at];
            let client = match () {
                () if before.ends_with("incus(") || before.ends_with("incus(&daemon, ") => "incus",
                () if before.ends_with("lxc(") || before.ends_with("lxc_with_input(") => "lxc",
                () if ours => "warren",
                () => continue,
            };
            note(client, &words);
        }
        // Whole lines that both clients run.
        if matches!(file.as_str(), "cli" | "client_remotes" | "client_pairs") {
            let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix('"')?.strip_suffix("\","));
            // The last client of a pipe is the one that matters.
            for line in lines {
                let line = line.rsplit("| ").find(|part| part.starts_with("lxc ")).unwrap_or(line);
                let line = line.trim_start_matches("lxc ");
                let words: Vec<&str> = line.split(' ').collect();
                ["lxc", "warren"].into_iter().for_each(|client| note(client, &words));
            }
        }
    }
    let pylxd: String = ["pylxd_check.py", "pylxd_token.py"]
        .map(|file| fs::read_to_string(root().join("tests/clients").join(file)).unwrap())
        .concat();
    for (verb, text) in PYLXD {
        assert!(pylxd.contains(text), "{text}: what is said of {verb} is not in the tests of pylxd");
        found.entry("pylxd").or_default().insert((*verb).to_owned());
    }
    found
}

fn page(verbs: &BTreeSet<Verb>) -> String {
    let tested = tested(verbs);
    let mut page = String::from(
        "# Clients\n\n\
         Each verb of the stock client (`lxc` of LXD 5.0.2), made out of its help and of the tests (`tests/matrix.rs`, which also\n\
         checks that `warren` has each verb and flag). **tested**: a test runs it against `warrend`; *same*: `warren` has it with all\n\
         its flags, and no test runs it by itself; `–`: no test of this client names it. pylxd and Incus' client have fewer words;\n\
         what stands there is what their tests (`tests/clients.rs`) do. What `warren` does otherwise on purpose: [client.md](client.md).\n\n\
         | verb | lxc | warren | pylxd | incus |\n|---|---|---|---|---|\n",
    );
    for verb in verbs.iter().filter(|verb| !verb.group && verb.words != "help") {
        let has = |client: &str| tested.get(client).is_some_and(|known| known.contains(&verb.words));
        let cell = |client: &str| if has(client) { "tested" } else { "–" };
        if let Some((.., why)) = refused(&verb.words) {
            // Once for all below it.
            let first =
                verbs.iter().filter(|other| !other.group).find(|other| refused(&other.words) == refused(&verb.words));
            if first == Some(verb) {
                let (all, _, _) = refused(&verb.words).unwrap();
                let all = if *all == verb.words { (*all).to_owned() } else { format!("{all} …") };
                writeln!(page, "| `{all}` | refused by the server | refused: {why} | – | – |").unwrap();
            }
            continue;
        }
        let ours = if has("warren") { "tested" } else { "same" };
        writeln!(page, "| `{}` | {} | {ours} | {} | {} |", verb.words, cell("lxc"), cell("pylxd"), cell("incus"))
            .unwrap();
    }
    page.push_str("\n## Flags that `warren` understands otherwise\n\n| verb | flag | |\n|---|---|---|\n");
    for (verb, flag, why) in FLAGS {
        let verb = if verb.is_empty() { "any".to_owned() } else { format!("`{verb}`") };
        writeln!(page, "| {verb} | `{flag}` | {why} |").unwrap();
    }
    page
}

#[test]
fn every_verb_and_flag_of_the_stock_client_is_there_or_refused_with_a_reason() {
    let verbs = verbs();
    assert!(verbs.len() > 250, "the help of lxc was not understood: {} verbs", verbs.len());
    let work = Mutex::new(verbs.iter());
    let lacking = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let run = || loop {
            let Some(verb) = work.lock().unwrap().next() else { return };
            let found = lacks(verb);
            lacking.lock().unwrap().extend(found);
        };
        scope.spawn(run);
        scope.spawn(run);
    });
    let mut lacking = lacking.into_inner().unwrap();
    lacking.sort();
    assert!(lacking.is_empty(), "{} of {} verbs lack something:\n{}", lacking.len(), verbs.len(), lacking.join("\n"));
    // A reason that nothing needs is none.
    for (verb, ..) in REFUSED {
        assert!(verbs.iter().any(|known| known.words == *verb), "{verb} is no verb of lxc");
    }
    for (verb, flag, _) in FLAGS.iter().filter(|(_, flag, _)| *flag != "--sub-commands") {
        let needs = |known: &Verb| (verb.is_empty() || known.words == *verb) && known.flags.iter().any(|f| f == flag);
        assert!(verbs.iter().any(needs), "no verb {verb:?} of lxc has the flag {flag}");
    }
    let path: &Path = &root().join("docs/clients.md");
    let page = page(&verbs);
    if std::env::var_os("WARREN_WRITE_DOCS").is_some() {
        fs::write(path, &page).unwrap();
    }
    let there = fs::read_to_string(path).unwrap_or_default();
    assert!(there == page, "docs/clients.md is old: run WARREN_WRITE_DOCS=1 cargo test --test matrix");
}

/// Flags that are refused say so, before anything is asked of a server.
#[test]
fn flags_that_mean_nothing_here_are_refused_with_a_reason() {
    for (line, says) in [
        ("list --target one", "There are no clusters here"),
        ("storage volume copy p/a p/b --destination-target one", "There are no clusters here"),
        ("file mount c1 --listen 127.0.0.1:0", "There are no servers of SFTP by SSH here"),
        ("file mount c1", "There are no servers of SFTP by SSH here"),
        ("remote add x 127.0.0.1 --domain y", "andid"),
        ("remote add x 127.0.0.1 --auth-type candid", "andid"),
        ("image copy x y: --vm", "There are no virtual machines here"),
        ("image info x --vm", "There are no virtual machines here"),
    ] {
        let nowhere = root().join("target/tmp/no-such-configuration");
        let mut command = Command::new(WARREN);
        command.args(line.split(' ')).env("WARREN_CONF", &nowhere).env("WARREN_DIR", &nowhere);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(says), "{line}: {told}");
    }
}
