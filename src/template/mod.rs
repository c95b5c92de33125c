//! Templates of images: files of an instance that are written when it is made or starts.
//!
//! Their language is Django's, as images in the wild use it: `{{ instance.name }}`, `{{ config_get("user.x", "no")|upper }}`,
//! `{% if … %}`, `{% for … %}`, `{# … #}`. It is translated ([`translate`]), line by line, to that of the crate `minijinja`, which
//! runs it with a bound on work and memory ([`FUEL`]). A template reads no file and reaches nothing but its [`Context`].
//! Nothing is escaped: what is written are configuration files.
//!
//! A leaf: the helper process uses it, so that what a hostile template costs is paid there.

mod expression;
mod filters;
mod token;
mod translate;
mod value;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};

/// The longest template, bytes.
pub const MAX_SOURCE: usize = 1024 * 1024;

/// What one template may cost: so many instructions, or 64 times as many bytes made on the way.
const FUEL: u64 = 500_000;

/// Names and values.
pub type Map = BTreeMap<String, String>;

/// The instance that templates are about.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its kernel architecture, in LXD's words.
    pub architecture: String,
    /// It has no user namespace.
    pub privileged: bool,
    /// It is deleted when it stops.
    pub ephemeral: bool,
    /// Its expanded configuration.
    pub config: Map,
    /// Its expanded devices.
    pub devices: BTreeMap<String, Map>,
}

/// What one template is told.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The instance.
    pub subject: &'a Subject,
    /// Why the template is used: `create`, `copy`, `start`, `rename`.
    pub trigger: &'a str,
    /// The path of the file that is made, in the instance.
    pub path: &'a str,
    /// What the image's metadata give this template.
    pub properties: &'a Map,
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Where, counted from 1.
    pub line: Option<usize>,
    /// What.
    pub reason: String,
}

impl Error {
    fn at(line: usize, reason: impl Into<String>) -> Self {
        Self { line: Some(line), reason: reason.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for Error {}

impl From<minijinja::Error> for Error {
    fn from(error: minijinja::Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too long or makes too much text".to_owned(),
            kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
        };
        Self { line: error.line(), reason }
    }
}

fn syntax() -> Result<SyntaxConfig, minijinja::Error> {
    use translate::{BLOCK, COMMENT, VARIABLE};
    SyntaxConfig::builder()
        .block_delimiters(BLOCK.0, BLOCK.1)
        .variable_delimiters(VARIABLE.0, VARIABLE.1)
        .comment_delimiters(COMMENT.0, COMMENT.1)
        .keep_trailing_newline(true)
        .build()
}

/// Why `privileged` and `ephemeral` are texts: in LXD they are.
fn about(subject: &Subject) -> Value {
    Value::from(BTreeMap::from([
        ("name", subject.name.clone()),
        ("architecture", subject.architecture.clone()),
        ("privileged", subject.privileged.to_string()),
        ("ephemeral", subject.ephemeral.to_string()),
    ]))
}

/// What the template `source` makes of a context.
///
/// # Errors
/// With the line of what cannot be understood, is not allowed, or takes too much.
pub fn render(source: &str, context: &Context<'_>) -> Result<String, Error> {
    if source.len() > MAX_SOURCE {
        return Err(Error { line: None, reason: format!("it has more than {MAX_SOURCE} bytes") });
    }
    let translated = translate::translate(source)?;
    let mut environment = Environment::empty();
    environment.set_syntax(syntax()?);
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, _, shown| Ok(out.write_str(&value::text(shown))?));
    value::register(&mut environment);
    filters::register(&mut environment);
    let subject = context.subject;
    let mut variables: BTreeMap<String, Value> = BTreeMap::new();
    let mut set = |name: &str, value: Value| drop(variables.insert(translate::variable(name), value));
    set("trigger", context.trigger.into());
    set("path", context.path.into());
    set("container", about(subject));
    set("instance", about(subject));
    set("config", Value::from(subject.config.clone()));
    set("devices", Value::from(subject.devices.clone()));
    set("properties", Value::from(context.properties.clone()));
    let config = subject.config.clone();
    environment.add_function(expression::CONFIG_GET, move |key: &str, default: Value| match config.get(key) {
        Some(found) => Value::from(found.trim_end_matches(['\r', '\n'])),
        None => default,
    });
    Ok(environment.template_from_str(&translated)?.render(Value::from(variables))?)
}

/// For [`crate::fuzz`]: whatever comes is rendered, or refused with a line of the template.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(source: &str) {
    let subject = Subject {
        name: "c1".to_owned(),
        config: Map::from([("user.a".to_owned(), "b".to_owned())]),
        devices: BTreeMap::from([("root".to_owned(), Map::from([("type".to_owned(), "disk".to_owned())]))]),
        ..Subject::default()
    };
    let properties = Map::from([("default".to_owned(), "#x\n".to_owned())]);
    let context = Context { subject: &subject, trigger: "start", path: "/etc/x", properties: &properties };
    match render(source, &context) {
        Ok(text) => assert!(text.len() as u64 <= FUEL * 64, "more than is allowed"),
        Err(error) => {
            let lines = source.lines().count() + 1;
            assert!(error.line.is_none_or(|line| line <= lines), "{error} of {lines}");
        }
    }
}

#[cfg(test)]
mod tests;
