//! Ollama's API.

use std::time::Duration;

use flash_serve::{FinishReason, KeepAlive, Prompt, Refusal, ResponseFormat, Role};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::mock::{MODEL, Mock, call, done, failure, reasoning, started, text};
use super::support::{Served, chat, conversation, weather_tool};

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

fn joined(lines: &[Value], member: &str) -> String {
    lines.iter().filter_map(|line| line["message"][member].as_str()).collect()
}

#[tokio::test]
async fn a_chat_streams_lines_by_default() {
    let lines = Served::hello().await.lines(CHAT, &chat(json!({}))).await;
    assert_eq!(joined(&lines, "content"), "Hello");
    let (last, others) = lines.split_last().unwrap();
    assert!(others.iter().all(|line| line["done"] == false && line["model"] == MODEL));
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    let counts = (&last["prompt_eval_count"], &last["eval_count"]);
    assert_eq!(counts, (&json!(12), &json!(5)));
    let times = (&last["load_duration"], &last["prompt_eval_duration"], &last["eval_duration"]);
    assert_eq!(times, (&json!(2_000_000), &json!(3_000_000), &json!(4_000_000)));
}

#[tokio::test]
async fn a_whole_chat_is_one_object() {
    let mut script = vec![started(), reasoning("Hm"), text("Look")];
    script.extend(call("get_weather", r#"{"z":1,"city":"Rome"}"#));
    script.push(done(FinishReason::ToolCalls));
    let server = Served::start(Mock::always(script)).await;
    let body = chat(json!({ "stream": false, "think": true, "tools": [weather_tool()] }));
    let answer = server.post(CHAT, &body).await;
    let message = &answer["message"];
    assert_eq!((&message["content"], &message["thinking"]), (&json!("Look"), &json!("Hm")));
    let function = &message["tool_calls"][0]["function"];
    assert_eq!(
        (&function["name"], &function["arguments"]),
        (&json!("get_weather"), &json!({ "z": 1, "city": "Rome" }))
    );
    assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!("stop")));
    let conversation = conversation(server.mock.last_request());
    assert_eq!((conversation.tools.len(), conversation.reasoning.enabled), (1, Some(true)));
}

#[tokio::test]
async fn calls_are_streamed_whole() {
    let mut script = vec![started()];
    script.extend(call("get_weather", r#"{"city":"Rome"}"#));
    script.extend(call("get_weather", "{}"));
    script.push(done(FinishReason::ToolCalls));
    let lines = Served::start(Mock::always(script)).await.lines(CHAT, &chat(json!({}))).await;
    let calls: Vec<&Value> = lines.iter().filter_map(|line| line["message"]["tool_calls"].get(0)).collect();
    assert_eq!((calls.len(), &calls[0]["function"]["arguments"]["city"]), (2, &json!("Rome")));
    assert_eq!(calls[1]["function"]["index"], 1);
}

#[tokio::test]
async fn options_reach_the_engine() {
    let server = Served::hello().await;
    let body = chat(json!({
        "format": { "type": "object" }, "keep_alive": "10m", "think": "high", "options": {
            "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.1, "repeat_last_n": -1, "seed": 7,
            "num_predict": 50, "num_ctx": 4096, "stop": ["END"], "num_gpu": 99, "num_thread": 4, "mirostat": 0,
            "typical_p": 1.0, "tfs_z": 1,
        },
    }));
    server.text(CHAT, &body).await;
    let request = server.mock.last_request();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.min_p), (Some(0.5), Some(40), Some(0.1)));
    assert_eq!(
        (sampling.repetition_penalty, sampling.repetition_window, sampling.seed),
        (Some(1.1), Some(usize::MAX), Some(7))
    );
    assert_eq!((request.max_tokens, request.context_tokens), (Some(50), Some(4096)));
    assert_eq!(request.keep_alive, Some(KeepAlive::For(Duration::from_secs(600))));
    assert!(matches!(request.format, ResponseFormat::JsonSchema(_)));
    assert_eq!(conversation(request).reasoning.effort.unwrap().as_str(), "high");
}

#[tokio::test]
async fn negative_options_mean_no_limit_and_no_seed() {
    let server = Served::hello().await;
    let options = json!({ "num_predict": -1, "seed": -1, "top_k": -1 });
    server.text(CHAT, &chat(json!({ "options": options }))).await;
    let request = server.mock.last_request();
    assert_eq!((request.max_tokens, request.sampling.seed, request.sampling.top_k), (None, None, Some(0)));
}

#[tokio::test]
async fn results_of_tools_have_names() {
    let server = Served::hello().await;
    let body = json!({ "model": MODEL, "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": "", "thinking": "Hm", "tool_calls": [{ "function": { "name": "f", "arguments": { "a": 1, "b": 2 } } }] },
        { "role": "tool", "content": "1", "tool_name": "f" },
    ]});
    server.text(CHAT, &body).await;
    let messages = conversation(server.mock.last_request()).messages;
    assert_eq!(messages[1].tool_calls[0].arguments, r#"{"a":1,"b":2}"#);
    assert_eq!((messages[1].reasoning.as_deref(), messages[2].name.as_deref()), (Some("Hm"), Some("f")));
}

#[tokio::test]
async fn a_prompt_is_a_conversation_unless_it_is_raw() {
    let server = Served::hello().await;
    let lines =
        server.lines(GENERATE, &json!({ "model": MODEL, "prompt": "Hi", "system": "Be brief." })).await;
    let response: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    assert_eq!(response, "Hello");
    let messages = conversation(server.mock.last_request()).messages;
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User]);

    let answer =
        server.post(GENERATE, &json!({ "model": MODEL, "prompt": "Hi", "raw": true, "stream": false })).await;
    assert_eq!((&answer["response"], &answer["done_reason"]), (&json!("Hello"), &json!("stop")));
    assert_eq!(server.mock.last_request().prompt, Prompt::Text("Hi".into()));
    for (name, value) in
        [("system", json!("a")), ("think", json!(true)), ("suffix", json!("a")), ("context", json!([1]))]
    {
        let mut body = json!({ "model": MODEL, "prompt": "Hi", "raw": true });
        body[name] = value;
        assert!(server.rejected(GENERATE, &body).await["error"].as_str().unwrap().starts_with(name));
    }
}

#[tokio::test]
async fn keep_alive_0_without_a_prompt_unloads() {
    let server = Served::hello().await;
    let answer = server.post(GENERATE, &json!({ "model": MODEL, "keep_alive": 0 })).await;
    assert_eq!(answer["done_reason"], "unload");
    let answer = server.post(CHAT, &json!({ "model": MODEL, "messages": [], "keep_alive": "-1" })).await;
    assert_eq!((&answer["done_reason"], &answer["message"]["content"]), (&json!("load"), &json!("")));
    let loads = server.mock.loads.lock().unwrap();
    let expected = [Some(KeepAlive::For(Duration::ZERO)), Some(KeepAlive::Forever)];
    assert_eq!(*loads, expected.map(|keep_alive| (MODEL.to_owned(), keep_alive)));
}

#[tokio::test]
async fn the_tag_latest_is_optional() {
    let server = Served::hello().await;
    server.text(CHAT, &chat(json!({ "model": "plain:latest" }))).await;
    assert_eq!(server.mock.last_request().model, "plain");
}

#[tokio::test]
async fn a_download_reports_progress() {
    let server = Served::hello().await;
    let lines = server.lines("/api/pull", &json!({ "model": "new" })).await;
    let progress = json!({ "status": "pulling", "digest": "model.safetensors", "total": 2, "completed": 1 });
    assert_eq!((&lines[0], lines.last().unwrap()), (&progress, &json!({ "status": "success" })));
    let answer = server.post("/api/pull", &json!({ "model": "new", "stream": false })).await;
    assert_eq!(answer, json!({ "status": "success" }));
    let (status, answer) = server.try_post("/api/pull", &json!({ "model": "missing" })).await;
    assert_eq!((status, answer), (StatusCode::NOT_FOUND, json!({ "error": "model 'missing' not found" })));
}

#[tokio::test]
async fn texts_are_embedded() {
    let server = Served::hello().await;
    let answer = server.post("/api/embed", &json!({ "model": MODEL, "input": ["a", "b"] })).await;
    assert_eq!(answer["embeddings"], json!([[1.0, -0.5], [1.0, -0.5]]));
    let answer = server.post("/api/embeddings", &json!({ "model": MODEL, "prompt": "a" })).await;
    assert_eq!(answer, json!({ "embedding": [1.0, -0.5] }));
    let answer = server.rejected("/api/embed", &json!({ "model": "plain", "input": "a" })).await;
    assert_eq!(answer, json!({ "error": "model 'plain' does not support embeddings" }));
}

#[tokio::test]
async fn errors_are_objects_with_a_text() {
    let server = Served::hello().await;
    let (status, answer) = server.try_post(CHAT, &chat(json!({ "model": "none" }))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(answer["error"].as_str().unwrap().starts_with("model 'none' not found"), "{answer}");
    for (more, field) in [
        (json!({ "options": { "mirostat": 2 } }), "options.mirostat"),
        (json!({ "options": { "frob": 1 } }), "options.frob"),
        (json!({ "options": { "num_predict": 1e12 } }), "options.num_predict"),
        (json!({ "format": "xml" }), "format"),
        (json!({ "think": "a lot" }), "think"),
        (json!({ "keep_alive": "soon" }), "keep_alive"),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "images": ["aGk="] }] }),
            "messages[0].images",
        ),
    ] {
        let answer = server.rejected(CHAT, &chat(more)).await;
        assert!(answer["error"].as_str().unwrap().starts_with(&format!("{field}: ")), "{answer}");
    }
    let response = server.get_request("/api/create").send().await.unwrap();
    assert_eq!(
        (response.status(), response.text().await.unwrap().as_str()),
        (StatusCode::NOT_FOUND, r#"{"error":"there is no GET /api/create"}"#)
    );
}

#[tokio::test]
async fn an_error_after_the_headers_is_a_line() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), failure()])).await;
    let lines = server.lines(CHAT, &chat(json!({}))).await;
    assert_eq!(
        lines.last().unwrap(),
        &json!({ "error": format!("model '{MODEL}' failed: the disk is gone") })
    );
}

#[tokio::test]
async fn a_refusal_has_a_status() {
    let too_long = Refusal::PromptTooLong { prompt_tokens: 9, max_prompt_tokens: 8 };
    let answer = Served::start(Mock::refusing(too_long)).await.rejected(CHAT, &chat(json!({}))).await;
    assert_eq!(answer["error"], "prompt is too long: 9 tokens > 8 maximum");
}
