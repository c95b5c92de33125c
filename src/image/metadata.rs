//! `metadata.yaml`.

use std::collections::BTreeMap;

use serde_norway::Value;

use super::error::Error;
use super::rules::MAX_PATH;
use crate::api::wire::ImageTemplate;
use crate::names::{both_ends, shown_path};

/// The longest `metadata.yaml`, bytes.
pub(super) const MAX: u64 = 1024 * 1024;

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Kernel architecture, in LXD's words.
    pub architecture: String,
    /// Seconds since 1970.
    pub creation_date: i64,
    /// Seconds since 1970.
    pub expiry_date: Option<i64>,
    /// Free properties.
    pub properties: BTreeMap<String, String>,
}

/// LXD's word for an architecture, from its own or Debian's.
pub fn architecture(word: &str) -> Option<&'static str> {
    Some(match word {
        "x86_64" | "amd64" => "x86_64",
        "i686" | "i386" | "i586" => "i686",
        "aarch64" | "arm64" => "aarch64",
        "armv7l" | "armhf" => "armv7l",
        "ppc" => "ppc",
        "ppc64" => "ppc64",
        "ppc64le" | "ppc64el" => "ppc64le",
        "s390x" => "s390x",
        "riscv64" => "riscv64",
        _ => return None,
    })
}

/// All of these words.
pub const ARCHITECTURES: [&str; 9] =
    ["x86_64", "i686", "aarch64", "armv7l", "ppc", "ppc64", "ppc64le", "s390x", "riscv64"];

/// What a kernel of an architecture runs, itself first (personality(2)).
pub fn runs(kernel: &str) -> &'static [&'static str] {
    match architecture(kernel) {
        Some("aarch64") => &["aarch64", "armv7l"],
        Some("ppc64") => &["ppc64", "ppc"],
        Some("i686") => &["i686"],
        Some("armv7l") => &["armv7l"],
        Some("ppc") => &["ppc"],
        Some("ppc64le") => &["ppc64le"],
        Some("s390x") => &["s390x"],
        Some("riscv64") => &["riscv64"],
        Some(_) | None => &["x86_64", "i686"],
    }
}

/// Whether a template can be used at all: `path` is that of the file that is made, `template` names one in `templates/`.
///
/// # Errors
/// With what is wrong: the key `templates.PATH`, or `templates.PATH.template`, and the reason.
pub fn check_template(path: &str, template: &str) -> Result<(), (String, &'static str)> {
    let key = || format!("templates.{}", shown_path(path));
    let of_path = match path {
        "" => Some("the path of the file is empty"),
        _ if path.contains('\0') => Some("the path of the file has a NUL"),
        _ if path.len() > MAX_PATH => Some("the path of the file has more than 4095 bytes"),
        _ if path.split('/').any(|part| part == "..") => Some("the path of the file has \"..\""),
        _ if path.ends_with('/') => Some("the path is that of a directory"),
        _ => None,
    };
    if let Some(reason) = of_path {
        return Err((key(), reason));
    }
    let is_file =
        (1..=255).contains(&template.len()) && !template.contains(['/', '\0']) && !matches!(template, "." | "..");
    if is_file { Ok(()) } else { Err((format!("{}.template", key()), "it must be the name of a file in templates/")) }
}

fn check_templates(root: &Value) -> Result<(), Error> {
    let templates = match root.get("templates") {
        None | Some(Value::Null) => return Ok(()),
        Some(templates) => templates.clone(),
    };
    let templates: BTreeMap<String, ImageTemplate> = serde_norway::from_value(templates)
        .map_err(|error| Error::Metadata { field: "templates".to_owned(), reason: both_ends(&error.to_string()) })?;
    let check = |(path, template): (&String, &ImageTemplate)| check_template(path, &template.template);
    templates.iter().try_for_each(check).map_err(|(field, reason)| Error::Metadata { field, reason: reason.to_owned() })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::Null => Some(String::new()),
        Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// The times that can be written in the API: the years 0 to 9999 (RFC 3339), seconds since 1970.
const TIMES: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// Whether a date is one that can be shown.
///
/// # Errors
/// With what is wrong.
pub fn check_date(at: i64) -> Result<(), &'static str> {
    if TIMES.contains(&at) { Ok(()) } else { Err("it must be a time in the years 0 to 9999, in seconds since 1970") }
}

/// A date as YAML has it. As in LXD, `1.7e9` is one.
fn seconds(value: &Value) -> Result<i64, &'static str> {
    #[expect(clippy::cast_possible_truncation, reason = "parts of a second do not count; what is too large is refused")]
    let whole =
        value.as_i64().or_else(|| value.as_f64().filter(|number| number.is_finite()).map(|number| number as i64));
    let at = whole.ok_or("it must be a number of seconds")?;
    check_date(at).map(|()| at)
}

impl Metadata {
    /// Reads the YAML.
    ///
    /// # Errors
    /// With the field that is missing or wrong.
    pub fn parse(yaml: &[u8]) -> Result<Self, Error> {
        let wrong = |field: &str, reason: &str| Error::Metadata { field: field.to_owned(), reason: reason.to_owned() };
        let root: Value = serde_norway::from_slice(yaml).map_err(|e| Error::BadArchive {
            reason: format!("its metadata.yaml is not YAML: {}", both_ends(&e.to_string())),
        })?;
        let word = root.get("architecture").and_then(text).ok_or_else(|| wrong("architecture", "it is missing"))?;
        let date = |field: &'static str| match root.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => seconds(value).map(Some).map_err(|reason| wrong(field, reason)),
        };
        let mut properties = BTreeMap::new();
        match root.get("properties") {
            None | Some(Value::Null) => {}
            Some(Value::Mapping(map)) => {
                for (key, value) in map {
                    let pair = text(key).zip(text(value));
                    let (key, value) = pair.ok_or_else(|| wrong("properties", "each must be a plain value"))?;
                    properties.insert(key, value);
                }
            }
            Some(_) => return Err(wrong("properties", "it must be a map")),
        }
        check_templates(&root)?;
        Ok(Self {
            architecture: architecture(&word)
                .ok_or_else(|| wrong("architecture", &format!("{:?} is not known", both_ends(&word))))?
                .to_owned(),
            creation_date: date("creation_date")?
                .filter(|date| *date != 0)
                .ok_or_else(|| wrong("creation_date", "it is missing"))?,
            expiry_date: date("expiry_date")?.filter(|date| *date > 0),
            properties,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_scalar_type_become_text() {
        let yaml =
            b"architecture: amd64\ncreation_date: 1700000000\nproperties:\n  os: Debian\n  release: 12\n  lts: true\n";
        let metadata = Metadata::parse(yaml).unwrap();
        assert_eq!(metadata.architecture, "x86_64");
        assert_eq!(metadata.properties["release"], "12");
        assert_eq!(metadata.properties["lts"], "true");
    }

    #[test]
    fn refusals_name_the_field() {
        for (yaml, field) in [
            ("creation_date: 1", "architecture"),
            ("architecture: x86_64", "creation_date"),
            ("architecture: x86_64\ncreation_date: 0", "creation_date"),
            ("architecture: pdp11\ncreation_date: 1", "architecture"),
            ("architecture: x86_64\ncreation_date: soon", "creation_date"),
            ("architecture: x86_64\ncreation_date: 1\nproperties: [a]", "properties"),
            ("architecture: x86_64\ncreation_date: 1\ntemplates: [a]", "templates"),
            ("architecture: x86_64\ncreation_date: 1\ntemplates: {/a: 1}", "templates"),
        ] {
            let error = Metadata::parse(yaml.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(Metadata::parse(b"\x00: [").is_err());
    }

    /// LXD 5.0.2 refuses the same ones, and takes numbers with a point.
    #[test]
    fn dates_are_times_that_can_be_shown() {
        let parsed = |dates: &str| Metadata::parse(format!("architecture: x86_64\n{dates}\n").as_bytes());
        for (text, date) in [("-1", -1), ("1.7e9", 1_700_000_000), ("1.5", 1), ("253402300799", 253_402_300_799)] {
            assert_eq!(parsed(&format!("creation_date: {text}")).unwrap().creation_date, date);
        }
        for text in ["9000000000000000000", "-9000000000000000000", "253402300800", "1e18", ".nan", ".inf", "'5'"] {
            for dates in [format!("creation_date: {text}"), format!("creation_date: 1\nexpiry_date: {text}")] {
                let error = parsed(&dates).unwrap_err().to_string();
                assert!(error.contains("_date\""), "{dates}: {error}");
            }
        }
    }

    #[test]
    fn a_template_that_no_start_could_use_is_refused() {
        let parsed = |path: &str, template: &str| {
            let map = format!("{{{path}: {{when: [create], template: {template}}}}}");
            Metadata::parse(format!("architecture: x86_64\ncreation_date: 1\ntemplates: {map}\n").as_bytes())
        };
        for path in ["/etc/hostname", "etc/hostname", "/etc/a..b", "\"/x\\ny\""] {
            parsed(path, "hostname.tpl").unwrap();
        }
        parsed("/x", "..x").unwrap();
        for path in ["\"\"", "/../x", "/etc/..", "..", "\"/a\\0b\"", "/etc/"] {
            let error = parsed(path, "x").unwrap_err().to_string();
            assert!(error.contains("\"templates.") && error.len() < 400, "{path}: {error}");
        }
        let (key, _) = check_template(&format!("/{}a", "a/".repeat(2100)), "x").unwrap_err();
        assert!(key.len() < 400, "{key}");
        for template in ["a/b", "../x", "..", "\"\"", "\"a\\0b\"", &"x".repeat(256)] {
            let error = parsed("/etc/hostname", template).unwrap_err().to_string();
            assert!(error.contains("\"templates./etc/hostname.template\""), "{template}: {error}");
        }
    }
}
