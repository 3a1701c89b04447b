//! Settings that dialects share.

use std::time::Duration;

use crate::config::Limits;
use crate::json::{Fields, Invalid, Json, elements};
use crate::request::{KeepAlive, Sampling};

/// Largest temperature and penalty, beyond which tokens are practically random.
const MAX_TEMPERATURE: f64 = 100.0;
const MAX_PENALTY: f64 = 100.0;

/// Longest stop string. As much of the answer is held back.
const MAX_STOP_BYTES: usize = 1024;

/// Reads the sampling settings that have the same name everywhere.
pub(super) fn sampling(fields: &mut Fields) -> Result<Sampling, Invalid> {
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=MAX_TEMPERATURE)?,
        top_p: fields.number("top_p", 0.0..=1.0)?,
        top_k: top_k(fields)?,
        min_p: fields.number("min_p", 0.0..=1.0)?,
        presence_penalty: fields.number("presence_penalty", -MAX_PENALTY..=MAX_PENALTY)?,
        frequency_penalty: fields.number("frequency_penalty", -MAX_PENALTY..=MAX_PENALTY)?,
        ..Sampling::default()
    })
}

/// Reads `top_k`; 0 and -1 mean all tokens.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, Invalid> {
    let Some(top_k) = fields.integer("top_k")? else { return Ok(None) };
    let problem = || fields.invalid("top_k", format!("must be at least -1, not {top_k}"));
    if top_k == -1 { Ok(Some(0)) } else { usize::try_from(top_k).map(Some).map_err(|_| problem()) }
}

/// Reads a penalty for tokens that occurred, which divides.
pub(super) fn repetition_penalty(fields: &mut Fields, name: &str) -> Result<Option<f64>, Invalid> {
    let penalty = fields.number(name, 0.0..=MAX_PENALTY)?;
    if penalty == Some(0.0) {
        return Err(fields.invalid(name, "must be more than 0"));
    }
    Ok(penalty)
}

/// Reads stop strings: a string, or an array of them.
pub(super) fn stops(fields: &mut Fields, name: &str, limits: &Limits) -> Result<Vec<String>, Invalid> {
    let path = fields.path_of(name);
    let values = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Json::Array(values)) => values,
        Some(value) => vec![value],
    };
    if values.len() > limits.stops {
        let problem = format!("has {} strings; at most {} are allowed", values.len(), limits.stops);
        return Err(Invalid::new(path, problem));
    }
    let mut stops = Vec::new();
    for (path, value) in elements(&path, values) {
        match value {
            Json::String(text) if text.is_empty() => return Err(Invalid::new(path, "must not be empty")),
            Json::String(text) if text.len() > MAX_STOP_BYTES => {
                return Err(Invalid::new(path, format!("is longer than {MAX_STOP_BYTES} B")));
            }
            Json::String(text) => stops.push(text),
            other => return Err(Invalid::expected(path, "a string", &other)),
        }
    }
    Ok(stops)
}

/// Reads the name of the model.
pub(super) fn model(fields: &mut Fields) -> Result<String, Invalid> {
    fields.required_string("model")
}

/// Rejects more than `max` elements of the member `name`.
pub(super) fn at_most(name: &str, len: usize, max: usize) -> Result<(), Invalid> {
    if len > max {
        return Err(Invalid::new(name, format!("has {len} elements; at most {max} are allowed")));
    }
    Ok(())
}

/// Reads how long a model stays: seconds, or a duration such as `5m` or `1h30m`; negative for ever.
pub(super) fn keep_alive(fields: &mut Fields) -> Result<Option<KeepAlive>, Invalid> {
    let problem = "expected seconds or a duration such as 5m";
    let seconds = match fields.take("keep_alive") {
        None => return Ok(None),
        Some(Json::Number(number)) => number.as_f64(),
        Some(Json::String(text)) => text.parse().ok().or_else(|| duration(&text)),
        Some(_) => None,
    };
    let seconds = seconds.ok_or_else(|| fields.invalid("keep_alive", problem))?;
    if seconds < 0.0 {
        return Ok(Some(KeepAlive::Forever));
    }
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| fields.invalid("keep_alive", problem))?;
    Ok(Some(KeepAlive::For(time)))
}

/// Parses a duration as Go writes it, into seconds.
fn duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<KeepAlive>, Invalid> {
        let body = Json::parse(format!("{{\"keep_alive\":{text}}}").as_bytes(), 10).unwrap();
        keep_alive(&mut Fields::new("", body).unwrap())
    }

    #[test]
    fn keep_alive_is_seconds_or_a_duration() {
        let seconds = |seconds| Ok(Some(KeepAlive::For(Duration::from_secs(seconds))));
        assert_eq!(read("300"), seconds(300));
        assert_eq!(read("\"5m\""), seconds(300));
        assert_eq!(read("\"1h30m\""), seconds(5400));
        assert_eq!(read("0"), seconds(0));
        assert_eq!(read("\"-1m\""), Ok(Some(KeepAlive::Forever)));
        assert_eq!(read("-1"), Ok(Some(KeepAlive::Forever)));
        assert_eq!(read("null"), Ok(None));
        for wrong in ["\"\"", "\"5\u{b5}\"", "\"m\"", "\"5 m\"", "true", "1e300", "\"é5m\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
