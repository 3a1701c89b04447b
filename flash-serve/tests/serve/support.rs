//! A server for a test, and a client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flash_serve::{
    Conversation, FinishReason, GenerateRequest, Prompt, Server, ServerConfig, Shutdown, ShutdownHandle,
};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::mock::{MODEL, Mock, Step, done, started, text};

/// Longest time of an answer: a test that hangs fails.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server on a free port.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) mock: Arc<Mock>,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) task: JoinHandle<()>,
    client: Client,
}

/// An event of a stream: its name and data.
pub(crate) type SseEvent = (Option<String>, Value);

impl Served {
    pub(crate) async fn start(mock: Arc<Mock>) -> Self {
        Self::with(mock, |_| {}).await
    }

    pub(crate) async fn with(mock: Arc<Mock>, set: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::default();
        config.address = (Ipv4Addr::LOCALHOST, 0).into();
        set(&mut config);
        let (handle, shutdown) = Shutdown::new();
        let backend = Arc::clone(&mock);
        let server = Server::bind(&config, backend, shutdown).await.unwrap();
        let address = server.local_addr();
        let task = tokio::spawn(server.run());
        Self {
            address,
            mock,
            shutdown: handle,
            task,
            client: Client::builder().timeout(TIMEOUT).build().unwrap(),
        }
    }

    /// A server whose engine says hello.
    pub(crate) async fn hello() -> Self {
        Self::start(Mock::always(hello())).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get_request(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post_request(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).body(body.to_string())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.get_request(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    /// Posts a body; returns status and answer.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.post_request(path, body).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_post(path, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Posts a body that must be rejected with 400; returns the answer.
    pub(crate) async fn rejected(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_post(path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        answer
    }

    /// Posts a body; returns the text of the answer.
    pub(crate) async fn text(&self, path: &str, body: &Value) -> String {
        let response = self.post_request(path, body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.text().await.unwrap()
    }

    /// Posts a body; returns the server-sent events of the answer. `[DONE]` is a string.
    pub(crate) async fn events(&self, path: &str, body: &Value) -> Vec<SseEvent> {
        let response = self.post_request(path, body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        parse_events(&response.text().await.unwrap())
    }

    /// Posts a body; returns the lines of the answer.
    pub(crate) async fn lines(&self, path: &str, body: &Value) -> Vec<Value> {
        let text = self.text(path, body).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"))).collect()
    }

    /// Sends bytes; returns the head and the body of the answer, until the server closes the connection or says nothing
    /// for a second.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read all.
        let _ = stream.write_all(bytes).await;
        read_available(&mut stream).await
    }

    /// Checks that the server still answers.
    pub(crate) async fn lives(&self) {
        assert_eq!(self.get("/health").await, json!({ "status": "ok" }));
    }
}

/// Reads until the other side closes or says nothing for a second.
pub(crate) async fn read_available(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(n_read @ 1..)) = timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..n_read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Parses server-sent events as SDKs do; comments are skipped.
pub(crate) fn parse_events(text: &str) -> Vec<SseEvent> {
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.is_empty()) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let Some(data) = field("data: ") else { continue };
        let data = serde_json::from_str(data).unwrap_or_else(|_| data.into());
        events.push((field("event: ").map(str::to_owned), data));
    }
    events
}

/// A script that says hello.
pub(crate) fn hello() -> Vec<Step> {
    vec![started(), text("Hel"), text("lo"), done(FinishReason::Stop)]
}

/// Returns the conversation of a request.
pub(crate) fn conversation(request: GenerateRequest) -> Conversation {
    match request.prompt {
        Prompt::Chat(conversation) => Arc::unwrap_or_clone(conversation),
        other => panic!("{other:?}"),
    }
}

/// A body with a model and one message.
pub(crate) fn chat(more: Value) -> Value {
    with(json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hi" }] }), more)
}

/// Adds the members of `more` to an object, and replaces those that it has.
pub(crate) fn with(mut body: Value, more: Value) -> Value {
    let (Value::Object(members), Value::Object(more)) = (&mut body, more) else { panic!("two objects") };
    members.extend(more);
    body
}

/// A tool in OpenAI's form.
pub(crate) fn weather_tool() -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    json!({ "type": "function", "function": { "name": "get_weather", "description": "Weather", "parameters": parameters } })
}
