//! A request is computed only as long as someone waits for it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::mock::{MODEL, Mock, Step, done, started, text};
use super::support::{Served, chat};

/// An engine that is silent for ever, before or after its first text.
fn endless(begins: bool) -> Vec<Step> {
    let beginning = if begins { vec![started(), text("a")] } else { Vec::new() };
    let rest = (0..).map(|_| Step::Wait(Duration::from_millis(20))).take(3000);
    beginning.into_iter().chain(rest).collect()
}

/// Sends a request and closes the connection a little later.
async fn leave(server: &Served, path: &str, body: &Value) {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(server.mock.requests.lock().unwrap().len(), 1);
}

async fn assert_cancels(path: &str, body: Value, n_generations: usize) {
    for begins in [false, true] {
        let server = Served::start(Mock::always(endless(begins))).await;
        if n_generations == 1 {
            leave(&server, path, &body).await;
        } else {
            let request = server.post_request(path, &body).timeout(Duration::from_millis(100));
            assert!(request.send().await.is_err() || begins);
        }
        let mock = server.mock.clone();
        let saw = tokio::task::spawn_blocking(move || mock.saw_cancelled(n_generations)).await.unwrap();
        assert!(saw, "{path} {body}, begins: {begins}");
        server.lives().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_stream_cancels() {
    assert_cancels("/v1/chat/completions", chat(json!({ "stream": true })), 1).await;
    assert_cancels("/v1/messages", chat(json!({ "stream": true, "max_tokens": 9 })), 1).await;
    assert_cancels("/api/chat", chat(json!({})), 1).await;
    assert_cancels("/v1/responses", json!({ "model": MODEL, "input": "a", "stream": true }), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_request_that_is_answered_whole_cancels() {
    assert_cancels("/v1/chat/completions", chat(json!({})), 1).await;
    assert_cancels("/v1/messages", chat(json!({ "max_tokens": 9 })), 1).await;
    assert_cancels("/api/generate", json!({ "model": MODEL, "prompt": "a", "stream": false }), 1).await;
    assert_cancels("/v1/completions", json!({ "model": MODEL, "prompt": "a" }), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_cancels_all_choices() {
    assert_cancels("/v1/chat/completions", chat(json!({ "n": 3 })), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_choice_cancels_the_others() {
    let server = Served::start(Mock::new(|request| {
        Ok(if request.sample_idx == 0 { vec![started(), super::mock::failure()] } else { endless(true) })
    }))
    .await;
    let (status, _) = server.try_post("/v1/chat/completions", &chat(json!({ "n": 2 }))).await;
    assert_eq!(status, 500);
    assert!(server.mock.saw_cancelled(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_answer_is_not_a_cancellation() {
    let server = Served::hello().await;
    server.text("/v1/chat/completions", &chat(json!({ "stream": true }))).await;
    server.post("/v1/chat/completions", &chat(json!({}))).await;
    assert!(server.mock.saw_cancelled(0));
    let other = Served::start(Mock::always(vec![started(), done(flash_serve::FinishReason::Stop)])).await;
    other.text("/api/chat", &chat(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stops_nobody() {
    let long = text(&"x".repeat(10_000));
    let script = [started()].into_iter().chain((0..5000).map(|_| long.clone())).collect();
    let server = Served::start(Mock::new(move |request| {
        let is_slow = request.max_tokens.is_some();
        Ok(if is_slow { Vec::clone(&script) } else { super::support::hello() })
    }))
    .await;
    let body = chat(json!({ "stream": true, "max_tokens": 9 }));
    let response = server.post_request("/v1/chat/completions", &body).send().await.unwrap();
    for _ in 0..20 {
        server.post("/v1/chat/completions", &chat(json!({}))).await;
    }
    drop(response);
    assert!(server.mock.saw_cancelled(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_cancelled_after_the_write_timeout() {
    let long = text(&"x".repeat(10_000));
    let script: Vec<Step> = [started()].into_iter().chain((0..5000).map(|_| long.clone())).collect();
    let server = Served::with(Mock::always(script), |config| {
        config.limits.write_timeout = Duration::from_millis(200);
    })
    .await;
    let body = chat(json!({ "stream": true }));
    let response = server.post_request("/v1/chat/completions", &body).send().await.unwrap();
    let mock = server.mock.clone();
    assert!(tokio::task::spawn_blocking(move || mock.saw_cancelled(1)).await.unwrap());
    drop(response);
}
