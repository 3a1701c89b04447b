//! Retries of HTTP requests with exponential backoff.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, StatusCode, header};

use crate::output;

/// Consecutive failed attempts after which a request fails.
const ATTEMPTS_MAX: u32 = 5;
/// Pause before the second attempt, doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(250);
/// Longest accepted `Retry-After`. The hub's rate limits use windows of five minutes.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Interval at which a pause checks for cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest wait that is reported.
const REPORTED_WAIT_MIN: Duration = Duration::from_secs(5);

/// Counter of consecutive failed attempts.
#[derive(Debug, Default)]
pub(super) struct Retries {
    n_failed: u32,
}

/// Decision after a failed attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// Retry after this pause.
    After(Duration),
    /// Give up: all attempts have failed.
    Exhausted,
    /// Give up: the server asks for too long a wait.
    TooLong { wait: Duration },
}

impl Retries {
    /// Resets the counter after an attempt that made progress.
    pub(super) fn reset(&mut self) {
        self.n_failed = 0;
    }

    /// Returns the number of consecutive failed attempts.
    pub(super) fn n_failed(&self) -> u32 {
        self.n_failed
    }

    /// Counts a failed attempt. `wait` is the pause that the server asked for, if any.
    pub(super) fn record_failure(&mut self, wait: Option<Duration>) -> Retry {
        self.n_failed += 1;
        match wait {
            Some(wait) if wait > WAIT_MAX => Retry::TooLong { wait },
            _ if self.n_failed >= ATTEMPTS_MAX => Retry::Exhausted,
            wait => Retry::After((BACKOFF * (1 << (self.n_failed - 1))).max(wait.unwrap_or_default())),
        }
    }
}

/// Sleeps for `pause`, or until `is_wanted` returns false. Long pauses are reported.
pub(super) fn wait(url: &str, pause: Duration, is_wanted: &dyn Fn() -> bool) {
    if pause >= REPORTED_WAIT_MIN {
        output::note(&format!("{url}: the server is busy and asks to wait {} s", pause.as_secs()));
    }
    let begin = Instant::now();
    while let Some(left) = pause.checked_sub(begin.elapsed())
        && is_wanted()
    {
        thread::sleep(left.min(POLL_INTERVAL));
    }
}

/// Whether a request with this response status is worth retrying.
pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Parses the `Retry-After` header: a number of seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // A date in the past means no wait.
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let table = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
        ];
        for (value, seconds) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn waits_are_as_long_as_the_server_asks_and_bounded() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let mut retries = Retries::default();
        assert_eq!(retries.record_failure(None), Retry::After(BACKOFF));
        assert_eq!(retries.record_failure(seconds(7)), Retry::After(Duration::from_secs(7)));
        assert_eq!(
            retries.record_failure(seconds(0)),
            Retry::After(4 * BACKOFF),
            "the backoff applies even if the server asks for no wait"
        );
        assert_eq!(retries.record_failure(seconds(3600)), Retry::TooLong { wait: Duration::from_secs(3600) });
        assert_eq!(retries.record_failure(seconds(1)), Retry::Exhausted);
        retries.reset();
        assert_eq!(retries.record_failure(None), Retry::After(BACKOFF));
    }
}
