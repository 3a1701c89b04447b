//! One file from the hub to the cache, in as many pieces as the connection makes of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flash_io::{LFS_POINTER_BYTES_MAX, LfsPointer};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::{Agent, Body};

use super::HubError;
use super::files::RemoteFile;
use super::retry::{self, Retries, Retry};

/// A connection is made anew after so long, wherever it is: one that is stuck does not hang, and one that works loses
/// nothing but the time to connect.
const CONNECTION: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(20);
const PIECE_BYTES: usize = 256 << 10;
/// What the name of a file has that is not all there.
const PART: &str = "part";

/// The client of all transfers, with connections that are used again.
pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(CONNECTION))
        .timeout_recv_body(Some(CONNECTION))
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .http_status_as_error(false)
        // Offsets are those of the file as it is.
        .accept_encoding("identity")
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A file that is to be in the cache.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    pub(super) url: String,
    pub(super) token: Option<&'a str>,
    pub(super) file: &'a RemoteFile,
    /// Where it goes when it is whole.
    pub(super) blob: PathBuf,
}

/// Why an attempt ended.
enum Ended {
    /// Nobody wants it any more.
    Stopped,
    /// The next one may do better.
    Cut(String),
    /// The server has no time, and may say when it has.
    Busy {
        status: StatusCode,
        wait: Option<Duration>,
    },
    Failed(HubError),
}

impl From<HubError> for Ended {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

/// What there is already of a file that goes to `blob`.
pub(super) fn part_bytes(blob: &Path) -> u64 {
    fs::metadata(part(blob)).map_or(0, |metadata| metadata.len())
}

fn part(blob: &Path) -> PathBuf {
    blob.with_extension(PART)
}

impl Transfer<'_> {
    /// Brings what is missing. `progress` is told how many bytes there are, and may stop it; those are kept.
    pub(super) fn run(
        &self,
        agent: &Agent,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, HubError> {
        let path = part(&self.blob);
        let of_path = || HubError::of(&path);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(of_path())?;
        // Two that append to one file would ruin it. The lock ends with the process.
        file.lock().map_err(of_path())?;
        if self.is_there() {
            // Whoever had the lock has brought it, and what is locked now may be a file that was made since.
            let _ = fs::remove_file(&path);
            return Ok(ControlFlow::Continue(()));
        }
        let mut retries = Retries::default();
        loop {
            let begin = file.seek(SeekFrom::End(0)).map_err(of_path())?;
            let (reason, status, wait) = match self.attempt(agent, &mut file, begin, progress) {
                Ok(()) => break,
                Err(Ended::Stopped) => return Ok(ControlFlow::Break(())),
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Cut(reason)) => (reason, None, None),
                Err(Ended::Busy { status, wait }) => {
                    (format!("the server answered with status {}", status.as_u16()), Some(status), wait)
                }
            };
            let done_bytes = file.stream_position().map_err(of_path())?;
            if done_bytes > begin {
                retries.reset();
            }
            match (retries.after(wait), status) {
                (Retry::After(pause), _) => {
                    retry::wait(&self.url, pause, &|| progress(done_bytes).is_continue());
                }
                (Retry::TooLong { wait }, Some(status)) => {
                    return Err(HubError::Busy { url: self.url.clone(), status: status.as_u16(), wait });
                }
                (Retry::TooLong { .. } | Retry::Exhausted, _) => {
                    return Err(HubError::Cut {
                        url: self.url.clone(),
                        n_attempts: retries.n_failed(),
                        done_bytes,
                        wanted_bytes: self.file.bytes,
                        reason,
                    });
                }
            }
        }
        self.check(&path, &mut file)?;
        file.sync_all().map_err(of_path())?;
        fs::rename(&path, &self.blob).map_err(of_path())?;
        Ok(ControlFlow::Continue(()))
    }

    /// A power cut may have left holes in what was there before.
    fn check(&self, path: &Path, file: &mut File) -> Result<(), HubError> {
        let has_hash = self.file.has_hash(path).map_err(HubError::of(path))?;
        if !has_hash {
            self.restart(file)?;
            return Err(HubError::Contents { url: self.url.clone() });
        }
        // A server without Git LFS lists and gives pointers as if they were the files.
        let mut start = Vec::new();
        let mut written = File::open(path).map_err(HubError::of(path))?.take(LFS_POINTER_BYTES_MAX as u64);
        written.read_to_end(&mut start).map_err(HubError::of(path))?;
        match LfsPointer::detect(&start) {
            Some(_) => {
                self.restart(file)?;
                Err(HubError::LfsPointer { url: self.url.clone() })
            }
            None => Ok(()),
        }
    }

    fn is_there(&self) -> bool {
        self.file.is_at(&self.blob)
    }

    /// Appends to `file`, which has its first `begin` bytes.
    fn attempt(
        &self,
        agent: &Agent,
        file: &mut File,
        begin: u64,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        let Self { url, token, file: RemoteFile { bytes, .. }, .. } = self;
        let mut at = begin;
        if at > *bytes {
            // Never ours.
            at = self.restart(file)?;
        }
        if at == *bytes {
            return Ok(());
        }
        let mut request = agent.get(url).header(header::RANGE, format!("bytes={at}-"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| Ended::Cut(error.to_string()))?;
        let found_bytes = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = ContentRange::of(response.headers());
                // Another range than that asked for is as good as none.
                let range = range.filter(|range| range.begin == at);
                range.ok_or_else(|| self.status(StatusCode::PARTIAL_CONTENT))?.total_bytes
            }
            StatusCode::OK => {
                at = self.restart(file)?;
                content_length(response.headers())
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total_bytes = ContentRange::total_bytes(response.headers());
                total_bytes
                    .filter(|total| total != bytes)
                    .ok_or_else(|| self.status(response.status()))
                    .map(Some)?
            }
            status if retry::is_passing(status) => {
                let wait = retry::retry_after(response.headers(), SystemTime::now());
                return Err(Ended::Busy { status, wait });
            }
            status => return Err(self.status(status).into()),
        };
        if let Some(found_bytes) = found_bytes.filter(|found| found != bytes) {
            return Err(self.size(found_bytes).into());
        }
        self.copy(response.into_body(), file, at, progress)
    }

    fn copy(
        &self,
        body: Body,
        file: &mut File,
        mut at: u64,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        let mut body = body.into_reader();
        let mut piece = vec![0; PIECE_BYTES];
        while progress(at).is_continue() {
            let n_bytes = match body.read(&mut piece) {
                Ok(0) if at == self.file.bytes => return Ok(()),
                Ok(0) => return Err(Ended::Cut("the connection was closed".to_owned())),
                Ok(n_bytes) => n_bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Ended::Cut(error.to_string())),
            };
            at += n_bytes as u64;
            if at > self.file.bytes {
                // Who did not say how much there is may have more than is listed.
                self.restart(file)?;
                return Err(self.size(at).into());
            }
            file.write_all(&piece[..n_bytes]).map_err(HubError::of(part(&self.blob)))?;
        }
        Err(Ended::Stopped)
    }

    fn restart(&self, file: &mut File) -> Result<u64, HubError> {
        file.set_len(0).and_then(|()| file.rewind()).map_err(HubError::of(part(&self.blob)))?;
        Ok(0)
    }

    fn status(&self, status: StatusCode) -> HubError {
        HubError::Status { url: self.url.clone(), status: status.as_u16() }
    }

    fn size(&self, found_bytes: u64) -> HubError {
        HubError::Size { url: self.url.clone(), wanted_bytes: self.file.bytes, found_bytes }
    }
}

/// `bytes BEGIN-END/TOTAL`
struct ContentRange {
    begin: u64,
    total_bytes: Option<u64>,
}

impl ContentRange {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
        let begin = range.split_once('-')?.0.trim().parse().ok()?;
        Some(Self { begin, total_bytes: Self::total_bytes(headers) })
    }

    /// Also of `bytes */TOTAL`, the answer to a range that there is not.
    fn total_bytes(headers: &HeaderMap) -> Option<u64> {
        headers.get(header::CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.trim().parse().ok()
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
