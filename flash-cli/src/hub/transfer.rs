//! Downloads one file to the cache, resuming after interruptions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flash_io::{LFS_POINTER_BYTES_MAX, LfsPointer};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::{Agent, Body};

use super::error::HubError;
use super::files::RemoteFile;
use super::retry::{self, Retries, Retry};

/// Time limit of a connection, after which the download reconnects and resumes: a stalled connection cannot hang, and a
/// working one only loses the time to connect.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const PIECE_BYTES: usize = 256 << 10;
/// Extension of incomplete files.
const PART: &str = "part";

/// Returns the HTTP client of all transfers, which reuses connections.
pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(CONNECTION_TIMEOUT))
        .timeout_recv_body(Some(CONNECTION_TIMEOUT))
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .http_status_as_error(false)
        // Range offsets refer to uncompressed contents.
        .accept_encoding("identity")
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A file to download.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    pub(super) url: String,
    pub(super) token: Option<&'a str>,
    pub(super) file: &'a RemoteFile,
    /// Destination of the complete file.
    pub(super) blob: PathBuf,
}

/// Why an attempt failed.
enum AttemptError {
    /// The caller stopped it.
    Stopped,
    /// The connection failed; a retry may succeed.
    Cut(String),
    /// The server is busy, and may have asked for a wait.
    Busy {
        status: StatusCode,
        wait: Option<Duration>,
    },
    Failed(HubError),
}

impl From<HubError> for AttemptError {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

/// Returns the number of bytes already downloaded of a file with destination `blob`.
pub(super) fn part_bytes(blob: &Path) -> u64 {
    fs::metadata(part(blob)).map_or(0, |metadata| metadata.len())
}

fn part(blob: &Path) -> PathBuf {
    blob.with_extension(PART)
}

impl Transfer<'_> {
    /// Downloads the missing bytes. `progress` receives the number of bytes present, and may stop the download, which
    /// keeps them.
    pub(super) fn run(
        &self,
        agent: &Agent,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, HubError> {
        let path = part(&self.blob);
        let of_path = || HubError::in_cache(&path);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(of_path())?;
        // Two processes must not append to one file. The lock is released when the process ends.
        file.lock().map_err(of_path())?;
        if self.is_cached() {
            // The previous owner of the lock has completed the download; the locked file may be a new one.
            let _ = fs::remove_file(&path);
            return Ok(ControlFlow::Continue(()));
        }
        let mut retries = Retries::default();
        loop {
            let begin = file.seek(SeekFrom::End(0)).map_err(of_path())?;
            let (reason, status, wait) = match self.attempt(agent, &mut file, begin, progress) {
                Ok(()) => break,
                Err(AttemptError::Stopped) => return Ok(ControlFlow::Break(())),
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Cut(reason)) => (reason, None, None),
                Err(AttemptError::Busy { status, wait }) => {
                    (format!("the server answered with status {}", status.as_u16()), Some(status), wait)
                }
            };
            let done_bytes = file.stream_position().map_err(of_path())?;
            if done_bytes > begin {
                retries.reset();
            }
            match (retries.record_failure(wait), status) {
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

    /// Verifies the hash of the complete file: a power failure may have left holes in the part from an earlier run.
    fn check(&self, path: &Path, file: &mut File) -> Result<(), HubError> {
        let has_hash = self.file.has_hash(path).map_err(HubError::in_cache(path))?;
        if !has_hash {
            self.restart(file)?;
            return Err(HubError::Contents { url: self.url.clone() });
        }
        // A server without Git LFS lists and serves pointers as if they were the files.
        let mut start = Vec::new();
        let mut written =
            File::open(path).map_err(HubError::in_cache(path))?.take(LFS_POINTER_BYTES_MAX as u64);
        written.read_to_end(&mut start).map_err(HubError::in_cache(path))?;
        match LfsPointer::detect(&start) {
            Some(_) => {
                self.restart(file)?;
                Err(HubError::LfsPointer { url: self.url.clone() })
            }
            None => Ok(()),
        }
    }

    fn is_cached(&self) -> bool {
        self.file.is_at(&self.blob)
    }

    /// Requests the bytes from `begin` on, and appends them to `file`.
    fn attempt(
        &self,
        agent: &Agent,
        file: &mut File,
        begin: u64,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<(), AttemptError> {
        let Self { url, token, file: RemoteFile { bytes, .. }, .. } = self;
        let mut at = begin;
        if at > *bytes {
            // The part is longer than the listed file, so it belongs to another version.
            at = self.restart(file)?;
        }
        if at == *bytes {
            return Ok(());
        }
        let mut request = agent.get(url).header(header::RANGE, format!("bytes={at}-"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| AttemptError::Cut(error.to_string()))?;
        let found_bytes = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = ContentRange::of(response.headers());
                // A range other than the requested one is unusable.
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
            status if retry::is_transient(status) => {
                let wait = retry::retry_after(response.headers(), SystemTime::now());
                return Err(AttemptError::Busy { status, wait });
            }
            status => return Err(self.status(status).into()),
        };
        if let Some(found_bytes) = found_bytes.filter(|found| found != bytes) {
            return Err(self.size(found_bytes).into());
        }
        self.copy(response.into_body(), file, at, progress)
    }

    /// Copies a response body to `file`, whose first `at` bytes are present.
    fn copy(
        &self,
        body: Body,
        file: &mut File,
        mut at: u64,
        progress: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<(), AttemptError> {
        let mut body = body.into_reader();
        let mut piece = vec![0; PIECE_BYTES];
        while progress(at).is_continue() {
            let n_bytes = match body.read(&mut piece) {
                Ok(0) if at == self.file.bytes => return Ok(()),
                Ok(0) => return Err(AttemptError::Cut("the connection was closed".to_owned())),
                Ok(n_bytes) => n_bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(AttemptError::Cut(error.to_string())),
            };
            at += n_bytes as u64;
            if at > self.file.bytes {
                // A response without a length may be longer than the listed file.
                self.restart(file)?;
                return Err(self.size(at).into());
            }
            file.write_all(&piece[..n_bytes]).map_err(HubError::in_cache(part(&self.blob)))?;
        }
        Err(AttemptError::Stopped)
    }

    /// Truncates the file, and returns the new offset, 0.
    fn restart(&self, file: &mut File) -> Result<u64, HubError> {
        file.set_len(0).and_then(|()| file.rewind()).map_err(HubError::in_cache(part(&self.blob)))?;
        Ok(0)
    }

    fn status(&self, status: StatusCode) -> HubError {
        HubError::Status { url: self.url.clone(), status: status.as_u16() }
    }

    fn size(&self, found_bytes: u64) -> HubError {
        HubError::Size { url: self.url.clone(), wanted_bytes: self.file.bytes, found_bytes }
    }
}

/// A `Content-Range` header: `bytes BEGIN-END/TOTAL`.
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

    /// Returns the total, also of `bytes */TOTAL`, the response to an unsatisfiable range.
    fn total_bytes(headers: &HeaderMap) -> Option<u64> {
        headers.get(header::CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.trim().parse().ok()
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
