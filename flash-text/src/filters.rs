//! Jinja filters and tests that minijinja lacks or implements differently.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::rewrite::{ITEMS, REM};
use super::strings::is_space;

/// Adds the filters and tests to an environment.
pub(super) fn add(env: &mut Environment<'_>) {
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("sum", sum);
    env.add_filter(REM, rem);
    env.add_filter(ITEMS, items);
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_sequence);
}

/// Returns whether a value is iterable. Undefined is, and none is not.
fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// Returns whether a value has a length and items, as strings and objects do.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

/// Returns the value that a loop iterates over: for a string a list of its characters, so that the loop has a length.
/// Undefined is empty in Jinja, and none is not iterable.
fn items(value: &Value) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => Ok(text.chars().map(|c| Value::from(c.to_string())).collect()),
        None if value.is_none() => Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable")),
        None => Ok(value.clone()),
    }
}

/// Implements the `%` operator: formatting for strings, and for numbers the remainder with the sign of the divisor.
fn rem(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        let tuple = right.downcast_object_ref::<Tuple>();
        let args = tuple.map_or_else(|| vec![right.clone()], |tuple| tuple.to_vec());
        // Python allows only lists and objects to remain unused.
        let may_be_unused = tuple.is_none() && matches!(right.kind(), ValueKind::Seq | ValueKind::Map);
        if !may_be_unused && args.len() > n_arguments(text) {
            let detail = "not all arguments were converted during string formatting";
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        return format(FormatStyle::Printf, text, &args).map(Value::from);
    }
    let number = |value: &Value| value.kind() == ValueKind::Number || value.kind() == ValueKind::Bool;
    if !number(left) || !number(right) {
        let detail =
            format!("tried to use % operator on unsupported types {} and {}", left.kind(), right.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }
    let zero = || Error::new(ErrorKind::InvalidOperation, "modulo by zero");
    let is_whole = |value: &Value| value.is_integer() || value.kind() == ValueKind::Bool;
    if is_whole(left) && is_whole(right) {
        let (left, right) = (i128::try_from(left.clone())?, i128::try_from(right.clone())?);
        let rest = left.checked_rem(right).ok_or_else(zero)?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }));
    }
    let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if right == 0.0 {
        return Err(zero());
    }
    let rest = left % right;
    Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest }))
}

/// Returns the number of arguments that the directives of a format string take.
fn n_arguments(text: &str) -> usize {
    let (mut n, mut rest) = (0, text);
    while let Some(at) = rest.find('%') {
        let directive = &rest[at + 1..];
        let end = directive.find(|c: char| c == '%' || c.is_ascii_alphabetic()).unwrap_or(directive.len());
        n += directive[..end].matches('*').count() + usize::from(!directive[end..].starts_with('%'));
        rest = directive.get(end + 1..).unwrap_or_default();
    }
    n
}

/// Sums numbers, or an attribute of each item. A missing attribute is an error.
#[expect(clippy::needless_pass_by_value, reason = "the shape minijinja asks of a filter")]
fn sum(
    values: &Value,
    attribute: Option<Value>,
    start: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let attribute = named.get::<Option<Value>>("attribute")?.or(attribute);
    let start = named.get::<Option<Value>>("start")?.or(start).unwrap_or_else(|| 0.into());
    named.assert_all_used()?;
    let (mut whole, mut real, mut is_whole) = (0i128, 0f64, true);
    let mut items = vec![start];
    for item in values.try_iter()? {
        items.push(match attribute.as_ref().map(|attribute| (attribute, attribute.as_str())) {
            None => item,
            Some((_, Some(path))) => {
                path.split('.').try_fold(item, |item, part| match part.parse::<usize>() {
                    Ok(idx) => item.get_item_by_index(idx),
                    Err(_) => item.get_attr(part),
                })?
            }
            Some((key, None)) => item.get_item(key)?,
        });
    }
    for item in items {
        if item.is_undefined() {
            return Err(undefined());
        }
        if item.kind() != ValueKind::Number && item.kind() != ValueKind::Bool {
            let detail = format!("sum: expected a number, found {}", item.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        is_whole &= item.is_integer() || item.kind() == ValueKind::Bool;
        real += f64::try_from(item.clone())
            .or_else(|_| bool::try_from(item.clone()).map(|it| f64::from(u8::from(it))))?;
        if is_whole {
            let item = i128::try_from(item.clone()).or_else(|_| bool::try_from(item).map(i128::from))?;
            whole = whole
                .checked_add(item)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "sum: too large"))?;
        }
    }
    Ok(if is_whole { Value::from(whole) } else { Value::from(real) })
}

fn undefined() -> Error {
    Error::from(ErrorKind::UndefinedError)
}

/// Converts a value to an integer, or returns the default (0). Strings are parsed in a base, and then as a float.
#[expect(clippy::needless_pass_by_value, reason = "the shape minijinja asks of a filter")]
fn int(value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = named.get::<Option<Value>>("default")?.or(default).unwrap_or_else(|| 0.into());
    let base = named.get::<Option<u32>>("base")?.or(base).unwrap_or(10);
    named.assert_all_used()?;
    if value.is_undefined() {
        return Err(undefined());
    }
    let truncated = |number: f64| number.is_finite().then(|| Value::from(number.trunc() as i128));
    let found = match value.as_str() {
        Some(text) => {
            parse_int(text, base)?.map(Value::from).or_else(|| parse_float(text).and_then(truncated))
        }
        None if value.is_integer() => Some(value.clone()),
        None => bool::try_from(value.clone())
            .ok()
            .map(|boolean| Value::from(i64::from(boolean)))
            .or_else(|| f64::try_from(value.clone()).ok().and_then(truncated)),
    };
    Ok(found.unwrap_or(default))
}

/// Converts a value to a float, or returns the default (0.0).
#[expect(clippy::needless_pass_by_value, reason = "the shape minijinja asks of a filter")]
fn float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = named.get::<Option<Value>>("default")?.or(default).unwrap_or_else(|| 0.0.into());
    named.assert_all_used()?;
    if value.is_undefined() {
        return Err(undefined());
    }
    let found = match value.as_str() {
        Some(text) => parse_float(text),
        None => match bool::try_from(value.clone()) {
            Ok(boolean) => Some(f64::from(u8::from(boolean))),
            Err(_) => f64::try_from(value.clone()).ok(),
        },
    };
    Ok(found.map_or(default, Value::from))
}

/// Removes single underscores between digits; `None` if there are others.
fn without_underscores(text: &str) -> Option<String> {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let mut before = None;
    let mut chars = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        if c != '_' {
            out.push(c);
        } else if !is_digit(before) || !is_digit(chars.peek().copied()) {
            return None;
        }
        before = Some(c);
    }
    Some(out)
}

/// Parses an integer as Python's `int` does. Integers of more than 128 bits are an error.
fn parse_int(text: &str, base: u32) -> Result<Option<i128>, Error> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [(2, "0b"), (8, "0o"), (16, "0x")];
    let prefixed = prefixes
        .iter()
        .find_map(|(of, prefix)| Some((*of, lower.strip_prefix(prefix)?)))
        .filter(|(of, _)| base == 0 || base == *of);
    let (base, digits) = prefixed.unwrap_or((if base == 0 { 10 } else { base }, &lower));
    let digits = digits.strip_prefix('_').filter(|_| prefixed.is_some()).unwrap_or(digits);
    let Some(digits) = without_underscores(digits).filter(|_| (2..=36).contains(&base)) else {
        return Ok(None);
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits, base) {
        Ok(number) => Ok(Some(sign * number)),
        Err(_) => Err(Error::new(ErrorKind::InvalidOperation, "int: the number is too long")),
    }
}

/// Parses a float as Python's `float` does.
fn parse_float(text: &str) -> Option<f64> {
    without_underscores(text.trim_matches(is_space))?.parse().ok()
}
