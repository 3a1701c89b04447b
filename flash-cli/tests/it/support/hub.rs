//! A fake Hugging Face hub with the files of one model, and with the failures that a test configures.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use assert_cmd::Command;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::flash_cli;
use super::tiny::Tiny;

/// Id of the model.
pub(crate) const ID: &str = "some-org/Tiny-1B";
/// Commit of all revisions.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Path of redirected weights on another host.
const ELSEWHERE: &str = "/elsewhere/";
/// File name of the weights.
pub(crate) const SHARD: &str = "model.safetensors";
/// Names of the files that are downloaded.
pub(crate) const NEEDED: [&str; 4] = ["chat_template.jinja", "config.json", SHARD, "tokenizer.json"];
const REVISIONS: [&str; 3] = ["main", "v2", COMMIT];

/// Creates a model, and a hub that serves it.
pub(crate) fn fake_hub() -> (Tiny, FakeHub) {
    let tiny = Tiny::new(2);
    let hub = FakeHub::new(&tiny);
    (tiny, hub)
}

pub(crate) struct FakeHub {
    address: SocketAddr,
    home: TempDir,
    state: Arc<Mutex<State>>,
}

/// Files, behavior and received requests of the hub.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Wrong sizes in the listing.
    pub(crate) listed_bytes: BTreeMap<String, u64>,
    /// Token that requests must have.
    pub(crate) token: Option<String>,
    /// Number of bytes after which the next responses with weights are cut off.
    pub(crate) cuts: VecDeque<usize>,
    /// Whether the connection stays open after a cut response.
    pub(crate) stalls: bool,
    /// Status of every response.
    pub(crate) status: Option<u16>,
    /// Status of the next responses with weights.
    pub(crate) refusals: VecDeque<u16>,
    /// Status of the next responses with a listing.
    pub(crate) listing_refusals: VecDeque<u16>,
    /// `Retry-After` of error responses.
    pub(crate) retry_after: Option<String>,
    /// Contents that are sent in place of the listed ones.
    pub(crate) sent: BTreeMap<String, Vec<u8>>,
    /// Whether weights are listed and sent as any other file.
    pub(crate) has_no_lfs: bool,
    /// Whether weights are redirected to another host.
    pub(crate) redirects: bool,
    pub(crate) ignores_ranges: bool,
    /// Response instead of a listing.
    pub(crate) listing: Option<String>,
    pub(crate) requests: Vec<Request>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

impl FakeHub {
    /// Starts a hub with the files of a model, and two unneeded files.
    pub(crate) fn new(tiny: &Tiny) -> Self {
        let mut files: BTreeMap<_, _> = fs::read_dir(tiny.dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
            .collect();
        files.insert("README.md".to_owned(), b"# Tiny".to_vec());
        files.insert("pytorch_model.bin".to_owned(), vec![0; 100]);
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&served));
                // A client may close the connection early.
                thread::spawn(move || serve(stream, &state).ok());
            }
        });
        Self { address, home: tempfile::tempdir().unwrap(), state }
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the program, configured for this hub.
    pub(crate) fn flash_cli<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = flash_cli(args);
        let names =
            ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"];
        for name in names.into_iter().chain(["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]) {
            command.env_remove(name);
        }
        command
            .env("HF_ENDPOINT", format!("http://{}", self.address))
            .env("HF_HOME", self.home.path())
            .env("NO_PROXY", "127.0.0.1,localhost");
        command
    }

    /// Returns the directory of the model in the cache.
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join("hub").join("models--some-org--Tiny-1B")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.folder().join("snapshots").join(COMMIT)
    }

    /// Takes the names of the requested files, sorted.
    pub(crate) fn fetched(&self) -> Vec<String> {
        let mut names: Vec<_> = self.requests().into_iter().filter_map(|request| request.file()).collect();
        names.sort();
        names
    }

    /// Takes the requested ranges of the weights.
    pub(crate) fn ranges(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .filter(Request::is_for_weights)
            .filter_map(|request| request.range)
            .collect()
    }

    /// Takes all requests.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }
}

impl Request {
    fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut request =
            Self { path: first.split(' ').nth(1).unwrap_or_default().to_owned(), ..Self::default() };
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        Ok(request)
    }

    pub(crate) fn is_for_weights(&self) -> bool {
        self.file().is_some_and(|file| file.ends_with(".safetensors"))
    }

    /// Returns the requested file of the model, if any.
    fn file(&self) -> Option<String> {
        let here = self.path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/"));
        Some(here.or(self.path.strip_prefix(ELSEWHERE))?.to_owned())
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let request = Request::read(&stream)?;
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let answer = state.answer(&request, stream.local_addr()?.port());
    let is_stuck = state.stalls && request.is_for_weights();
    drop(state);
    stream.write_all(&answer)?;
    if is_stuck {
        // Blocks until the client closes the connection.
        stream.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

impl State {
    fn answer(&mut self, request: &Request, port: u16) -> Vec<u8> {
        let is_elsewhere = request.path.starts_with(ELSEWHERE);
        let refusal = if request.is_for_weights() {
            self.refusals.pop_front()
        } else if request.path.starts_with("/api/") {
            self.listing_refusals.pop_front()
        } else {
            None
        };
        if let Some(status) = self.status.or(refusal) {
            let wait = self.retry_after.as_ref().map(|wait| format!("Retry-After: {wait}\r\n"));
            return answer(status, &wait.unwrap_or_default(), b"");
        }
        if self.token.is_some() && self.token != request.token && !is_elsewhere {
            return answer(401, "X-Error-Code: RepoNotFound\r\n", b"");
        }
        let contents = |name: &String| self.sent.get(name).or_else(|| self.files.get(name)).cloned();
        if let Some(file) = request.file().and_then(|name| Some((contents(&name)?, name))) {
            if self.redirects && request.is_for_weights() && !is_elsewhere {
                return answer(
                    302,
                    &format!("Location: http://localhost:{port}{ELSEWHERE}{}\r\n", file.1),
                    b"",
                );
            }
            return self.give(request, &file.0);
        }
        let revision = request
            .path
            .strip_prefix(&format!("/api/models/{ID}/revision/"))
            .and_then(|rest| rest.strip_suffix("?blobs=true"));
        match revision {
            Some(revision) if REVISIONS.contains(&revision) => {
                let listing = self.listing.clone().unwrap_or_else(|| self.list().to_string());
                answer(200, "", listing.as_bytes())
            }
            Some(_) => answer(404, "X-Error-Code: RevisionNotFound\r\n", b""),
            None => answer(404, "X-Error-Code: RepoNotFound\r\n", b""),
        }
    }

    fn list(&self) -> Value {
        let siblings: Vec<_> = self
            .files
            .iter()
            .map(|(name, contents)| {
                let bytes = self.listed_bytes.get(name).copied().unwrap_or(contents.len() as u64);
                if name.ends_with(".safetensors") && !self.has_no_lfs {
                    let hash = format!("{:x}", Sha256::digest(contents));
                    let lfs = json!({ "sha256": hash, "size": bytes, "pointerSize": 100 });
                    json!({ "rfilename": name, "size": bytes, "blobId": "0", "lfs": lfs })
                } else {
                    let blob = [format!("blob {}\0", contents.len()).as_bytes(), contents].concat();
                    json!({ "rfilename": name, "size": bytes, "blobId": format!("{:x}", Sha1::digest(blob)) })
                }
            })
            .collect();
        json!({ "id": ID, "sha": COMMIT, "siblings": siblings })
    }

    fn give(&mut self, request: &Request, contents: &[u8]) -> Vec<u8> {
        let begin: Option<usize> = request
            .range
            .as_ref()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let total = contents.len();
        let (mut sent, body) = match begin {
            Some(begin) if begin < total && !self.ignores_ranges => {
                let range = format!("Content-Range: bytes {begin}-{}/{total}\r\n", total - 1);
                (answer(206, &range, &contents[begin..]), total - begin)
            }
            Some(_) if !self.ignores_ranges => {
                (answer(416, &format!("Content-Range: bytes */{total}\r\n"), b""), 0)
            }
            _ => (answer(200, "", contents), total),
        };
        if let Some(cut) = request.is_for_weights().then(|| self.cuts.pop_front()).flatten() {
            sent.truncate(sent.len() - body + cut.min(body));
        }
        sent
    }
}

fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} -\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Returns the sorted names of the files in a directory.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
