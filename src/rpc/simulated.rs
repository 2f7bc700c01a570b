//! What a simulation needs of the native protocol: both its ends over pipes, and whose a message is.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::DuplexStream;

use super::channel::Pipe;
use super::frame::LENGTH_BYTES;
use super::wire::{self, FromClient, FromServer};
use super::{Channel, ChannelOptions};
use futures_util::future::BoxFuture;

pub(crate) use super::server::serve_pipes;

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// An attempt of a call with these arguments.
    Call {
        id: u64,
        attempt: u32,
        arguments: Bytes,
    },
    /// The reply to the attempt that this connection calls by this number.
    Reply { id: u64 },
    /// What was not taken so far will not be.
    GoAway,
    /// Anything else.
    Other,
}

/// The first message of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct First {
    /// How long it is, in bytes.
    pub(crate) bytes: usize,
    /// How many of these say what it is, and name no call.
    pub(crate) head: usize,
    /// What it is; `Other` while it is not all there.
    pub(crate) said: Said,
}

/// A channel over pipes.
pub(crate) fn channel<F>(connect: impl Fn() -> F + Send + Sync + 'static) -> Channel
where
    F: Future<Output = io::Result<DuplexStream>> + Send + 'static,
{
    let connect = Arc::new(connect);
    let connector = move || {
        let connecting = connect();
        let connected = async move {
            let (read, write) = tokio::io::split(connecting.await?);
            let pipe: Pipe = (Box::new(read), Box::new(write));
            Ok(pipe)
        };
        let connected: BoxFuture<'static, io::Result<Pipe>> = Box::pin(connected);
        connected
    };
    Channel::over(Arc::new(connector), ChannelOptions::default())
}

/// The message that these bytes begin with; `None` while its length is not there. The first message
/// of a direction is a hello.
pub(crate) fn first(bytes: &[u8], is_hello: bool, from_client: bool) -> Option<First> {
    let prefix = if is_hello { HELLO_PREFIX } else { 0 };
    let length = bytes.get(prefix..prefix + LENGTH_BYTES)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let begin = prefix + LENGTH_BYTES;
    let (whole, head) = (begin + length, begin + 1);
    let Some(payload) = bytes.get(begin..whole).filter(|_| !is_hello) else {
        let said = Said::Other;
        return Some(First {
            bytes: whole,
            head: if is_hello { HELLO_PREFIX } else { head },
            said,
        });
    };
    let payload = Bytes::copy_from_slice(payload);
    let said = if from_client {
        match wire::from_client(&payload) {
            Ok(FromClient::Call(call)) => Said::Call {
                id: call.id,
                attempt: call.attempt.get(),
                arguments: call.arguments,
            },
            _ => Said::Other,
        }
    } else {
        match wire::from_server(&payload) {
            Ok(FromServer::Reply { id, .. }) => Said::Reply { id },
            Ok(FromServer::GoAway { .. }) => Said::GoAway,
            Err(_) => Said::Other,
        }
    };
    Some(First {
        bytes: whole,
        head,
        said,
    })
}

/// The magic bytes and the version.
const HELLO_PREFIX: usize = 10;
