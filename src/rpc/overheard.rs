//! What somebody on the wire can tell of a frame.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::frame::LENGTH_BYTES;
use super::wire::{self, FromClient, FromServer};

/// A call that goes by.
pub(crate) struct OverheardCall {
    pub(crate) id: u64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) attempt: NonZeroU32,
    pub(crate) arguments: Bytes,
}

/// The call that this whole frame of a client is, if it is one.
pub(crate) fn call(frame: &[u8]) -> Option<OverheardCall> {
    let payload = Bytes::copy_from_slice(frame.get(LENGTH_BYTES..)?);
    match wire::from_client(&payload).ok()? {
        FromClient::Call(call) => Some(OverheardCall {
            id: call.id,
            key: call
                .key
                .and_then(Result::ok)
                .map(|key| key.as_str().as_bytes().to_vec()),
            attempt: call.attempt,
            arguments: call.arguments,
        }),
        _ => None,
    }
}

/// The number of the call that this whole frame of a server replies to.
pub(crate) fn replied_to(frame: &[u8]) -> Option<u64> {
    let payload = Bytes::copy_from_slice(frame.get(LENGTH_BYTES..)?);
    match wire::from_server(&payload).ok()? {
        FromServer::Reply { id, .. } => Some(id),
        FromServer::GoAway { .. } => None,
    }
}
