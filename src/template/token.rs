//! The words inside `{{ … }}` and `{% … %}`.

use super::Error;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name or a keyword.
    Name(String),
    /// A quoted text, without quotes and escapes.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// An operator or punctuation.
    Sign(&'static str),
}

/// The longer before the shorter that begins alike.
const SIGNS: &[&str] = &[
    "==", "!=", "<>", "<=", ">=", "&&", "||", "<", ">", "|", ":", ",", ".", "(", ")", "[", "]", "+", "-", "*", "/",
    "%", "^", "!", "=",
];

/// Words with the lines they stand on.
pub(super) type Tokens = Vec<(usize, Token)>;

/// Takes `text`, which begins on `line`, apart.
pub(super) fn tokens(text: &str, mut line: usize) -> Result<Tokens, Error> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = if first.is_whitespace() {
            line += usize::from(first == '\n');
            first.len_utf8()
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push((line, Token::Name(rest[..end].to_owned())));
            end
        } else if first.is_ascii_digit() {
            let end = number_end(rest, matches!(found.last(), Some((_, Token::Sign(".")))));
            found.push((line, number(&rest[..end]).ok_or_else(|| Error::at(line, "a number is too large"))?));
            end
        } else if first == '"' || first == '\'' {
            let (text, end) = quoted(rest, first).ok_or_else(|| Error::at(line, "a quoted text has no end"))?;
            let begun = line;
            line += rest[..end].matches('\n').count();
            found.push((begun, Token::Text(text)));
            end
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push((line, Token::Sign(sign)));
            sign.len()
        } else {
            return Err(Error::at(line, format!("{first:?} has no meaning here")));
        };
        rest = &rest[end..];
    }
    Ok(found)
}

/// `index`: after a dot a number is an index, of which the next dot is no part.
fn number_end(text: &str, index: bool) -> usize {
    let digits = |from: usize| text[from..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |end| from + end);
    let whole = digits(0);
    let fraction = text[whole..].strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if fraction && !index { digits(whole + 1) } else { whole }
}

fn number(text: &str) -> Option<Token> {
    if text.contains('.') { text.parse().ok().map(Token::Float) } else { text.parse().ok().map(Token::Integer) }
}

/// A text in `quote`s, at the beginning of `rest`; and where it ends.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                other => text.push(other),
            },
            end if end == quote => return Some((text, at + 1)),
            other => text.push(other),
        }
    }
    None
}

/// Where `close` stands in `text`, quoted texts aside; `None`: nowhere.
pub(super) fn closing(text: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            Some(_) if character == '\\' => drop(characters.next()),
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if text[at..].starts_with(close) => return Some(at),
            None if character == '"' || character == '\'' => quote = Some(character),
            None => {}
        }
    }
    None
}
