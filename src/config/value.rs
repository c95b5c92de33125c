//! The kinds of values and their check.

use super::{Error, MAX_VALUE};

/// What a value must look like. An empty value unsets its key and always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A boolean word.
    Bool,
    /// A whole number in this range.
    Int(i64, i64),
    /// A value of an environment variable: one line.
    Line,
}

/// Reads a boolean in any of the words that LXD takes, in any case.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads a whole number.
pub fn parse_int(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

impl Kind {
    /// Checks `value`.
    ///
    /// # Errors
    /// [`Error::Value`], which says what would fit; a hidden value is not repeated.
    pub fn check(self, key: &str, value: &str, hidden: bool) -> Result<(), Error> {
        let refuse = |expected: String| {
            let value = if hidden { String::new() } else { value.chars().take(80).collect() };
            Err(Error::Value { key: key.to_owned(), value, expected })
        };
        if value.len() > MAX_VALUE {
            return refuse(format!("a value has at most {MAX_VALUE} bytes, this one has {}", value.len()));
        }
        if value.contains('\0') {
            return refuse("NUL characters are not allowed".to_owned());
        }
        if value.is_empty() {
            return Ok(());
        }
        match self {
            Self::Text => Ok(()),
            Self::Bool if parse_bool(value).is_some() => Ok(()),
            Self::Bool => refuse("it must be true or false".to_owned()),
            Self::Int(low, high) => match parse_int(value) {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                Some(_) | None => refuse(format!("it must be a whole number from {low} to {high}")),
            },
            Self::Line if value.contains(['\n', '\r']) => refuse("line breaks are not allowed".to_owned()),
            Self::Line => Ok(()),
        }
    }

    /// As the documentation names it.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Text | Self::Line => "string",
            Self::Bool => "bool",
            Self::Int(..) => "integer",
        }
    }
}
