//! Completions of text.

use flash_serve::{Event, FinishReason, Prompt, Text, TokenLogprob};
use serde_json::json;

use super::mock::{MODEL, Mock, Step, done, started};
use super::support::Served;

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn prompts_are_text_or_tokens_and_may_be_several() {
    let server = Served::hello().await;
    let text = |text: &str| Prompt::Text(text.into());
    for (prompt, expected) in [
        (json!("a"), vec![text("a")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([1, 2]), vec![Prompt::Tokens([1, 2].into())]),
        (json!([[1], [2, 3]]), vec![Prompt::Tokens([1].into()), Prompt::Tokens([2, 3].into())]),
    ] {
        server.mock.requests.lock().unwrap().clear();
        let answer = server.post(PATH, &json!({ "model": MODEL, "prompt": prompt })).await;
        let prompts: Vec<_> =
            server.mock.requests.lock().unwrap().iter().map(|request| request.prompt.clone()).collect();
        assert_eq!(prompts, expected);
        assert_eq!(answer["choices"].as_array().unwrap().len(), expected.len());
        assert_eq!(answer["choices"][0]["text"], "Hello");
        assert_eq!(answer["usage"]["prompt_tokens"], 12 * expected.len());
    }
    for prompt in [json!([]), json!(5), json!([-1]), json!(["a", 1]), json!([[]]), json!([4294967296_u64])] {
        server.rejected(PATH, &json!({ "model": MODEL, "prompt": prompt })).await;
    }
}

#[tokio::test]
async fn a_stream_has_text_and_usage() {
    let body =
        json!({ "model": MODEL, "prompt": "a", "stream": true, "stream_options": { "include_usage": true } });
    let events = Served::hello().await.events(PATH, &body).await;
    let text: String = events.iter().filter_map(|(_, data)| data["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "Hello");
    let n_events = events.len();
    assert_eq!(events[n_events - 3].1["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[n_events - 2].1["usage"]["total_tokens"], 17);
    assert_eq!(events[n_events - 1].1, "[DONE]");
}

#[tokio::test]
async fn logprobs_have_offsets_in_characters() {
    let token = |text: &str| TokenLogprob { bytes: text.as_bytes().to_vec(), logprob: -1.0, top: Vec::new() };
    let part =
        |text: &str| Step::Send(Event::Text(Text { text: text.to_owned(), logprobs: vec![token(text)] }));
    let script = vec![started(), part("é"), part("b"), done(FinishReason::Stop)];
    let server = Served::start(Mock::always(script)).await;
    let answer = server.post(PATH, &json!({ "model": MODEL, "prompt": "a", "logprobs": 1 })).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!((&logprobs["tokens"], &logprobs["text_offset"]), (&json!(["é", "b"]), &json!([0, 1])));
}

#[tokio::test]
async fn settings_that_would_change_the_text_are_rejected_by_name() {
    let server = Served::hello().await;
    for (name, value) in
        [("echo", json!(true)), ("suffix", json!("x")), ("best_of", json!(5)), ("xyz", json!(1))]
    {
        let mut body = json!({ "model": MODEL, "prompt": "a" });
        body[name] = value;
        assert_eq!(server.rejected(PATH, &body).await["error"]["param"], name);
    }
}
