//! Writing replies, each as soon as it is there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::serving::OneInFlight;
use crate::rpc::frame::{Batch, Frame, after_others};

/// A frame to be written, and the call that is in flight until it is.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) frame: Frame,
    pub(super) call: Option<(OneInFlight, Place)>,
}

/// A call's share of what a connection and the server may have in flight.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _call: OwnedSemaphorePermit,
    pub(super) _bytes: OwnedSemaphorePermit,
}

/// How many calls of a connection are under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    places: Arc<Semaphore>,
    /// How many places there are.
    all: usize,
}

// === impl UnderWay ===

impl UnderWay {
    /// Those that have taken one of these places, of which all are free.
    pub(super) fn of(places: &Arc<Semaphore>) -> Self {
        Self {
            all: places.available_permits(),
            places: Arc::clone(places),
        }
    }

    /// Whether there are others than the one whose reply is about to be written.
    fn are_many(&self) -> bool {
        self.places.available_permits() + 1 < self.all
    }
}

/// Writes until nobody sends any more, then ends this side of the connection. Fails when the peer
/// takes nothing for as long as `patience`.
pub(super) async fn write_replies(
    mut io: impl AsyncWrite + Unpin,
    mut replies: mpsc::Receiver<Outbound>,
    under_way: UnderWay,
    patience: Duration,
) -> io::Result<()> {
    let mut batch = Batch::default();
    let mut calls = Vec::new();
    while let Some(mut outbound) = replies.recv().await {
        // Others are being answered too.
        if under_way.are_many() {
            after_others().await;
        }
        loop {
            batch.push(outbound.frame);
            // The place is free before the client can know, and send the next call for it.
            calls.extend(outbound.call.map(|(in_flight, _place)| in_flight));
            if !batch.has_room() {
                break;
            }
            match replies.try_recv() {
                Ok(next) => outbound = next,
                Err(_) => break,
            }
        }
        onlyonce_storage::kill_point!("server: replies taken, not written");
        batch.write_to(&mut io, Some(patience), |_| {}).await?;
        onlyonce_storage::kill_point!("server: replies written, calls not over");
        calls.clear();
    }
    io.shutdown().await
}
