//! An engine that answers from a script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use flash_serve::{
    Backend, BudgetState, CallStart, Capabilities, Counters, Done, EmbedRequest, Embeddings, EngineError,
    EngineState, Event, FinishReason, GenerateRequest, Generation, KeepAlive, Loaded, ModelInfo,
    PullProgress, Refusal, SendError, Started, Text, Timings, Usage,
};

/// Id of the model that can do everything.
pub(crate) const MODEL: &str = "demo/tiny";
/// Id of a model that exists and whose script is the same.
pub(crate) const OTHER_MODEL: &str = "plain";

/// A step of a script.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Sends an event.
    Send(Event),
    /// Waits.
    Wait(Duration),
    /// Ends without an end.
    Vanish,
}

type Script = dyn Fn(&GenerateRequest) -> Result<Vec<Step>, Refusal> + Send + Sync;

/// An engine that answers every request with the steps that a function returns for it.
pub(crate) struct Mock {
    script: Box<Script>,
    /// Requests so far.
    pub(crate) requests: Mutex<Vec<GenerateRequest>>,
    /// Requests for embeddings so far.
    pub(crate) embed_requests: Mutex<Vec<EmbedRequest>>,
    /// Loaded models, with how long they stay.
    pub(crate) loads: Mutex<Vec<(String, Option<KeepAlive>)>>,
    cancelled: Arc<Gate>,
    live: Arc<AtomicUsize>,
}

/// A number that threads wait for.
#[derive(Default)]
struct Gate {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Mock {
    pub(crate) fn new(
        script: impl Fn(&GenerateRequest) -> Result<Vec<Step>, Refusal> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            requests: Mutex::default(),
            embed_requests: Mutex::default(),
            loads: Mutex::default(),
            cancelled: Arc::default(),
            live: Arc::default(),
        })
    }

    /// Answers every request with the same steps.
    pub(crate) fn always(steps: Vec<Step>) -> Arc<Self> {
        Self::new(move |_| Ok(steps.clone()))
    }

    /// Refuses every request.
    pub(crate) fn refusing(refusal: Refusal) -> Arc<Self> {
        Self::new(move |_| Err(refusal.clone()))
    }

    /// Returns the latest request.
    pub(crate) fn last_request(&self) -> GenerateRequest {
        self.requests.lock().unwrap().last().expect("a request was submitted").clone()
    }

    /// Returns the number of generations that were not dropped.
    pub(crate) fn n_live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Waits until `n` requests were cancelled, and returns whether that happened.
    pub(crate) fn saw_cancelled(&self, n: usize) -> bool {
        let count = self.cancelled.count.lock().unwrap();
        let timeout = Duration::from_secs(10);
        let (count, _) =
            self.cancelled.changed.wait_timeout_while(count, timeout, |count| *count < n).unwrap();
        *count >= n
    }
}

impl Backend for Mock {
    fn models(&self) -> Vec<ModelInfo> {
        let mut model = ModelInfo::new(MODEL);
        model.family = "qwen3".to_owned();
        model.n_parameters = 8_190_735_360;
        model.quantization = "4bit".to_owned();
        model.size_bytes = 4_150_000_000;
        model.digest = "b179c952".to_owned();
        model.modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        model.context_tokens = 32_768;
        model.hidden_size = 4096;
        model.chat_template = Some("{{ messages }}".to_owned());
        model.capabilities = Capabilities { chat: true, tools: true, thinking: true, embeddings: true };
        let expires = Some(SystemTime::now() + Duration::from_secs(300));
        model.loaded = Some(Loaded { memory_bytes: 3 << 30, expires });
        vec![model, ModelInfo::new(OTHER_MODEL)]
    }

    fn state(&self) -> EngineState {
        EngineState {
            max_waiting: 32,
            budget: BudgetState { total_bytes: 4 << 30, used_bytes: vec![("kv".to_owned(), 1 << 20)] },
            counters: Counters { completion_tokens: 42, ..Counters::default() },
            ..EngineState::default()
        }
    }

    fn submit(&self, request: GenerateRequest) -> Result<Generation, Refusal> {
        find(&request.model)?;
        let steps = (self.script)(&request);
        self.requests.lock().unwrap().push(request);
        let steps = steps?;
        self.live.fetch_add(1, Ordering::SeqCst);
        Ok(play(steps, Arc::clone(&self.cancelled), Arc::clone(&self.live)))
    }

    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, Refusal> {
        find(&request.model)?;
        self.requests.lock().unwrap().push(request.clone());
        Ok(25)
    }

    fn load(&self, model: &str, keep_alive: Option<KeepAlive>) -> Result<(), Refusal> {
        find(model)?;
        self.loads.lock().unwrap().push((model.to_owned(), keep_alive));
        Ok(())
    }

    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Refusal> {
        if request.model == OTHER_MODEL {
            return Err(Refusal::Unsupported { model: request.model, what: "embeddings".to_owned() });
        }
        let vectors = vec![vec![1.0, -0.5]; request.inputs.len()];
        let prompt_tokens = 3 * request.inputs.len();
        self.embed_requests.lock().unwrap().push(request);
        Ok(Embeddings { vectors, prompt_tokens })
    }

    fn pull(&self, model: &str, report: &mut dyn FnMut(PullProgress) -> bool) -> Result<(), Refusal> {
        if model == "missing" {
            return Err(Refusal::UnknownModel { id: model.to_owned(), known: Vec::new() });
        }
        let file = Some("model.safetensors".to_owned());
        for completed in [1, 2] {
            let (total_bytes, completed_bytes) = (Some(2), Some(completed));
            let status = "pulling".to_owned();
            report(PullProgress { status, file: file.clone(), total_bytes, completed_bytes });
        }
        Ok(())
    }
}

fn find(model: &str) -> Result<(), Refusal> {
    let known = [MODEL, OTHER_MODEL];
    if known.contains(&model) {
        return Ok(());
    }
    Err(Refusal::UnknownModel { id: model.to_owned(), known: known.map(str::to_owned).into() })
}

/// Plays steps on a thread.
fn play(steps: Vec<Step>, cancelled: Arc<Gate>, live: Arc<AtomicUsize>) -> Generation {
    let (sender, generation) = Generation::channel(16);
    let is_complete = Arc::new(AtomicBool::new(false));
    let of_thread = Arc::clone(&is_complete);
    thread::spawn(move || {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Send(event) => {
                    // Before it is sent, as the client may read it and leave at once.
                    if matches!(event, Event::Done(_) | Event::Error(_)) {
                        of_thread.store(true, Ordering::SeqCst);
                    }
                    if let Err(SendError::Cancelled) = sender.blocking_send(event) {
                        return;
                    }
                }
                Step::Wait(time) => thread::sleep(time),
                Step::Vanish => {
                    of_thread.store(true, Ordering::SeqCst);
                    return;
                }
            }
        }
    });
    generation.on_drop(move || {
        live.fetch_sub(1, Ordering::SeqCst);
        if !is_complete.load(Ordering::SeqCst) {
            *cancelled.count.lock().unwrap() += 1;
            cancelled.changed.notify_all();
        }
    })
}

pub(crate) fn started() -> Step {
    Step::Send(Event::Started(Started { prompt_tokens: 12, cached_tokens: 8 }))
}

pub(crate) fn text(text: &str) -> Step {
    Step::Send(Event::Text(Text { text: text.to_owned(), logprobs: Vec::new() }))
}

pub(crate) fn reasoning(text: &str) -> Step {
    Step::Send(Event::Reasoning(text.to_owned()))
}

/// A tool call whose arguments come in two parts.
pub(crate) fn call(name: &str, arguments: &str) -> Vec<Step> {
    let mut half = arguments.len() / 2;
    while !arguments.is_char_boundary(half) {
        half += 1;
    }
    let (first, second) = arguments.split_at(half);
    vec![
        Step::Send(Event::CallStart(CallStart { id: None, name: name.to_owned() })),
        Step::Send(Event::CallArguments(first.to_owned())),
        Step::Send(Event::CallArguments(second.to_owned())),
        Step::Send(Event::CallEnd),
    ]
}

pub(crate) fn done(finish: FinishReason) -> Step {
    Step::Send(Event::Done(Done {
        finish,
        usage: Usage { prompt_tokens: 12, cached_tokens: 8, completion_tokens: 5, reasoning_tokens: 2 },
        timings: Timings {
            queue: Duration::from_millis(1),
            load: Duration::from_millis(2),
            prompt: Duration::from_millis(3),
            decode: Duration::from_millis(4),
        },
        warnings: Vec::new(),
    }))
}

pub(crate) fn failure() -> Step {
    let source = Arc::new(std::io::Error::other("the disk is gone"));
    Step::Send(Event::Error(EngineError::Model { model: MODEL.to_owned(), source }))
}
