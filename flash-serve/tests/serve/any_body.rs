//! Whatever a body says, it is answered or rejected; nothing in it is an error of the server.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::mock::{MODEL, Mock};
use super::support::{Served, chat, hello, with};

const PATHS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/show",
];

/// Members that parsers look for, at any depth.
const NAMES: [&str; 44] = [
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "tools",
    "parameters",
    "input_schema",
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "n",
    "stop",
    "stop_sequences",
    "max_tokens",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "response_format",
    "format",
    "think",
    "thinking",
    "options",
    "keep_alive",
    "prompt",
    "input",
    "system",
    "call_id",
    "output",
    "reasoning",
    "output_config",
    "num_predict",
    "chat_template_kwargs",
    "raw",
];

/// Words that parsers look for.
const WORDS: [&str; 20] = [
    MODEL,
    "user",
    "assistant",
    "system",
    "tool",
    "text",
    "function",
    "auto",
    "any",
    "required",
    "json",
    "json_schema",
    "message",
    "function_call",
    "function_call_output",
    "tool_use",
    "tool_result",
    "enabled",
    "5m",
    "",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..40).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(&WORDS[..]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(&NAMES[..]), inner), 0..5).prop_map(object),
        ]
    })
}

fn object(members: Vec<(&'static str, Value)>) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

#[test]
fn no_body_is_an_error_of_the_server() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Served::start(Mock::always(hello())));
    let members =
        proptest::collection::vec((proptest::sample::select(&NAMES[..]), value()), 0..6).prop_map(object);
    let body = (0..PATHS.len(), any::<bool>(), members);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1500));
    let result = runner.run(&body, |(path_idx, is_based, members)| {
        // Most random bodies fail early, at the model; others change a body that works.
        let base = chat(json!({ "max_tokens": 9, "input": "a", "prompt": "a", "stream": false }));
        let body = if is_based { with(base, members) } else { members };
        let response =
            runtime.block_on(async { server.post_request(PATHS[path_idx], &body).send().await }).unwrap();
        let status = response.status().as_u16();
        prop_assert!(status < 500, "{} {body}: {status}", PATHS[path_idx]);
        let text = runtime.block_on(response.text()).unwrap();
        prop_assert!(status == 200 || text.contains("error"), "{text}");
        Ok(())
    });
    result.unwrap();
    runtime.block_on(server.lives());
}
