//! Some fields of many objects, without making values of all the others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Error;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    error: Cow<'a, str>,
    #[serde(default, borrow)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The objects in the metadata of an answer, each with those of the fields that it has.
///
/// # Errors
/// The refusal, or that it is no list of objects.
pub(super) fn of(answer: &[u8], fields: &[&str]) -> Result<Vec<Value>, Error> {
    let broken = |e: serde_json::Error| Error::Broken(e.to_string());
    let envelope: Envelope<'_> = serde_json::from_slice(answer).map_err(broken)?;
    if envelope.kind == "error" {
        return Err(Error::refused(envelope.error.into_owned()));
    }
    let objects = envelope.metadata.map_or("null", RawValue::get);
    let objects: Option<Vec<BTreeMap<Key<'_>, &RawValue>>> = serde_json::from_str(objects).map_err(broken)?;
    let wanted = |object: BTreeMap<Key<'_>, &RawValue>| {
        let kept = object.into_iter().filter(|(key, _)| fields.contains(&key.0.as_ref()));
        let made =
            kept.map(|(key, value)| Ok((key.0.into_owned(), serde_json::from_str(value.get()).map_err(broken)?)));
        made.collect::<Result<serde_json::Map<String, Value>, Error>>().map(Value::Object)
    };
    let none = || Error::Broken("It is no list".to_owned());
    objects.ok_or_else(none)?.into_iter().map(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let answer =
            br#"{"type":"sync","metadata":[{"name":"a\u0062","x":{"y":[1,2]},"\u006eot":1},{"z":1,"x":null}]}"#;
        assert_eq!(
            of(answer, &["name", "x", "not"]).unwrap(),
            [json!({"name": "ab", "x": {"y": [1, 2]}, "not": 1}), json!({"x": null})]
        );
        for (bad, reason) in [
            (&br#"{"type":"error","error":"no"}"#[..], "no"),
            (br#"{"type":"sync","metadata":null}"#, "no list"),
            (br#"{"type":"sync"}"#, "no list"),
            (br#"{"type":"sync","metadata":[1]}"#, "invalid type"),
            (br#"{"type":"sync","metadata":{}}"#, "invalid type"),
            (b"[", "EOF"),
            (b"", "EOF"),
        ] {
            let told = of(bad, &["x"]).unwrap_err().to_string();
            assert!(told.contains(reason), "{told}");
        }
    }
}
