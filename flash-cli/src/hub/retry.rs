//! Retries of requests: their number, and the pauses between them.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, StatusCode, header};

use crate::output;

/// Attempts in a row that bring nothing.
const ATTEMPTS_MAX: u32 = 5;
/// Before the second attempt; twice as long before each one after it.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest wait that a server may ask for. The hub counts requests in windows of five minutes.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Interval at which a pause looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// Shorter waits are not worth a word.
const PATIENCE: Duration = Duration::from_secs(5);

/// Attempts in a row that have failed.
#[derive(Debug, Default)]
pub(super) struct Retries {
    n_failed: u32,
}

/// Whether to make a request again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retry {
    After(Duration),
    /// So many attempts have failed that it is of no use.
    Exhausted,
    /// The server asks for a longer wait than anyone would take for one.
    TooLong {
        wait: Duration,
    },
}

impl Retries {
    /// Counts attempts anew, after one that brought something.
    pub(super) fn reset(&mut self) {
        self.n_failed = 0;
    }

    /// Attempts in a row that have failed.
    pub(super) fn n_failed(&self) -> u32 {
        self.n_failed
    }

    /// Counts an attempt that failed. `wait` is the wait that the server asks for, if it does.
    pub(super) fn after(&mut self, wait: Option<Duration>) -> Retry {
        self.n_failed += 1;
        match wait {
            Some(wait) if wait > WAIT_MAX => Retry::TooLong { wait },
            _ if self.n_failed >= ATTEMPTS_MAX => Retry::Exhausted,
            wait => Retry::After((PAUSE * (1 << (self.n_failed - 1))).max(wait.unwrap_or_default())),
        }
    }
}

/// Sleeps as long as the result is of use, and says so if it takes long.
pub(super) fn wait(url: &str, pause: Duration, is_wanted: &dyn Fn() -> bool) {
    if pause >= PATIENCE {
        output::note(&format!("{url}: the server is busy and asks to wait {} s", pause.as_secs()));
    }
    let begin = Instant::now();
    while let Some(left) = pause.checked_sub(begin.elapsed())
        && is_wanted()
    {
        thread::sleep(left.min(LOOK));
    }
}

/// Whether a server that answers with this status may answer otherwise soon.
pub(super) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// The wait that the `Retry-After` of an answer asks for: a number of seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // A date that has passed asks for no wait.
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
        assert_eq!(retries.after(None), Retry::After(PAUSE));
        assert_eq!(retries.after(seconds(7)), Retry::After(Duration::from_secs(7)));
        assert_eq!(
            retries.after(seconds(0)),
            Retry::After(4 * PAUSE),
            "a server that asks for none is not stormed"
        );
        assert_eq!(retries.after(seconds(3600)), Retry::TooLong { wait: Duration::from_secs(3600) });
        assert_eq!(retries.after(seconds(1)), Retry::Exhausted);
        retries.reset();
        assert_eq!(retries.after(None), Retry::After(PAUSE));
    }
}
