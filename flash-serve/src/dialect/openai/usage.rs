//! Tokens and times in OpenAI's form.

use crate::engine::{Done, FinishReason, Timings, Usage};
use crate::json::{Json, object};

/// Adds up the tokens of choices. Each prompt has `n` choices in a row and counts once.
pub(super) fn total<'a>(choices: impl IntoIterator<Item = &'a Usage>, n: usize) -> Usage {
    let mut total = Usage::default();
    for (choice_idx, usage) in choices.into_iter().enumerate() {
        if choice_idx % n == 0 {
            total.prompt_tokens += usage.prompt_tokens;
            total.cached_tokens += usage.cached_tokens;
        }
        total.completion_tokens += usage.completion_tokens;
        total.reasoning_tokens += usage.reasoning_tokens;
    }
    total
}

/// Returns `usage` of chat completions and completions.
pub(super) fn usage(usage: &Usage) -> Json {
    object! {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": object! { "cached_tokens": usage.cached_tokens },
        "completion_tokens_details": object! { "reasoning_tokens": usage.reasoning_tokens },
    }
}

/// Returns times in milliseconds, which the OpenAI API does not have.
pub(super) fn timings(timings: &Timings) -> Json {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    object! {
        "queue_ms": ms(timings.queue),
        "load_ms": ms(timings.load),
        "prompt_ms": ms(timings.prompt),
        "decode_ms": ms(timings.decode),
    }
}

/// Returns `finish_reason`.
pub(super) fn finish_reason(done: &Done) -> &'static str {
    match done.finish {
        FinishReason::Stop | FinishReason::StopString(_) => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// Adds warnings to an object, if there are any. The OpenAI API has none, and clients ignore unknown members.
pub(super) fn set_warnings(object: &mut Json, warnings: Vec<String>) {
    if !warnings.is_empty() {
        crate::json::set(object, "warnings", warnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_with_several_choices_counts_once() {
        let usage = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 1 };
        let total = total(&[usage; 6], 3);
        let expected =
            Usage { prompt_tokens: 20, cached_tokens: 8, completion_tokens: 18, reasoning_tokens: 6 };
        assert_eq!(total, expected);
    }
}
