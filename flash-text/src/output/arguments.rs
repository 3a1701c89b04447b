//! Arguments as JSON text.

use std::collections::HashSet;

use super::json::{self, Json};
use super::sink::Sink;

/// Passes on arguments that the model writes as a JSON object.
#[derive(Debug, Default)]
pub(super) struct ObjectArguments {
    json: Json,
    piece: String,
}

impl ObjectArguments {
    /// Takes a character, and returns whether the object is complete. White space before it is skipped.
    ///
    /// # Errors
    /// The reason why the text is not a JSON object.
    pub(super) fn push(&mut self, c: char, out: &mut Sink) -> Result<bool, &'static str> {
        if !self.is_started() && !super::call::is_space(c) && c != '{' {
            return Err("the arguments are not a JSON object");
        }
        self.piece.clear();
        self.json.push(c, &mut self.piece)?;
        if self.is_started() || self.json.is_done() {
            out.arguments(&self.piece);
        }
        Ok(self.json.is_done())
    }

    /// Returns whether the object began and is incomplete.
    pub(super) fn is_started(&self) -> bool {
        self.json.depth() > 0
    }

    pub(super) fn is_done(&self) -> bool {
        self.json.is_done()
    }
}

/// Writes arguments that the model writes parameter by parameter, in its order.
#[derive(Debug, Default)]
pub(super) struct ParameterArguments {
    names: HashSet<String>,
}

impl ParameterArguments {
    /// Adds a parameter with its value as JSON.
    ///
    /// # Errors
    /// The reason why the parameter cannot be added.
    pub(super) fn push(&mut self, name: &str, value: &str, out: &mut Sink) -> Result<(), String> {
        let mut text = if self.names.is_empty() { "{" } else { ", " }.to_owned();
        if !self.names.insert(name.to_owned()) {
            return Err(format!("the call has the parameter {name:?} twice"));
        }
        json::push_string(name, &mut text);
        text.push_str(": ");
        text.push_str(value);
        out.arguments(&text);
        Ok(())
    }

    /// Ends the arguments.
    pub(super) fn finish(&mut self, out: &mut Sink) {
        out.arguments(if self.names.is_empty() { "{}" } else { "}" });
        self.names.clear();
    }
}
