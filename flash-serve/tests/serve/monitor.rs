//! Health, metrics and state.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::mock::{MODEL, Mock};
use super::support::{Served, chat, parse_events};

#[tokio::test]
async fn health_answers_while_the_engine_is_stuck() {
    let server = Served::start(Mock::new(|_| {
        std::thread::sleep(Duration::from_secs(2));
        Ok(Vec::new())
    }))
    .await;
    let stuck: Vec<_> = (0..8)
        .map(|_| tokio::spawn(server.post_request("/v1/chat/completions", &chat(json!({}))).send()))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let request = server.get_request("/health").timeout(Duration::from_millis(500));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    drop(stuck);
}

#[tokio::test]
async fn metrics_count_responses_and_read_the_engine() {
    let server = Served::hello().await;
    server.post("/v1/chat/completions", &chat(json!({}))).await;
    server.text("/api/chat", &chat(json!({}))).await;
    server.rejected("/v1/messages", &chat(json!({}))).await;
    let response = server.get_request("/metrics").send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = response.text().await.unwrap();
    for line in [
        r#"flash_http_responses_total{dialect="openai",status="200"} 1"#,
        r#"flash_http_responses_total{dialect="ollama",status="200"} 1"#,
        r#"flash_http_responses_total{dialect="anthropic",status="400"} 1"#,
        &format!(r#"flash_generations_total{{model="{MODEL}",outcome="done"}} 2"#),
        &format!(r#"flash_first_token_seconds_count{{model="{MODEL}"}} 2"#),
        "flash_completion_tokens_total 42",
        r#"flash_budget_used_bytes{use="kv"} 1048576"#,
        r#"flash_requests{phase="waiting"} 0"#,
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn state_is_a_snapshot_of_the_engine_with_all_models() {
    let state = Served::hello().await.get("/state").await;
    assert_eq!((&state["max_waiting"], &state["counters"]["completion_tokens"]), (&json!(32), &json!(42)));
    assert_eq!(state["budget"]["used_bytes"], json!([["kv", 1_048_576]]));
    let model = &state["models"][0];
    assert_eq!((&model["id"], &model["modified"]), (&json!(MODEL), &json!("2023-11-14T22:13:20Z")));
    assert_eq!(
        (&model["loaded"]["memory_bytes"], &state["models"][1]["loaded"]),
        (&json!(3_u64 << 30), &Value::Null)
    );
}

#[tokio::test]
async fn state_events_begin_at_once_and_end_with_the_server() {
    let server = Served::hello().await;
    let mut response = server.get_request("/state/events").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let first = response.chunk().await.unwrap().unwrap();
    let events = parse_events(std::str::from_utf8(&first).unwrap());
    assert_eq!(events[0].0.as_deref(), Some("state"));
    assert!(matches!(events[0].1, Value::Object(_)));
    server.shutdown.drain();
    while response.chunk().await.unwrap().is_some() {}
    server.task.await.unwrap();
}
