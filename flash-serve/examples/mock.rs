//! A server whose engine answers from a script, for the tests with real clients (`tests/clients/run.sh`).
//!
//! The last message of a conversation chooses the script. Listens on a free port, or on the one in the first argument, and
//! prints its address.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flash_serve::{
    Event, FinishReason, GenerateRequest, Prompt, Refusal, ResponseFormat, Role, Server, ServerConfig,
    Shutdown, Text, TokenLogprob,
};

#[expect(dead_code, reason = "shared with the tests")]
#[path = "../tests/serve/mock.rs"]
mod mock;

use mock::{Mock, Step, call, done, failure, reasoning, started, text};

/// Short, so that clients meet signs of life in every script that waits.
const KEEP_ALIVE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(port))
}

async fn serve(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = ServerConfig::default();
    config.address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    config.keep_alive_interval = KEEP_ALIVE;
    let (handle, shutdown) = Shutdown::new();
    let mock = Mock::new(script);
    let server = Server::bind(&config, Arc::clone(&mock) as _, shutdown).await?;
    writeln!(std::io::stdout(), "http://{}", server.local_addr())?;
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.drain();
        }
    });
    server.run().await;
    Ok(())
}

/// Returns the steps for the last message.
fn script(request: &GenerateRequest) -> Result<Vec<Step>, Refusal> {
    let (role, said) = match &request.prompt {
        Prompt::Chat(conversation) => match conversation.messages.last() {
            Some(last) => (last.role, last.text()),
            None => (Role::User, String::new()),
        },
        Prompt::Text(text) => (Role::User, text.to_string()),
        Prompt::Tokens(_) => (Role::User, String::new()),
    };
    let mut steps = vec![started()];
    // The result of a call ends the agent's loop, whatever the words in it.
    if role == Role::Tool {
        steps.extend([text("The tool says: "), text(&said), done(FinishReason::Stop)]);
        return Ok(steps);
    }
    if request.format != ResponseFormat::Text {
        steps.extend([text(r#"{"city":"#), text(r#""Rome"}"#), done(FinishReason::Stop)]);
        return Ok(steps);
    }
    let has = |word: &str| said.contains(word);
    if has("too long") {
        return Err(Refusal::PromptTooLong { prompt_tokens: 9000, max_prompt_tokens: 8000 });
    }
    if has("busy") {
        return Err(Refusal::QueueFull { n_waiting: 32, retry_after: Duration::from_secs(1) });
    }
    if has("fail late") {
        return Ok(vec![started(), text("Hel"), Step::Wait(KEEP_ALIVE), failure()]);
    }
    if has("fail") {
        return Ok(vec![failure()]);
    }
    if has("slow") {
        steps.insert(0, Step::Wait(KEEP_ALIVE * 4));
        steps.extend([text("slow"), Step::Wait(KEEP_ALIVE * 4)]);
    }
    if has("forever") {
        steps.extend((0..600).flat_map(|_| [text("a "), Step::Wait(Duration::from_millis(50))]));
    }
    if has("think") {
        steps.extend([reasoning("Let me "), reasoning("think.")]);
    }
    if has("weather") {
        steps.push(text("Looking."));
        steps.extend(call("get_weather", r#"{"city":"Rome"}"#));
        if has("two") {
            steps.extend(call("get_weather", r#"{"city":"Zürich"}"#));
        }
        steps.push(done(FinishReason::ToolCalls));
        return Ok(steps);
    }
    if has("list files") {
        steps.extend(call(shell(request), shell_arguments(request)));
        steps.push(done(FinishReason::ToolCalls));
        return Ok(steps);
    }
    let logprobs = |text: &str| match request.logprobs {
        Some(_) => vec![TokenLogprob { bytes: text.as_bytes().to_vec(), logprob: -0.5, top: Vec::new() }],
        None => Vec::new(),
    };
    for part in ["Hel", "lo"] {
        steps.push(Step::Send(Event::Text(Text { text: part.to_owned(), logprobs: logprobs(part) })));
    }
    steps.push(done(if has("long") { FinishReason::Length } else { FinishReason::Stop }));
    Ok(steps)
}

/// Tools that agents run commands with, by the names that they give them, and arguments that list files.
const SHELLS: [(&str, &str); 4] = [
    ("Bash", r#"{"command":"ls","description":"List files"}"#),
    ("bash", r#"{"command":"ls","description":"List files"}"#),
    ("exec_command", r#"{"cmd":"ls"}"#),
    ("shell", r#"{"command":["ls"]}"#),
];

fn offered(request: &GenerateRequest) -> Option<&'static (&'static str, &'static str)> {
    let Prompt::Chat(conversation) = &request.prompt else { return None };
    SHELLS.iter().find(|(name, _)| conversation.tools.iter().any(|tool| tool.name == *name))
}

fn shell(request: &GenerateRequest) -> &'static str {
    offered(request).map_or("shell", |(name, _)| name)
}

fn shell_arguments(request: &GenerateRequest) -> &'static str {
    offered(request).map_or("{}", |(_, arguments)| arguments)
}
