//! What is built: the distribution, its release, the packages, what is changed in the root, and the metadata with templates.
//! Nothing here runs anything.

use crate::api::wire::{ImageMetadata, ImageTemplate};

/// A distribution whose packages mmdebstrap installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distribution {
    Debian,
    Ubuntu,
}

/// Names and texts of templates.
pub(super) type Templates = Vec<(&'static str, &'static str)>;

impl Distribution {
    /// As it is called in os-release(5) and in aliases.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Ubuntu => "ubuntu",
        }
    }

    /// As it calls itself, also as the origin of its package lists.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        }
    }

    /// Its keys, and the package that has them.
    pub(super) fn keyring(self) -> (&'static str, &'static str) {
        match self {
            Self::Debian => ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
            Self::Ubuntu => ("/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
        }
    }

    /// Version numbers and the suites that they are.
    fn releases(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Debian => {
                &[("11", "bullseye"), ("12", "bookworm"), ("13", "trixie"), ("14", "forky"), ("unstable", "sid")]
            }
            Self::Ubuntu => &[("20.04", "focal"), ("22.04", "jammy"), ("24.04", "noble"), ("26.04", "resolute")],
        }
    }

    /// Sections of its archive that are free and supported.
    pub(super) fn components(self) -> &'static str {
        match self {
            Self::Debian => "main",
            Self::Ubuntu => "main universe",
        }
    }
}

/// What an image has beside the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Nothing.
    Default,
    /// cloud-init, told by the instance's configuration.
    Cloud,
}

/// Which image: `debian/13`, `debian/trixie/cloud`, `ubuntu/24.04`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) distribution: Distribution,
    /// The name of the suite in the archive.
    pub(super) suite: String,
    /// The version's number where it is known, else the suite.
    pub(super) release: String,
    pub(super) variant: Variant,
}

impl Spec {
    /// Reads `text`. `host` says what this host is: distribution and suite, for a text that names no release.
    ///
    /// # Errors
    /// With what is not known.
    pub(super) fn parse(text: &str, host: Option<(&str, &str)>) -> Result<Self, String> {
        let mut words = text.split('/');
        let distribution = match words.next().unwrap_or_default() {
            "debian" => Distribution::Debian,
            "ubuntu" => Distribution::Ubuntu,
            other => return Err(format!("{other:?} cannot be built: only debian and ubuntu, such as debian/13")),
        };
        let release = match (words.next(), host) {
            (Some(""), _) => {
                let id = distribution.id();
                return Err(format!(
                    "{text:?} names no release: write {id}/{}, or {id} for this host's own",
                    distribution.releases()[1].0
                ));
            }
            (Some(release), _) => release,
            (None, Some((id, suite))) if id == distribution.id() => suite,
            (None, _) => {
                let releases: Vec<String> = distribution
                    .releases()
                    .iter()
                    .map(|(number, _)| format!("{}/{number}", distribution.id()))
                    .collect();
                return Err(format!(
                    "This host is no {}: name a release, such as {}",
                    distribution.title(),
                    releases.join(", ")
                ));
            }
        };
        let fits = |word: &str| {
            word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
        };
        if !fits(release) || release.starts_with(['-', '.']) {
            return Err(format!("{release:?} is no release: name it by its number or its suite, such as 13 or trixie"));
        }
        let known = distribution.releases().iter().find(|(number, suite)| *number == release || *suite == release);
        let (release, suite) = match known {
            Some((number, suite)) => (*number, *suite),
            None if release.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
                return Err(format!(
                    "{} {release} is not known here: name its suite, such as trixie",
                    distribution.title()
                ));
            }
            None => (release, release),
        };
        let variant = match (words.next(), words.next()) {
            (None | Some("default"), None) => Variant::Default,
            (Some("cloud"), None) => Variant::Cloud,
            (_, _) => return Err(format!("{text:?}: a variant is \"default\" or \"cloud\"")),
        };
        Ok(Self { distribution, suite: suite.to_owned(), release: release.to_owned(), variant })
    }

    /// The alias of what is built, unless others are given.
    pub(super) fn alias(&self) -> String {
        let base = format!("{}/{}", self.distribution.id(), self.release);
        match self.variant {
            Variant::Default => base,
            Variant::Cloud => format!("{base}/cloud"),
        }
    }

    /// The packages beside the essential ones.
    pub(super) fn packages(&self, more: &[String]) -> String {
        // networkd waits for udev wherever /sys can be written, as it can in an unprivileged container.
        let mut packages: Vec<&str> =
            vec!["systemd-sysv", "udev", "dbus", "iproute2", "iputils-ping", "ca-certificates", "less", "procps"];
        if self.variant == Variant::Cloud {
            packages.push("cloud-init");
        }
        packages.extend(more.iter().map(String::as_str));
        packages.join(",")
    }

    /// The suites of a release: itself, and those that mend it.
    pub(super) fn suites(&self) -> Vec<String> {
        let own = &self.suite;
        match self.distribution {
            Distribution::Debian if matches!(own.as_str(), "sid" | "unstable" | "testing") => vec![own.clone()],
            Distribution::Debian | Distribution::Ubuntu => {
                vec![own.clone(), format!("{own}-updates"), format!("{own}-security")]
            }
        }
    }

    /// `metadata.yaml` and the templates, by name.
    ///
    /// # Errors
    /// When it cannot be written as YAML.
    pub(super) fn metadata(
        &self,
        architecture: (&str, &str),
        now: i64,
    ) -> Result<(String, Templates), serde_norway::Error> {
        let variant = if self.variant == Variant::Cloud { "cloud" } else { "default" };
        let title = self.distribution.title();
        let serial = serial(now);
        let description = format!("{title} {} {} ({serial})", self.release, architecture.1);
        let mut metadata = ImageMetadata {
            architecture: architecture.0.to_owned(),
            creation_date: now,
            properties: [
                ("os", title),
                ("release", &self.suite),
                ("version", &self.release),
                ("variant", variant),
                ("architecture", architecture.1),
                ("serial", &serial),
                ("description", &description),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            ..ImageMetadata::default()
        };
        let mut templates = Vec::new();
        let mut add = |path: &str, name: &'static str, text: &'static str, default: Option<&str>| {
            let template = ImageTemplate {
                when: ["create", "copy"].map(str::to_owned).into(),
                template: name.to_owned(),
                properties: default.map(|text| ("default".to_owned(), text.to_owned())).into_iter().collect(),
                ..ImageTemplate::default()
            };
            metadata.templates.insert(path.to_owned(), template);
            templates.push((name, text));
        };
        add("/etc/hostname", "hostname.tpl", include_str!("hostname.tpl"), None);
        add("/etc/hosts", "hosts.tpl", include_str!("hosts.tpl"), None);
        if self.variant == Variant::Cloud {
            let seed = |name: &str| format!("/var/lib/cloud/seed/nocloud-net/{name}");
            let none = Some("#cloud-config\n{}\n");
            add(&seed("meta-data"), "cloud-init-meta.tpl", include_str!("cloud-init-meta.tpl"), None);
            add(&seed("user-data"), "cloud-init-user.tpl", include_str!("cloud-init-user.tpl"), none);
            add(&seed("vendor-data"), "cloud-init-vendor.tpl", include_str!("cloud-init-vendor.tpl"), none);
            add(&seed("network-config"), "cloud-init-network.tpl", include_str!("cloud-init-network.tpl"), None);
        }
        Ok((serde_norway::to_string(&metadata)?, templates))
    }
}

/// A day, as serials of images are written.
fn serial(now: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!("{:04}{:02}{:02}_{:02}{:02}", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute())
}

/// What is changed in the root, as a script that is given the root's path.
pub(super) fn customize(variant: Variant) -> String {
    let mut script = include_str!("customize.sh").to_owned();
    if variant == Variant::Cloud {
        script.push_str(include_str!("customize-cloud.sh"));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{self, Context, Map, Subject};

    #[test]
    fn releases_are_named_by_number_suite_or_host() {
        let spec =
            |text: &str| Spec::parse(text, Some(("debian", "bookworm"))).map(|spec| (spec.suite.clone(), spec.alias()));
        for (text, suite, alias) in [
            ("debian/13", "trixie", "debian/13"),
            ("debian/trixie/cloud", "trixie", "debian/13/cloud"),
            ("debian/12/default", "bookworm", "debian/12"),
            ("debian", "bookworm", "debian/12"),
            ("debian/sid", "sid", "debian/unstable"),
            ("debian/duke", "duke", "debian/duke"),
            ("ubuntu/24.04", "noble", "ubuntu/24.04"),
        ] {
            assert_eq!(spec(text), Ok((suite.to_owned(), alias.to_owned())), "{text}");
        }
        for (text, reason) in [
            ("alpine/3.20", "only debian and ubuntu"),
            ("", "only debian and ubuntu"),
            ("ubuntu", "name a release, such as ubuntu/20.04"),
            ("debian/99", "not known here"),
            ("debian/--help", "is no release"),
            ("debian/a b", "is no release"),
            ("debian/../x", "is no release"),
            ("debian/13/desktop", "\"default\" or \"cloud\""),
            ("debian/13/cloud/x", "\"default\" or \"cloud\""),
        ] {
            let error = spec(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_metadata_name_templates_that_are_there_and_can_be_used() {
        let spec = Spec::parse("debian/13/cloud", None).unwrap();
        let (yaml, templates) = spec.metadata(("x86_64", "amd64"), 1_700_000_000).unwrap();
        let metadata: ImageMetadata = serde_norway::from_str(&yaml).unwrap();
        assert_eq!(metadata.properties["description"], "Debian 13 amd64 (20231114_2213)");
        let subject = |pairs: &[(&str, &str)]| Subject {
            name: "c1".to_owned(),
            config: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Map>(),
            ..Subject::default()
        };
        let made = |path: &str, subject: &Subject| {
            let template = &metadata.templates[path];
            let text = templates.iter().find(|(name, _)| *name == template.template).unwrap().1;
            let context = Context { subject, trigger: "create", path, properties: &template.properties };
            template::render(text, &context).unwrap()
        };
        assert_eq!(metadata.templates.len(), 6);
        assert_eq!(made("/etc/hostname", &subject(&[])), "c1\n");
        assert!(made("/etc/hosts", &subject(&[])).contains("127.0.1.1\tc1\n"));
        let seed = |name: &str, pairs: &[(&str, &str)]| {
            made(&format!("/var/lib/cloud/seed/nocloud-net/{name}"), &subject(pairs))
        };
        assert_eq!(seed("user-data", &[]).trim(), "#cloud-config\n{}");
        assert_eq!(seed("user-data", &[("user.user-data", "#old")]).trim(), "#old");
        assert_eq!(seed("user-data", &[("user.user-data", "#old"), ("cloud-init.user-data", "#new")]).trim(), "#new");
        assert_eq!(seed("vendor-data", &[("cloud-init.vendor-data", "#v")]).trim(), "#v");
        assert!(seed("meta-data", &[]).contains("local-hostname: c1\n"));
        let network = seed("network-config", &[]);
        let network: serde_json::Value = serde_norway::from_str(&network).unwrap();
        assert_eq!(network["ethernets"]["eth0"]["dhcp4"], true);
        assert_eq!(seed("network-config", &[("user.network-config", "version: 1")]).trim(), "version: 1");
    }

    /// Seen with mmdebstrap 1.5.5: its configuration of apt lies in the root's /tmp until its own clean-up. Without it, that
    /// empties the package lists of the host.
    #[test]
    fn the_script_leaves_what_mmdebstrap_still_needs() {
        for variant in [Variant::Default, Variant::Cloud] {
            let script = customize(variant);
            let removed: Vec<&str> = script.lines().filter(|line| line.trim_start().starts_with("rm ")).collect();
            assert!(!removed.is_empty());
            assert!(removed.iter().all(|line| !line.contains("tmp") && !line.contains("apt/")), "{removed:?}");
        }
    }

    /// Seen with cloud-init 22.4.2: without it cloud-config.service fails, and the system is degraded.
    #[test]
    fn the_locale_is_one_that_is_there() {
        assert!(
            customize(Variant::Cloud).contains("locale: C.UTF-8") && !customize(Variant::Default).contains("locale: ")
        );
    }

    #[test]
    fn a_release_comes_with_what_mends_it() {
        let suites = |text: &str| Spec::parse(text, None).unwrap().suites().join(" ");
        assert_eq!(suites("debian/13"), "trixie trixie-updates trixie-security");
        assert_eq!(suites("debian/sid"), "sid");
    }
}
