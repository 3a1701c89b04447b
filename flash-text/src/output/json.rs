//! Validation of JSON text that arrives by character.

/// Maximum nesting of arguments. Responses nest them deeper, and `serde_json` stops at 128.
const MAX_DEPTH: usize = 100;

/// Position in a JSON text, which is validated by the rules of RFC 8259.
///
/// Beyond the RFC, numbers must be finite as `f64` and escapes must not be lone surrogates: many parsers reject those.
/// One deviation is accepted and repaired: control characters in strings, which models write instead of `\n`.
#[derive(Debug, Default)]
pub(super) struct Json {
    /// For each open container, whether it is an object.
    stack: Vec<bool>,
    state: State,
    number: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// A value must follow.
    #[default]
    Value,
    /// A value or the end of the array must follow.
    FirstElement,
    /// A key or the end of the object must follow.
    FirstKey,
    Key,
    Colon,
    /// A value is complete: a comma or the end of the container must follow.
    AfterValue,
    String {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    /// Within `\uXXXX`: its digits so far, and whether it must be the second half of a surrogate pair.
    Unicode {
        is_key: bool,
        n_digits: u8,
        code: u16,
        is_low: bool,
    },
    /// After the first half of a surrogate pair.
    High {
        is_key: bool,
        has_backslash: bool,
    },
    Number,
    /// Within `true`, `false` or `null`: the rest.
    Literal(&'static str),
}

impl Json {
    /// Returns the number of open containers.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Returns whether the text is complete: an object, an array, a string or a literal has ended.
    pub(super) fn is_done(&self) -> bool {
        self.stack.is_empty() && self.state == State::AfterValue
    }

    /// Takes a character, and appends it to `out`, escaped if it needs to be.
    ///
    /// # Errors
    /// The reason why the text is not JSON.
    pub(super) fn push(&mut self, c: char, out: &mut String) -> Result<(), &'static str> {
        if self.state == State::Number {
            if matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E') {
                self.number.push(c);
                out.push(c);
                return Ok(());
            }
            self.end_number()?;
        }
        self.state = match self.state {
            State::Literal(rest) => match rest.strip_prefix(c) {
                Some("") => State::AfterValue,
                Some(rest) => State::Literal(rest),
                None => return Err("a word is not true, false or null"),
            },
            State::String { .. } | State::Escape { .. } | State::Unicode { .. } | State::High { .. } => {
                return self.push_in_string(c, out);
            }
            state if super::call::is_space(c) => state,
            _ => self.push_token(c)?,
        };
        out.push(c);
        Ok(())
    }

    fn push_token(&mut self, c: char) -> Result<State, &'static str> {
        let is_object = self.stack.last().copied();
        Ok(match (self.state, c) {
            (State::FirstElement, ']') | (State::FirstKey, '}') => self.close(),
            (State::AfterValue, ']') if is_object == Some(false) => self.close(),
            (State::AfterValue, '}') if is_object == Some(true) => self.close(),
            (State::AfterValue, ',') if is_object == Some(true) => State::Key,
            (State::AfterValue, ',') if is_object == Some(false) => State::Value,
            (State::FirstKey | State::Key, '"') => State::String { is_key: true },
            (State::Colon, ':') => State::Value,
            (State::Value | State::FirstElement, c) => self.open_value(c)?,
            (State::AfterValue, _) if is_object.is_none() => return Err("text follows the JSON value"),
            (State::AfterValue, _) => return Err("a comma or the end of an object or array is missing"),
            (State::Colon, _) => return Err("a colon is missing after a key"),
            _ => return Err("a key is not a string in double quotes"),
        })
    }

    fn open_value(&mut self, c: char) -> Result<State, &'static str> {
        Ok(match c {
            '{' => self.open(true)?,
            '[' => self.open(false)?,
            '"' => State::String { is_key: false },
            't' => State::Literal("rue"),
            'f' => State::Literal("alse"),
            'n' => State::Literal("ull"),
            '-' | '0'..='9' => {
                self.number.clear();
                self.number.push(c);
                State::Number
            }
            _ => return Err("a value is not JSON"),
        })
    }

    fn open(&mut self, is_object: bool) -> Result<State, &'static str> {
        if self.stack.len() == MAX_DEPTH {
            return Err("the JSON is nested too deeply");
        }
        self.stack.push(is_object);
        Ok(if is_object { State::FirstKey } else { State::FirstElement })
    }

    fn close(&mut self) -> State {
        self.stack.pop();
        State::AfterValue
    }

    fn end_number(&mut self) -> Result<(), &'static str> {
        self.state = State::AfterValue;
        if is_number(&self.number) { Ok(()) } else { Err("a number is malformed or too large") }
    }

    fn push_in_string(&mut self, c: char, out: &mut String) -> Result<(), &'static str> {
        const LONE: &str = "an escape is half of a surrogate pair";
        self.state = match self.state {
            State::Escape { is_key } => match c {
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => State::String { is_key },
                'u' => State::Unicode { is_key, n_digits: 0, code: 0, is_low: false },
                _ => return Err("a string has an unknown escape"),
            },
            State::Unicode { is_key, n_digits, code, is_low } => {
                let digit = c.to_digit(16).and_then(|digit| u16::try_from(digit).ok());
                let code = code << 4 | digit.ok_or("a string has an unknown escape")?;
                match code {
                    _ if n_digits < 3 => State::Unicode { is_key, n_digits: n_digits + 1, code, is_low },
                    0xdc00..=0xdfff if is_low => State::String { is_key },
                    0xdc00..=0xdfff => return Err(LONE),
                    _ if is_low => return Err(LONE),
                    0xd800..=0xdbff => State::High { is_key, has_backslash: false },
                    _ => State::String { is_key },
                }
            }
            State::High { is_key, has_backslash: false } if c == '\\' => {
                State::High { is_key, has_backslash: true }
            }
            State::High { is_key, has_backslash: true } if c == 'u' => {
                State::Unicode { is_key, n_digits: 0, code: 0, is_low: true }
            }
            State::High { .. } => return Err(LONE),
            state => {
                let is_key = state == State::String { is_key: true };
                match c {
                    '"' if is_key => State::Colon,
                    '"' => State::AfterValue,
                    '\\' => State::Escape { is_key },
                    '\0'..='\x1f' => {
                        push_escape(c, out);
                        return Ok(());
                    }
                    _ => state,
                }
            }
        };
        out.push(c);
        Ok(())
    }

    /// Takes the end of the text.
    ///
    /// # Errors
    /// The reason why the text is not JSON.
    pub(super) fn finish(&mut self) -> Result<(), &'static str> {
        if self.state == State::Number {
            self.end_number()?;
        }
        if self.is_done() { Ok(()) } else { Err("the JSON is incomplete") }
    }
}

/// Validates a JSON value, and returns it without the white space around it, with control characters in strings
/// escaped.
pub(super) fn normalized(text: &str) -> Result<String, &'static str> {
    let (mut json, mut out) = (Json::default(), String::with_capacity(text.len()));
    text.trim().chars().try_for_each(|c| json.push(c, &mut out))?;
    json.finish()?;
    Ok(out)
}

/// Appends a text as a JSON string.
pub(super) fn push_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..='\x1f' => push_escape(c, out),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn push_escape(c: char, out: &mut String) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        _ => out.push_str(&format!("\\u{:04x}", u32::from(c))),
    }
}

/// Returns whether a text is a JSON number with a finite value.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) =
        unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (integer, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(i, f)| (i, Some(f)));
    digits(integer)
        && (integer == "0" || !integer.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}
