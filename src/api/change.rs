//! What a change says besides its values: which fields it names, and which state of the object it stands on.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::IF_MATCH;
use serde::Serialize;
use serde::de::IgnoredAny;

use super::error::Error;
use super::response;

/// The fields that the object of a PATCH names. `null` names nothing, as in LXD.
#[derive(Debug, Clone, Default)]
pub struct Named(BTreeMap<String, Option<IgnoredAny>>);

impl Named {
    /// Of a body that was read as JSON before; anything but an object names nothing.
    pub(super) fn of(body: &[u8]) -> Self {
        Self(serde_json::from_slice(body).unwrap_or_default())
    }

    /// Whether `field` is among them.
    pub fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(Option::is_some)
    }
}

/// The header field `If-Match`: ETags, of which the object must still have one. It is asked where the change is written,
/// so that of two clients who saw the same object one is told.
#[derive(Debug, Clone)]
pub struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// Of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.get(IF_MATCH).map(|wanted| {
            let tags = wanted.to_str().unwrap_or("none").split(',');
            tags.map(|tag| tag.trim().trim_matches('"').to_owned()).collect()
        }))
    }

    /// The ETag of `modifiable`, when it is none of those that are asked for.
    pub fn differs(&self, modifiable: impl Serialize) -> Option<String> {
        let tags = self.0.as_ref()?;
        let now = response::etag(modifiable);
        let matches = tags.iter().any(|tag| *tag == now || tag == "*" || tag.is_empty());
        (!matches).then_some(now)
    }

    /// The same as a result.
    ///
    /// # Errors
    /// 412 when it differs.
    pub fn check(&self, modifiable: impl Serialize) -> Result<(), Error> {
        self.differs(modifiable).map_or(Ok(()), |wanted| Err(Error::Precondition { wanted }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_names_nothing() {
        let named = Named::of(br#"{"a": null, "b": "", "c": {}}"#);
        assert!(!named.has("a") && named.has("b") && named.has("c") && !named.has("d"));
        assert!(!Named::of(b"").has("a"));
        assert!(!Named::of(b"null").has("a"));
    }

    #[test]
    fn one_of_the_tags_must_fit() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_MATCH, text.parse().unwrap());
            IfMatch::of(&headers)
        };
        let tag = response::etag("x");
        assert!(IfMatch::of(&HeaderMap::new()).differs("x").is_none());
        for good in ["*", "", &tag, &format!("\"{tag}\""), &format!("\"other\", \"{tag}\"")] {
            assert!(of(good).differs("x").is_none(), "{good}");
        }
        assert_eq!(of("\"other\"").differs("x"), Some(tag));
    }
}
