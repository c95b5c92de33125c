//! `?filter=`: which objects of a list are wanted.
//!
//! ```text
//! expression = term { ("and" | "or") term }      evaluated from left to right, as LXD does
//! term       = [ "not" ] ( "(" expression ")" | field ("eq" | "ne") value )
//! ```
//! A field is the JSON name, with dots for what lies inside (`config.user.x`). A value is compared without case; as in LXD
//! it may be a regular expression, of the whole text unless it says itself where it begins or ends.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};
use serde_json::Value;

/// A filter that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFilter {
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The query parameter \"filter\": {}; write e.g. \"name eq c1 and status eq Running\"", self.reason)
    }
}

impl std::error::Error for BadFilter {}

#[derive(Debug)]
enum Node {
    Compare {
        field: String,
        equal: bool,
        value: Wanted,
    },
    Not(Box<Node>),
    /// From left to right. A list, not a tree: as many terms as fit into a URL must fit on a thread's stack.
    Chain(Box<Node>, Vec<(Joint, Node)>),
}

/// A value to compare with.
#[derive(Debug)]
struct Wanted {
    text: String,
    /// Of a text with marks of a regular expression in it. One that is none is only a text.
    pattern: Option<Regex>,
}

/// A pattern may take so many bytes of memory, compiled.
const MAX_PATTERN: usize = 64 * 1024;

impl Wanted {
    fn new(text: String) -> Self {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | ':' | ' ' | ',' | '@' | '=');
        if text.chars().all(is_plain) {
            return Self { text, pattern: None };
        }
        let anchored = text.starts_with('^') || text.ends_with('$');
        let pattern = if anchored { text.clone() } else { format!("^(?:{text})$") };
        let pattern = RegexBuilder::new(&pattern).case_insensitive(true).size_limit(MAX_PATTERN).build().ok();
        Self { text, pattern }
    }

    fn is(&self, found: &str) -> bool {
        found.eq_ignore_ascii_case(&self.text) || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(found))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joint {
    And,
    Or,
}

/// A parsed filter; the empty one lets everything pass.
#[derive(Debug, Default)]
pub struct Filter {
    root: Option<Node>,
}

/// Nested deeper than this is no honest filter.
const DEPTH: usize = 32;

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<String>>,
}

/// Splits at blanks and parentheses; double quotes hold a text together.
fn tokens(text: &str) -> Result<Vec<String>, BadFilter> {
    let mut all = Vec::new();
    // The word so far; an empty text in quotes is one, too.
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '(' | ')' if !quoted => {
                all.extend(word.take());
                all.push(c.to_string());
            }
            c if c.is_whitespace() && !quoted => all.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err(BadFilter { reason: "a quote is not closed".to_owned() });
    }
    all.extend(word);
    Ok(all)
}

impl Parser {
    fn next(&mut self, wanted: &str) -> Result<String, BadFilter> {
        self.tokens.next().ok_or_else(|| BadFilter { reason: format!("{wanted} is missing at the end") })
    }

    fn expression(&mut self, depth: usize) -> Result<Node, BadFilter> {
        let first = self.term(depth)?;
        let mut rest = Vec::new();
        while let Some(word) = self.tokens.peek() {
            let joint = match word.to_ascii_lowercase().as_str() {
                ")" => break,
                "and" => Joint::And,
                "or" => Joint::Or,
                _ => return Err(BadFilter { reason: format!("\"and\" or \"or\" is expected, not {word:?}") }),
            };
            self.tokens.next();
            rest.push((joint, self.term(depth)?));
        }
        Ok(if rest.is_empty() { first } else { Node::Chain(Box::new(first), rest) })
    }

    fn term(&mut self, depth: usize) -> Result<Node, BadFilter> {
        if depth > DEPTH {
            return Err(BadFilter { reason: "it is nested too deep".to_owned() });
        }
        let word = self.next("a field")?;
        match word.to_ascii_lowercase().as_str() {
            "not" => Ok(Node::Not(Box::new(self.term(depth + 1)?))),
            "(" => {
                let inner = self.expression(depth + 1)?;
                match self.next("\")\"")?.as_str() {
                    ")" => Ok(inner),
                    other => Err(BadFilter { reason: format!("\")\" is expected, not {other:?}") }),
                }
            }
            _ => {
                let equal = match self.next("\"eq\" or \"ne\"")?.to_ascii_lowercase().as_str() {
                    "eq" => true,
                    "ne" => false,
                    other => return Err(BadFilter { reason: format!("\"eq\" or \"ne\" is expected, not {other:?}") }),
                };
                Ok(Node::Compare { field: word, equal, value: Wanted::new(self.next("a value")?) })
            }
        }
    }
}

/// The value of a field; keys of maps may hold dots themselves.
fn lookup<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(field) {
        return Some(value);
    }
    field.match_indices('.').find_map(|(at, _)| lookup(object.get(&field[..at])?, &field[at + 1..]))
}

fn equal(found: Option<&Value>, wanted: &Wanted) -> bool {
    match found {
        None | Some(Value::Null) => wanted.text.is_empty(),
        Some(Value::String(text)) => wanted.is(text),
        Some(other @ (Value::Bool(_) | Value::Number(_))) => wanted.is(&other.to_string()),
        Some(Value::Array(_) | Value::Object(_)) => false,
    }
}

fn matches(node: &Node, object: &Value) -> bool {
    match node {
        Node::Compare { field, equal: wanted, value } => equal(lookup(object, field), value) == *wanted,
        Node::Not(inner) => !matches(inner, object),
        Node::Chain(first, rest) => rest.iter().fold(matches(first, object), |left, (joint, right)| match joint {
            Joint::And => left && matches(right, object),
            Joint::Or => left || matches(right, object),
        }),
    }
}

impl Filter {
    /// Parses the parameter.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        let tokens = tokens(text)?;
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let mut parser = Parser { tokens: tokens.into_iter().peekable() };
        let root = parser.expression(0)?;
        match parser.tokens.next() {
            None => Ok(Self { root: Some(root) }),
            Some(word) => Err(BadFilter { reason: format!("{word:?} is not expected there") }),
        }
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether the object is wanted.
    pub fn passes(&self, object: &Value) -> bool {
        self.root.as_ref().is_none_or(|root| matches(root, object))
    }
}

/// For [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    let object = serde_json::json!({"name": "c1", "config": {"user.x": "a b", "a.b": {"c": [1]}}, "n": null});
    if let Ok(filter) = Filter::parse(text) {
        filter.passes(&object);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn passes(filter: &str) -> bool {
        let object = json!({"name": "c1", "status": "Running", "ephemeral": false, "config": {"user.x": "a b"}});
        Filter::parse(filter).unwrap().passes(&object)
    }

    #[test]
    fn filters_compare_combine_and_nest() {
        for filter in [
            "",
            "name eq c1",
            "status eq running",
            "name ne c2",
            "ephemeral eq false",
            "config.user.x eq \"a b\"",
            "not name eq c2",
            "name eq c2 or (status eq running and not ephemeral eq true)",
            "missing eq \"\" or name eq c1",
            "name eq c.*",
            "name eq ^c",
            "name eq .*1$",
            "name eq x|C1",
            "name ne c",
            "name ne c..",
            "name ne \"(c1\"",
            "name eq \"c(1|2)\"",
            "status eq run.*",
        ] {
            assert!(passes(filter), "{filter}");
        }
        for filter in [
            "name eq c2",
            "not name eq c1",
            "name eq c1 and status eq stopped",
            "config eq x",
            "name eq 1",
            "name eq ^1",
        ] {
            assert!(!passes(filter), "{filter}");
        }
    }

    #[test]
    fn bad_filters_say_what_is_wrong() {
        for filter in ["name", "name eq", "name is c1", "(name eq c1", "name eq c1 c2", "name eq \"c1", "and", ")"] {
            assert!(Filter::parse(filter).unwrap_err().to_string().contains("filter"), "{filter}");
        }
        assert!(Filter::parse(&"not ".repeat(100_000)).is_err());
    }

    #[test]
    fn a_filter_as_long_as_a_url_can_be_fits_on_the_stack() {
        // A thread of the daemon has 1 MiB (daemon.rs); a head of 64 KiB (server.rs) has room for 6000 terms.
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
            let all = vec!["name eq c1"; 40_000];
            assert!(passes(&all.join(" and ")) && passes(&all.join(" or ")));
        });
        thread.unwrap().join().unwrap();
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = Filter::parse(&text);
        }
    }
}
