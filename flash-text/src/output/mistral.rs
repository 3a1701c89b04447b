//! Mistral: `[TOOL_CALLS][{"name": "f", "arguments": {…}}]`, and `[TOOL_CALLS]f[ARGS]{…}` of newer models.

use super::arguments::ObjectArguments;
use super::call::{CallParser, Step, Tools, is_name_char, is_space};
use super::envelope::Envelope;
use super::sink::Sink;

pub(super) const START: &str = "[TOOL_CALLS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";
pub(super) const ARGUMENTS: &str = "[ARGS]";

/// Parser of the calls after a marker.
#[derive(Debug, Default)]
pub(super) enum Mistral {
    #[default]
    Start,
    /// In the list, before an object. The flag says whether a comma or the end must come first.
    List {
        is_after_object: bool,
    },
    Object(Box<Envelope>),
    Name(String),
    Id {
        name: String,
        id: String,
    },
    Arguments(ObjectArguments),
}

impl Mistral {
    fn object(&mut self, mut object: Box<Envelope>, c: char, out: &mut Sink) -> Step {
        let outcome = object.push(c, out);
        *self = if outcome == Ok(true) {
            out.end_call();
            Self::List { is_after_object: true }
        } else {
            Self::Object(object)
        };
        Step::of(outcome)
    }

    fn arguments(&mut self, mut arguments: ObjectArguments, c: char, out: &mut Sink) -> Step {
        let outcome = arguments.push(c, out);
        if outcome == Ok(true) {
            out.end_call();
            return Step::Done;
        }
        *self = Self::Arguments(arguments);
        Step::of(outcome)
    }
}

impl CallParser for Mistral {
    fn markers(&self) -> &'static [&'static str] {
        match self {
            Self::Name(_) => &[ARGUMENTS, CALL_ID],
            Self::Id { .. } => &[ARGUMENTS],
            Self::Start | Self::List { .. } | Self::Object(_) | Self::Arguments(_) => &[],
        }
    }

    fn marker(&mut self, marker: &'static str, _: &Tools, out: &mut Sink) -> Step {
        *self = match std::mem::take(self) {
            Self::Name(name) if marker == CALL_ID => Self::Id { name, id: String::new() },
            Self::Name(name) => {
                out.start_call(name.trim(), None);
                Self::Arguments(ObjectArguments::default())
            }
            Self::Id { name, id } => {
                out.start_call(name.trim(), Some(id.trim().to_owned()));
                Self::Arguments(ObjectArguments::default())
            }
            other => other,
        };
        Step::More
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match std::mem::take(self) {
            Self::Start if is_space(c) => return Step::More,
            Self::Start if c == '[' => *self = Self::List { is_after_object: false },
            Self::Start if is_name_char(c) => *self = Self::Name(c.to_string()),
            Self::Start => return Step::NotACall,
            Self::List { is_after_object } => match c {
                ']' if is_after_object => {
                    out.clear_record();
                    return Step::Done;
                }
                ',' if is_after_object => *self = Self::List { is_after_object: false },
                '{' if !is_after_object => return self.object(Box::new(Envelope::with_id()), c, out),
                c if is_space(c) => *self = Self::List { is_after_object },
                // The text of calls that are complete is no longer recorded.
                _ if is_after_object => return Step::broken("text stands between the calls of the list"),
                _ => return Step::NotACall,
            },
            Self::Object(object) => return self.object(object, c, out),
            Self::Name(mut name) => {
                // Without the markers, which some detokenizers drop.
                if c == '{' {
                    out.start_call(name.trim(), None);
                    return self.arguments(ObjectArguments::default(), c, out);
                }
                if !is_name_char(c) && !is_space(c) || name.ends_with(is_space) && !is_space(c) {
                    return Step::NotACall;
                }
                name.push(c);
                *self = Self::Name(name);
            }
            Self::Id { name, mut id } => {
                id.push(c);
                *self = Self::Id { name, id };
            }
            Self::Arguments(arguments) => return self.arguments(arguments, c, out),
        }
        Step::More
    }

    fn finish(&mut self, _: &Tools, out: &mut Sink) -> Step {
        match self {
            Self::Start | Self::Name(_) => Step::NotACall,
            Self::List { is_after_object: true } => {
                out.clear_record();
                Step::Done
            }
            Self::List { is_after_object: false } => Step::NotACall,
            Self::Object(_) | Self::Id { .. } | Self::Arguments(_) => Step::cut_off(),
        }
    }
}
