//! Parts of JSON of which each spoils nothing but itself. They are read one after the other, from the text itself, so that what
//! a server puts between them takes time, and no memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{SKIPPED, TEXT};
use crate::names::Fingerprint;

/// So many texts of a part that cannot be read are kept because they may be its fingerprint.
const HASHES: usize = 8;

/// What can be told of a part that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Bad {
    pub(super) reason: String,
    pub(super) aliases: String,
    pub(super) arch: String,
    /// Whatever in it may be a fingerprint.
    pub(super) hashes: Vec<String>,
}

/// Reads a part.
///
/// # Errors
/// With what can be told of it nevertheless.
pub(super) fn part<T: DeserializeOwned>(raw: &RawValue) -> Result<T, Bad> {
    serde_json::from_str(raw.get()).map_err(|error| {
        let mut bad = Bad { reason: crate::names::shortened(&error.to_string()), ..Bad::default() };
        // What is no object tells no more.
        let _ = entries(raw.get(), |key, value| match (key.as_str(), text(value)) {
            ("aliases", Some(text)) => bad.aliases = text,
            ("arch", Some(text)) => bad.arch = text,
            (_, Some(text)) if bad.hashes.len() < HASHES && Fingerprint::new(text.clone()).is_ok() => {
                bad.hashes.push(text)
            }
            (_, Some(_) | None) => {}
        });
        bad
    })
}

/// A text that is not too long.
fn text(raw: &RawValue) -> Option<String> {
    let is_short = raw.get().starts_with('"') && raw.get().len() <= TEXT;
    is_short.then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

/// Goes through an object.
///
/// # Errors
/// When it is none.
pub(super) fn entries(json: &str, each: impl FnMut(String, &RawValue)) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Entries(each))?;
    deserializer.end()
}

struct Entries<F>(F);

impl<'de, F: FnMut(String, &RawValue)> Visitor<'de> for Entries<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            (self.0)(key, value);
        }
        Ok(())
    }
}

/// The parts of an object with their names, in their order; of those that cannot be read only some.
pub(super) struct Parts<T>(pub(super) Vec<(String, Result<T, Bad>)>);

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Parts<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PartsVisitor(PhantomData))
    }
}

struct PartsVisitor<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for PartsVisitor<T> {
    type Value = Parts<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts<T>, A::Error> {
        let (mut parts, mut bad) = (Vec::new(), 0);
        while let Some((name, raw)) = map.next_entry::<String, &RawValue>()? {
            let part = part(raw);
            bad += usize::from(part.is_err());
            if part.is_ok() || bad <= SKIPPED {
                parts.push((name, part));
            }
        }
        Ok(Parts(parts))
    }
}
