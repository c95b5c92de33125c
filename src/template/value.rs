//! Values and operators, with the meaning that they have for templates in LXD 5.0.2 (seen there): `True` and `False`, nothing
//! for what is not there, floats with six digits, numbers in texts as numbers where one is needed.

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

/// A value as it is shown.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => String::new(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number if !value.is_integer() => format!("{:.6}", number(value)),
        _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

/// As a whole number; what is none counts as 0.
pub(super) fn integer(value: &Value) -> i64 {
    match value.kind() {
        ValueKind::Number if value.is_integer() => value.as_i64().unwrap_or_default(),
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and cuts the fraction off as is meant")]
        ValueKind::Number => number(value) as i64,
        ValueKind::String => value.as_str().and_then(whole).unwrap_or_default(),
        _ => 0,
    }
}

/// The number that a text begins with the digits of, or its part before a point.
fn whole(text: &str) -> Option<i64> {
    text.trim().parse().ok().or_else(|| text.trim().split('.').next()?.parse().ok())
}

/// As a number.
pub(super) fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some(text) => text.trim().parse().unwrap_or_default(),
        None => f64::try_from(value.clone()).unwrap_or_default(),
    }
}

pub(super) fn refuse(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// One operation on whole numbers, unless one of the two has a fraction.
fn calculate(
    left: &Value,
    right: &Value,
    whole: impl Fn(i64, i64) -> Option<i64>,
    float: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    if is_float(left) || is_float(right) {
        return Ok(Value::from(float(number(left), number(right))));
    }
    whole(integer(left), integer(right)).map(Value::from).ok_or_else(|| refuse("the result is no number"))
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left.kind(), right.kind()) {
        (ValueKind::Undefined | ValueKind::None, ValueKind::Undefined | ValueKind::None) => true,
        // A number equals neither a text nor one with a fraction.
        (ValueKind::Number, ValueKind::Number) => left.is_integer() == right.is_integer() && left == right,
        (one, other) => one == other && left == right,
    }
}

fn less(left: &Value, right: &Value) -> bool {
    if is_float(left) || is_float(right) { number(left) < number(right) } else { integer(left) < integer(right) }
}

fn same(left: &Value, right: &Value) -> bool {
    if is_float(left) || is_float(right) {
        // As exact as what is compared.
        number(left).total_cmp(&number(right)).is_eq()
    } else {
        integer(left) == integer(right)
    }
}

/// Whether `right` holds `left`: a text a part, a map a key, a list an item.
fn within(left: &Value, right: &Value) -> bool {
    match right.kind() {
        ValueKind::String => right.as_str().unwrap_or_default().contains(&text(left)),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            right.try_iter().is_ok_and(|mut items| items.any(|item| equal(&item, left)))
        }
        _ => false,
    }
}

/// What a loop goes through: items of a list, keys of a map in their order, characters of a text.
pub(super) fn items(value: &Value) -> Vec<Value> {
    match value.as_str() {
        Some(text) => text.chars().map(|character| Value::from(character.to_string())).collect(),
        None => value.try_iter().map(Iterator::collect).unwrap_or_default(),
    }
}

fn in_order(value: &Value, reversed: bool, sorted: bool) -> Vec<Value> {
    let mut list = items(value);
    if sorted || value.kind() == ValueKind::Map {
        list.sort_by_cached_key(text);
    }
    if reversed {
        list.reverse();
    }
    list
}

fn pairs(value: &Value, reversed: bool, sorted: bool) -> Vec<Value> {
    let keys = in_order(value, reversed, sorted).into_iter();
    keys.map(|key| {
        let found =
            if value.kind() == ValueKind::Map { value.get_item(&key).unwrap_or_default() } else { Value::UNDEFINED };
        Value::from_iter([key, found])
    })
    .collect()
}

fn at(value: &Value, index: usize) -> Value {
    match value.kind() {
        ValueKind::Map => value.get_item(&Value::from(index.to_string())).unwrap_or_default(),
        _ => items(value).get(index).cloned().unwrap_or_default(),
    }
}

/// Makes the operators known.
pub(super) fn register(to: &mut Environment<'_>) {
    to.add_function("f_bool", |value: Value| value.is_true());
    to.add_function("f_not", |value: Value| !value.is_true());
    to.add_function("f_text", |value: Value| text(&value));
    to.add_function("f_neg", |value: Value| {
        calculate(&Value::from(0), &value, i64::checked_sub, |zero, value| zero - value)
    });
    to.add_function("f_add", |a: Value, b: Value| calculate(&a, &b, i64::checked_add, |a, b| a + b));
    to.add_function("f_sub", |a: Value, b: Value| calculate(&a, &b, i64::checked_sub, |a, b| a - b));
    to.add_function("f_mul", |a: Value, b: Value| calculate(&a, &b, i64::checked_mul, |a, b| a * b));
    to.add_function("f_div", |a: Value, b: Value| calculate(&a, &b, i64::checked_div, |a, b| a / b));
    to.add_function("f_mod", |a: Value, b: Value| calculate(&a, &b, i64::checked_rem, |a, b| a % b));
    to.add_function("f_pow", |a: Value, b: Value| number(&a).powf(number(&b)));
    to.add_function("f_eq", |a: Value, b: Value| equal(&a, &b));
    to.add_function("f_ne", |a: Value, b: Value| !equal(&a, &b));
    to.add_function("f_lt", |a: Value, b: Value| less(&a, &b));
    to.add_function("f_gt", |a: Value, b: Value| less(&b, &a));
    to.add_function("f_le", |a: Value, b: Value| less(&a, &b) || same(&a, &b));
    to.add_function("f_ge", |a: Value, b: Value| less(&b, &a) || same(&a, &b));
    to.add_function("f_in", |a: Value, b: Value| within(&a, &b));
    to.add_function("f_index", |value: Value, index: usize| at(&value, index));
    to.add_function("f_first", |values: Rest<Value>| {
        values.iter().find(|value| value.is_true()).cloned().unwrap_or_default()
    });
    to.add_function("f_items", |value: Value, reversed: bool, sorted: bool| in_order(&value, reversed, sorted));
    to.add_function("f_pairs", |value: Value, reversed: bool, sorted: bool| pairs(&value, reversed, sorted));
}
