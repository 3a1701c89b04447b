//! Requirements of named clients, each as a test.

use std::time::Duration;

use flash_serve::{FinishReason, Message};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::mock::{MODEL, Mock, Step, call, done, failure, reasoning, started, text};
use super::support::{Served, chat, conversation, parse_events, weather_tool};

/// Reasons, speaks, and calls two tools.
fn everything() -> Vec<Step> {
    let mut script = vec![started(), reasoning("Hm"), text("Look")];
    script.extend(call("get_weather", r#"{"city":"Rome"}"#));
    script.extend(call("get_weather", r#"{"city":"Oslo"}"#));
    script.push(done(FinishReason::ToolCalls));
    script
}

async fn chunks() -> Vec<Value> {
    let server = Served::start(Mock::always(everything())).await;
    let body = chat(json!({ "stream": true, "tools": [weather_tool()] }));
    let events = server.events("/v1/chat/completions", &body).await;
    assert_eq!(events.last().unwrap().1, "[DONE]");
    events[..events.len() - 1].iter().map(|(_, data)| data.clone()).collect()
}

fn tool_deltas(chunks: &[Value]) -> Vec<&Value> {
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"]);
    deltas.filter_map(|calls| calls.get(0)).collect()
}

#[tokio::test]
async fn openai_python_finds_an_integer_index_in_choices_and_calls() {
    let chunks = chunks().await;
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["index"].is_u64()));
    let deltas = tool_deltas(&chunks);
    assert_eq!(deltas.len(), 6);
    assert!(deltas.iter().all(|call| call["index"].is_u64()));
}

#[tokio::test]
async fn openai_python_sees_an_error_in_a_chunk_only_if_there_is_one() {
    assert!(chunks().await.iter().all(|chunk| chunk.get("error").is_none()));
    let server = Served::start(Mock::always(vec![started(), failure()])).await;
    let events = server.events("/v1/chat/completions", &chat(json!({ "stream": true }))).await;
    assert!(events.last().unwrap().1["error"].is_object());
}

#[tokio::test]
async fn anthropic_python_gets_an_event_line_in_every_frame() {
    let server = Served::start(Mock::always(everything())).await;
    let text = server.text("/v1/messages", &chat(json!({ "stream": true, "max_tokens": 9 }))).await;
    let frames: Vec<&str> = text.split("\n\n").filter(|frame| !frame.is_empty()).collect();
    assert!(frames.len() > 10);
    assert!(frames.iter().all(|frame| frame.starts_with("event: ") && frame.lines().count() == 2));
}

#[tokio::test]
async fn ollama_python_can_parse_every_line_and_gets_arguments_as_an_object() {
    let interval = Duration::from_millis(30);
    let mut script = vec![Step::Wait(interval * 5)];
    script.extend(everything());
    let server = Served::with(Mock::always(script), |config| config.keep_alive_interval = interval).await;
    let text = server.text("/api/chat", &chat(json!({ "tools": [weather_tool()] }))).await;
    // No blank line keeps the connection alive.
    let lines: Vec<Value> =
        text.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls: Vec<&Value> = lines.iter().filter_map(|line| line["message"]["tool_calls"].get(0)).collect();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call["function"]["arguments"].is_object()));
}

#[tokio::test]
async fn ollama_python_finds_model_info_in_show() {
    let answer = Served::hello().await.post("/api/show", &json!({ "model": MODEL })).await;
    assert_eq!(answer["model_info"]["general.architecture"], "qwen3");
    assert_eq!(answer["model_info"]["qwen3.context_length"], 32768);
    assert_eq!(answer["model_info"]["general.parameter_count"], 8_190_735_360_u64);
}

#[tokio::test]
async fn zed_finds_tags_with_details_and_capabilities_in_show() {
    let server = Served::hello().await;
    let model = &server.get("/api/tags").await["models"][0];
    assert_eq!((&model["name"], &model["modified_at"]), (&json!(MODEL), &json!("2023-11-14T22:13:20Z")));
    assert_eq!((&model["size"], &model["digest"]), (&json!(4_150_000_000_u64), &json!("b179c952")));
    for member in ["format", "family", "families", "parameter_size", "quantization_level"] {
        assert!(!model["details"][member].is_null(), "{member}");
    }
    let show = server.post("/api/show", &json!({ "name": MODEL })).await;
    assert_eq!(show["capabilities"], json!(["completion", "tools", "thinking", "embedding"]));
}

#[tokio::test]
async fn zed_finds_a_role_and_content_in_every_chunk() {
    let server = Served::start(Mock::always(everything())).await;
    let lines = server.lines("/api/chat", &chat(json!({}))).await;
    assert!(lines.len() >= 5);
    assert!(
        lines
            .iter()
            .all(|line| line["message"]["role"] == "assistant" && line["message"]["content"].is_string())
    );
}

#[tokio::test]
async fn open_webui_finds_version_tags_and_running_models() {
    let server = Served::hello().await;
    assert!(server.get("/api/version").await["version"].as_str().unwrap().split('.').count() == 3);
    let model = &server.get("/api/tags").await["models"][0];
    assert_eq!((&model["model"], &model["name"]), (&json!(MODEL), &json!(MODEL)));
    let running = server.get("/api/ps").await["models"].clone();
    assert_eq!(running.as_array().unwrap().len(), 1);
    assert!(running[0]["expires_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(running[0]["size_vram"], 3_u64 << 30);
}

#[tokio::test]
async fn ollamas_cli_loads_with_an_empty_prompt() {
    let server = Served::hello().await;
    let answer = server.post("/api/generate", &json!({ "model": MODEL, "prompt": "" })).await;
    assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!("load")));
    assert_eq!(server.mock.loads.lock().unwrap()[0], (MODEL.to_owned(), None));
}

#[tokio::test]
async fn ollamas_cli_finds_ollama_running() {
    let server = Served::hello().await;
    let response = server.get_request("/").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "Ollama is running");
    let client = reqwest::Client::new();
    let response = client.request(Method::HEAD, server.url("/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn ollamas_cli_gets_durations_in_nanoseconds() {
    let lines = Served::hello().await.lines("/api/chat", &chat(json!({}))).await;
    let last = lines.last().unwrap();
    assert_eq!(last["prompt_eval_duration"], 3_000_000);
    assert!(last["total_duration"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn claude_code_may_ask_for_beta_and_put_system_messages_anywhere() {
    let server = Served::hello().await;
    let body = json!({ "model": MODEL, "max_tokens": 32_000, "system": "a", "messages": [
        { "role": "user", "content": "b" }, { "role": "system", "content": [{ "type": "text", "text": "c" }] },
    ]});
    let request =
        server.post_request("/v1/messages?beta=true", &body).header("anthropic-beta", "x-2026-01-01");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    let messages = conversation(server.mock.last_request()).messages;
    assert_eq!((messages.len(), messages[0].text().as_str()), (2, "a\nc"));
    let answer = server.post("/v1/messages/count_tokens?beta=true", &chat(json!({}))).await;
    assert_eq!(answer["input_tokens"], 25);
}

#[tokio::test]
async fn claude_codes_changing_header_line_is_not_in_the_prompt() {
    let server = Served::hello().await;
    let mut prompts = Vec::new();
    for call in ["a1", "b2"] {
        let header = format!("x-anthropic-billing-header: cc_version=2.1.1; cc_entrypoint=cli; cch={call};");
        let system = json!([{ "type": "text", "text": header }, { "type": "text", "text": "You help." }]);
        server.post("/v1/messages", &chat(json!({ "max_tokens": 9, "system": system }))).await;
        prompts.push(server.mock.last_request().prompt);
    }
    assert_eq!(prompts[0], prompts[1]);
}

#[tokio::test]
async fn claude_codes_long_first_prompt_is_taken() {
    let server = Served::hello().await;
    let body = chat(json!({ "max_tokens": 9, "system": "word ".repeat(25_000) }));
    server.post("/v1/messages", &body).await;
    assert_eq!(conversation(server.mock.last_request()).messages[0].text().len(), 125_000);
}

#[tokio::test]
async fn codexs_other_tools_are_skipped() {
    let server = Served::hello().await;
    let tools = json!([
        { "type": "function", "name": "shell", "parameters": { "type": "object" } },
        { "type": "web_search", "external_web_access": false },
        { "type": "custom", "name": "apply_patch", "format": { "type": "grammar", "syntax": "lark", "definition": "x" } },
        { "type": "local_shell" }, { "type": "namespace", "name": "mcp", "tools": [] },
    ]);
    let body = json!({ "model": MODEL, "input": "Hi", "tools": tools, "tool_choice": "auto" });
    server.post("/v1/responses", &body).await;
    let tools = conversation(server.mock.last_request()).tools;
    assert_eq!((tools.len(), tools[0].name.as_str()), (1, "shell"));
}

#[tokio::test]
async fn codexs_developer_items_may_stand_between_others() {
    let server = Served::hello().await;
    let item = |role: &str, text: &str| json!({ "type": "message", "role": role, "content": [{ "type": "input_text", "text": text }] });
    let input = json!([item("developer", "a"), item("user", "b"), item("developer", "c"), item("user", "d")]);
    server.post("/v1/responses", &json!({ "model": MODEL, "instructions": "i", "input": input })).await;
    let messages = conversation(server.mock.last_request()).messages;
    let texts: Vec<String> = messages.iter().map(Message::text).collect();
    assert_eq!(texts, ["i\na\nc", "b", "d"]);
}

#[tokio::test]
async fn opencode_gets_a_string_id_first_and_the_same_index_after() {
    let chunks = chunks().await;
    let deltas = tool_deltas(&chunks);
    for (call_idx, call) in deltas.chunks(3).enumerate() {
        assert!(call[0]["id"].as_str().unwrap().starts_with("call_"));
        assert!(call.iter().all(|delta| delta["index"] == call_idx));
        assert!(call[1..].iter().all(|delta| delta.get("id").is_none()));
    }
}

#[tokio::test]
async fn opencode_gets_reasoning_content() {
    let chunks = chunks().await;
    assert!(chunks.iter().any(|chunk| chunk["choices"][0]["delta"]["reasoning_content"] == "Hm"));
}

#[tokio::test]
async fn comments_are_between_events_of_openai_only() {
    let interval = Duration::from_millis(30);
    let script = vec![Step::Wait(interval * 5), started(), text("a"), done(FinishReason::Stop)];
    let server = Served::with(Mock::always(script), |config| config.keep_alive_interval = interval).await;
    let text = server.text("/v1/chat/completions", &chat(json!({ "stream": true }))).await;
    assert!(text.contains(": keep-alive\n\n"));
    // Also events that say nothing, as some clients only count those.
    let empty = |data: &Value| data["choices"][0]["delta"] == json!({ "content": "" });
    assert!(parse_events(&text).iter().any(|(_, data)| empty(data)));
}
