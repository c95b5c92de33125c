//! Completion of shells, and man pages.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::client::Client;
use super::command::Arguments;
use super::settings::Remote;
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
    /// What is typed of the word already
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    current: String,
    /// Words of the command line before the one that is completed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Names {
    /// A flag and its value in one word as two, and what stands before the value then.
    fn apart(&self) -> (Self, String) {
        let (words, current) = (self.words.clone(), self.current.clone());
        match current.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                let words = words.into_iter().chain([flag.to_owned()]).collect();
                (Self { current: value.to_owned(), words }, format!("{flag}="))
            }
            _ => (Self { current, words }, String::new()),
        }
    }
}

/// After the verbs and flags that are known from the start: names that the server knows. Bash takes a word with a colon
/// for three, so the line itself is read, and what it has of the word already is not given again.
const BASH: &str = r#"
_warren_names() {
    local line="${COMP_LINE:0:COMP_POINT}" names
    local current="${line##*[[:space:]]}"
    local -a before
    read -ra before <<< "${line%"$current"}"
    if [[ "$current" == --*=* ]]; then
        # Bash takes what is before the sign, and the sign, for words of their own.
        before+=("${current%%=*}")
        current="${current#*=}"
        COMPREPLY=( $(compgen -W "$(warren completion-names --current "$current" -- "${before[@]:1}" 2>/dev/null)" -- "$current") )
        return
    fi
    if [[ "$current" != -* ]]; then
        names="$(warren completion-names --current "$current" -- "${before[@]:1}" 2>/dev/null)"
        if [[ -n "$names" ]]; then
            COMPREPLY=( $(compgen -W "$names" -- "$current") )
            [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *: ]] && compopt -o nospace 2>/dev/null
            if [[ "$current" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
                COMPREPLY=( "${COMPREPLY[@]#"${current%"${current##*:}"}"}" )
            fi
            return
        fi
    fi
    _warren "$@"
}
complete -F _warren_names -o nosort -o bashdefault -o default warren
"#;
/// In the place of the end of what is generated: the file may be read by `source`, or be the function of its name (autoload).
const ZSH: &str = r#"
_warren_names() {
    local -a names
    local current="${words[CURRENT]}"
    if [[ "$current" != -* ]]; then
        names=( ${(f)"$(warren completion-names --current "$current" -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)"} )
        if (( ${#names} )); then
            compadd -S '' -- ${(M)names:#*:}
            compadd -- ${names:#*:}
            return
        fi
    fi
    _warren "$@"
}
compdef _warren_names warren
if [ "$funcstack[1]" = "_warren" ]; then
    _warren_names "$@"
fi
"#;
const ZSH_END: &str = "if [ \"$funcstack[1]\" = \"_warren\" ]";
const FISH: &str = r#"
complete -c warren -f -a '(warren completion-names --current=(commandline -ct) -- (commandline -opc)[2..-1] 2>/dev/null)'
for flag in project target-project profile storage network mode format
    complete -c warren -l $flag -x -a "(warren completion-names -- (commandline -opc)[2..-1] --$flag 2>/dev/null)"
end
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
    if words.shell == Shell::Zsh {
        let end = script.windows(ZSH_END.len()).rposition(|bytes| bytes == ZSH_END.as_bytes());
        script.truncate(end.unwrap_or(script.len()));
    }
    script.extend_from_slice(names.as_bytes());
    output::bytes(&script)
}

/// Writes a page for each verb.
pub(super) fn manpage(words: &Manpage) -> Result<(), Error> {
    let wrong = |error| Error::Local { doing: format!("write to {}", words.directory.display()), error };
    std::fs::create_dir_all(&words.directory).map_err(wrong)?;
    clap_mangen::generate_to(Arguments::command().name("warren"), &words.directory).map_err(wrong)
}

/// What lists the names that may follow these words; nothing where verbs do.
fn listing(verbs: &[&str]) -> Option<&'static str> {
    Some(match verbs {
        ["config", "device" | "metadata" | "template" | "trust"]
        | ["file" | "config" | "image" | "network" | "profile" | "project" | "storage"]
        | ["image", "alias" | "build" | "import"]
        | ["network", "acl" | "forward" | "peer" | "zone"]
        | ["network", "acl", "rule"]
        | ["network", "forward", "port"]
        | ["network", "peer" | "zone", ..]
        | ["profile", "device"]
        | ["storage", "volume"] => return None,
        ["launch" | "init"] | ["image", "alias", _] | ["image", _, ..] => "/1.0/images/aliases",
        ["config", "trust", "remove" | "rm" | "show" | "edit"] => "/1.0/certificates",
        ["config", "trust", ..] => return None,
        ["profile", ..] => "/1.0/profiles",
        ["network", "acl", "rule", _] | ["network", "acl", _] => "/1.0/network-acls",
        ["network", "forward", "port", _] | ["network", "forward", _] | ["network", _] => "/1.0/networks",
        ["storage", "volume", _] | ["storage", _] => "/1.0/storage-pools",
        ["project", _] => "/1.0/projects",
        ["config", "device" | "metadata" | "template", _] | ["config", _] | ["file", _, ..] => "/1.0/instances",
        ["list" | "ls", ..]
        | ["exec" | "shell" | "console" | "info" | "rename" | "snapshot" | "restore" | "publish"]
        | ["start" | "stop" | "restart" | "pause" | "delete" | "rm" | "copy" | "cp" | "move" | "mv", ..] => {
            "/1.0/instances"
        }
        _ => return None,
    })
}

/// What lists the values of a flag, where those are names.
fn of_flag(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "--project" | "--target-project" => "/1.0/projects",
        "--profile" | "-p" => "/1.0/profiles",
        "--storage" | "-s" => "/1.0/storage-pools",
        "--network" | "-n" => "/1.0/networks",
        _ => return None,
    })
}

/// The values of a flag, where those are always the same.
fn fixed(flag: &str, verbs: &[&str]) -> Option<&'static [&'static str]> {
    let lists = verbs.iter().take(3).any(|verb| matches!(*verb, "list" | "ls" | "list-tokens"));
    Some(match flag {
        "--format" | "-f" if lists => &["table", "csv", "json", "yaml", "compact"],
        "--columns" | "-c" if lists => &[],
        "--mode" if verbs.first() == Some(&"exec") => &["auto", "interactive", "non-interactive"],
        "--mode" => &["pull", "push", "relay"],
        _ => return None,
    })
}

/// What may come next.
#[derive(Debug, Default, PartialEq, Eq)]
struct Next {
    /// What is known from the start.
    fixed: &'static [&'static str],
    /// What lists the names…
    path: String,
    /// …in this map of the object; none: by their URLs.
    map: Option<&'static str>,
    /// What stands before each of them.
    before: String,
    /// Of the remote that a word before names, not this one.
    remote: Option<String>,
}

/// What may come next: `word` is typed already, without its remote.
fn next(words: &[String], word: &str) -> Option<Next> {
    let verbs = verbs(words);
    if let Some(flag) = words.last() {
        if let Some(path) = of_flag(flag) {
            return Some(Next { path: path.to_owned(), ..Next::default() });
        }
        if let Some(fixed) = fixed(flag, &verbs) {
            return Some(Next { fixed, ..Next::default() });
        }
    }
    // It goes into a path.
    let is_plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    // What an object has that was named before.
    let of = |named: &str, path: fn(&str) -> String, map| {
        let (remote, name) = named.split_once(':').map_or((None, named), |(remote, name)| (Some(remote), name));
        let remote = remote.map(|remote| format!("{remote}:"));
        is_plain(name).then(|| Next { path: path(name), map, remote, ..Next::default() })
    };
    match verbs.as_slice() {
        ["storage", "volume", "create" | "list" | "ls" | "import", _] => return None,
        ["storage", "volume", _, pool] => {
            return of(pool, |pool| format!("/1.0/storage-pools/{pool}/volumes/custom"), None);
        }
        ["restore", instance] => return of(instance, |name| format!("/1.0/instances/{name}/snapshots"), None),
        ["config", "device", "get" | "set" | "unset" | "remove" | "rm", instance] => {
            return of(instance, |name| format!("/1.0/instances/{name}"), Some("devices"));
        }
        ["config", "device", "override", instance] => {
            return of(instance, |name| format!("/1.0/instances/{name}"), Some("expanded_devices"));
        }
        _ => {}
    }
    match (listing(&verbs)?, word.split_once('/')) {
        // Snapshots stand behind their instance; a path of a file does, too.
        ("/1.0/instances", Some((name, _))) if verbs.first() != Some(&"file") => is_plain(name).then(|| Next {
            path: format!("/1.0/instances/{name}/snapshots"),
            before: format!("{name}/"),
            ..Next::default()
        }),
        (path, _) => Some(Next { path: path.to_owned(), ..Next::default() }),
    }
}

/// Whether the next word may begin with a remote: values of flags and what an object has do not.
fn may_name_a_remote(words: &[String]) -> bool {
    let of_object = matches!(
        verbs(words).as_slice(),
        ["storage", "volume", _, _, ..] | ["restore", _, ..] | ["config", "device", _, _, ..]
    );
    !of_object && words.last().and_then(|flag| of_flag(flag)).is_none()
}

/// Nobody who pressed a key waits longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The words without flags, and without the values of those that every verb has.
fn verbs(words: &[String]) -> Vec<&str> {
    let mut verbs = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--project" | "--target" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            word => verbs.push(word),
        }
    }
    verbs
}

/// Prints the names that may come next. A server that does not answer offers none, and nobody is told.
pub(super) async fn names(client: &Client, words: &Names) -> Result<(), Error> {
    let (words, flag) = &words.apart();
    let verbs = verbs(&words.words);
    if let ["remote", _] = verbs.as_slice() {
        let settings = client.settings();
        let names: Vec<&str> = settings.remotes.keys().map(String::as_str).collect();
        return output::print(&format!("{}\n", names.join("\n")));
    }
    // Names of another server, where one is typed already.
    let led = words.current.split_once(':');
    let Some(next) = next(&words.words, led.map_or(words.current.as_str(), |(_, word)| word)) else {
        return Ok(());
    };
    for word in next.fixed {
        output::print(&format!("{flag}{word}\n"))?;
    }
    let path = next.path;
    if path.is_empty() {
        return Ok(());
    }
    let remote = led.map(|(remote, _)| format!("{remote}:"));
    let at = client.remote(next.remote.as_deref().or(remote.as_deref()))?;
    let list = tokio::time::timeout(PATIENCE, at.get(&path)).await.ok().and_then(Result::ok).unwrap_or_default();
    let base = format!("{path}/");
    let names: Vec<String> = match next.map {
        Some(map) => list[map].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        None => {
            let urls = list.as_array().into_iter().flatten().filter_map(|url| url.as_str());
            let name = |url: &str| {
                let name = url.split('?').next().unwrap_or_default().trim_start_matches(base.as_str());
                percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()
            };
            urls.map(name).collect()
        }
    };
    for name in names {
        // What a shell would take for something else is not offered.
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b)) {
            output::print(&format!("{flag}{}{}{name}\n", remote.as_deref().unwrap_or_default(), next.before))?;
        }
    }
    if led.is_none() && may_name_a_remote(&words.words) {
        let images = path.starts_with("/1.0/images");
        // Whoever has typed nothing yet looks for names, but for those of images elsewhere.
        let offered = |(name, remote): &(&String, &Remote)| {
            let typed = !words.current.is_empty() && name.starts_with(&words.current);
            (images && words.current.is_empty() || typed) && (images || !remote.is_simplestreams())
        };
        for (name, _) in client.settings().remotes.iter().filter(offered) {
            output::print(&format!("{name}:\n"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_verbs_and_verbs_follow_groups() {
        let of = |line: &str| {
            let (line, word) = line.split_once('|').unwrap_or((line, ""));
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let next = next(&words, word).unwrap_or_default();
            let map = next.map.map(|map| format!(".{map}")).unwrap_or_default();
            next.fixed.join(" ") + next.path.trim_start_matches("/1.0/") + &map
        };
        for (line, path) in [
            ("exec", "instances"),
            ("exec c1", ""),
            ("exec -t --project p", "instances"),
            ("delete c1", "instances"),
            ("launch", "images/aliases"),
            ("launch bb", ""),
            ("file", ""),
            ("file pull", "instances"),
            ("config", ""),
            ("config show", "instances"),
            ("config device", ""),
            ("config device add", "instances"),
            ("config trust remove", "certificates"),
            ("config trust add", ""),
            ("config device remove c1", "instances/c1.devices"),
            ("config device override r:c1", "instances/c1.expanded_devices"),
            ("restore c1", "instances/c1/snapshots"),
            ("restore c1 s", ""),
            ("exec --mode", "auto interactive non-interactive"),
            ("copy c1 c2 --mode", "pull push relay"),
            ("network", ""),
            ("network acl", ""),
            ("network acl show", "network-acls"),
            ("network show", "networks"),
            ("storage volume", ""),
            ("storage volume list", "storage-pools"),
            ("profile device", ""),
            ("profile show", "profiles"),
            ("image alias", ""),
            ("image info", "images/aliases"),
            ("image list", "images/aliases"),
            ("list c1", "instances"),
            ("list --format", "table csv json yaml compact"),
            ("image list -c", ""),
            ("delete -f", "instances"),
            ("image info|deb/", "images/aliases"),
            ("list --project", "projects"),
            ("launch bb x -p", "profiles"),
            ("launch bb x --storage", "storage-pools"),
            ("storage volume show default", "storage-pools/default/volumes/custom"),
            ("storage volume show r:p", "storage-pools/p/volumes/custom"),
            ("storage volume show a/../b", ""),
            ("storage volume create default", ""),
            ("delete|c1/", "instances/c1/snapshots"),
            ("delete|../", ""),
            ("file pull|c1/", "instances"),
            ("", ""),
        ] {
            assert_eq!(of(line), path, "{line}");
        }
    }
}
