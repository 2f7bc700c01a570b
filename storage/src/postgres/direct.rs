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
    let (written, read) = duplex(2 * HALF);
    let request = client.cancel_token();
    let (wrote, id) = tokio::join!(
        request.cancel_query_raw(written, ToOurselves),
        process_id(read)
    );
    wrote.ok().and(id)
}

/// Length, code, process id and secret, of four bytes each, the highest first. Where the connection is
/// encrypted that is asked for first, in eight bytes of the same kind.
async fn process_id(mut request: DuplexStream) -> Option<i32> {
    let mut first = half(&mut request).await?;
    if first == [8, ENCRYPTION_CODE] {
        request.write_all(b"S").await.ok()?;
        first = half(&mut request).await?;
    }
    let [id, _secret] = half(&mut request).await?;
    (first == [16, CANCEL_CODE]).then_some(id)
}

async fn half(request: &mut DuplexStream) -> Option<[i32; 2]> {
    let mut bytes = [0; HALF];
    request.read_exact(&mut bytes).await.ok()?;
    let (words, _) = bytes.as_chunks::<4>();
    match words {
        [first, second] => Some([i32::from_be_bytes(*first), i32::from_be_bytes(*second)]),
        _ => None,
    }
}

/// Between the two ends nobody listens: what the driver takes for encrypted is as it is.
struct ToOurselves;

/// What the driver takes for encrypted.
struct AsItIs(DuplexStream);

impl TlsConnect<DuplexStream> for ToOurselves {
    type Stream = AsItIs;
    type Error = Infallible;
    type Future = Ready<Result<AsItIs, Infallible>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(AsItIs(stream)))
    }
}

impl TlsStream for AsItIs {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for AsItIs {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for AsItIs {
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

const HALF: usize = 8;
const CANCEL_CODE: i32 = 80_877_102;
const ENCRYPTION_CODE: i32 = 80_877_103;
