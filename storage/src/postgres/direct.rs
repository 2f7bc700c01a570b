//! Whether a connection leads to one backend, or to a pooler that gives each transaction to another one.
//!
//! A backend greets with its process id, and answers the same one when it is asked. A pooler greets with a
//! number that it has made up, since it has no backend yet. So where the two are the same nothing lies
//! between but wires; where they are not, or cannot be compared, a pooler is presumed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio_postgres::Client;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// The process id with which the other end has greeted. `None` where it cannot be known.
pub(super) async fn greeted_by(client: &Client) -> Option<i32> {
    // The driver tells it to nobody, but writes it into the request by which a statement is given up. That
    // request goes to ourselves.
    let (written, read) = duplex(CANCEL_REQUEST_BYTES);
    let request = client.cancel_token();
    let (wrote, id) = tokio::join!(request.cancel_query_raw(written, AsItIs), process_id(read));
    wrote.ok().and(id)
}

/// Length, code, process id and secret, of four bytes each, the highest first. A connection that is encrypted
/// asks before whether it may be: it may, since nothing leaves this process.
async fn process_id(mut request: DuplexStream) -> Option<i32> {
    let (mut length, mut code) = head(&mut request).await?;
    if (length, code) == (TLS_REQUEST_BYTES, TLS_CODE) {
        request.write_all(b"S").await.ok()?;
        (length, code) = head(&mut request).await?;
    }
    let id = request.read_i32().await.ok()?;
    let _secret = request.read_i32().await.ok()?;
    let is_request = length == CANCEL_REQUEST_BYTES && code == CANCEL_CODE;
    is_request.then_some(id)
}

async fn head(request: &mut DuplexStream) -> Option<(usize, i32)> {
    let length = request.read_u32().await.ok()?;
    Some((
        usize::try_from(length).ok()?,
        request.read_i32().await.ok()?,
    ))
}

/// Encrypts nothing.
struct AsItIs;

/// What is written is read as it is.
struct Plain(DuplexStream);

// === impl AsItIs ===

impl TlsConnect<DuplexStream> for AsItIs {
    type Stream = Plain;
    type Error = Infallible;
    type Future = Ready<Result<Plain, Infallible>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(Plain(stream)))
    }
}

// === impl Plain ===

impl TlsStream for Plain {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

const CANCEL_REQUEST_BYTES: usize = 16;
const CANCEL_CODE: i32 = 80_877_102;
const TLS_REQUEST_BYTES: usize = 8;
const TLS_CODE: i32 = 80_877_103;
