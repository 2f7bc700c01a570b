//! Answers on their way to clients: counted until they are taken, and not waited with for ever.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::{Body, BoxError};

/// A request that has not got its whole answer, for as long as it is held.
pub(super) struct Open(Arc<AtomicUsize>);

/// What the client of one connection has asked for and not taken yet.
///
/// Over HTTP/1 the connection itself says that a client takes nothing. Over HTTP/2 a client can let one
/// answer wait, by a window of nothing, while it goes on to answer pings: so it is looked at here, for
/// each answer by itself.
#[derive(Clone)]
pub(super) struct Deliveries(Arc<Mutex<Table>>);

struct Table {
    next: u64,
    /// Requests whose answer has not ended.
    open: usize,
    /// Answers of which there is more for a client that has not taken what it has, each with since
    /// when.
    untaken: BTreeMap<u64, Instant>,
    /// Since when nothing was asked and nothing taken.
    still_since: Instant,
    /// What the latest request came by.
    version: Option<Version>,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Its client takes nothing of an answer: it is ended at once.
    NotTaken,
    /// Nothing was asked for so long that it may end when its client wants nothing more.
    Still,
}

/// An answer's body, counted until it is taken.
pub(super) struct Delivered {
    body: Body,
    /// What of the last frame was not handed on yet.
    rest: Bytes,
    underway: Option<Underway>,
    _open: Open,
}

/// One answer in the table of its connection.
pub(super) struct Underway {
    number: u64,
    deliveries: Deliveries,
    /// In how large pieces it goes out; none where the connection looks after it.
    piece: Option<usize>,
}

// === impl Open ===

impl Open {
    pub(super) fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Deliveries ===

impl Deliveries {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Table {
            next: 0,
            open: 0,
            untaken: BTreeMap::new(),
            still_since: Instant::now(),
            version: None,
        })))
    }

    /// A request has come.
    pub(super) fn begin(&self, version: Version) -> Underway {
        let mut table = self.0.lock();
        table.open += 1;
        table.next += 1;
        table.version = Some(version);
        Underway {
            number: table.next,
            deliveries: self.clone(),
            piece: (version == Version::HTTP_2).then_some(PIECE_BYTES),
        }
    }

    /// Whether the client has let an answer wait for `timeout`, or nothing has happened for as long on
    /// a connection whose protocol bounds neither.
    pub(super) fn overdue(&self, timeout: Duration) -> Option<Overdue> {
        let (table, now) = (self.0.lock(), Instant::now());
        let over = |since: Instant| now.duration_since(since) >= timeout;
        if table.untaken.values().any(|since| over(*since)) {
            return Some(Overdue::NotTaken);
        }
        let unbounded = matches!(table.version, None | Some(Version::HTTP_2));
        (unbounded && table.open == 0 && over(table.still_since)).then_some(Overdue::Still)
    }
}

// === impl Underway ===

impl Underway {
    fn given(&self) {
        let mut table = self.deliveries.0.lock();
        if self.piece.is_some() {
            table.untaken.insert(self.number, Instant::now());
        }
    }

    fn taken(&self) {
        self.deliveries.0.lock().untaken.remove(&self.number);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut table = self.deliveries.0.lock();
        table.untaken.remove(&self.number);
        table.open -= 1;
        table.still_since = Instant::now();
    }
}

// === impl Delivered ===

impl Delivered {
    pub(super) fn new(body: Body, underway: Underway, open: Open) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            underway: Some(underway),
            _open: open,
        }
    }

    fn piece(&mut self) -> Bytes {
        let piece = self.underway.as_ref().and_then(|underway| underway.piece);
        match piece {
            Some(piece) if self.rest.len() > piece => self.rest.split_to(piece),
            _ => std::mem::take(&mut self.rest),
        }
    }
}

impl http_body::Body for Delivered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // Asked for more, so what there was is taken.
        if let Some(underway) = &this.underway {
            underway.taken();
        }
        if this.rest.is_empty() {
            let polled = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
            let Some(Ok(frame)) = polled else {
                return Poll::Ready(polled);
            };
            match frame.into_data() {
                Ok(data) => this.rest = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        let piece = this.piece();
        if let Some(underway) = &this.underway {
            underway.given();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// What of an answer may lie in the protocol's own buffers, where nobody sees whether it is taken: as
/// large as a frame of HTTP/2 is by default.
const PIECE_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn answer(deliveries: &Deliveries, version: Version, body: Body) -> Delivered {
        let open = Open::count(&Arc::default());
        Delivered::new(body, deliveries.begin(version), open)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_overdue_over_http_2_and_goes_out_in_pieces() {
        let deliveries = Deliveries::new();
        let body = Body::from(vec![1; 40_000]);
        let mut answer = answer(&deliveries, Version::HTTP_2, body);
        let mut read = 0;
        for expected in [16_384, 16_384, 7_232] {
            advance(PATIENCE / 2).await;
            assert_eq!(deliveries.overdue(PATIENCE), None);
            let frame = answer.frame().await.unwrap().unwrap();
            read += frame.data_ref().unwrap().len();
            assert_eq!(frame.into_data().unwrap().len(), expected);
            assert_eq!(answer.size_hint().exact(), Some(40_000 - read as u64));
        }
        assert!(answer.is_end_stream());
        advance(PATIENCE).await;
        assert_eq!(deliveries.overdue(PATIENCE), Some(Overdue::NotTaken));
        drop(answer);
        assert_eq!(deliveries.overdue(PATIENCE), None);
        advance(PATIENCE).await;
        assert_eq!(deliveries.overdue(PATIENCE), Some(Overdue::Still));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_the_service_is_not_the_clients_fault() {
        let deliveries = Deliveries::new();
        let never = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        let body = Body::stream(http_body_util::StreamBody::new(never));
        let mut answer = answer(&deliveries, Version::HTTP_2, body);
        assert!(
            tokio::time::timeout(PATIENCE * 2, answer.frame())
                .await
                .is_err()
        );
        assert_eq!(deliveries.overdue(PATIENCE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_http_1_is_left_to_its_own_bounds() {
        let deliveries = Deliveries::new();
        let mut answer = answer(&deliveries, Version::HTTP_11, Body::from(vec![1; 40_000]));
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len(), 40_000);
        advance(PATIENCE * 2).await;
        assert_eq!(deliveries.overdue(PATIENCE), None);
        drop(answer);
        advance(PATIENCE * 2).await;
        assert_eq!(deliveries.overdue(PATIENCE), None);
    }
}
