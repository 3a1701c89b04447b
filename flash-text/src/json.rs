//! JSON as Python's `json.dumps` writes it, for the `tojson` filter of chat templates.
//!
//! Models were trained on exactly these bytes: spaces after `,` and `:`, the order of keys, `1.0` and `1e-05` for
//! floats.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The arguments of the filter, in Python's order.
const ARGUMENTS: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];

/// Smallest decimal exponent from which on Python writes floats in scientific notation.
const FLOAT_EXPONENT_MIN: i32 = 16;

/// Implements the `tojson` filter with its options, as transformers defines it.
#[expect(clippy::needless_pass_by_value, reason = "the shape minijinja asks of a filter")]
pub(super) fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    if let Some(extra) = positional.get(ARGUMENTS.len()) {
        return Err(invalid(format!("tojson takes at most 4 arguments, found {extra} after them")));
    }
    let argument = |index: usize| -> Result<Value, Error> {
        let value = named.get::<Option<Value>>(ARGUMENTS[index])?;
        Ok(value.or_else(|| positional.get(index).cloned()).unwrap_or_default())
    };
    let indent = match argument(1)? {
        indent if indent.is_none() || indent.is_undefined() => None,
        indent => Some(match indent.as_usize() {
            Some(n_spaces) => " ".repeat(n_spaces),
            None => indent.as_str().ok_or_else(|| invalid("tojson: bad indent".to_owned()))?.to_owned(),
        }),
    };
    let separators = argument(2)?;
    let (item_separator, key_separator) = if separators.is_none() || separators.is_undefined() {
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned())
    } else {
        let part = |index| {
            let part = separators.get_item_by_index(index).unwrap_or_default();
            part.as_str().map(str::to_owned).ok_or_else(|| invalid("tojson: bad separators".to_owned()))
        };
        (part(0)?, part(1)?)
    };
    let ensure_ascii = argument(0)?.is_true();
    let sort_keys = argument(3)?.is_true();
    named.assert_all_used()?;
    let mut writer = Writer {
        out: String::new(),
        style: Style { ensure_ascii, sort_keys, indent, item_separator, key_separator },
        depth: 0,
    };
    writer.value(value)?;
    Ok(writer.out)
}

fn invalid(detail: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

#[derive(Clone)]
struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

struct Writer {
    out: String,
    style: Style,
    depth: usize,
}

impl Writer {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(&items)?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    entries.push((self.key(&key)?, item));
                }
                self.object(entries)?;
            }
            kind => return Err(invalid(format!("an object of type {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(&mut self, items: &[Value]) -> Result<(), Error> {
        if items.is_empty() {
            self.out.push_str("[]");
            return Ok(());
        }
        self.out.push('[');
        self.depth += 1;
        for (index, item) in items.iter().enumerate() {
            self.before_item(index);
            self.value(item)?;
        }
        self.end(']');
        Ok(())
    }

    fn object(&mut self, mut entries: Vec<(String, Value)>) -> Result<(), Error> {
        if entries.is_empty() {
            self.out.push_str("{}");
            return Ok(());
        }
        if self.style.sort_keys {
            entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        }
        self.out.push('{');
        self.depth += 1;
        for (index, (key, item)) in entries.iter().enumerate() {
            self.before_item(index);
            self.string(key);
            self.out.push_str(&self.style.key_separator);
            self.value(item)?;
        }
        self.end('}');
        Ok(())
    }

    fn before_item(&mut self, index: usize) {
        if index > 0 {
            self.out.push_str(&self.style.item_separator);
        }
        self.new_line();
    }

    fn end(&mut self, bracket: char) {
        self.depth -= 1;
        self.new_line();
        self.out.push(bracket);
    }

    fn new_line(&mut self) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..self.depth {
                self.out.push_str(indent);
            }
        }
    }

    /// Converts a key to a string, as Python does for none, booleans and numbers.
    fn key(&self, key: &Value) -> Result<String, Error> {
        if let Some(key) = key.as_str() {
            return Ok(key.to_owned());
        }
        let mut writer =
            Self { out: String::new(), style: Style { indent: None, ..self.style.clone() }, depth: 0 };
        match key.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => writer.value(key)?,
            kind => return Err(invalid(format!("keys of JSON objects must be strings, found {kind}"))),
        }
        Ok(writer.out)
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
        } else {
            float(f64::try_from(value.clone())?, &mut self.out);
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        push(&mut self.out, format_args!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Writes a float as Python's `repr` does: the shortest digits that parse to the same value, and an exponent of two
/// digits or more below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64, out: &mut String) {
    if !value.is_finite() {
        out.push_str(match value {
            f64::INFINITY => "Infinity",
            f64::NEG_INFINITY => "-Infinity",
            _ => "NaN",
        });
        return;
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..FLOAT_EXPONENT_MIN).contains(&exponent) {
        push(out, format_args!("{value:?}"));
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        push(out, format_args!("{digits}e{sign}{:02}", exponent.abs()));
    }
}

/// Appends formatted text, which cannot fail for a string.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases: [(f64, &str); 14] = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ];
        for (value, expected) in cases {
            let mut out = String::new();
            float(value, &mut out);
            assert_eq!(out, expected);
        }
    }
}
