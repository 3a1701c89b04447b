//! DeepSeek V3, R1 and V3.1, within a section of calls.
//!
//! V3 and R1 write the type, the name, and a fenced block: `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f`, a line
//! `` ```json ``, the arguments, `` ``` `` and `<｜tool▁call▁end｜>`. V3.1 writes
//! `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.

use super::arguments::ObjectArguments;
use super::call::{CallParser, Step, Tools, is_space};
use super::sink::Sink;

pub(super) const SECTION: &str = "<｜tool▁calls▁begin｜>";
pub(super) const SECTION_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const START: &str = "<｜tool▁call▁begin｜>";
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
pub(super) const END: &str = "<｜tool▁call▁end｜>";

/// The line between the name and the arguments in V3.
const FENCE: &str = "```json";

/// Parser of a call.
#[derive(Debug, Default)]
pub(super) struct DeepSeek {
    state: State,
    /// The text before the separator: the type or the name.
    head: String,
    /// The text after it: the name and the fence, or nothing.
    tail: String,
    arguments: ObjectArguments,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Tail,
    Arguments,
    AfterArguments,
}

impl DeepSeek {
    fn start_call(&self, out: &mut Sink) -> Result<(), &'static str> {
        let (name, fence) = match self.tail.trim() {
            "" => (self.head.trim(), FENCE),
            tail => tail.split_once('\n').ok_or("the name of the call does not end with its line")?,
        };
        if name.trim().is_empty() {
            return Err("the call has no name");
        }
        if fence.trim() != FENCE {
            return Err("the arguments are not in a block of JSON");
        }
        out.start_call(name.trim(), None);
        Ok(())
    }
}

impl CallParser for DeepSeek {
    fn markers(&self) -> &'static [&'static str] {
        match self.state {
            State::Head => &[SEPARATOR, END],
            State::Tail => &[END],
            State::Arguments => &[],
            State::AfterArguments => &[END, SECTION_END],
        }
    }

    fn marker(&mut self, marker: &'static str, _: &Tools, out: &mut Sink) -> Step {
        match self.state {
            State::Head if marker == SEPARATOR => {
                self.state = State::Tail;
                Step::More
            }
            State::AfterArguments => {
                out.end_call();
                Step::Done
            }
            _ => Step::broken("the call has no arguments"),
        }
    }

    fn char(&mut self, c: char, _: &Tools, out: &mut Sink) -> Step {
        match self.state {
            State::Head => self.head.push(c),
            State::Tail if c == '{' => {
                if let Err(reason) = self.start_call(out).and_then(|()| self.arguments.push(c, out)) {
                    return Step::broken(reason);
                }
                self.state = State::Arguments;
            }
            State::Tail => self.tail.push(c),
            State::Arguments => match self.arguments.push(c, out) {
                Ok(true) => self.state = State::AfterArguments,
                outcome => return Step::of(outcome),
            },
            // The end of the fence.
            State::AfterArguments if is_space(c) || c == '`' => {}
            State::AfterArguments => return Step::broken("text follows the arguments of the call"),
        }
        Step::More
    }

    fn finish(&mut self, _: &Tools, out: &mut Sink) -> Step {
        if self.state == State::AfterArguments {
            out.end_call();
            return Step::Done;
        }
        Step::cut_off()
    }
}
