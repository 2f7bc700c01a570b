//! Reads the bodies of requests, within the limits of size and time.

use std::future::Future;
use std::time::Duration;

use http::{HeaderMap, header};
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use crate::http::{Body, Contents, Read};
use crate::server::Refusal;
use crate::server::dedupe::{by, far};

/// What is taken in of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intake {
    pub(crate) bytes_max: usize,
    pub(crate) timeout: Duration,
}

// === impl Intake ===

impl Intake {
    /// The whole body.
    ///
    /// # Errors
    ///
    /// When it is too large, too slow or cut off: nothing was executed.
    pub(crate) fn read(
        self,
        body: Body,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Contents, Refusal>> + Send {
        let limit = self.bytes_max;
        let too_large = move || Refusal::TooLarge { limit };
        let fits = body.size_hint().lower() <= limit as u64;
        let slow_at = far(self.timeout);
        let until = deadline.map_or(slow_at, |deadline| deadline.min(slow_at));
        let reading = by(until, body.read(limit));
        async move {
            if !fits {
                return Err(too_large());
            }
            match reading.await {
                Some(Ok(Read::Whole(contents))) => Ok(contents),
                Some(Ok(Read::TooLarge(_))) => Err(too_large()),
                Some(Err(_)) => Err(Refusal::Unreadable {
                    reason: CUT.to_owned(),
                }),
                None if until < slow_at => Err(Refusal::DeadlinePassed { executing: false }),
                None => Err(Refusal::TooSlow),
            }
        }
    }
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            bytes_max: BYTES_MAX,
            timeout: TIMEOUT,
        }
    }
}

/// Takes in what a refused client still sends, where that is little: some do not hear an answer that
/// comes before they have said all. One that waits to be told to go on is answered at once.
pub(crate) async fn hear_out(headers: &HeaderMap, body: Body) {
    let much = body.size_hint().lower() > HEARD_BYTES_MAX as u64;
    if !much && !headers.contains_key(header::EXPECT) {
        // OK because it does not matter what it was.
        let _ = timeout(HEARD_FOR, body.read(HEARD_BYTES_MAX)).await;
    }
}

/// What other servers take by default.
const BYTES_MAX: usize = 1 << 20;

/// As long as a call of our clients lasts; a megabyte comes in it at a third of a megabit a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is on its way anyhow: a window of HTTP/2, and the buffer of a socket.
const HEARD_BYTES_MAX: usize = 1 << 16;

/// A second attempt would cost the client more.
const HEARD_FOR: Duration = Duration::from_secs(1);

/// Its client did nothing wrong, as far as anybody here knows.
pub(crate) const CUT: &str = "the request's body cannot be read to its end";
