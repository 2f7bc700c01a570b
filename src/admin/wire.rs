//! The bytes on the socket: one question and one answer a connection.
//!
//! ```text
//! client: magic (8) | version, u16            server: magic (8) | version, u16 | verdict, u8
//! client: length, u32 | AdminRequest          server: length, u32 | Result<AdminReply, AdminFailure>
//! ```
//!
//! Numbers are little endian, values in the crate's bincode. The two ends are one version of one
//! program or say that they are not: another version is refused before anything is decoded.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Whether the server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    /// As many as may ask at once do so.
    Busy,
    /// The peer is another user.
    Stranger,
    /// The server speaks another version.
    Version,
}

pub(super) async fn send_hello(io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    io.write_all(&MAGIC).await?;
    io.write_all(&VERSION.to_le_bytes()).await
}

/// The version that the client speaks; `None` where it is no client of ours.
pub(super) async fn read_hello(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u16>> {
    let mut magic = [0; MAGIC.len()];
    io.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Ok(None);
    }
    io.read_u16_le().await.map(Some)
}

pub(super) async fn send_verdict(
    io: &mut (impl AsyncWrite + Unpin),
    verdict: Verdict,
) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(match verdict {
        Verdict::Go => 0,
        Verdict::Busy => 1,
        Verdict::Stranger => 2,
        Verdict::Version => 3,
    });
    io.write_all(&bytes).await
}

/// The server's version and verdict; `None` where it is no server of ours.
pub(super) async fn read_verdict(
    io: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(u16, Verdict)>> {
    let Some(version) = read_hello(io).await? else {
        return Ok(None);
    };
    let verdict = match io.read_u8().await? {
        0 => Verdict::Go,
        1 => Verdict::Busy,
        2 => Verdict::Stranger,
        3 => Verdict::Version,
        _ => return Ok(None),
    };
    Ok(Some((version, verdict)))
}

pub(super) async fn send_frame(
    io: &mut (impl AsyncWrite + Unpin),
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok();
    let length = length.filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| too_long(payload.len() as u64))?;
    io.write_all(&length.to_le_bytes()).await?;
    io.write_all(payload).await?;
    io.flush().await
}

pub(super) async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = io.read_u32_le().await?;
    if length > FRAME_BYTES_MAX {
        return Err(too_long(u64::from(length)));
    }
    // Grows with what comes: a length that lies takes no memory.
    let mut payload = Vec::new();
    let read = io.take(u64::from(length)).read_to_end(&mut payload).await?;
    if read < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(payload.into())
}

fn too_long(length: u64) -> io::Error {
    let words = format!("a message of {length} bytes is longer than {FRAME_BYTES_MAX}");
    io::Error::new(io::ErrorKind::InvalidData, words)
}

/// Not text, so that nobody types it, and named in full for whoever looks at the bytes.
const MAGIC: [u8; 8] = *b"\x801xadmin";

/// Raised with every change of a message.
pub(super) const VERSION: u16 = 2;

/// The largest answer, and room for what is around it: the most steps with the longest names are a
/// megabyte.
pub(super) const FRAME_BYTES_MAX: u32 =
    onlyonce_storage::ANSWER_BYTES_LIMIT as u32 + 2 * 1024 * 1024;
