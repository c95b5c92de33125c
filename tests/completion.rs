//! Completion by real shells, and man pages that groff has nothing to say about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;

use support::{Daemon, run, said};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// A program that finds the client as a user's shell does.
fn by(daemon: &Daemon, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    let path = format!("{}:{}", Path::new(WARREN).parent().unwrap().display(), std::env::var("PATH").unwrap());
    command.args(arguments).env("PATH", path).env("HOME", daemon.root.join("home"));
    command.env("WARREN_SOCKET", daemon.socket()).env("WARREN_CONF", daemon.root.join("warren-conf"));
    command
}

/// Calls the function that the script registers, as bash does at a press of the tab key: the line is cut at colons, too.
const ASK_BASH: &str = r#"
source "$1"
COMP_LINE="$2"; COMP_POINT=${#2}
read -ra COMP_WORDS <<< "${COMP_LINE//:/ : }"
[[ "$COMP_LINE" == *[[:space:]:] ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
spec="$(complete -p warren)"
[[ "$spec" == *"-F "* ]] || exit 9
function="${spec##*-F }"; function="${function%% *}"
COMPREPLY=()
"$function" warren "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What a shell within offers: compadd is told to say so, in the place of showing it.
const ASK_ZSH: &str = r#"
zmodload zsh/zpty
zpty inner zsh -f -i
inner() { zpty -w inner "$1"; }
inner "unset zle_bracketed_paste; PS1=; $1"
inner 'compadd() { local -a all; builtin compadd -O all "$@"; (( $#all )) && print -r -- "<$all>" >> $HOME/offered; builtin compadd "$@" }'
inner 'bindkey "^I" complete-word; zle -C complete-word complete-word _main_complete; print ready'
zpty -r inner ignored '*ready*ready*'
rm -f $HOME/offered; : > $HOME/offered
zpty -n -w inner "$2"$'\t'
for round in {1..200}; do [[ -s $HOME/offered ]] && break; sleep 0.05; done
zpty -d inner
sed -n 's/^<\(.*\)>$/\1/p' $HOME/offered | head -1
"#;

#[test]
fn shells_complete_verbs_and_the_names_that_the_server_knows() {
    let daemon = Daemon::ready("overlay");
    for name in ["c1", "web1", "web2"] {
        run(&mut by(&daemon, WARREN, &["init", "bb", name]));
    }
    run(&mut by(&daemon, WARREN, &["snapshot", "c1", "s1"]));
    run(&mut by(&daemon, WARREN, &["storage", "volume", "create", "p", "v1"]));
    let socket = format!("unix://{}", daemon.socket().display());
    run(&mut by(&daemon, WARREN, &["remote", "add", "far", &socket]));
    let script = |shell: &str| {
        let path = daemon.root.join(format!("completion.{shell}"));
        std::fs::write(&path, said(&mut by(&daemon, WARREN, &["completion", shell])).ok()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let bash = script("bash");
    for (line, offered) in [
        ("warren st", "start\nstop\nstorage\n"),
        ("warren exec ", "c1\nweb1\nweb2\n"),
        ("warren exec we", "web1\nweb2\n"),
        ("warren exec -t --project default w", "web1\nweb2\n"),
        ("warren delete c1 web", "web1\nweb2\n"),
        ("warren file pull c", "c1\n"),
        ("warren launch ", "bb\nfar:\nimages:\nlocal:\nubuntu:\nubuntu-daily:\n"),
        ("warren storage volume list ", "p\n"),
        ("warren network acl rule a", "add\n"),
        ("warren list --project d", "default\n"),
        ("warren launch bb x --profile d", "default\ndocker\n"),
        ("warren delete c1/", "c1/s1\n"),
        ("warren storage volume show p v", "v1\n"),
        ("warren remote switch f", "far\n"),
        ("warren list --fo", "--format\n--force-local\n"),
        // Of another server: what stands before the colon is there already.
        ("warren exec far:w", "web1\nweb2\n"),
        ("warren exec far:", "c1\nweb1\nweb2\n"),
        ("warren list far:c", "c1\n"),
        // Other servers, where one may be named.
        ("warren exec f", "far:\n"),
        ("warren list lo", "local:\n"),
        ("warren copy c1 f", "far:\n"),
        ("warren image list im", "images:\n"),
        ("warren exec im", "\n"),
        ("warren list --project f", "\n"),
        ("warren list --project=d", "default\n"),
        ("warren --project=d", "default\n"),
        ("warren list --format=c", "csv\ncompact\n"),
        ("warren exec --mode ", "auto\ninteractive\nnon-interactive\n"),
        ("warren restore c1 s", "s1\n"),
        ("warren restore far:c1 ", "s1\n"),
        ("warren config device override c1 r", "root\n"),
        ("warren storage volume show p f", "\n"),
        // The command of an instance is none of ours.
        ("warren exec c1 x", "\n"),
    ] {
        let answer = said(&mut by(&daemon, "bash", &["--norc", "-c", ASK_BASH, "bash", &bash, line])).ok();
        assert_eq!(answer, offered, "{line:?}");
    }
    let fish = script("fish");
    for (line, offered) in [
        ("warren exec we", "web1\nweb2\n"),
        ("warren exec fa", "far:\n"),
        ("warren list --project=d", "--project=default\n"),
        ("warren list --project d", "default\n"),
        ("warren exec --mode a", "auto\n"),
        ("warren exec far:w", "far:web1\nfar:web2\n"),
        ("warren sna", "snapshot\tSnapshot instances\n"),
    ] {
        let ask = format!("source {fish}; complete -C '{line}'");
        let answer = said(&mut by(&daemon, "fish", &["--no-config", "-c", &ask])).ok();
        assert_eq!(answer, offered, "{line:?}");
    }
    // zsh completes only for somebody at a terminal: it is given one, once with the script read, once with it where zsh
    // looks for functions by their names.
    let zsh = script("zsh");
    std::fs::create_dir(daemon.root.join("functions")).unwrap();
    std::fs::copy(&zsh, daemon.root.join("functions/_warren")).unwrap();
    for read in [
        format!("autoload -Uz compinit; compinit -D -u; source {zsh}"),
        format!("fpath=({}/functions $fpath); autoload -Uz compinit; compinit -D -u", daemon.root.display()),
    ] {
        for (line, offered) in [
            ("warren start we", "web1 web2"),
            ("warren delete c", "c1"),
            ("warren list fa", "far:"),
            ("warren image delete b", "bb"),
        ] {
            let answer = said(&mut by(&daemon, "zsh", &["-f", "-c", ASK_ZSH, "zsh", &read, line])).ok();
            assert_eq!(answer.trim(), offered, "{line:?}");
        }
    }
}

#[test]
fn a_server_that_hangs_does_not_hold_up_a_shell() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("socket");
    // It takes connections, and never answers.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60", WARREN, "completion-names", "--", "exec"]);
    command.env("WARREN_SOCKET", &socket).env("WARREN_CONF", root.path());
    assert_eq!(said(&mut command).ok(), "");
}

#[test]
fn man_pages_render_without_a_warning() {
    let root = tempfile::tempdir().unwrap();
    run(Command::new(WARREN).args(["manpage", root.path().to_str().unwrap()]).env("WARREN_CONF", root.path()));
    let mut pages: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() > 150, "{}", pages.len());
    let mut groff = Command::new("groff");
    let output = groff.args(["-K", "utf8", "-man", "-ww", "-T", "utf8", "-z"]).args(&pages).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    let page = root.path().join("warren-launch.1");
    let shown = Command::new("groff").args(["-K", "utf8", "-man", "-T", "ascii"]).arg(&page).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("Create an instance from an image and start it"), "{shown}");
    // What is only there to be refused has no page.
    for hidden in ["cluster", "export", "completion-names"] {
        assert!(!root.path().join(format!("warren-{hidden}.1")).exists(), "{hidden}");
    }
}
