//! Writing replies, each as soon as it is there.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::serving::OneInFlight;
use crate::rpc::frame::{Batch, Frame};

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

/// Writes until nobody sends any more, then ends this side of the connection. Fails when the peer
/// takes nothing for as long as `patience`.
pub(super) async fn write_replies(
    mut io: impl AsyncWrite + Unpin,
    mut replies: mpsc::Receiver<Outbound>,
    patience: Duration,
) -> io::Result<()> {
    let mut batch = Batch::default();
    let mut calls = Vec::new();
    while let Some(mut outbound) = replies.recv().await {
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
