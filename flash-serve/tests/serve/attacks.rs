//! Requests that try to harm: each is rejected with 400 to 499 or its connection closed, and the server lives on.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::mock::{MODEL, Mock};
use super::support::{Served, chat, hello, read_available};

const PATH: &str = "/v1/chat/completions";

fn head(headers: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_huge_body_is_rejected_by_its_announced_size() {
    let server = Served::hello().await;
    let begin = Instant::now();
    let answer = server.raw(head("content-length: 1073741824\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("request_too_large") && begin.elapsed() < Duration::from_secs(5));
    server.lives().await;
}

#[tokio::test]
async fn a_huge_body_without_a_size_is_rejected_at_the_limit() {
    let server = Served::with(Mock::always(hello()), |config| config.limits.body_bytes = 100_000).await;
    let mut bytes = head("transfer-encoding: chunked\r\n").into_bytes();
    for _ in 0..20 {
        bytes.extend_from_slice(b"2710\r\n");
        bytes.extend_from_slice(&[b' '; 10_000]);
        bytes.extend_from_slice(b"\r\n");
    }
    let answer = server.raw(&bytes).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.lives().await;
}

#[tokio::test]
async fn all_bodies_together_are_bounded() {
    let server = Served::with(Mock::always(hello()), |config| config.limits.all_bodies_bytes = 1000).await;
    let body = chat(json!({ "user": "x".repeat(2000) }));
    let response = server.post_request(PATH, &body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "1");
    server.post(PATH, &chat(json!({}))).await;
}

#[tokio::test]
async fn ten_thousand_headers_are_rejected() {
    let server = Served::hello().await;
    let headers: String = (0..10_000).map(|idx| format!("x-{idx}: a\r\n")).collect();
    let answer = server.raw(head(&headers).as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    server.lives().await;
}

#[tokio::test]
async fn a_huge_header_is_rejected() {
    let server = Served::hello().await;
    let answer = server.raw(head(&format!("x-a: {}\r\n", "a".repeat(1 << 20))).as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.lives().await;
}

#[tokio::test]
async fn deep_json_is_rejected() {
    let server = Served::hello().await;
    for path in [PATH, "/v1/messages", "/api/chat", "/v1/responses"] {
        let body = format!("{{\"model\":\"{MODEL}\",\"messages\":{}", "[".repeat(100_000));
        let response = server.post_request(path, &json!(null)).body(body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(response.text().await.unwrap().contains("recursion limit"));
    }
    server.lives().await;
}

#[tokio::test]
async fn many_small_values_are_rejected() {
    let server = Served::hello().await;
    let body = format!("{{\"model\":\"{MODEL}\",\"stop\":[{}1]}}", "1,".repeat(4_000_000));
    let response = server.post_request(PATH, &json!(null)).body(body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(response.text().await.unwrap().contains("more than 100000 values"));
    server.lives().await;
}

#[tokio::test]
async fn bodies_that_are_not_json_are_rejected() {
    let server = Served::hello().await;
    let bodies: [&[u8]; 6] =
        [b"", b"{", b"[]", b"null", b"{\"model\":\"\xff\"}", b"{\"model\":\"a\",\"model\":\"b\"}"];
    for body in bodies {
        for path in [PATH, "/v1/messages", "/api/generate", "/api/show", "/v1/embeddings"] {
            let response = server.post_request(path, &json!(null)).body(body).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path} {body:?}");
        }
    }
    server.lives().await;
}

#[tokio::test]
async fn bytes_that_are_not_http_are_rejected() {
    let server = Served::hello().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
    ] {
        let answer = server.raw(bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    server.lives().await;
}

#[tokio::test]
async fn headers_that_arrive_too_slowly_end_the_connection() {
    let server = Served::with(Mock::always(hello()), |config| {
        config.limits.header_timeout = Duration::from_millis(200);
    })
    .await;
    let begin = Instant::now();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let answer = read_available(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(begin.elapsed() < Duration::from_millis(900), "closed before the test gave up");
    server.lives().await;
}

#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_rejected() {
    let server = Served::with(Mock::always(hello()), |config| {
        config.limits.body_timeout = Duration::from_millis(200);
    })
    .await;
    let answer = server.raw((head("content-length: 100\r\n") + "{").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    server.lives().await;
}

#[tokio::test]
async fn slow_connections_do_not_keep_others_out() {
    let server = Served::with(Mock::always(hello()), |config| {
        config.limits.connections = 4;
        config.limits.header_timeout = Duration::from_millis(300);
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        slow.push(stream);
    }
    server.lives().await;
}

#[tokio::test]
async fn too_many_messages_tools_and_inputs_are_rejected() {
    let server = Served::with(Mock::always(hello()), |config| {
        config.limits.messages = 10;
        config.limits.tools = 10;
        config.limits.inputs = 10;
    })
    .await;
    let message = json!({ "role": "user", "content": "a" });
    let messages = json!({ "model": MODEL, "max_tokens": 9, "messages": vec![message.clone(); 11] });
    for path in [PATH, "/v1/messages", "/api/chat"] {
        assert!(server.rejected(path, &messages).await.to_string().contains("at most 10"));
    }
    let items = json!({ "model": MODEL, "input": vec![message; 11] });
    assert!(server.rejected("/v1/responses", &items).await.to_string().contains("at most 10"));
    let tools = chat(json!({ "tools": vec![super::support::weather_tool(); 11] }));
    assert_eq!(server.rejected(PATH, &tools).await["error"]["param"], "tools");
    let inputs = json!({ "model": MODEL, "input": vec!["a"; 11] });
    assert_eq!(server.rejected("/v1/embeddings", &inputs).await["error"]["param"], "input");
}

#[tokio::test]
async fn a_hundred_kilobytes_of_tools_are_taken() {
    let server = Served::hello().await;
    let tools: Vec<_> = (0..100)
        .map(|idx| {
            let function = json!({ "name": format!("tool_{idx}"), "description": "d".repeat(1000), "parameters": { "type": "object" } });
            json!({ "type": "function", "function": function })
        })
        .collect();
    server.post(PATH, &chat(json!({ "tools": tools }))).await;
}
