//! Messages.

use std::time::Duration;

use flash_serve::{FinishReason, Prompt, Refusal, ResponseFormat, Role, ToolChoice};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::mock::{MODEL, Mock, call, done, failure, reasoning, started, text};
use super::support::{Served, SseEvent, chat, conversation, with};

const PATH: &str = "/v1/messages";

fn body(more: Value) -> Value {
    with(chat(json!({ "max_tokens": 100 })), more)
}

fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_deref().expect("every event has a name")).collect()
}

/// Reasons, answers and calls a tool.
async fn agent() -> Served {
    let mut script = vec![started(), reasoning("Hm"), text("Let me "), text("look.")];
    script.extend(call("get_weather", r#"{"city":"Rome"}"#));
    script.push(done(FinishReason::ToolCalls));
    Served::start(Mock::always(script)).await
}

#[tokio::test]
async fn a_whole_answer_has_blocks_in_order() {
    let answer = agent()
        .await
        .post(PATH, &body(json!({ "thinking": { "type": "enabled", "budget_tokens": 50 } })))
        .await;
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["model"]),
        (&json!("message"), &json!("assistant"), &json!(MODEL))
    );
    let content = answer["content"].as_array().unwrap();
    assert_eq!(content[0], json!({ "type": "thinking", "thinking": "Hm", "signature": "unsigned" }));
    assert_eq!(content[1], json!({ "type": "text", "text": "Let me look." }));
    assert_eq!((&content[2]["type"], &content[2]["input"]), (&json!("tool_use"), &json!({ "city": "Rome" })));
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("tool_use"), &Value::Null));
    // Cached tokens are not counted as input.
    let usage = json!({
        "input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 8, "output_tokens": 5,
    });
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn a_stream_has_events_in_the_order_that_sdks_want() {
    let events = agent().await.events(PATH, &body(json!({ "stream": true }))).await;
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&events), expected);
    assert!(events.iter().all(|(name, data)| data["type"] == name.as_deref().unwrap()));
    let data = |idx: usize| &events[idx].1;
    assert_eq!(data(0)["message"]["usage"]["input_tokens"], 4);
    assert_eq!(data(1)["content_block"]["type"], "thinking");
    assert_eq!(data(3)["delta"]["type"], "signature_delta");
    assert_eq!(
        (&data(5)["index"], &data(5)["content_block"]),
        (&json!(1), &json!({ "type": "text", "text": "" }))
    );
    assert_eq!(data(6)["delta"], json!({ "type": "text_delta", "text": "Let me " }));
    assert_eq!(data(9)["content_block"]["input"], json!({}));
    let partial = format!(
        "{}{}",
        data(10)["delta"]["partial_json"].as_str().unwrap(),
        data(11)["delta"]["partial_json"].as_str().unwrap()
    );
    assert_eq!(partial, r#"{"city":"Rome"}"#);
    assert_eq!(data(13)["delta"], json!({ "stop_reason": "tool_use", "stop_sequence": null }));
    assert_eq!(data(13)["usage"]["output_tokens"], 5);
}

#[tokio::test]
async fn reasons_to_stop_are_told() {
    for (finish, reason, sequence) in [
        (FinishReason::Stop, "end_turn", Value::Null),
        (FinishReason::Length, "max_tokens", Value::Null),
        (FinishReason::StopString("END".to_owned()), "stop_sequence", json!("END")),
    ] {
        let server = Served::start(Mock::always(vec![started(), text("a"), done(finish)])).await;
        let answer = server.post(PATH, &body(json!({ "stop_sequences": ["END"] }))).await;
        assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!(reason), &sequence));
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_becomes_text() {
    let mut script = vec![started()];
    script.extend(call("f", r#"{"city":"#));
    script.push(done(FinishReason::Length));
    let answer = Served::start(Mock::always(script)).await.post(PATH, &body(json!({}))).await;
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "{\"city\":" }]));
}

#[tokio::test]
async fn blocks_of_every_kind_reach_the_engine() {
    let server = Served::hello().await;
    let cache = json!({ "type": "ephemeral" });
    server.post(PATH, &json!({
        "model": MODEL, "max_tokens": 100, "metadata": { "user_id": "x" },
        "system": [{ "type": "text", "text": "You help.", "cache_control": cache }],
        "messages": [
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b", "cache_control": cache }] },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "Hm", "signature": "s" },
                { "type": "redacted_thinking", "data": "x" },
                { "type": "text", "text": "Wait." },
                { "type": "tool_use", "id": "t1", "name": "f", "input": { "a": 1, "b": 2 } },
                { "type": "tool_use", "id": "t2", "name": "g", "input": {} },
            ]},
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "t1", "content": "one" },
                { "type": "tool_result", "tool_use_id": "t2", "content": [{ "type": "text", "text": "two" }], "is_error": true },
                { "type": "text", "text": "Go on." },
            ]},
        ],
        "tools": [{ "name": "f", "description": "F", "input_schema": { "type": "object" }, "cache_control": cache },
                  { "type": "custom", "name": "g", "input_schema": { "type": "object" } }],
        "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
        "context_management": { "edits": [{ "type": "clear_thinking_20251015", "keep": "all" }] },
    })).await;
    let request = server.mock.last_request();
    assert_eq!((request.max_tokens, request.may_lower_max_tokens), (Some(100), true));
    let conversation = conversation(request);
    let messages = &conversation.messages;
    let told: Vec<(Role, String)> = messages.iter().map(|message| (message.role, message.text())).collect();
    let expected = [
        (Role::System, "You help."),
        (Role::User, "a\nb"),
        (Role::Assistant, "Wait."),
        (Role::Tool, "one"),
        (Role::Tool, "two"),
        (Role::User, "Go on."),
    ];
    assert_eq!(told, expected.map(|(role, text)| (role, text.to_owned())));
    assert_eq!(messages[2].reasoning.as_deref(), Some("Hm"));
    assert_eq!(messages[2].tool_calls[0].arguments, r#"{"a":1,"b":2}"#);
    assert_eq!((messages[4].tool_call_id.as_deref(), messages[4].name.as_deref()), (Some("t2"), Some("g")));
    assert_eq!((conversation.tool_choice, conversation.parallel_calls), (ToolChoice::Required, false));
    assert!(!conversation.continues_last);
    assert_eq!(conversation.reasoning.enabled, Some(false));
}

#[tokio::test]
async fn a_last_message_of_the_assistant_is_continued() {
    let server = Served::hello().await;
    let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hel" }]);
    server.post(PATH, &body(json!({ "messages": messages }))).await;
    assert!(conversation(server.mock.last_request()).continues_last);
}

#[tokio::test]
async fn thinking_and_formats_reach_the_engine() {
    let server = Served::hello().await;
    let format = json!({ "type": "json_schema", "schema": { "type": "object" } });
    let more = json!({
        "thinking": { "type": "adaptive" }, "output_config": { "effort": "high", "format": format },
    });
    server.post(PATH, &body(more)).await;
    let request = server.mock.last_request();
    assert!(matches!(request.format, ResponseFormat::JsonSchema(_)));
    let reasoning = conversation(request).reasoning;
    assert_eq!((reasoning.enabled, reasoning.effort.unwrap().as_str()), (Some(true), "high"));
}

#[tokio::test]
async fn tokens_are_counted_without_a_limit() {
    let server = Served::hello().await;
    let answer = server.post("/v1/messages/count_tokens", &chat(json!({ "system": "You help." }))).await;
    assert_eq!(answer, json!({ "input_tokens": 25 }));
    let Prompt::Chat(conversation) = server.mock.last_request().prompt else { panic!() };
    assert_eq!(conversation.messages.len(), 2);
}

#[tokio::test]
async fn invalid_requests_are_rejected_by_name() {
    let server = Served::hello().await;
    let user = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    for (more, field) in [
        (json!({ "max_tokens": null }), "max_tokens"),
        (json!({ "max_tokens": 1e12 }), "max_tokens"),
        (json!({ "frobnicate": 1 }), "frobnicate"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }), "tools[0].type"),
        (json!({ "tool_choice": { "type": "tool", "name": "f" } }), "tool_choice"),
        (json!({ "thinking": { "type": "maybe" } }), "thinking.type"),
        (
            json!({ "context_management": { "edits": [{ "type": "clear_tool_uses_20250919" }] } }),
            "context_management.edits[0].type",
        ),
        (user(json!([{ "type": "image", "source": {} }])), "messages[0].content[0].type"),
        (
            user(json!([{ "type": "tool_use", "id": "a", "name": "f", "input": {} }])),
            "messages[0].content[0].type",
        ),
        (user(json!(null)), "messages[0].content"),
    ] {
        let answer = server.rejected(PATH, &body(more.clone())).await;
        assert_eq!(
            (&answer["type"], &answer["error"]["type"]),
            (&json!("error"), &json!("invalid_request_error"))
        );
        assert!(answer["error"]["message"].as_str().unwrap().starts_with(field), "{more}: {answer}");
    }
}

#[tokio::test]
async fn refusals_have_the_types_that_sdks_know() {
    let long = Refusal::PromptTooLong { prompt_tokens: 9000, max_prompt_tokens: 8000 };
    let full = Refusal::QueueFull { n_waiting: 1, retry_after: Duration::from_secs(2) };
    for (refusal, status, kind) in [
        (long, StatusCode::BAD_REQUEST, "invalid_request_error"),
        (full, StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        (Refusal::ShuttingDown, StatusCode::SERVICE_UNAVAILABLE, "overloaded_error"),
    ] {
        let message = refusal.to_string();
        let (got, answer) =
            Served::start(Mock::refusing(refusal)).await.try_post(PATH, &body(json!({}))).await;
        assert_eq!((got, &answer["error"]), (status, &json!({ "type": kind, "message": message })));
    }
    let (status, answer) = Served::hello().await.try_post(PATH, &body(json!({ "model": "claude" }))).await;
    assert_eq!((status, &answer["error"]["type"]), (StatusCode::NOT_FOUND, &json!("not_found_error")));
}

#[tokio::test]
async fn an_error_after_the_headers_is_an_error_event() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), failure()])).await;
    let events = server.events(PATH, &body(json!({ "stream": true }))).await;
    let (name, data) = events.last().unwrap();
    assert_eq!(name.as_deref(), Some("error"));
    assert_eq!((&data["type"], &data["error"]["type"]), (&json!("error"), &json!("api_error")));
}
