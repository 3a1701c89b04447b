//! Answers that are sent when they are complete.

use super::choices::Choices;
use super::error::ApiError;
use crate::engine::{Done, Event, Started, TokenLogprob};
use crate::ids;
use crate::json::Json;

/// A complete answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) items: Vec<Item>,
    pub(crate) started: Started,
    pub(crate) done: Done,
}

/// A part of an answer, in the order of generation.
#[derive(Debug)]
pub(crate) enum Item {
    Reasoning(String),
    Text { text: String, logprobs: Vec<TokenLogprob> },
    Call(Call),
}

/// A tool call of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Call {
    /// Returns the id that the model gave to the call, or makes one up.
    pub(crate) fn id(&self, prefix: &str) -> String {
        self.id.clone().unwrap_or_else(|| ids::random(prefix))
    }

    /// Returns the arguments as an object; `None` if they are not one, as the answer ended within them.
    pub(crate) fn arguments_object(&self) -> Option<Json> {
        let text = if self.arguments.is_empty() { "{}" } else { &self.arguments };
        Json::parse(text.as_bytes(), usize::MAX).ok().filter(|value| matches!(value, Json::Object(_)))
    }
}

impl Answer {
    /// Adds an event other than an error.
    fn push(&mut self, event: Event) {
        match event {
            Event::Started(started) => self.started = started,
            Event::Text(more) => match self.items.last_mut() {
                Some(Item::Text { text, logprobs }) => {
                    text.push_str(&more.text);
                    logprobs.extend(more.logprobs);
                }
                _ => self.items.push(Item::Text { text: more.text, logprobs: more.logprobs }),
            },
            Event::Reasoning(more) => match self.items.last_mut() {
                Some(Item::Reasoning(text)) => text.push_str(&more),
                _ => self.items.push(Item::Reasoning(more)),
            },
            Event::CallStart(start) => {
                let call = Call { id: start.id, name: start.name, arguments: String::new() };
                self.items.push(Item::Call(call));
            }
            Event::CallArguments(more) => {
                if let Some(Item::Call(call)) = self.items.last_mut() {
                    call.arguments.push_str(&more);
                }
            }
            Event::Done(done) => self.done = done,
            Event::CallEnd | Event::Error(_) => {}
        }
    }

    /// Returns the text of the answer.
    pub(crate) fn text(&self) -> String {
        self.items
            .iter()
            .filter_map(|item| match item {
                Item::Text { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Returns the reasoning; `None` if there is none.
    pub(crate) fn reasoning(&self) -> Option<String> {
        let parts = self.items.iter().filter_map(|item| match item {
            Item::Reasoning(text) => Some(text.as_str()),
            _ => None,
        });
        Some(parts.collect::<String>()).filter(|text| !text.is_empty())
    }

    /// Returns the tool calls.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.items.iter().filter_map(|item| match item {
            Item::Call(call) => Some(call),
            _ => None,
        })
    }

    /// Returns the tokens of the text with their log-probabilities.
    pub(crate) fn logprobs(&self) -> Vec<&TokenLogprob> {
        self.items
            .iter()
            .flat_map(|item| match item {
                Item::Text { logprobs, .. } => logprobs.as_slice(),
                _ => &[],
            })
            .collect()
    }
}

/// Waits for all choices.
pub(crate) async fn collect(mut choices: Choices) -> Result<Vec<Answer>, ApiError> {
    let mut answers: Vec<Answer> = (0..choices.len()).map(|_| Answer::default()).collect();
    while let Some((choice_idx, event)) = choices.next().await {
        if let Event::Error(error) = event {
            return Err(error.into());
        }
        answers[choice_idx].push(event);
    }
    Ok(answers)
}
