//! Many clients at once, some of which leave.

use std::time::Duration;

use flash_serve::FinishReason;
use serde_json::json;
use tokio::task::JoinSet;

use super::mock::{Mock, Step, done, started, text};
use super::support::{Served, chat, conversation, parse_events};

const CLIENTS: usize = 32;
const REQUESTS: usize = 20;
const PARTS: usize = 8;

/// Repeats what the client said, slowly.
async fn echo() -> Served {
    Served::start(Mock::new(|request| {
        let said = conversation(request.clone()).messages[0].text();
        let parts = (0..PARTS).flat_map(|_| [text(&said), Step::Wait(Duration::from_millis(2))]);
        Ok([started()].into_iter().chain(parts).chain([done(FinishReason::Stop)]).collect())
    }))
    .await
}

/// Open files of this process.
fn n_files() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_gets_its_own_answer_and_nothing_leaks() {
    let server = std::sync::Arc::new(echo().await);
    let mut clients = JoinSet::new();
    for client_idx in 0..CLIENTS {
        let server = std::sync::Arc::clone(&server);
        clients.spawn(async move {
            for request_idx in 0..REQUESTS {
                let said = format!("{client_idx}/{request_idx};");
                let messages = json!([{ "role": "user", "content": said }]);
                let is_stream = request_idx % 2 == 0;
                let body = chat(json!({ "messages": messages, "stream": is_stream }));
                let request = server.post_request("/v1/chat/completions", &body);
                if (client_idx + request_idx) % 5 == 0 {
                    // Leaves, at a different moment each time.
                    let patience = Duration::from_millis((3 * request_idx) as u64);
                    drop(tokio::time::timeout(patience, async { request.send().await?.text().await }).await);
                    continue;
                }
                let text = request.send().await.unwrap().text().await.unwrap();
                let answer: String = if is_stream {
                    let events = parse_events(&text);
                    events
                        .iter()
                        .filter_map(|(_, data)| data["choices"][0]["delta"]["content"].as_str())
                        .collect()
                } else {
                    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
                };
                assert_eq!(answer, said.repeat(PARTS));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let before = n_files();
    let metrics = server.get_request("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"flash_http_requests_in_flight{dialect="openai"} 0"#), "{metrics}");
    server.shutdown.drain();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !server.task.is_finished() {
        assert!(tokio::time::Instant::now() < deadline, "the server ends when its clients have left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The listener and the connections are closed.
    assert!(before.is_none() || n_files() < before);
    assert_eq!(server.mock.n_live(), 0);
}
