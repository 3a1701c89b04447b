//! Python's string and list methods, for chat templates.
//!
//! The methods of `minijinja-contrib` differ from Python's: they lack `rsplit`, `partition` and `zfill`, keyword arguments,
//! and start and end, and treat other characters as spaces and line ends. String methods are therefore implemented
//! here; methods of dictionaries are those of `minijinja-contrib`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::strings::{self, is_space};

/// Calls a method that minijinja does not know.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return string(text, method, args);
    }
    if value.kind() == ValueKind::Seq && method == "index" {
        let (wanted,): (&Value,) = from_args(args)?;
        let place = value.try_iter()?.position(|item| item == *wanted);
        return place.map(Value::from).ok_or_else(|| failed("index: the value is not in the list"));
    }
    unknown_method_callback(state, value, method, args)
}

fn failed(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail.into())
}

/// The positional and keyword arguments of a call.
struct Args {
    positional: Vec<Value>,
    named: Kwargs,
}

impl Args {
    fn new(args: &[Value], n_max: usize) -> Result<Self, Error> {
        let (positional, named): (Rest<Value>, Kwargs) = from_args(args)?;
        if positional.len() > n_max {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        Ok(Self { positional: positional.0, named })
    }

    /// Returns an argument; `None` if it is absent or none.
    fn get(&self, idx: usize, name: &str) -> Result<Option<Value>, Error> {
        let named = if name.is_empty() { None } else { self.named.get::<Option<Value>>(name)? };
        let value = named.or_else(|| self.positional.get(idx).cloned());
        Ok(value.filter(|value| !value.is_none()))
    }

    fn string(&self, idx: usize, name: &str) -> Result<Option<String>, Error> {
        let value = self.get(idx, name)?;
        let text =
            |value: Value| value.as_str().map(str::to_owned).ok_or_else(|| failed("expected a string"));
        value.map(text).transpose()
    }

    fn required(&self, idx: usize) -> Result<String, Error> {
        self.string(idx, "")?.ok_or_else(|| Error::from(ErrorKind::MissingArgument))
    }

    fn integer(&self, idx: usize, name: &str) -> Result<Option<i64>, Error> {
        self.get(idx, name)?.map(i64::try_from).transpose()
    }

    /// Returns the part of a text between the start argument at `idx` and the end argument after it, and its offset in
    /// characters; `None` if the start is beyond the text or the end.
    fn part<'t>(&self, text: &'t str, idx: usize) -> Result<Option<(&'t str, usize)>, Error> {
        let n_chars = text.chars().count();
        let place = |given: Option<i64>, default: usize| match given {
            None => default,
            Some(given) if given < 0 => n_chars.saturating_sub(given.unsigned_abs() as usize),
            Some(given) => given as usize,
        };
        let (start, end) = (place(self.integer(idx, "")?, 0), place(self.integer(idx + 1, "")?, n_chars));
        if start > n_chars || start > end {
            return Ok(None);
        }
        let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(byte, _)| byte);
        Ok(Some((&text[byte(start)..byte(end)], start)))
    }

    /// Checks that all keyword arguments were used.
    fn end(&self) -> Result<(), Error> {
        self.named.assert_all_used()
    }
}

fn string(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let none = |value: Value| Args::new(args, 0).and_then(|args| args.end()).map(|()| value);
    let chars = |test: fn(char) -> bool| none(Value::from(!text.is_empty() && text.chars().all(test)));
    match method {
        "upper" => none(text.to_uppercase().into()),
        "lower" => none(text.to_lowercase().into()),
        "title" => none(strings::title(text).into()),
        "capitalize" => none(strings::capitalize(text).into()),
        "swapcase" => none(strings::swap_case(text).into()),
        "isspace" => chars(is_space),
        "isalpha" => chars(char::is_alphabetic),
        "isalnum" => chars(char::is_alphanumeric),
        "isdigit" | "isdecimal" => chars(strings::is_decimal),
        "isnumeric" => chars(char::is_numeric),
        "isascii" => none(text.is_ascii().into()),
        "islower" => {
            none((text.chars().any(char::is_lowercase) && !text.chars().any(strings::is_upper)).into())
        }
        "isupper" => {
            none((text.chars().any(char::is_uppercase) && !text.chars().any(strings::is_lower)).into())
        }
        "istitle" => none(strings::is_title(text).into()),
        "format" => format(FormatStyle::StrFormat, text, args).map(Value::from),
        "join" => join(text, args),
        "strip" | "lstrip" | "rstrip" => strip(text, method, args),
        "split" | "rsplit" => split(text, method == "rsplit", args),
        "partition" | "rpartition" => partition(text, method == "rpartition", args),
        "splitlines" => {
            let args = Args::new(args, 1)?;
            let keep_ends = args.get(0, "keepends")?.is_some_and(|keep| keep.is_true());
            args.end()?;
            Ok(strings::lines(text, keep_ends).into_iter().map(Value::from).collect())
        }
        "startswith" | "endswith" => affix(text, method == "endswith", args),
        "removeprefix" | "removesuffix" => {
            let args = Args::new(args, 1)?;
            let affix = args.required(0)?;
            let is_prefix = method == "removeprefix";
            let rest = if is_prefix { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
            Ok(rest.unwrap_or(text).into())
        }
        "find" | "rfind" | "index" | "rindex" => find(text, method, args),
        "count" => {
            let args = Args::new(args, 3)?;
            let what = args.required(0)?;
            let part = args.part(text, 1)?;
            Ok(part.map_or(0, |(part, _)| part.matches(&*what).count()).into())
        }
        "replace" => {
            let args = Args::new(args, 3)?;
            let (old, new) = (args.required(0)?, args.required(1)?);
            let count = args.integer(2, "count")?.and_then(|count| usize::try_from(count).ok());
            args.end()?;
            Ok(count
                .map_or_else(|| text.replace(&*old, &new), |count| text.replacen(&*old, &new, count))
                .into())
        }
        "zfill" | "center" | "ljust" | "rjust" | "expandtabs" => pad(text, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn join(separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(args)?;
    let mut texts = Vec::new();
    for value in values.try_iter()? {
        let text = value
            .as_str()
            .ok_or_else(|| failed(format!("join: expected a string, found {}", value.kind())))?;
        texts.push(text.to_owned());
    }
    Ok(texts.join(separator).into())
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, 1)?;
    let given = args.string(0, "")?;
    args.end()?;
    let is_stripped = |c: char| given.as_ref().map_or_else(|| is_space(c), |given| given.contains(c));
    let text = if method == "rstrip" { text } else { text.trim_start_matches(is_stripped) };
    Ok(if method == "lstrip" { text } else { text.trim_end_matches(is_stripped) }.into())
}

fn split(text: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, 2)?;
    let separator = args.string(0, "sep")?;
    let n_max =
        args.integer(1, "maxsplit")?.and_then(|n_max| usize::try_from(n_max).ok()).unwrap_or(usize::MAX);
    args.end()?;
    let parts = match separator.as_deref() {
        Some("") => return Err(failed("split: the separator is empty")),
        Some(separator) if from_end => {
            let mut parts: Vec<&str> = text.rsplitn(n_max.saturating_add(1), separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(n_max.saturating_add(1), separator).collect(),
        None if from_end => strings::rsplit_spaces(text, n_max),
        None => strings::split_spaces(text, n_max),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn partition(text: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, 1)?;
    let separator = args.required(0)?;
    if separator.is_empty() {
        return Err(failed("partition: the separator is empty"));
    }
    let parts = if from_end { text.rsplit_once(&*separator) } else { text.split_once(&*separator) };
    let parts = match parts {
        Some((before, after)) => [before, &*separator, after],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn affix(text: &str, is_end: bool, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, 3)?;
    let given = args.get(0, "")?.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let Some((part, _)) = args.part(text, 1)? else { return Ok(false.into()) };
    let has = |affix: &str| if is_end { part.ends_with(affix) } else { part.starts_with(affix) };
    if let Some(affix) = given.as_str() {
        return Ok(has(affix).into());
    }
    if given.kind() != ValueKind::Seq {
        return Err(failed(format!("expected a string or a tuple of strings, found {}", given.kind())));
    }
    for affix in given.try_iter()? {
        if has(affix.as_str().ok_or_else(|| failed("expected a tuple of strings"))?) {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn find(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, 3)?;
    let what = args.required(0)?;
    let found = args.part(text, 1)?.and_then(|(part, start)| {
        let byte = if method.starts_with('r') { part.rfind(&*what) } else { part.find(&*what) };
        byte.map(|byte| start + part[..byte].chars().count())
    });
    match found {
        Some(place) => Ok(place.into()),
        None if method.ends_with("index") => Err(failed(format!("{method}: {what:?} is not in the string"))),
        None => Ok((-1).into()),
    }
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, 2)?;
    let width = args.integer(0, if method == "expandtabs" { "tabsize" } else { "" })?;
    let fill = args.string(1, "")?.unwrap_or_else(|| " ".to_owned());
    args.end()?;
    if method == "expandtabs" {
        return Ok(strings::expand_tabs(text, width.unwrap_or(8).try_into().unwrap_or(0)).into());
    }
    let width = width.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let n_missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    if n_missing > strings::PADDING_CHARS_MAX || fill.chars().count() != 1 {
        return Err(failed(format!("{method}: a width of {width} or a fill of {fill:?} is not supported")));
    }
    Ok(match method {
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(n_missing))
        }
        "ljust" => format!("{text}{}", fill.repeat(n_missing)),
        "rjust" => format!("{}{text}", fill.repeat(n_missing)),
        _ => {
            // Python puts an odd space before the text if the width is odd.
            let n_before = n_missing / 2 + (n_missing & width.unsigned_abs() as usize & 1);
            format!("{}{text}{}", fill.repeat(n_before), fill.repeat(n_missing - n_before))
        }
    }
    .into())
}
