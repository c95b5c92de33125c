//! Completion of shells, and man pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::client::Client;
use super::command::Arguments;
use super::{Error, output};

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// bash, zsh or fish
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Manpage {
    /// The directory
    directory: PathBuf,
}

/// What names to list.
#[derive(Debug, Args)]
pub(super) struct Names {
    /// Words of the command line before the one that is completed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// In bash and zsh, after the verbs and flags that are known from the start: names that the server knows.
const BASH: &str = r#"
_warren_names() {
    _warren "$@"
    local current="${COMP_WORDS[COMP_CWORD]}"
    if [[ "$current" != -* ]]; then
        local names
        names="$(warren completion-names -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)"
        if [[ -n "$names" ]]; then
            COMPREPLY+=( $(compgen -W "$names" -- "$current") )
        fi
    fi
}
complete -F _warren_names -o nosort -o bashdefault -o default warren
"#;
const ZSH: &str = r#"
_warren_names() {
    local -a names
    if [[ "${words[CURRENT]}" != -* ]]; then
        names=( ${(f)"$(warren completion-names -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)"} )
        (( ${#names} )) && compadd -a names
    fi
    _warren "$@"
}
compdef _warren_names warren
"#;
const FISH: &str = r#"
complete -c warren -f -a '(warren completion-names -- (commandline -opc)[2..-1] 2>/dev/null)'
"#;

/// Prints the script for a shell.
pub(super) fn completion(words: &Completion) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(words.shell, &mut Arguments::command(), "warren", &mut script);
    let names = match words.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
        _ => "",
    };
    script.extend_from_slice(names.as_bytes());
    output::bytes(&script)
}

/// Writes a page for each verb.
pub(super) fn manpage(words: &Manpage) -> Result<(), Error> {
    let wrong = |error| Error::Local { doing: format!("write to {}", words.directory.display()), error };
    std::fs::create_dir_all(&words.directory).map_err(wrong)?;
    clap_mangen::generate_to(Arguments::command().name("warren"), &words.directory).map_err(wrong)
}

/// Verbs whose names are those of images.
const OF_IMAGES: &[&str] = &["launch", "init"];
/// Verbs whose names are those of instances.
const OF_INSTANCES: &[&str] = &[
    "exec", "shell", "start", "stop", "restart", "pause", "delete", "rm", "info", "console", "copy", "cp", "move",
    "mv", "rename", "snapshot", "restore", "publish", "config", "file",
];

/// Prints the names that may come next. A server that does not answer offers none, and nobody is told.
pub(super) async fn names(client: &Client, words: &Names) -> Result<(), Error> {
    let verbs: Vec<&str> = words.words.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let path = match verbs.as_slice() {
        [verb] if OF_IMAGES.contains(verb) => "/1.0/images/aliases",
        ["image", verb, ..] if *verb != "import" && *verb != "list" => "/1.0/images/aliases",
        ["profile", _, ..] => "/1.0/profiles",
        ["network", _] => "/1.0/networks",
        ["storage", "volume", _] | ["storage", _] => "/1.0/storage-pools",
        ["project", _] => "/1.0/projects",
        ["remote", _] => {
            let settings = client.settings();
            let names: Vec<&str> = settings.remotes.keys().map(String::as_str).collect();
            return output::print(&format!("{}\n", names.join("\n")));
        }
        ["config", _] => "/1.0/instances",
        [verb, ..] if OF_INSTANCES.contains(verb) && *verb != "config" => "/1.0/instances",
        _ => return Ok(()),
    };
    let Ok(list) = client.remote(None)?.get(path).await else { return Ok(()) };
    let base = format!("{path}/");
    let urls = list.as_array().into_iter().flatten().filter_map(|url| url.as_str());
    for url in urls {
        let name = url.split('?').next().unwrap_or_default().trim_start_matches(base.as_str());
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        // What a shell would take for something else is not offered.
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b)) {
            output::print(&format!("{name}\n"))?;
        }
    }
    Ok(())
}
