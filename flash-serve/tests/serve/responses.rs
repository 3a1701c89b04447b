//! Responses.

use flash_serve::{FinishReason, ResponseFormat, Role, ToolChoice};
use serde_json::{Value, json};

use super::mock::{MODEL, Mock, call, done, failure, reasoning, started, text};
use super::support::{Served, conversation, with};

const PATH: &str = "/v1/responses";

fn body(more: Value) -> Value {
    with(json!({ "model": MODEL, "input": "Hi" }), more)
}

/// Reasons, answers and calls a tool.
async fn agent() -> Served {
    let mut script = vec![started(), reasoning("Hm"), text("Let me "), text("look.")];
    script.extend(call("shell", r#"{"command":["ls"]}"#));
    script.push(done(FinishReason::ToolCalls));
    Served::start(Mock::always(script)).await
}

#[tokio::test]
async fn a_whole_response_has_items_in_order() {
    let answer = agent().await.post(PATH, &body(json!({ "instructions": "Be brief." }))).await;
    assert_eq!((&answer["object"], &answer["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(answer["instructions"], "Be brief.");
    let output = answer["output"].as_array().unwrap();
    assert_eq!(output[0]["content"], json!([{ "type": "reasoning_text", "text": "Hm" }]));
    assert_eq!(output[1]["content"][0]["text"], "Let me look.");
    assert_eq!((&output[2]["type"], &output[2]["name"]), (&json!("function_call"), &json!("shell")));
    assert_eq!(output[2]["arguments"], r#"{"command":["ls"]}"#);
    assert_eq!(answer["usage"]["input_tokens_details"]["cached_tokens"], 8);
}

#[tokio::test]
async fn a_stream_has_events_in_order_with_numbers() {
    let events = agent().await.events(PATH, &body(json!({ "stream": true }))).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_deref().unwrap()).collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(names, expected);
    for (idx, (name, data)) in events.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(idx)));
    }
    let data = |idx: usize| &events[idx].1;
    assert_eq!((&data(15)["output_index"], &data(15)["item"]["arguments"]), (&json!(2), &json!("")));
    assert_eq!(data(15)["item"]["call_id"], data(19)["item"]["call_id"]);
    assert_eq!(data(19)["item"]["arguments"], r#"{"command":["ls"]}"#);
    let response = &data(20)["response"];
    assert_eq!((&response["status"], response["output"].as_array().unwrap().len()), (&json!("completed"), 3));
    assert_eq!(response["output"][1], data(14)["item"]);
    assert_eq!(response["usage"]["total_tokens"], 17);
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_incomplete() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), done(FinishReason::Length)])).await;
    let events = server.events(PATH, &body(json!({ "stream": true, "max_output_tokens": 5 }))).await;
    let (name, data) = events.last().unwrap();
    assert_eq!(name.as_deref(), Some("response.incomplete"));
    assert_eq!(data["response"]["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    assert_eq!(server.mock.last_request().max_tokens, Some(5));
}

#[tokio::test]
async fn an_error_after_the_headers_is_a_failed_response() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), failure()])).await;
    let events = server.events(PATH, &body(json!({ "stream": true }))).await;
    let (name, data) = events.last().unwrap();
    assert_eq!(name.as_deref(), Some("response.failed"));
    assert!(data["response"]["error"]["message"].as_str().unwrap().contains("the disk is gone"));
}

#[tokio::test]
async fn items_of_one_answer_are_one_message() {
    let server = Served::hello().await;
    let text = |kind: &str, text: &str| json!([{ "type": kind, "text": text }]);
    server.post(PATH, &body(json!({ "instructions": "You code.", "input": [
        { "type": "message", "role": "user", "content": text("input_text", "a") },
        { "type": "reasoning", "id": "rs_1", "summary": [], "content": text("reasoning_text", "Hm"), "encrypted_content": null },
        { "type": "message", "role": "assistant", "content": text("output_text", "b") },
        { "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}" },
        { "type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c1", "output": "1" },
        { "type": "function_call_output", "call_id": "c2", "output": text("input_text", "2") },
        { "type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c3", "output": "3" },
    ]}))).await;
    let messages = conversation(server.mock.last_request()).messages;
    let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "assistant", "tool"]);
    let answer = &messages[2];
    assert_eq!((answer.reasoning.as_deref(), answer.text().as_str()), (Some("Hm"), "b"));
    assert_eq!((answer.tool_calls.len(), messages[5].tool_calls.len()), (2, 1));
    assert_eq!((messages[4].text().as_str(), messages[4].name.as_deref()), ("2", Some("g")));
}

#[tokio::test]
async fn settings_reach_the_engine() {
    let server = Served::hello().await;
    let format =
        json!({ "type": "json_schema", "name": "x", "schema": { "type": "object" }, "strict": true });
    let tool = json!({ "type": "function", "name": "f", "description": "F", "parameters": { "type": "object" }, "strict": false });
    server.post(PATH, &body(json!({
        "tools": [tool], "tool_choice": { "type": "function", "name": "f" }, "parallel_tool_calls": false,
        "reasoning": { "effort": "high", "summary": "auto" }, "text": { "format": format, "verbosity": "medium" },
        "temperature": 0.5, "store": false, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
        "previous_response_id": null, "truncation": "auto", "client_metadata": { "a": "b" },
    }))).await;
    let request = server.mock.last_request();
    assert!(matches!(request.format, ResponseFormat::JsonSchema(_)));
    let conversation = conversation(request);
    assert_eq!(conversation.tool_choice, ToolChoice::Named("f".to_owned()));
    assert!(!conversation.parallel_calls);
    assert_eq!(conversation.reasoning.effort.unwrap().as_str(), "high");
}

#[tokio::test]
async fn developer_items_between_others_join_the_instructions() {
    let server = Served::hello().await;
    server.post(PATH, &body(json!({ "instructions": "a", "input": [
        { "role": "user", "content": "b" }, { "type": "message", "role": "developer", "content": "c" },
    ]}))).await;
    let messages = conversation(server.mock.last_request()).messages;
    assert_eq!((messages[0].role, messages[0].text().as_str(), messages.len()), (Role::System, "a\nc", 2));
}

#[tokio::test]
async fn invalid_requests_are_rejected_by_name() {
    let server = Served::hello().await;
    for (more, param) in [
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "background": true }), "background"),
        (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), "input[0].type"),
        (
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_image", "image_url": "x" }] }] }),
            "input[0].content[0].type",
        ),
        (json!({ "text": { "verbosity": "low" } }), "text.verbosity"),
        (json!({ "input": null }), "input"),
    ] {
        assert_eq!(server.rejected(PATH, &body(more)).await["error"]["param"], param);
    }
}
