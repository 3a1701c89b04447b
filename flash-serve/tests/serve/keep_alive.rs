//! Signs of life while the engine is silent.

use std::sync::Arc;
use std::time::Duration;

use flash_serve::FinishReason;
use serde_json::json;

use super::mock::{MODEL, Mock, Step, done, started, text};
use super::support::{Served, chat, parse_events};

const INTERVAL: Duration = Duration::from_millis(40);

/// A server whose engine is silent before its answer and within it.
async fn slow() -> Served {
    let pause = || Step::Wait(INTERVAL * 4);
    let script = vec![pause(), started(), text("a"), pause(), text("b"), done(FinishReason::Stop)];
    with_interval(Mock::always(script)).await
}

async fn with_interval(mock: Arc<Mock>) -> Served {
    Served::with(mock, |config| config.keep_alive_interval = INTERVAL).await
}

#[tokio::test]
async fn anthropic_gets_pings_before_and_within_the_message() {
    let body = chat(json!({ "stream": true, "max_tokens": 9 }));
    let events = slow().await.events("/v1/messages", &body).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_deref().unwrap()).collect();
    let start = names.iter().position(|name| *name == "message_start").unwrap();
    let stop = names.iter().position(|name| *name == "content_block_stop").unwrap();
    assert!(names[..start].contains(&"ping") && names[start..stop].contains(&"ping"), "{names:?}");
}

#[tokio::test]
async fn ollama_gets_lines_without_content() {
    let lines = slow().await.lines("/api/chat", &chat(json!({}))).await;
    let empty = lines.iter().filter(|line| line["message"]["content"] == "" && line["done"] == false).count();
    assert!(empty >= 4, "{lines:?}");
}

#[tokio::test]
async fn responses_get_events_before_an_item_and_empty_deltas_within() {
    let events =
        slow().await.events("/v1/responses", &json!({ "model": MODEL, "input": "a", "stream": true })).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_deref().unwrap()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    let added = names.iter().position(|name| *name == "response.output_item.added").unwrap();
    assert!(added > 2 && names[2..added].iter().all(|name| *name == "response.in_progress"), "{names:?}");
    // SDKs replace the output by that of `response.in_progress`, which has no open item.
    assert!(!names[added..].contains(&"response.in_progress"), "{names:?}");
    let empty = events[added..].iter().filter(|(_, data)| data["delta"] == "").count();
    assert!(empty >= 2, "{names:?}");
}

#[tokio::test]
async fn completions_get_empty_text() {
    let body = json!({ "model": MODEL, "prompt": "a", "stream": true });
    let text = slow().await.text("/v1/completions", &body).await;
    assert!(text.contains(": keep-alive\n\n"));
    let joined: String =
        parse_events(&text).iter().filter_map(|(_, data)| data["choices"][0]["text"].as_str()).collect();
    assert_eq!(joined, "ab");
}

#[tokio::test]
async fn the_first_sign_of_life_comes_with_the_headers() {
    let interval = Duration::from_millis(500);
    let mock = Mock::always(vec![Step::Wait(interval * 10), started()]);
    let server = Served::with(mock, |config| config.keep_alive_interval = interval).await;
    let request = server.post_request("/v1/chat/completions", &chat(json!({ "stream": true })));
    let mut response = request.send().await.unwrap();
    let chunk =
        tokio::time::timeout(interval / 2, response.chunk()).await.expect("at once").unwrap().unwrap();
    assert!(chunk.starts_with(b": keep-alive"));
}

#[tokio::test]
async fn a_steady_stream_has_no_signs_of_life() {
    let pause = || Step::Wait(INTERVAL / 8);
    let script = (0..20).flat_map(|_| [text("a"), pause()]);
    let script = [started()].into_iter().chain(script).chain([done(FinishReason::Stop)]).collect();
    let text = with_interval(Mock::always(script))
        .await
        .text("/v1/chat/completions", &chat(json!({ "stream": true })))
        .await;
    assert!(!text.contains("keep-alive"), "{text}");
}
