//! Calls as JSON objects with the name of the tool and its arguments.

use super::json::{self, Json, State};
use super::sink::Sink;

/// Parses `{"name": "f", "arguments": {…}}` by character.
///
/// The arguments are passed on as they come if the name precedes them. `parameters` is another word for `arguments`,
/// missing or null arguments are `{}`, and arguments may be a string that holds the object. Other keys are ignored.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    json: Json,
    part: Part,
    /// The key, or its value, as far as it arrived.
    text: String,
    key: String,
    name: Option<String>,
    id: Option<String>,
    arguments: Option<String>,
    is_started: bool,
    /// Whether arguments are held back until the object is complete, because an id may follow them.
    waits_for_id: bool,
    piece: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Between,
    Key,
    Value,
    /// Arguments that are passed on as they come.
    Arguments,
}

impl Envelope {
    /// Creates a parser of an object whose id is not lost if it comes last.
    pub(super) fn with_id() -> Self {
        Self { waits_for_id: true, ..Self::default() }
    }

    /// Takes a character, and returns whether the object is complete. The call is then started, with all its arguments.
    ///
    /// # Errors
    /// The reason why the text is not a call.
    pub(super) fn push(&mut self, c: char, out: &mut Sink) -> Result<bool, &'static str> {
        let before = self.json.state();
        let was_inside = self.json.depth() == 1;
        self.piece.clear();
        self.json.push(c, &mut self.piece)?;
        let state = self.json.state();
        match self.part {
            Part::Between if was_inside && state == (State::String { is_key: true }) => {
                self.part = Part::Key;
                self.text.clone_from(&self.piece);
            }
            Part::Between if was_inside && before == State::Value && state != State::Value => {
                let is_arguments = is_arguments(&self.key) && c == '{' && !self.waits_for_id;
                match &self.name {
                    Some(name) if is_arguments && !self.is_started => {
                        out.start_call(name, self.id.take());
                        out.arguments(&self.piece);
                        self.is_started = true;
                        self.part = Part::Arguments;
                    }
                    _ => {
                        self.text.clone_from(&self.piece);
                        self.part = Part::Value;
                    }
                }
            }
            Part::Between => {}
            Part::Key => {
                self.text.push_str(&self.piece);
                if state == State::Colon {
                    self.key = unquoted(&self.text)?;
                    self.part = Part::Between;
                }
            }
            Part::Arguments => {
                out.arguments(&self.piece);
                if self.json.depth() == 1 {
                    self.part = Part::Between;
                }
            }
            Part::Value => {
                // The character after a number ends it, and is not part of it.
                let is_number = was_inside && before == State::Number;
                if !is_number || state == State::Number {
                    self.text.push_str(&self.piece);
                }
                let is_ended = self.json.depth() == 0
                    || self.json.depth() == 1 && matches!(state, State::AfterValue | State::Key);
                if is_ended {
                    self.part = Part::Between;
                    self.take_value()?;
                }
            }
        }
        if !self.json.is_done() {
            return Ok(false);
        }
        if !self.is_started {
            let name = self.name.as_ref().ok_or("the call has no name")?;
            out.start_call(name, self.id.take());
            out.arguments(self.arguments.as_deref().unwrap_or("{}"));
        }
        Ok(true)
    }

    fn take_value(&mut self) -> Result<(), &'static str> {
        match self.key.as_str() {
            "name" if self.name.is_some() => return Err("the call has two names"),
            "name" => {
                let name = unquoted(&self.text).map_err(|_| "the name of the call is not a string")?;
                if name.is_empty() {
                    return Err("the name of the call is empty");
                }
                self.name = Some(name);
            }
            "id" => self.id = unquoted(&self.text).ok(),
            key if is_arguments(key) => {
                if self.arguments.is_some() || self.is_started {
                    return Err("the call has arguments twice");
                }
                self.arguments = Some(object(&self.text)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn is_arguments(key: &str) -> bool {
    matches!(key, "arguments" | "parameters")
}

/// Returns the arguments of a call as the text of an object: an object, null, or a string that holds an object.
pub(super) fn object(value: &str) -> Result<String, &'static str> {
    const NO_OBJECT: &str = "the arguments are not a JSON object";
    if value == "null" {
        return Ok("{}".to_owned());
    }
    if value.starts_with('"') {
        let inner = json::normalized(&unquoted(value)?).map_err(|_| NO_OBJECT)?;
        return if inner.starts_with('{') { Ok(inner) } else { Err(NO_OBJECT) };
    }
    if value.starts_with('{') { Ok(value.to_owned()) } else { Err(NO_OBJECT) }
}

fn unquoted(text: &str) -> Result<String, &'static str> {
    serde_json::from_str(text).map_err(|_| "a string is malformed")
}
