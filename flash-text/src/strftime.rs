//! Date formatting as by Python's `datetime.strftime`.

use jiff::Zoned;
use jiff::fmt::strtime;
use minijinja::{Error, ErrorKind};

/// Expansions of directives in the C locale that jiff implements differently or not at all.
const LONG: [(char, &str); 6] = [
    ('c', "%a %b %e %H:%M:%S %Y"),
    ('x', "%m/%d/%y"),
    ('X', "%H:%M:%S"),
    ('r', "%I:%M:%S %p"),
    ('D', "%m/%d/%y"),
    ('h', "%b"),
];

/// Directives that jiff formats as C does.
const SAME: &str = "aAbBCdeFgGHIjklmMnpPRsStTuUVwWyY";

/// Formats a date and time as Python does for a `datetime` without a time zone, in the C locale: `%z` and `%Z` are
/// empty, `%f` is microseconds, and other text is copied.
pub(super) fn strftime(format: &str, now: &Zoned) -> Result<String, Error> {
    let (mut out, mut rest) = (String::new(), format);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = &rest[at + 1..];
        let flag = directive.chars().next().filter(|flag| "-_0^#".contains(*flag));
        let flag_bytes = flag.map_or(0, char::len_utf8);
        let Some(letter) = directive[flag_bytes..].chars().next() else {
            out.push_str(&rest[at..]);
            return Ok(out);
        };
        let length = 1 + flag_bytes + letter.len_utf8();
        match (flag, letter) {
            (None, 'f') => out.push_str(&format!("{:06}", now.subsec_nanosecond() / 1000)),
            (None, 'z' | 'Z') => {}
            (None, '%') => out.push('%'),
            _ => match LONG.iter().find(|(known, _)| *known == letter) {
                Some((_, long)) if flag.is_none() => out.push_str(&strftime(long, now)?),
                None if SAME.contains(letter) => {
                    let directive = match (flag, letter) {
                        // glibc writes names in upper case for both flags, and `%P` always in lower case.
                        (Some('#'), 'a' | 'A' | 'b' | 'B') => format!("%^{letter}"),
                        (Some('^'), 'P') => "%P".to_owned(),
                        _ => rest[at..at + length].to_owned(),
                    };
                    let text = strtime::format(&directive, now).map_err(|error| {
                        let detail = format!("strftime_now({format:?}): {directive}: {error}");
                        Error::new(ErrorKind::InvalidOperation, detail)
                    })?;
                    out.push_str(&text);
                }
                _ => {
                    let detail =
                        format!("strftime_now({format:?}): %{} is not supported", &directive[..length - 1]);
                    return Err(Error::new(ErrorKind::InvalidOperation, detail));
                }
            },
        }
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use jiff::civil::DateTime;
    use jiff::tz::TimeZone;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_directive_is_written_as_python_writes_it() {
        let goldens = include_str!("../tests/goldens/templates/expressions.json");
        let goldens: Value = serde_json::from_str(goldens).unwrap();
        let (mut wrong, mut refused) = (Vec::new(), Vec::new());
        let cases = goldens["strftime"].as_array().unwrap();
        assert!(cases.len() > 900);
        for case in cases {
            let [when, format, expected] = [0, 1, 2].map(|idx| case[idx].as_str().unwrap());
            let when: DateTime = when.parse().unwrap();
            match strftime(format, &when.to_zoned(TimeZone::UTC).unwrap()) {
                Ok(found) if found != expected => {
                    wrong.push(format!("{when} {format}: {found:?}, not {expected:?}"));
                }
                Ok(_) => {}
                Err(_) => refused.push(format),
            }
        }
        refused.sort_unstable();
        refused.dedup();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // Directives that Python documents are never rejected.
        let known = |format: &&str| format.len() == 2 && "aAwdbBmyYHIMSpfzZjUWcxX%GuV".contains(&format[1..]);
        assert_eq!(refused.into_iter().filter(known).collect::<Vec<_>>(), [""; 0]);
    }
}
