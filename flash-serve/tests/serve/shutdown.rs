//! Ending a server.

use std::time::Duration;

use flash_serve::FinishReason;
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::mock::{Mock, Step, done, started, text};
use super::support::{Served, chat, parse_events};

const PATH: &str = "/v1/chat/completions";

fn slow(pause: Duration) -> Vec<Step> {
    vec![started(), text("a"), Step::Wait(pause), text("b"), done(FinishReason::Stop)]
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_is_there_and_accepts_nothing_more() {
    let server = Served::start(Mock::always(slow(Duration::from_millis(400)))).await;
    let response = server.post_request(PATH, &chat(json!({ "stream": true }))).send().await.unwrap();
    server.shutdown.drain();
    sleep(Duration::from_millis(100)).await;
    assert!(reqwest::Client::new().get(server.url("/health")).send().await.is_err());
    let events = parse_events(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap().1, "[DONE]");
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_cancels_what_is_there() {
    let server = Served::start(Mock::always(slow(Duration::from_secs(30)))).await;
    let response = server.post_request(PATH, &chat(json!({ "stream": true }))).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    server.shutdown.drain();
    server.shutdown.stop();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
    assert!(server.mock.saw_cancelled(1));
    assert!(response.text().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_delay_the_end() {
    let server = Served::hello().await;
    server.lives().await;
    server.shutdown.drain();
    timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap();
}
