//! What most things of the API have in common: a configuration that is shown, read, set and edited.

use std::io::Read;

use http::Method;
use serde_json::{Map, Value, json};

use super::connection::Connection;
use super::table::{Format, show, sort};
use super::{Error, editor, output, yaml};

/// A kind of things: what is shown of it, and what of that can be changed.
pub(super) struct Kind {
    /// Fields in the order that they are shown in.
    pub order: &'static [&'static str],
    /// Fields that a PUT takes.
    pub writable: &'static [&'static str],
}

pub(super) const PROFILE: Kind = Kind {
    order: &["config", "description", "devices", "name", "used_by"],
    writable: &["config", "description", "devices"],
};
pub(super) const PROJECT: Kind =
    Kind { order: &["config", "description", "name", "used_by"], writable: &["config", "description"] };
pub(super) const NETWORK: Kind = Kind {
    order: &["config", "description", "name", "type", "used_by", "managed", "status", "locations"],
    writable: &["config", "description"],
};
pub(super) const ACL: Kind = Kind {
    order: &["name", "description", "egress", "ingress", "config", "used_by"],
    writable: &["description", "egress", "ingress", "config"],
};
pub(super) const FORWARD: Kind = Kind {
    order: &["description", "config", "ports", "listen_address", "location"],
    writable: &["description", "config", "ports"],
};
pub(super) const POOL: Kind = Kind {
    order: &["config", "description", "name", "driver", "used_by", "status", "locations"],
    writable: &["config", "description"],
};
pub(super) const VOLUME: Kind = Kind {
    order: &["config", "description", "name", "type", "used_by", "location", "content_type", "project", "created_at"],
    writable: &["config", "description"],
};
pub(super) const VOLUME_SNAPSHOT: Kind = Kind {
    order: &["description", "expires_at", "name", "config", "content_type", "created_at"],
    writable: &["expires_at", "description"],
};
pub(super) const INSTANCE: Kind = Kind {
    order: &[
        "expires_at",
        "architecture",
        "config",
        "devices",
        "ephemeral",
        "profiles",
        "stateful",
        "description",
        "created_at",
        "expanded_config",
        "expanded_devices",
        "name",
        "status",
        "status_code",
        "last_used_at",
        "location",
        "type",
        "project",
        "backups",
        "state",
        "snapshots",
    ],
    writable: &["architecture", "config", "devices", "ephemeral", "profiles", "stateful", "description"],
};
pub(super) const SNAPSHOT: Kind = Kind {
    order: &[
        "expires_at",
        "architecture",
        "config",
        "created_at",
        "devices",
        "ephemeral",
        "expanded_config",
        "expanded_devices",
        "last_used_at",
        "name",
        "profiles",
        "stateful",
        "size",
    ],
    writable: &["expires_at"],
};
pub(super) const SERVER: Kind = Kind {
    order: &["config", "api_extensions", "api_status", "api_version", "auth", "public", "auth_methods", "environment"],
    writable: &["config"],
};
pub(super) const IMAGE: Kind = Kind {
    order: &[
        "auto_update",
        "properties",
        "public",
        "expires_at",
        "profiles",
        "aliases",
        "architecture",
        "cached",
        "filename",
        "fingerprint",
        "size",
        "update_source",
        "type",
        "created_at",
        "last_used_at",
        "uploaded_at",
    ],
    writable: &["auto_update", "properties", "public", "expires_at", "profiles"],
};
pub(super) const CERTIFICATE: Kind = Kind {
    order: &["name", "type", "restricted", "projects", "certificate", "fingerprint"],
    writable: &["name", "type", "restricted", "projects", "certificate"],
};
pub(super) const OPERATION: Kind = Kind {
    order: &[
        "id",
        "class",
        "description",
        "created_at",
        "updated_at",
        "status",
        "status_code",
        "resources",
        "metadata",
        "may_cancel",
        "err",
        "location",
    ],
    writable: &[],
};
pub(super) const WARNING: Kind = Kind {
    order: &[
        "status",
        "uuid",
        "location",
        "project",
        "type",
        "count",
        "first_seen_at",
        "last_seen_at",
        "last_message",
        "severity",
        "entity_url",
    ],
    writable: &["status"],
};
/// Templates and metadata of an image.
pub(super) const METADATA: Kind = Kind {
    order: &["architecture", "creation_date", "expiry_date", "properties", "templates"],
    writable: &["architecture", "creation_date", "expiry_date", "properties", "templates"],
};

/// One thing on a server.
pub(super) struct Object<'a> {
    /// Where it is.
    pub at: &'a Connection,
    /// Its path.
    pub path: String,
    /// What it is and how it is named, for errors: "profile web".
    pub what: String,
    /// Its kind.
    pub kind: &'static Kind,
}

/// A path of the API: its parts, each as it can stand in a URL.
pub(super) fn path(parts: &[&str]) -> String {
    let encode = |part: &&str| {
        let text = percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string();
        // These need it not, and look better so in messages.
        text.replace("%2D", "-").replace("%5F", "_").replace("%2E", ".")
    };
    format!("/1.0/{}", parts.iter().map(encode).collect::<Vec<_>>().join("/"))
}

/// Names of any kind must be something, and no path.
pub(super) fn checked(kind: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(Error::Usage(format!("{name:?} is no name of a {kind}")));
    }
    Ok(())
}

/// Without the `--` behind which values may begin with `-`.
pub(super) fn unguarded(words: &[String]) -> Vec<String> {
    let guard = words.iter().position(|word| word == "--");
    words.iter().enumerate().filter(|(at, _)| Some(*at) != guard).map(|(_, word)| word.clone()).collect()
}

/// `key=value` words; also the two words `key value`. The value `-` is read from stdin.
pub(super) fn pairs(words: &[String]) -> Result<Vec<(String, String)>, Error> {
    let words = unguarded(words);
    let split = match words.as_slice() {
        [key, value] if !key.contains('=') => vec![(key.clone(), value.clone())],
        words => words
            .iter()
            .map(|word| match word.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(Error::Usage(format!("{word:?} is not <key>=<value>"))),
            })
            .collect::<Result<_, _>>()?,
    };
    split
        .into_iter()
        .map(|(key, value)| {
            if value != "-" {
                return Ok((key, value));
            }
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Error::Local { doing: "read stdin".to_owned(), error })?;
            Ok((key, text))
        })
        .collect()
}

/// A map of texts as JSON.
pub(super) fn map(pairs: Vec<(String, String)>) -> Value {
    Value::Object(pairs.into_iter().map(|(key, value)| (key, Value::String(value))).collect())
}

/// Sees to it that what is worked on is an object, and its maps are maps: a server may send anything, and a user write it.
/// The error says what is none.
pub(super) fn with_maps(mut value: Value) -> Result<Value, String> {
    let wrong = |what: &str| format!("{what} is no map");
    let fields = value.as_object_mut().ok_or_else(|| wrong("The object"))?;
    for (key, field) in fields {
        let devices = matches!(key.as_str(), "devices" | "expanded_devices");
        if !devices && !matches!(key.as_str(), "config" | "properties") {
            continue;
        }
        if field.is_null() {
            *field = json!({});
        }
        let entries = field.as_object().ok_or_else(|| wrong(key))?;
        if devices && let Some((name, _)) = entries.iter().find(|(_, device)| !device.is_object()) {
            return Err(wrong(&format!("The device {name}")));
        }
    }
    Ok(value)
}

/// Only what can be changed.
fn writable(value: &Value, kind: &Kind) -> Result<Value, String> {
    let fields = value.as_object().into_iter().flatten();
    with_maps(Value::Object(
        fields.filter(|(key, _)| kind.writable.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect(),
    ))
}

impl Object<'_> {
    fn failed(&self, doing: &str) -> impl Fn(Error) -> Error {
        let what = format!("Cannot {doing} {}", self.what);
        move |e: Error| e.doing(what.clone())
    }

    /// What the server says of it.
    pub(super) async fn value(&self) -> Result<Value, Error> {
        self.at.get(&self.path).await.map_err(self.failed("read"))
    }

    /// Prints it as YAML.
    pub(super) async fn show(&self) -> Result<(), Error> {
        output::yaml(&self.value().await?, self.kind.order)
    }

    /// Prints a value of its configuration.
    pub(super) async fn get(&self, key: &str) -> Result<(), Error> {
        let value = self.value().await?;
        output::print(&format!("{}\n", value["config"][key].as_str().unwrap_or_default()))
    }

    /// The same; nothing at all where there is no such value.
    pub(super) async fn get_known(&self, key: &str) -> Result<(), Error> {
        match self.value().await?["config"][key].as_str() {
            Some(text) => output::print(&format!("{text}\n")),
            None => Ok(()),
        }
    }

    /// Changes it: reads, lets `change` work on what can be changed, and replaces that very version.
    pub(super) async fn update(&self, change: impl FnOnce(&mut Value) -> Result<(), Error>) -> Result<(), Error> {
        let failed = self.failed("change");
        let (value, tag) = self.at.get_tagged(&self.path).await.map_err(&failed)?;
        let mut value = writable(&value, self.kind).map_err(Error::Broken)?;
        change(&mut value)?;
        self.at.put(&self.path, &value, &tag).await.map_err(&failed)
    }

    /// Sets values of its configuration.
    pub(super) async fn set(&self, pairs: Vec<(String, String)>) -> Result<(), Error> {
        self.update(|value| {
            for (key, text) in pairs {
                value["config"][key] = Value::String(text);
            }
            Ok(())
        })
        .await
    }

    /// Removes a value of its configuration.
    pub(super) async fn unset(&self, key: &str) -> Result<(), Error> {
        self.update(|value| {
            if let Some(config) = value["config"].as_object_mut() {
                config.remove(key);
            }
            Ok(())
        })
        .await
    }

    /// The same; an error where there is no such value.
    pub(super) async fn unset_known(&self, key: &str) -> Result<(), Error> {
        self.update(|value| {
            let removed = value["config"].as_object_mut().and_then(|config| config.remove(key));
            removed.map(drop).ok_or_else(|| Error::Usage(format!("Can't unset key '{key}', it's not currently set")))
        })
        .await
    }

    /// Lets the user edit it.
    pub(super) async fn edit(&self) -> Result<(), Error> {
        let failed = self.failed("change");
        let (value, tag) = self.at.get_tagged(&self.path).await.map_err(&failed)?;
        let shown = format!(
            "# What can be changed of {}; an empty value removes nothing, a missing key does.\n{}",
            self.what,
            yaml::text(&value, self.kind.order)
        );
        editor::change(&shown, async |edited| {
            let edited = writable(&edited, self.kind).map_err(Error::Usage)?;
            self.at.put(&self.path, &edited, &tag).await.map_err(&failed)
        })
        .await
    }

    /// Deletes it.
    pub(super) async fn delete(&self) -> Result<(), Error> {
        self.at.run(Method::DELETE, &self.path, None).await.map(drop).map_err(self.failed("delete"))
    }

    /// Gives it another name.
    pub(super) async fn rename(&self, name: &str) -> Result<(), Error> {
        let body = json!({"name": name});
        self.at.run(Method::POST, &self.path, Some(&body)).await.map(drop).map_err(self.failed("rename"))
    }
}

/// Makes something.
pub(super) async fn create(at: &Connection, path: &str, what: &str, body: Value) -> Result<(), Error> {
    at.run(Method::POST, path, Some(&body)).await.map(drop).map_err(|e| e.doing(format!("Cannot create {what}")))
}

/// Adds what is not there yet; maps are joined.
pub(super) fn merge(body: &mut Value, given: Map<String, Value>) {
    for (key, value) in given {
        match (&mut body[&key], value) {
            (Value::Object(have), Value::Object(more)) => {
                for (key, value) in more {
                    have.entry(key).or_insert(value);
                }
            }
            (have @ Value::Null, value) => *have = value,
            _ => {}
        }
    }
}

/// A list of objects, with a row for each.
pub(super) async fn list(
    at: &Connection,
    path: &str,
    format: Format,
    headers: &[&str],
    order: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<(), Error> {
    list_of(at, path, format, headers, order, |_| true, row).await
}

/// The same of those that are wanted.
pub(super) async fn list_of(
    at: &Connection,
    path: &str,
    format: Format,
    headers: &[&str],
    order: &[&str],
    wanted: impl Fn(&Value) -> bool,
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<(), Error> {
    let mut objects = match at.get(path).await? {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    objects.retain(wanted);
    let mut rows: Vec<Vec<String>> = objects.iter().map(row).collect();
    sort(&mut rows);
    show(format, headers, &rows, &objects, order)
}

/// A field as text.
pub(super) fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// How many entries a list has.
pub(super) fn count(value: &Value, key: &str) -> String {
    value[key].as_array().map_or(0, Vec::len).to_string()
}

/// YES or NO.
pub(super) fn yes_no(value: bool) -> String {
    if value { "YES" } else { "NO" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_two_forms() {
        let of = |words: &[&str]| pairs(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(of(&["a", "b=c"]).unwrap(), [pair("a", "b=c")]);
        assert_eq!(of(&["a=b", "c=d=e"]).unwrap(), [pair("a", "b"), pair("c", "d=e")]);
        assert_eq!(of(&["a", "--", "-5"]).unwrap(), [pair("a", "-5")]);
        assert_eq!(of(&["--", "a=b", "c=--"]).unwrap(), [pair("a", "b"), pair("c", "--")]);
        assert!(of(&["a"]).is_err() && of(&["a=b", "c"]).is_err());
        assert_eq!(path(&["profiles", "a/b ?é"]), "/1.0/profiles/a%2Fb%20%3F%C3%A9");
        assert!(with_maps(json!({"config": 5})).is_err() && with_maps(json!({"devices": {"a": 5}})).is_err());
        assert!(with_maps(json!([])).is_err());
        assert_eq!(with_maps(json!({"config": null, "x": 1})).unwrap(), json!({"config": {}, "x": 1}));
        assert!(checked("profile", "..").is_err() && checked("profile", "a.b").is_ok());
    }
}
