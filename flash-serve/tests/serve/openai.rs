//! Chat completions.

use std::time::Duration;

use flash_serve::{Event, FinishReason, Refusal, ResponseFormat, Role, Text, TokenLogprob, ToolChoice};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::mock::{MODEL, Mock, Step, call, done, failure, reasoning, started, text};
use super::support::{Served, chat, conversation, hello, weather_tool};

const PATH: &str = "/v1/chat/completions";

/// Joins the deltas of a member of all chunks.
fn joined(events: &[(Option<String>, Value)], member: &str) -> String {
    events.iter().filter_map(|(_, data)| data["choices"][0]["delta"][member].as_str()).collect()
}

#[tokio::test]
async fn a_whole_answer_has_text_usage_and_reason() {
    let answer = Served::hello().await.post(PATH, &chat(json!({}))).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "Hello", "refusal": null }));
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    let usage = &answer["usage"];
    assert_eq!(usage["total_tokens"], 17);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 8);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 2);
}

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_done() {
    let events = Served::hello().await.events(PATH, &chat(json!({ "stream": true }))).await;
    assert_eq!(events[0].1["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    assert_eq!(joined(&events, "content"), "Hello");
    let n_events = events.len();
    assert_eq!(events[n_events - 2].1["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[n_events - 1].1, "[DONE]");
    assert!(events.iter().all(|(name, data)| name.is_none() && data.get("usage").is_none()));
}

#[tokio::test]
async fn the_usage_of_a_stream_comes_last_and_without_choices() {
    let body = chat(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let events = Served::hello().await.events(PATH, &body).await;
    let (_, last) = &events[events.len() - 2];
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 5);
    assert!(events[..events.len() - 2].iter().all(|(_, data)| data["usage"].is_null()));
}

#[tokio::test]
async fn reasoning_has_both_names() {
    let script = || vec![started(), reasoning("Hm"), reasoning("m."), text("Yes"), done(FinishReason::Stop)];
    let server = Served::start(Mock::always(script())).await;
    let message = &server.post(PATH, &chat(json!({}))).await["choices"][0]["message"];
    assert_eq!((&message["reasoning"], &message["reasoning_content"]), (&json!("Hmm."), &json!("Hmm.")));
    assert_eq!(message["content"], "Yes");
    let events = server.events(PATH, &chat(json!({ "stream": true }))).await;
    assert_eq!(joined(&events, "reasoning"), "Hmm.");
    assert_eq!(joined(&events, "reasoning_content"), "Hmm.");
}

#[tokio::test]
async fn parallel_calls_have_their_own_index_and_id() {
    let mut script = vec![started()];
    script.extend(call("get_weather", r#"{"city":"Zürich"}"#));
    script.extend(call("get_weather", r#"{"city":"Rome"}"#));
    script.push(done(FinishReason::ToolCalls));
    let server = Served::start(Mock::always(script)).await;
    let body = chat(json!({ "tools": [weather_tool()] }));
    let choice = &server.post(PATH, &body).await["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls[0]["function"], json!({ "name": "get_weather", "arguments": r#"{"city":"Zürich"}"# }));
    assert_ne!(calls[0]["id"], calls[1]["id"]);

    let body = chat(json!({ "tools": [weather_tool()], "stream": true }));
    let events = server.events(PATH, &body).await;
    let deltas: Vec<&Value> =
        events.iter().filter_map(|(_, data)| data["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    let arguments = |index: u64| -> String {
        deltas
            .iter()
            .filter(|call| call["index"] == index)
            .map(|call| call["function"]["arguments"].as_str().unwrap())
            .collect()
    };
    assert_eq!(
        (arguments(0).as_str(), arguments(1).as_str()),
        (r#"{"city":"Zürich"}"#, r#"{"city":"Rome"}"#)
    );
}

#[tokio::test]
async fn tools_reach_the_engine_in_the_order_of_their_members() {
    let server = Served::hello().await;
    let body = format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"Hi"}}],"tools":[{{"type":"function","function":
        {{"name":"f","parameters":{{"type":"object","properties":{{"z":{{"type":"string","description":null}},
        "a":{{"anyOf":[{{"type":"null"}},{{"type":"integer"}}]}}}}}}}}}}],"tool_choice":"required"}}"#
    );
    let response = server.post_request(PATH, &Value::Null).body(body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let conversation = conversation(server.mock.last_request());
    assert_eq!(conversation.tool_choice, ToolChoice::Required);
    let schema = r#"{"type":"object","properties":{"z":{"type":"string"},"a":{"anyOf":[{"type":"null"},{"type":"integer"}]}}}"#;
    assert_eq!(conversation.tools[0].parameters.to_string(), schema);
}

#[tokio::test]
async fn settings_reach_the_engine() {
    let server = Served::hello().await;
    let body = chat(json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "presence_penalty": 0.1, "frequency_penalty": 0.2,
        "repetition_penalty": 1.1, "logit_bias": { "7": -100 }, "seed": -3, "max_completion_tokens": 99, "stop": "END",
        "reasoning_effort": "low", "chat_template_kwargs": { "enable_thinking": false }, "logprobs": true,
        "top_logprobs": 2, "user": "x", "metadata": { "a": "b" }, "store": true, "service_tier": "auto",
    }));
    server.post(PATH, &body).await;
    let request = server.mock.last_request();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(40)));
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (Some(0.05), Some(1.1)));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (Some(0.1), Some(0.2)));
    assert_eq!((sampling.logit_bias[&7], sampling.seed), (-100.0, Some((-3_i64).cast_unsigned())));
    assert_eq!((request.max_tokens, request.stop.as_slice()), (Some(99), &["END".to_owned()][..]));
    assert_eq!((request.logprobs, request.may_lower_max_tokens), (Some(2), false));
    let reasoning = conversation(request).reasoning;
    assert_eq!(reasoning.effort.unwrap().as_str(), "low");
    assert_eq!(reasoning.template_variables["enable_thinking"].to_string(), "false");
}

#[tokio::test]
async fn messages_of_every_form_reach_the_engine() {
    let server = Served::hello().await;
    let calls =
        json!([{ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } }]);
    let body = json!({ "model": MODEL, "messages": [
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "developer", "content": "Be brief." },
        { "role": "assistant", "content": null, "reasoning": "Hm", "refusal": null, "tool_calls": calls },
        { "role": "tool", "tool_call_id": "c1", "content": "1" },
    ]});
    server.post(PATH, &body).await;
    let messages = conversation(server.mock.last_request()).messages;
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool]);
    assert_eq!(messages[1].text(), "a\nb");
    assert_eq!(messages[2].reasoning.as_deref(), Some("Hm"));
    assert_eq!((messages[2].parts.len(), messages[2].tool_calls[0].arguments.as_str()), (0, "{\"a\":1}"));
    assert_eq!((messages[3].text().as_str(), messages[3].name.as_deref()), ("1", Some("f")));
}

#[tokio::test]
async fn response_formats_reach_the_engine() {
    let server = Served::hello().await;
    let schema = json!({ "type": "object" });
    for (format, expected) in [
        (json!({ "type": "text" }), "Text"),
        (json!({ "type": "json_object" }), "JsonObject"),
        (
            json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } }),
            "JsonSchema",
        ),
        (json!({ "type": "regex", "regex": "a+" }), "Regex"),
        (json!({ "type": "lark", "lark": "start: \"a\"" }), "Lark"),
    ] {
        server.post(PATH, &chat(json!({ "response_format": format }))).await;
        let format = match server.mock.last_request().format {
            ResponseFormat::Text => "Text",
            ResponseFormat::JsonObject => "JsonObject",
            ResponseFormat::JsonSchema(_) => "JsonSchema",
            ResponseFormat::Regex(_) => "Regex",
            ResponseFormat::Lark(_) => "Lark",
        };
        assert_eq!(format, expected);
    }
}

#[tokio::test]
async fn several_choices_are_several_requests_and_one_answer() {
    let server = Served::start(Mock::new(|request| {
        Ok(vec![started(), text(&format!("answer {}", request.sample_idx)), done(FinishReason::Stop)])
    }))
    .await;
    let answer = server.post(PATH, &chat(json!({ "n": 3 }))).await;
    for index in 0..3 {
        let choice = &answer["choices"][index];
        assert_eq!(
            (&choice["index"], &choice["message"]["content"]),
            (&json!(index), &json!(format!("answer {index}")))
        );
    }
    assert_eq!(
        (&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]),
        (&json!(12), &json!(15))
    );
    let events = server.events(PATH, &chat(json!({ "n": 2, "stream": true }))).await;
    let of = |index: u64| -> String {
        let choices = events.iter().filter_map(|(_, data)| data["choices"].get(0));
        choices
            .filter(|choice| choice["index"] == index)
            .filter_map(|choice| choice["delta"]["content"].as_str())
            .collect()
    };
    assert_eq!((of(0).as_str(), of(1).as_str()), ("answer 0", "answer 1"));
}

#[tokio::test]
async fn logprobs_have_tokens_bytes_and_alternatives() {
    let token =
        TokenLogprob { bytes: b"Hi".to_vec(), logprob: -0.5, top: vec![(b"Ho".to_vec(), f32::NEG_INFINITY)] };
    let part = Step::Send(Event::Text(Text { text: "Hi".to_owned(), logprobs: vec![token] }));
    let server = Served::start(Mock::always(vec![started(), part, done(FinishReason::Stop)])).await;
    let body = json!({ "logprobs": true, "top_logprobs": 1 });
    let expected = json!([{
        "token": "Hi", "logprob": -0.5, "bytes": [72, 105],
        "top_logprobs": [{ "token": "Ho", "logprob": -9999.0, "bytes": [72, 111] }],
    }]);
    let answer = server.post(PATH, &chat(body.clone())).await;
    assert_eq!(answer["choices"][0]["logprobs"]["content"], expected);
    let mut body = chat(body);
    body["stream"] = true.into();
    let events = server.events(PATH, &body).await;
    assert!(events.iter().any(|(_, data)| data["choices"][0]["logprobs"]["content"] == expected));
}

#[tokio::test]
async fn unknown_and_impossible_settings_are_rejected_by_name() {
    let server = Served::hello().await;
    for (more, param) in [
        (json!({ "mirostat": 2 }), "mirostat"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "n": 1000 }), "n"),
        (json!({ "max_tokens": 1e15 }), "max_tokens"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": 5, "max_completion_tokens": 6 }), "max_tokens"),
        (json!({ "stop": vec!["x"; 100] }), "stop"),
        (json!({ "stop": ["a", ""] }), "stop[1]"),
        (json!({ "stop": "a".repeat(2000) }), "stop[0]"),
        (json!({ "tools": [weather_tool()], "tool_choice": "get_weather" }), "tool_choice"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "tools": [{ "type": "custom", "custom": {} }] }), "tools[0].type"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "a b" } }] }),
            "tools[0].function.name",
        ),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "reasoning_effort": "huge" }), "reasoning_effort"),
        (json!({ "top_logprobs": 3 }), "top_logprobs"),
        (json!({ "logit_bias": { "a": 1 } }), "logit_bias"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "robot", "content": "" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user", "content": 5 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "http://x" } }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "model": null }), "model"),
    ] {
        let error = &server.rejected(PATH, &chat(more.clone())).await["error"];
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(param), &json!("invalid_request_error")),
            "{more}"
        );
        assert!(error["message"].as_str().unwrap().starts_with(param), "{error}");
    }
    assert!(server.mock.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_have_a_status_and_a_code() {
    let too_long = Refusal::PromptTooLong { prompt_tokens: 9000, max_prompt_tokens: 8000 };
    let (status, answer) =
        Served::start(Mock::refusing(too_long)).await.try_post(PATH, &chat(json!({}))).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("context_length_exceeded"))
    );
    assert!(answer["error"]["message"].as_str().unwrap().contains("8000"), "{answer}");

    let (status, answer) = Served::hello().await.try_post(PATH, &chat(json!({ "model": "none" }))).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    assert!(answer["error"]["message"].as_str().unwrap().contains(MODEL), "{answer}");

    let tools = Refusal::Unsupported { model: MODEL.to_owned(), what: "tools".to_owned() };
    let answer = Served::start(Mock::refusing(tools)).await.rejected(PATH, &chat(json!({}))).await;
    assert_eq!(answer["error"]["message"], format!("model '{MODEL}' does not support tools"));
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let full = Refusal::QueueFull { n_waiting: 32, retry_after: Duration::from_millis(7200) };
    let server = Served::start(Mock::refusing(full)).await;
    let response = server.post_request(PATH, &chat(json!({ "stream": true }))).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "8");
}

#[tokio::test]
async fn an_error_before_the_first_event_is_a_status() {
    let server = Served::start(Mock::always(vec![failure()])).await;
    for stream in [true, false] {
        let (status, answer) = server.try_post(PATH, &chat(json!({ "stream": stream }))).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer["error"]["message"], format!("model '{MODEL}' failed: the disk is gone"));
    }
}

#[tokio::test]
async fn an_error_after_the_headers_is_an_event_and_the_end() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), failure()])).await;
    let events = server.events(PATH, &chat(json!({ "stream": true }))).await;
    let (_, last) = events.last().unwrap();
    assert_eq!(last["error"]["type"], "server_error");
    assert_eq!(joined(&events, "content"), "Hel");
    server.lives().await;
}

#[tokio::test]
async fn an_engine_that_stops_is_an_error_not_an_end() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), Step::Vanish])).await;
    let (status, _) = server.try_post(PATH, &chat(json!({}))).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let events = server.events(PATH, &chat(json!({ "stream": true }))).await;
    assert!(events.last().unwrap().1["error"]["message"].as_str().unwrap().contains("stopped"));
}

#[tokio::test]
async fn an_engine_that_panics_is_an_error_of_the_request() {
    let server = Served::start(Mock::new(|_| panic!("a bug"))).await;
    let (status, answer) = server.try_post(PATH, &chat(json!({}))).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer["error"]["message"].as_str().unwrap().contains("panicked"), "{answer}");
    server.lives().await;
}

#[tokio::test]
async fn length_is_a_reason_of_its_own() {
    let server = Served::start(Mock::always(vec![started(), text("Hel"), done(FinishReason::Length)])).await;
    assert_eq!(server.post(PATH, &chat(json!({}))).await["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn models_are_listed_and_shown() {
    let server = Served::start(Mock::always(hello())).await;
    let list = server.get("/v1/models").await;
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    let model = server.get("/v1/models/demo/tiny").await;
    assert_eq!((&model["object"], &model["context_length"]), (&json!("model"), &json!(32768)));
    let response = server.get_request("/v1/models/none").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn embeddings_are_numbers_or_base64() {
    let server = Served::hello().await;
    let body = json!({ "model": MODEL, "input": ["a", "b"] });
    let answer = server.post("/v1/embeddings", &body).await;
    assert_eq!(answer["data"][1], json!({ "object": "embedding", "index": 1, "embedding": [1.0, -0.5] }));
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 6, "total_tokens": 6 }));
    let body = json!({ "model": MODEL, "input": "a", "encoding_format": "base64" });
    let answer = server.post("/v1/embeddings", &body).await;
    // python: base64.b64encode(struct.pack("<2f", 1.0, -0.5))
    assert_eq!(answer["data"][0]["embedding"], "AACAPwAAAL8=");
    let answer = server.rejected("/v1/embeddings", &json!({ "model": "plain", "input": "a" })).await;
    assert_eq!(answer["error"]["code"], "unsupported");
}
