//! The filters of Django's language that templates of images use, with what LXD 5.0.2 makes of them.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, Value};

use super::value::{integer, items, number, refuse, text};

/// Whether a filter takes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument {
    None,
    Optional,
    Needed,
}

/// A filter.
pub(super) struct Filter {
    name: &'static str,
    pub(super) argument: Argument,
    apply: fn(&Value, &Value) -> Result<Value, Error>,
}

/// What `urlencode` leaves as it is, besides letters and digits.
const UNRESERVED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// So wide may a text be made.
const MAX_WIDTH: usize = 10_000;

const fn row(name: &'static str, argument: Argument, apply: fn(&Value, &Value) -> Result<Value, Error>) -> Filter {
    Filter { name, argument, apply }
}

const FILTERS: &[Filter] = &[
    row("add", Argument::Needed, |value, more| {
        let numbers = value.kind() == ValueKind::Number && more.kind() == ValueKind::Number;
        Ok(match (numbers, value.is_integer() && more.is_integer()) {
            (true, true) => Value::from(integer(value).saturating_add(integer(more))),
            (true, false) => Value::from(number(value) + number(more)),
            (false, _) => Value::from(text(value) + &text(more)),
        })
    }),
    row("addslashes", Argument::None, |value, _| {
        Ok(text(value).replace('\\', "\\\\").replace('"', "\\\"").replace('\'', "\\'").into())
    }),
    row("capfirst", Argument::None, |value, _| Ok(capital(&text(value)).into())),
    row("center", Argument::Needed, |value, width| {
        let free = padding(value, width)?;
        Ok(format!("{}{}{}", " ".repeat(free / 2 + free % 2), text(value), " ".repeat(free / 2)).into())
    }),
    row("cut", Argument::Needed, |value, part| Ok(text(value).replace(&text(part), "").into())),
    row("default", Argument::Optional, |value, other| Ok(if value.is_true() { value } else { other }.clone())),
    row("default_if_none", Argument::Needed, |value, other| {
        Ok(if value.is_undefined() || value.is_none() { other } else { value }.clone())
    }),
    row("divisibleby", Argument::Needed, |value, by| {
        Ok(integer(value).checked_rem(integer(by)).is_some_and(|rest| rest == 0).into())
    }),
    row("escape", Argument::None, |value, _| Ok(escaped(&text(value)).into())),
    row("first", Argument::None, |value, _| Ok(items(value).into_iter().next().unwrap_or_default())),
    row("float", Argument::None, |value, _| Ok(number(value).into())),
    row("floatformat", Argument::Optional, |value, digits| {
        let number = number(value);
        let digits = if digits.is_undefined() { -1 } else { integer(digits) };
        let count = usize::try_from(digits.unsigned_abs()).unwrap_or(MAX_WIDTH).min(100);
        // A negative count is one for fractions only.
        let count = if digits < 0 && number.fract() == 0.0 { 0 } else { count };
        Ok(format!("{number:.count$}").into())
    }),
    row("force_escape", Argument::None, |value, _| Ok(escaped(&text(value)).into())),
    row("integer", Argument::None, |value, _| Ok(integer(value).into())),
    row("join", Argument::Needed, |value, by| {
        Ok(items(value).iter().map(text).collect::<Vec<_>>().join(&text(by)).into())
    }),
    row("last", Argument::None, |value, _| Ok(items(value).pop().unwrap_or_default())),
    row("length", Argument::None, |value, _| Ok(items(value).len().into())),
    row("length_is", Argument::Needed, |value, wanted| {
        Ok((i64::try_from(items(value).len()).unwrap_or(i64::MAX) == integer(wanted)).into())
    }),
    row("linebreaksbr", Argument::None, |value, _| Ok(text(value).replace('\n', "<br />").into())),
    row("ljust", Argument::Needed, |value, width| Ok((text(value) + &" ".repeat(padding(value, width)?)).into())),
    row("lower", Argument::None, |value, _| Ok(text(value).to_lowercase().into())),
    row("make_list", Argument::None, |value, _| Ok(items(&Value::from(text(value))).into())),
    row("pluralize", Argument::Optional, |value, endings| {
        let endings = if endings.is_undefined() { "s".to_owned() } else { text(endings) };
        let (one, many) = endings.split_once(',').unwrap_or(("", &endings));
        Ok(if integer(value) == 1 { one } else { many }.into())
    }),
    row("replace", Argument::Needed, |value, pair| {
        let pair = text(pair);
        let (from, to) = pair.split_once(',').ok_or_else(|| refuse("replace needs two texts: replace:\"old,new\""))?;
        Ok(if from.is_empty() { text(value) } else { text(value).replace(from, to) }.into())
    }),
    row("rjust", Argument::Needed, |value, width| Ok((" ".repeat(padding(value, width)?) + &text(value)).into())),
    row("safe", Argument::None, |value, _| Ok(value.clone())),
    row("slice", Argument::Needed, slice),
    row("split", Argument::Needed, |value, by| {
        let (text, by) = (text(value), text(by));
        Ok(if by.is_empty() {
            items(&Value::from(text)).into()
        } else {
            text.split(&by).map(Value::from).collect::<Vec<_>>().into()
        })
    }),
    row("stringformat", Argument::Needed, |value, format| string_format(value, &text(format)).map(Value::from)),
    row("title", Argument::None, |value, _| {
        let text = text(value);
        let words = text.split(' ').map(|word| capital(&word.to_lowercase()));
        Ok(words.collect::<Vec<_>>().join(" ").into())
    }),
    row("trim", Argument::None, |value, _| Ok(text(value).trim().into())),
    row("truncatechars", Argument::Needed, |value, width| {
        let (text, width) = (text(value), usize::try_from(integer(width)).unwrap_or_default());
        Ok(match text.chars().count() > width {
            true if width > 3 => text.chars().take(width - 3).chain("...".chars()).collect::<String>(),
            true => text.chars().take(width).collect(),
            false => text,
        }
        .into())
    }),
    row("upper", Argument::None, |value, _| Ok(text(value).to_uppercase().into())),
    row("urlencode", Argument::None, |value, _| {
        Ok(percent_encoding::utf8_percent_encode(&text(value), UNRESERVED).to_string().into())
    }),
    row("wordcount", Argument::None, |value, _| Ok(text(value).split_whitespace().count().into())),
    row("yesno", Argument::Optional, |value, words| {
        let words = if words.is_undefined() { "yes,no,maybe".to_owned() } else { text(words) };
        let words: Vec<&str> = words.split(',').collect();
        let chosen = match value {
            value if value.is_undefined() || value.is_none() => words.get(2).or(words.get(1)),
            value if value.is_true() => words.first(),
            _ => words.get(1),
        };
        Ok(chosen.copied().unwrap_or_default().into())
    }),
];

/// The filter of this name.
pub(super) fn find(name: &str) -> Option<&'static Filter> {
    FILTERS.iter().find(|filter| filter.name == name)
}

/// Makes the filters known.
pub(super) fn register(to: &mut Environment<'_>) {
    for filter in FILTERS {
        to.add_filter(format!("p_{}", filter.name), |value: Value, argument: Option<Value>| {
            (filter.apply)(&value, &argument.unwrap_or_default())
        });
    }
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// How many characters are missing up to `width`.
fn padding(value: &Value, width: &Value) -> Result<usize, Error> {
    let width = usize::try_from(integer(width)).unwrap_or_default();
    if width > MAX_WIDTH {
        return Err(refuse("the width is too large"));
    }
    Ok(width.saturating_sub(text(value).chars().count()))
}

/// `slice:"from:to"`, either of which may be missing.
fn slice(value: &Value, range: &Value) -> Result<Value, Error> {
    let range = text(range);
    let (from, to) = range.split_once(':').ok_or_else(|| refuse("slice needs a range: slice:\"from:to\""))?;
    let list = items(value);
    let place = |text: &str, missing: usize| match text.trim() {
        "" => Ok(missing),
        text => text.parse::<i64>().map_err(|_| refuse("slice needs numbers: slice:\"from:to\"")).map(|number| {
            let distance = usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX);
            // Negative ones count from the end.
            if number < 0 { list.len().saturating_sub(distance) } else { distance.min(list.len()) }
        }),
    };
    let (from, to) = (place(from, 0)?, place(to, list.len())?);
    let part = list.get(from..to.max(from)).unwrap_or_default();
    Ok(match value.as_str() {
        Some(_) => part.iter().map(text).collect::<String>().into(),
        None => part.to_vec().into(),
    })
}

/// One verb of printf: `%s`, `%d`, `%05d`, `%x`, `%.2f`, `%-8s`, with text around it.
fn string_format(value: &Value, format: &str) -> Result<String, Error> {
    let wrong = || refuse("stringformat needs one of %s %d %x %X %o %b %f %v, such as \"%05d\"");
    let (before, verb) = format.split_once('%').ok_or_else(wrong)?;
    let end = verb.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (flags, kind, after) = (&verb[..end], &verb[end..=end], &verb[end + 1..]);
    let (width, precision) = flags.split_once('.').unwrap_or((flags, ""));
    let (left, zero) = (width.starts_with('-'), width.starts_with('0'));
    let width: usize = match width.trim_start_matches(['-', '0', '+', ' ']) {
        "" => 0,
        digits => digits.parse().map_err(|_| wrong())?,
    };
    let precision: usize = if precision.is_empty() { 6 } else { precision.parse().map_err(|_| wrong())? };
    if width > MAX_WIDTH || precision > 100 {
        return Err(refuse("the width is too large"));
    }
    let shown = match kind {
        "s" | "v" => text(value),
        "d" => integer(value).to_string(),
        "x" => format!("{:x}", integer(value)),
        "X" => format!("{:X}", integer(value)),
        "o" => format!("{:o}", integer(value)),
        "b" => format!("{:b}", integer(value)),
        "f" => format!("{:.precision$}", number(value)),
        _ => return Err(wrong()),
    };
    let free = width.saturating_sub(shown.chars().count());
    Ok(match (left, zero) {
        (true, _) => format!("{before}{shown}{}{after}", " ".repeat(free)),
        (false, true) => match shown.strip_prefix('-') {
            Some(digits) => format!("{before}-{}{digits}{after}", "0".repeat(free)),
            None => format!("{before}{}{shown}{after}", "0".repeat(free)),
        },
        (false, false) => format!("{before}{}{shown}{after}", " ".repeat(free)),
    })
}
