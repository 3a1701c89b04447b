//! Keys, hosts and origins.

use std::fs;
use std::net::Ipv4Addr;

use flash_serve::{ApiKeys, ServeError, Server, ServerConfig, Shutdown};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::mock::Mock;
use super::support::{Served, chat, hello};

/// All routes but `/health`, with a method that each answers.
const ROUTES: [(&str, &str); 19] = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/state"),
    ("GET", "/state/events"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/plain"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
    ("POST", "/api/show"),
    ("POST", "/api/chat"),
    ("POST", "/api/pull"),
    ("GET", "/nowhere"),
];

async fn with_keys() -> Served {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "sk-one\nsk-two\n").unwrap();
    let keys = ApiKeys::from_file(file.path()).unwrap();
    Served::with(Mock::always(hello()), |config| config.keys = keys).await
}

async fn status(
    server: &Served,
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
) -> (StatusCode, HeaderMap) {
    let mut request =
        reqwest::Client::new().request(Method::from_bytes(method.as_bytes()).unwrap(), server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body("{}").send().await.unwrap();
    (response.status(), response.headers().clone())
}

#[tokio::test]
async fn every_route_but_health_needs_a_key() {
    let server = with_keys().await;
    for (method, path) in ROUTES {
        for headers in [
            &[][..],
            &[("authorization", "Bearer sk-")],
            &[("authorization", "Basic sk-one")],
            &[("x-api-key", "sk-three")],
        ] {
            let (status, answer) = status(&server, method, path, headers).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path} {headers:?}");
            assert_eq!(answer["www-authenticate"], "Bearer");
        }
        for headers in [
            [("authorization", "Bearer sk-one")],
            [("authorization", "bearer sk-two")],
            [("x-api-key", "sk-two")],
        ] {
            let (status, _) = status(&server, method, path, &headers).await;
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{path} {headers:?}");
        }
    }
    server.lives().await;
}

#[tokio::test]
async fn a_missing_key_is_told_in_each_dialect() {
    let server = with_keys().await;
    let (_, answer) = server.try_post("/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(answer["error"]["code"], "invalid_api_key");
    let (_, answer) = server.try_post("/v1/messages", &chat(json!({}))).await;
    assert_eq!(answer["error"]["type"], "authentication_error");
    let (_, answer) = server.try_post("/api/chat", &chat(json!({}))).await;
    assert!(answer["error"].is_string());
}

#[tokio::test]
async fn names_of_other_hosts_are_rejected() {
    let server = Served::with(Mock::always(hello()), |config| {
        config.allowed_hosts = vec!["Flash.internal".to_owned()];
    })
    .await;
    for host in [
        "evil.example",
        "evil.example:11435",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "a@b@c",
        "xlocalhost",
    ] {
        for (method, path) in ROUTES {
            let (status, _) = status(&server, method, path, &[("host", host)]).await;
            let is_rejected =
                status == StatusCode::FORBIDDEN || (host == "a@b@c" && status == StatusCode::BAD_REQUEST);
            assert!(is_rejected, "{path} {host} {status}");
        }
    }
    for host in [
        "localhost",
        "LOCALHOST:11435",
        "127.0.0.1",
        "[::1]:11435",
        "192.168.0.7:80",
        "app.localhost",
        "flash.internal",
        "flash.internal.:1",
    ] {
        let (status, _) = status(&server, "GET", "/api/version", &[("host", host)]).await;
        assert_eq!(status, StatusCode::OK, "{host}");
    }
    let raw = server.raw(b"GET http://evil.example/api/tags HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.1 403"), "{raw}");
}

#[tokio::test]
async fn pages_of_other_origins_are_rejected_unless_allowed() {
    let server = Served::with(Mock::always(hello()), |config| {
        config.cors_origins = vec!["http://localhost:3000".to_owned()];
    })
    .await;
    let own = format!("http://{}", server.address);
    for (origin, expected) in [
        ("http://localhost:3000", StatusCode::OK),
        (own.as_str(), StatusCode::OK),
        ("http://localhost:3001", StatusCode::FORBIDDEN),
        ("http://evil.example", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
    ] {
        let (status, headers) = status(&server, "GET", "/api/tags", &[("origin", origin)]).await;
        assert_eq!(status, expected, "{origin}");
        let allowed = headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!(allowed, (origin == "http://localhost:3000").then_some(origin));
    }
    let preflight = [
        ("origin", "http://localhost:3000"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let (status, headers) = status(&server, "OPTIONS", "/v1/chat/completions", &preflight).await;
    assert_eq!(
        (status, headers["access-control-allow-headers"].to_str().unwrap()),
        (StatusCode::OK, "authorization")
    );
}

#[tokio::test]
async fn without_origins_there_is_no_cors() {
    let server = Served::hello().await;
    let preflight = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
    let (status, headers) = status(&server, "OPTIONS", "/api/chat", &preflight).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn other_machines_need_keys_unless_allowed() {
    let mut config = ServerConfig::default();
    config.address = (Ipv4Addr::UNSPECIFIED, 0).into();
    let bind =
        async |config: &ServerConfig| Server::bind(config, Mock::always(hello()), Shutdown::new().1).await;
    assert!(matches!(bind(&config).await, Err(ServeError::NoKeys { .. })));
    config.allow_without_keys = true;
    assert!(bind(&config).await.is_ok());
}

#[tokio::test]
async fn origins_are_exact() {
    for origin in ["*", "localhost:3000", "http://", "http://*.example", "http://a/b", ""] {
        let mut config = ServerConfig::default();
        config.address = (Ipv4Addr::LOCALHOST, 0).into();
        config.cors_origins = vec![origin.to_owned()];
        let result = Server::bind(&config, Mock::always(hello()), Shutdown::new().1).await;
        assert!(matches!(result, Err(ServeError::InvalidOrigin { .. })), "{origin}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = Served::hello().await;
    let mut config = ServerConfig::default();
    config.address = server.address;
    let error = Server::bind(&config, Mock::always(hello()), Shutdown::new().1).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {}", server.address)), "{error}");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_told_in_each_dialect() {
    let server = Served::hello().await;
    let (status, answer) = server.try_post("/v1/nothing", &json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("unknown_url")));
    let (status, answer) = server.try_post("/v1/messages/batches", &json!({})).await;
    assert_eq!((status, &answer["error"]["type"]), (StatusCode::NOT_FOUND, &json!("not_found_error")));
    let (status, answer) = server.try_post("/api/tags", &json!({})).await;
    assert_eq!(
        (status, answer),
        (StatusCode::METHOD_NOT_ALLOWED, json!({ "error": "/api/tags does not answer POST" }))
    );
}
