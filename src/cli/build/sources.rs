//! Where packages come from: this host's own sources of the distribution, or the mirror that was named.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::super::Error;
use super::recipe::Spec;

/// What this host is, by os-release(5).
pub(super) struct Host {
    pub(super) id: String,
    pub(super) suite: String,
}

impl Host {
    pub(super) fn read() -> Option<Self> {
        let text = std::fs::read_to_string("/etc/os-release").ok()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        Some(Self { id: value("ID")?, suite: value("VERSION_CODENAME")? })
    }
}

/// The lines of sources.list(5).
///
/// # Errors
/// When the mirror is no address, or this host has no sources of the distribution.
pub(super) fn lines(spec: &Spec, mirror: Option<&str>, host: Option<&Host>) -> Result<Vec<String>, Error> {
    let components = spec.distribution.components();
    if let Some(mirror) = mirror {
        check_mirror(spec, mirror)?;
        return Ok(vec![format!("deb {mirror} {} {components}", spec.suite)]);
    }
    let told = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN)\t$(SITE)\t$(RELEASE)", "Created-By: Packages"])
        .output()
        .map_err(|error| Error::Local { doing: "ask apt for this host's sources".to_owned(), error })?;
    let lines = from_targets(spec, &String::from_utf8_lossy(&told.stdout), host, components);
    if lines.is_empty() {
        let title = spec.distribution.title();
        return Err(Error::Usage(format!(
            "This host's apt has no package lists of {title}: run \"apt-get update\", or name a mirror of {title} by --mirror"
        )));
    }
    Ok(lines)
}

/// Whether a mirror may be one, as far as that is known before anything is fetched.
fn check_mirror(spec: &Spec, mirror: &str) -> Result<(), Error> {
    let shown = crate::names::without_user(mirror);
    let wrong = |reason: &str| {
        let id = spec.distribution.id();
        Err(Error::Usage(format!("{shown:?} is no mirror{reason}: write it as http://host/{id} or file:///directory")))
    };
    if mirror.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
        return wrong(" (it has characters that apt does not take)");
    }
    let (scheme, place) = mirror.split_once(':').unwrap_or_default();
    match scheme {
        "http" | "https" => {
            let host = place.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or_default());
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            let behind = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
            let port = behind.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
            match host.starts_with(':') || host.is_empty() {
                true => wrong(" (it names no host)"),
                false if !port => wrong(" (its port is no number up to 65535)"),
                false => Ok(()),
            }
        }
        "file" | "copy" => {
            let path = place.strip_prefix("//").unwrap_or(place);
            if !path.starts_with('/') {
                return wrong(" (the path begins with no slash)");
            }
            let suite = Path::new(path).join("dists").join(&spec.suite);
            if suite.is_dir() {
                return Ok(());
            }
            Err(Error::Usage(format!(
                "There is no directory {}, so {shown:?} is no mirror with {}: name one that has it",
                suite.display(),
                spec.suite
            )))
        }
        _ => wrong(""),
    }
}

/// The sites of this host's suites, with the suites of what is built in their place.
fn from_targets(spec: &Spec, targets: &str, host: Option<&Host>, components: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    let own = host.map_or("", |host| host.suite.as_str());
    for target in targets.lines() {
        let mut fields = target.split('\t');
        let (Some(origin), Some(site), Some(release)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // Without lists apt does not know whose they are: of the host's own suites it is clear.
        let is_own = host.is_some_and(|host| host.id == spec.distribution.id());
        if origin != spec.distribution.title() && !(origin.is_empty() && is_own) {
            continue;
        }
        // `bookworm-security` of the host is `trixie-security` of what is built; `bookworm-backports` is nothing of it.
        let suite = match release.strip_prefix(own).filter(|_| !own.is_empty()) {
            Some(rest) => format!("{}{rest}", spec.suite),
            None if release.starts_with(&spec.suite) => release.to_owned(),
            None => continue,
        };
        if spec.suites().contains(&suite) && seen.insert((site.to_owned(), suite.clone())) {
            lines.push(format!("deb {site} {suite} {components}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "Debian\thttp://m/debian\tbookworm\nDebian\thttp://m/debian\tbookworm\nDebian\thttp://m/debian\tbookworm-updates\n\
Debian\thttp://m/security\tbookworm-security\nDebian Backports\thttp://m/debian\tbookworm-backports\nDocker\thttp://d\tbookworm\n\n";

    fn spec(text: &str) -> Spec {
        Spec::parse(text, None).unwrap()
    }

    #[test]
    fn a_hosts_suites_become_those_of_what_is_built() {
        let host = Host::parse("ID=debian\nVERSION_CODENAME=bookworm\nVERSION=\"12 (bookworm)\"\n").unwrap();
        let lines = |text: &str| from_targets(&spec(text), TARGETS, Some(&host), "main").join("|");
        assert_eq!(
            lines("debian/13"),
            "deb http://m/debian trixie main|deb http://m/debian trixie-updates main|deb http://m/security trixie-security main"
        );
        assert_eq!(lines("debian/sid"), "deb http://m/debian sid main");
        assert_eq!(lines("ubuntu/24.04"), "");
        assert_eq!(from_targets(&spec("debian/12"), TARGETS, None, "main").len(), 3);
        // Before the first "apt-get update".
        let bare = "\thttp://m/debian\tbookworm\n\thttp://m/debian\tbookworm-backports\n";
        assert_eq!(from_targets(&spec("debian/13"), bare, Some(&host), "main"), ["deb http://m/debian trixie main"]);
        assert!(from_targets(&spec("ubuntu/24.04"), bare, Some(&host), "main").is_empty());
    }

    #[test]
    fn a_mirror_is_an_address() {
        let named = |mirror: &str| super::lines(&spec("debian/13"), Some(mirror), None);
        assert_eq!(named("http://m/debian").unwrap(), ["deb http://m/debian trixie main"]);
        assert!(named("http://[::1]:3142/debian").is_ok() && named("http://u:p@m:80/debian").is_ok());
        for bad in [
            "",
            "m/debian",
            "ftp://m",
            "http://m/x y",
            "--help",
            "http://m/\nx",
            "http://",
            "http:///x",
            "http://:80/",
            "https://u:p@/",
            "file://etc",
            "file:///etc",
            "copy:x",
            "http://[trusted=yes] x/",
        ] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
        for hidden in ["ftp://user:word@m", "https://user:wo/rd@/", "user:word@m"] {
            let error = named(hidden).unwrap_err().to_string();
            assert!(!error.contains("word") && !error.contains("rd@"), "{error}");
        }
    }
}
