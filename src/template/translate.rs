//! From Django's form of a template to minijinja's: text stays as it is, each tag becomes one or more on the same line.
//!
//! The delimiters of the result hold a control character, so that no text is ever taken for one.

use super::Error;
use super::expression::Reader;
use super::token::{closing, tokens};

const MARK: char = '\u{1}';
/// Around statements.
pub(super) const BLOCK: (&str, &str) = ("\u{1}%", "%\u{1}");
/// Around what is shown.
pub(super) const VARIABLE: (&str, &str) = ("\u{1}{", "}\u{1}");
/// Around nothing: the translation has no comments.
pub(super) const COMMENT: (&str, &str) = ("\u{1}#", "#\u{1}");

/// So deep may blocks lie in each other.
const DEPTH: usize = 50;

/// What a variable is called after the translation: never as a word of minijinja's.
pub(super) fn variable(name: &str) -> String {
    format!("v_{name}")
}

/// What the loop at this depth is called.
pub(super) fn loop_variable(level: usize) -> String {
    format!("l_{level}")
}

/// A text as minijinja writes it; JSON's escapes are its escapes.
pub(super) fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A block that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    If,
    /// After `else` nothing but the end follows.
    Else,
    For,
    /// The part for when there is nothing.
    Empty,
    With,
    Filter,
    Plain(&'static str),
}

impl Open {
    fn end(self) -> &'static str {
        match self {
            Self::If | Self::Else => "endif",
            Self::For | Self::Empty => "endfor",
            Self::With => "endwith",
            Self::Filter => "endfilter",
            Self::Plain(end) => end,
        }
    }
}

struct Translator {
    out: String,
    line: usize,
    /// Each with the line on which it began.
    open: Vec<(Open, usize, &'static str)>,
    /// Loops whose bodies are around.
    loops: usize,
    /// White space at the beginning of the next text goes.
    trim: bool,
}

/// The translation of a template.
pub(super) fn translate(source: &str) -> Result<String, Error> {
    if let Some(at) = source.find(MARK) {
        let line = 1 + source[..at].matches('\n').count();
        return Err(Error::at(line, "the control character U+0001 has no place in a template"));
    }
    let mut translator =
        Translator { out: String::with_capacity(source.len()), line: 1, open: Vec::new(), loops: 0, trim: false };
    translator.whole(source)?;
    match translator.open.last() {
        None => Ok(translator.out),
        Some((open, line, _)) => {
            Err(Error::at(*line, format!("{{% {} %}} is missing for what begins here", open.end())))
        }
    }
}

/// Where the next tag begins: the first of the three signs.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find('{').map(|at| from + at) {
        match text.as_bytes().get(at + 1) {
            Some(b'{') => return Some((at, "}}")),
            Some(b'%') => return Some((at, "%}")),
            Some(b'#') => return Some((at, "#}")),
            _ => from = at + 1,
        }
    }
    None
}

impl Translator {
    fn whole(&mut self, mut rest: &str) -> Result<(), Error> {
        while let Some((at, close)) = next_tag(rest) {
            let inner = &rest[at + 2..];
            let (inner, trim_before) = inner.strip_prefix('-').map_or((inner, false), |inner| (inner, true));
            self.text(&rest[..at], trim_before);
            let end = if close == "#}" { inner.find(close) } else { closing(inner, close) };
            let end = end.ok_or_else(|| Error::at(self.line, format!("{close:?} is missing for what begins here")))?;
            let (tag, after) = (&inner[..end], &inner[end + 2..]);
            let (tag, trim_after) = tag.strip_suffix('-').map_or((tag, false), |tag| (tag, true));
            self.trim = trim_after;
            rest = match close {
                "}}" => self.shown(tag).map(|()| after)?,
                "%}" => self.statement(tag, after)?,
                _ => {
                    self.blank(tag);
                    after
                }
            };
        }
        self.text(rest, false);
        Ok(())
    }

    /// Text between tags. What is trimmed still counts as lines.
    fn text(&mut self, text: &str, trim_end: bool) {
        let mut kept = text;
        if self.trim {
            kept = kept.trim_start();
            self.blank(&text[..text.len() - kept.len()]);
        }
        let before = kept;
        if trim_end {
            kept = kept.trim_end();
        }
        self.out.push_str(kept);
        self.line += kept.matches('\n').count();
        self.blank(&before[kept.len()..]);
        self.trim = false;
    }

    /// As many lines as `text` has, and nothing to be seen.
    fn blank(&mut self, text: &str) {
        let lines = text.matches('\n').count();
        if lines > 0 {
            self.emit(COMMENT, "", lines);
        }
        self.line += lines;
    }

    /// A tag that takes up `lines` lines.
    fn emit(&mut self, (open, close): (&str, &str), inner: &str, lines: usize) {
        self.out.push_str(open);
        self.out.push(' ');
        self.out.push_str(inner);
        self.out.push(' ');
        self.out.extend(std::iter::repeat_n('\n', lines));
        self.out.push_str(close);
    }

    fn shown(&mut self, tag: &str) -> Result<(), Error> {
        let mut reader = Reader::new(tokens(tag, self.line)?, self.line, self.loops);
        let expression = reader.expression()?;
        reader.end()?;
        self.put(VARIABLE, &expression, tag);
        Ok(())
    }

    fn put(&mut self, delimiters: (&str, &str), inner: &str, tag: &str) {
        let lines = tag.matches('\n').count();
        self.emit(delimiters, inner, lines);
        self.line += lines;
    }

    fn open(&mut self, open: Open, name: &'static str) -> Result<(), Error> {
        if self.open.len() >= DEPTH {
            return Err(Error::at(self.line, "blocks are nested too deeply"));
        }
        self.open.push((open, self.line, name));
        Ok(())
    }

    /// A statement; what follows it comes back.
    fn statement<'a>(&mut self, tag: &str, after: &'a str) -> Result<&'a str, Error> {
        let wrong = |reason: String| Error::at(self.line, reason);
        let name = tag.split_whitespace().next().unwrap_or_default();
        // What is in it need not be words of the language.
        if let Some(end) = match name {
            "comment" => Some("endcomment"),
            "verbatim" => Some("endverbatim"),
            _ => None,
        } {
            return self.literally(tag, after, end);
        }
        let mut words = tokens(tag, self.line)?;
        if words.is_empty() {
            return Err(wrong("the tag is empty".to_owned()));
        }
        words.remove(0);
        let mut reader = Reader::new(words, self.line, self.loops);
        match name {
            "if" => {
                let inner = format!("if f_bool({})", reader.expression()?);
                self.open(Open::If, "if")?;
                self.put(BLOCK, &inner, tag);
            }
            "ifequal" | "ifnotequal" => {
                let (left, right) = (reader.operand()?, reader.operand()?);
                let (test, name) = if name == "ifequal" { ("f_eq", "endifequal") } else { ("f_ne", "endifnotequal") };
                self.open(Open::If, name)?;
                self.put(BLOCK, &format!("if {test}({left}, {right})"), tag);
            }
            "elif" | "else" => self.otherwise(name, &mut reader, tag)?,
            "for" => self.begin_for(&mut reader, tag)?,
            "empty" => match self.open.last_mut() {
                Some((open @ Open::For, ..)) => {
                    *open = Open::Empty;
                    self.loops -= 1;
                    self.put(BLOCK, "else", tag);
                }
                _ => return Err(wrong("{% empty %} stands outside of a for".to_owned())),
            },
            "set" => {
                let name = reader.name()?;
                if !reader.sign("=") {
                    return Err(reader.error("\"=\" is missing: {% set name = value %}"));
                }
                let inner = format!("set {} = {}", variable(&name), reader.expression()?);
                self.put(BLOCK, &inner, tag);
            }
            "with" => {
                let inner = format!("with {}", with(&mut reader)?);
                self.open(Open::With, "with")?;
                self.put(BLOCK, &inner, tag);
            }
            "filter" => {
                let mut inner = format!("filter {}", reader.filter()?);
                while reader.sign("|") {
                    inner = format!("{inner}|{}", reader.filter()?);
                }
                self.open(Open::Filter, "filter")?;
                self.put(BLOCK, &inner, tag);
            }
            "autoescape" if reader.word("off") => {
                self.open(Open::Plain("endautoescape"), "autoescape")?;
                self.blank(tag);
            }
            "firstof" => {
                let mut values = Vec::new();
                while !reader.is_empty() {
                    values.push(reader.operand()?);
                }
                self.put(VARIABLE, &format!("f_first({})", values.join(", ")), tag);
            }
            "templatetag" => {
                let text = template_tag(&reader.name()?).ok_or_else(|| reader.error("there is no such templatetag"))?;
                self.put(VARIABLE, &literal(text), tag);
            }
            "include" | "import" | "extends" | "ssi" | "block" => {
                return Err(wrong(format!("the tag {name:?} is not allowed: a template reads no other file")));
            }
            end if end.starts_with("end") => self.end(end, tag)?,
            other => return Err(wrong(format!("the tag {other:?} is not known"))),
        }
        reader.end()?;
        Ok(after)
    }

    /// A comment, or text that is not looked at.
    fn literally<'a>(&mut self, tag: &str, after: &'a str, end: &str) -> Result<&'a str, Error> {
        let begun = self.line;
        let mut from = 0;
        while let Some(at) = after[from..].find("{%").map(|at| from + at) {
            let inner = &after[at + 2..];
            let Some(close) = inner.find("%}") else { break };
            if inner[..close].trim_matches(['-', ' ', '\t', '\r', '\n']) != end {
                from = at + 2;
                continue;
            }
            self.blank(tag);
            if end == "endcomment" {
                self.blank(&after[..at]);
            } else {
                self.trim &= !after[..at].is_empty();
                self.text(&after[..at], inner.starts_with('-'));
            }
            self.trim = inner[..close].ends_with('-');
            self.blank(&inner[..close]);
            return Ok(&inner[close + 2..]);
        }
        Err(Error::at(begun, format!("{{% {end} %}} is missing for what begins here")))
    }

    fn otherwise(&mut self, name: &str, reader: &mut Reader, tag: &str) -> Result<(), Error> {
        let Some((open @ Open::If, ..)) = self.open.last_mut() else {
            return Err(Error::at(self.line, format!("{{% {name} %}} stands outside of an if")));
        };
        if name == "else" {
            *open = Open::Else;
            self.put(BLOCK, "else", tag);
        } else {
            let inner = format!("elif f_bool({})", reader.expression()?);
            self.put(BLOCK, &inner, tag);
        }
        Ok(())
    }

    fn begin_for(&mut self, reader: &mut Reader, tag: &str) -> Result<(), Error> {
        let key = reader.name()?;
        let value = if reader.sign(",") { Some(reader.name()?) } else { None };
        if !reader.word("in") {
            return Err(reader.error("\"in\" is missing: {% for item in list %}"));
        }
        let list = reader.expression()?;
        let (mut reversed, mut sorted) = (false, false);
        loop {
            if reader.word("reversed") {
                reversed = true;
            } else if reader.word("sorted") {
                sorted = true;
            } else {
                break;
            }
        }
        let over = if value.is_some() { "f_pairs" } else { "f_items" };
        let names = value.iter().fold(variable(&key), |names, value| format!("{names}, {}", variable(value)));
        self.open(Open::For, "for")?;
        self.loops += 1;
        self.emit(BLOCK, &format!("for {names} in {over}({list}, {reversed}, {sorted})"), 0);
        // `loop` itself is the innermost one's.
        self.put(BLOCK, &format!("set {} = loop", loop_variable(self.loops)), tag);
        Ok(())
    }

    fn end(&mut self, name: &str, tag: &str) -> Result<(), Error> {
        let Some((open, _, begun)) = self.open.pop() else {
            return Err(Error::at(self.line, format!("{{% {name} %}} ends nothing")));
        };
        // Django's two words for an if have ends of their own.
        let end = if begun.starts_with("end") { begun } else { open.end() };
        if name != end {
            return Err(Error::at(self.line, format!("{{% {name} %}} stands where {{% {end} %}} is due")));
        }
        if open == Open::For {
            self.loops -= 1;
        }
        match open {
            Open::Plain(_) => self.blank(tag),
            Open::If | Open::Else | Open::For | Open::Empty | Open::With | Open::Filter => {
                self.put(BLOCK, open.end(), tag);
            }
        }
        Ok(())
    }
}

/// `a=1 b=2`, or `value as name`.
fn with(reader: &mut Reader) -> Result<String, Error> {
    let mut pairs = Vec::new();
    while !reader.is_empty() {
        let value = reader.expression()?;
        if reader.word("as") {
            pairs.push(format!("{} = {value}", variable(&reader.name()?)));
        } else if reader.sign("=") && value.starts_with("v_") && !value.contains(['[', '(']) {
            pairs.push(format!("{value} = {}", reader.expression()?));
        } else {
            return Err(reader.error("{% with %} takes name=value"));
        }
    }
    if pairs.is_empty() { Err(reader.error("{% with %} takes name=value")) } else { Ok(pairs.join(", ")) }
}

fn template_tag(name: &str) -> Option<&'static str> {
    Some(match name {
        "openblock" => "{%",
        "closeblock" => "%}",
        "openvariable" => "{{",
        "closevariable" => "}}",
        "openbrace" => "{",
        "closebrace" => "}",
        "opencomment" => "{#",
        "closecomment" => "#}",
        _ => return None,
    })
}
