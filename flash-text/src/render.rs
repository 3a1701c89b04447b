//! The Jinja environment of chat templates.
//!
//! Equivalent to that of transformers: trimmed blocks, no escaping, loop controls, Python's string and dictionary
//! methods, `raise_exception`, `strftime_now`, a `tojson` that writes what `json.dumps` writes, and the `generation`
//! tag.

use std::borrow::Cow;
use std::collections::HashSet;
use std::error::Error as _;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

use super::rewrite::rewrite;
use super::strftime::strftime;
use super::{filters, json, methods};

/// The name of an environment's only template, which appears in errors.
const TEMPLATE: &str = "chat template";

/// The tag that marks the assistant's text for training. It prints its body.
const GENERATION: &str = "generation";

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Creates an environment with one compiled template.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    filters::add(&mut env);
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", |format: &str| strftime(format, &Zoned::now()));
    env.set_formatter(print);
    env.add_template_owned(TEMPLATE, rewrite(&with_plain_generation(source)).into_owned())?;
    Ok(env)
}

/// Prints a value, with floats as Python's `str` writes them.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match f64::try_from(value.clone()) {
        Ok(number) if value.kind() == ValueKind::Number && !value.is_integer() && number.is_finite() => {
            let mut text = String::new();
            json::float(number, &mut text);
            out.write_str(&text).map_err(Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// Returns the names of the variables that the template reads and does not set itself.
pub(super) fn variables(env: &Environment<'static>) -> HashSet<String> {
    env.get_template(TEMPLATE).map(|template| template.undeclared_variables(false)).unwrap_or_default()
}

/// Renders the template of an environment.
pub(super) fn render(env: &Environment<'static>, variables: Value) -> Result<String, Error> {
    env.get_template(TEMPLATE)?.render(variables)
}

/// Returns the message of `raise_exception`, if that is the cause of the error.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

#[expect(clippy::needless_pass_by_value, reason = "the shape minijinja asks of a function")]
fn raise_exception(message: Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception was called").with_source(raised))
}

/// Replaces `generation` blocks by `with` blocks, which also print their body and scope its variables.
fn with_plain_generation(source: &str) -> Cow<'_, str> {
    if !source.contains(GENERATION) {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + "%}".len()) else { break };
        let tag = &rest[start..start + length];
        let control = |c: char| c == '-' || c == '+';
        let inner =
            tag["{%".len()..length - "%}".len()].trim_start_matches(control).trim_end_matches(control);
        let replaced = match inner.trim() {
            GENERATION => Some("with"),
            word if word.strip_prefix("end") == Some(GENERATION) => Some("endwith"),
            _ => None,
        };
        out.push_str(&rest[..start]);
        match replaced {
            Some(word) => out.push_str(&tag.replacen(inner.trim(), word, 1)),
            // Skips only the opening delimiter: a string in the tag may contain the closing one.
            None => out.push_str(&tag[..2]),
        }
        rest = &rest[start + if replaced.is_some() { length } else { 2 }..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        let source = "{% if a %}{%- generation -%} x {%+ endgeneration %}{% endif %}{{ 'generation' }}";
        let expected = "{% if a %}{%- with -%} x {%+ endwith %}{% endif %}{{ 'generation' }}";
        assert_eq!(with_plain_generation(source), expected);
        assert_eq!(with_plain_generation("{% generation"), "{% generation");
        assert_eq!(with_plain_generation("{%%}generation{%-%}"), "{%%}generation{%-%}");
    }

    #[test]
    fn dates_are_written_as_python_writes_them() {
        let now: Zoned = "2024-07-05T09:03:07+00:00[UTC]".parse().unwrap();
        // From datetime.datetime(2024, 7, 5, 9, 3, 7).strftime(...).
        let cases = [
            ("%d %b %Y", "05 Jul 2024"),
            ("%Y-%m-%d", "2024-07-05"),
            ("%A, %B %d, %Y", "Friday, July 05, 2024"),
            ("%H:%M:%S %p %I %y %j", "09:03:07 AM 09 24 187"),
            ("%-d/%-m %a %%", "5/7 Fri %"),
        ];
        for (format, expected) in cases {
            assert_eq!(strftime(format, &now).unwrap(), expected);
        }
        assert!(strftime("%Q", &now).unwrap_err().to_string().contains("strftime_now"));
    }

    #[test]
    fn raised_messages_are_found_below_macros() {
        let source = "{% macro no() %}{{ raise_exception('not ' ~ 1) }}{% endmacro %}{{ no() }}";
        let error = render(&environment(source).unwrap(), Value::UNDEFINED).unwrap_err();
        assert_eq!(raised(&error).unwrap(), "not 1");
        let error = render(&environment("{{ nothing.at.all }}").unwrap(), Value::UNDEFINED).unwrap_err();
        assert_eq!(raised(&error), None);
    }
}
