//! `run --prompts`: many prompts at once.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::tiny::Tiny;
use crate::support::{assert_refused, json as report, output, stderr, stdout};

const PROMPTS: [&str; 5] = ["5 6 7", "8", "9 10 11 12 13 14", "5 6 7", "20 21"];

/// Writes the prompts, with ids, and returns the path of the file and that of the answers.
fn files(tiny: &Tiny) -> [String; 2] {
    let lines = PROMPTS.iter().enumerate().map(|(idx, prompt)| json!({ "id": idx * 10, "prompt": prompt }));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    // An empty line is no prompt.
    tiny.write("prompts.jsonl", format!("{text}\n").as_bytes());
    ["prompts.jsonl", "answers.jsonl"].map(|name| tiny.path(name).to_str().unwrap().to_owned())
}

fn args<'a>(tiny: &'a Tiny, [prompts, out]: &'a [String; 2]) -> Vec<&'a str> {
    let all = [
        "run",
        "--model",
        tiny.dir(),
        "--ignore-eos",
        "--max-tokens",
        "6",
        "--prompts",
        prompts,
        "--out",
        out,
    ];
    all.to_vec()
}

/// Returns the answers in the order of prompts.
fn answers(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let mut answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    answers.sort_by_key(|answer| answer["index"].as_u64());
    answers
}

#[test]
fn every_prompt_is_answered_as_by_itself() {
    let tiny = Tiny::new(4);
    let files = files(&tiny);
    for sampling in [&["--temp", "0"][..], &["--temp", "0.8", "--seed", "7"]] {
        let run = output([&args(&tiny, &files)[..], sampling, &["--clients", "3"]].concat());
        assert!(run.status.success(), "{}", stderr(&run));
        assert_eq!(stdout(&run), "");
        let answers = answers(&files[1]);
        assert_eq!(answers.len(), PROMPTS.len());
        for (idx, (answer, prompt)) in answers.iter().zip(PROMPTS).enumerate() {
            let alone = ["run", "--model", tiny.dir(), "--ignore-eos", "--max-tokens", "6", "--json"];
            let alone = report(&output([&alone[..], sampling, &["--prompt", prompt]].concat()));
            for field in ["text", "finish_reason", "prompt_tokens", "generated_tokens"] {
                assert_eq!(answer[field], alone[field], "{field} of {answer}");
            }
            assert_eq!((&answer["index"], &answer["id"]), (&json!(idx), &json!(10 * idx)));
        }
        fs::remove_file(&files[1]).unwrap();
    }
}

#[test]
fn what_the_output_has_is_not_computed_again() {
    let tiny = Tiny::new(2);
    let files = files(&tiny);
    assert!(output(args(&tiny, &files)).status.success());
    let whole = answers(&files[1]);
    let text = fs::read_to_string(&files[1]).unwrap();
    let lines: Vec<&str> = text.lines().collect();

    // Two answers, one with an error, and one that was being written when the program was killed.
    let mut first: Value = serde_json::from_str(lines[0]).unwrap();
    first["text"] = json!("kept as it is");
    let mut failed: Value = serde_json::from_str(lines[1]).unwrap();
    let fields = failed.as_object_mut().unwrap();
    fields.retain(|field, _| ["index", "id", "prompt_sha256"].contains(&field.as_str()));
    fields.insert("error".to_owned(), json!("the disk failed"));
    let part = &lines[3][..lines[3].len() / 2];
    fs::write(&files[1], format!("{first}\n{failed}\n{}\n{part}", lines[2])).unwrap();
    let run = output(args(&tiny, &files));
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(stderr(&run).contains("2 of 5 prompts are answered"), "{}", stderr(&run));
    let resumed = fs::read_to_string(&files[1]).unwrap();
    assert!(resumed.starts_with(&format!("{first}\n{failed}\n{}\n", lines[2])), "{resumed}");
    let mut resumed = answers(&files[1]);
    resumed.retain(|answer| answer.get("error").is_none());
    let first_index = first["index"].as_u64().unwrap() as usize;
    let wanted = whole.into_iter().enumerate().map(|(idx, answer)| match idx == first_index {
        true => first.clone(),
        false => answer,
    });
    assert!(resumed.into_iter().eq(wanted));

    let before = fs::read(&files[1]).unwrap();
    assert!(output(args(&tiny, &files)).status.success());
    assert_eq!(fs::read(&files[1]).unwrap(), before, "everything is answered");
}

#[test]
fn answers_to_other_prompts_are_refused() {
    let tiny = Tiny::new(2);
    let files = files(&tiny);
    assert!(output(args(&tiny, &files)).status.success());
    let before = fs::read(&files[1]).unwrap();
    let prompts = fs::read_to_string(&files[0]).unwrap();
    fs::write(&files[0], prompts.replace("20 21", "20 22")).unwrap();
    assert_refused(&output(args(&tiny, &files)), 1, &["answers.jsonl, line ", "another prompt than line 5"]);
    assert_eq!(fs::read(&files[1]).unwrap(), before);
}

#[test]
fn lines_that_are_no_prompts_are_refused_with_their_number() {
    let tiny = Tiny::new(2);
    let files = files(&tiny);
    for (line, parts) in [
        ("{\"prompt\": \"5\", \"temperature\": 1}", &["temperature"][..]),
        ("{\"prompt\": 5}", &["string"]),
        ("{\"text\": \"5\"}", &["text"]),
        ("{}", &["no `prompt`"]),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"5\"}]}", &["--chat"]),
        ("not json", &[]),
    ] {
        fs::write(&files[0], format!("{{\"prompt\": \"5\"}}\n{line}\n")).unwrap();
        assert_refused(&output(args(&tiny, &files)), 1, &[&["prompts.jsonl, line 2"], parts].concat());
        assert!(!Path::new(&files[1]).exists(), "{line}");
    }
    fs::write(&files[0], "\n").unwrap();
    assert_refused(&output(args(&tiny, &files)), 1, &["there is no prompt"]);
    let alone = ["run", "--model", tiny.dir(), "--prompts", &files[0]];
    assert!(stderr(&output(alone)).contains("--out"));
}
