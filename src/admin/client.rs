//! Asks the server that owns a store.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::message::{AdminFailure, AdminReply, AdminRequest};
use super::socket::SOCKET_NAME;
use super::wire::{self, Verdict};
use crate::rpc::value::{self, ValueError};

/// Why a server was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// As many ask as may at once. Nothing was changed.
    #[error("server is asked by as many operators as may ask at once; try again")]
    Busy,
    /// It refused the question, or its store failed.
    #[error(transparent)]
    Failed(#[from] AdminFailure),
    /// What listens there is no server of ours, or what it answered cannot be read.
    #[error("what listens at {path} does not speak as our servers do: {what}")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The connection was lost after the question was sent. A change may or may not have been
    /// made.
    #[error("server at {path} was lost before it answered: {source}; a change may have been made")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nobody listens there. Nothing was changed.
    #[error("no server listens at {path}: {source}")]
    NotServing {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The question cannot be sent. Nothing was changed.
    #[error("question cannot be sent: {0}")]
    Unsendable(String),
    /// The server belongs to another user. Nothing was changed.
    #[error("server belongs to another user; ask as that user or as root")]
    Stranger,
    /// The server is of another version. Nothing was changed.
    #[error("server speaks version {theirs} and this program version {ours}; use the same version")]
    Version {
        /// What the server speaks.
        theirs: u16,
        /// What this program speaks.
        ours: u16,
    },
}

/// Asks the server that owns the store in `folder` through its [`AdminSocket`](super::AdminSocket).
///
/// Dropping the future does not undo what was asked.
///
/// # Errors
///
/// See [`AdminError`]. After [`AdminError::Lost`] it is unknown whether a change was made.
pub async fn ask(
    folder: impl AsRef<Path>,
    request: &AdminRequest,
) -> Result<AdminReply, AdminError> {
    let path = folder.as_ref().join(SOCKET_NAME);
    let unsendable = |error: ValueError| AdminError::Unsendable(error.to_string());
    let payload = value::encode(request).map_err(unsendable)?;
    if payload.len() > wire::FRAME_BYTES_MAX as usize {
        let words = format!("it has {} bytes", payload.len());
        return Err(AdminError::Unsendable(words));
    }
    let not_serving = |source| AdminError::NotServing {
        path: path.clone(),
        source,
    };
    let mut stream = UnixStream::connect(&path).await.map_err(not_serving)?;
    let shaken = timeout(HANDSHAKE_TIMEOUT, async {
        wire::send_hello(&mut stream).await?;
        wire::read_verdict(&mut stream).await
    });
    let foreign = |what: String| AdminError::Foreign {
        path: path.clone(),
        what,
    };
    match shaken.await {
        Ok(Ok(Some((_, Verdict::Go)))) => {}
        Ok(Ok(Some((_, Verdict::Busy)))) => return Err(AdminError::Busy),
        Ok(Ok(Some((_, Verdict::Stranger)))) => return Err(AdminError::Stranger),
        Ok(Ok(Some((theirs, Verdict::Version)))) => {
            let ours = wire::VERSION;
            return Err(AdminError::Version { theirs, ours });
        }
        Ok(Ok(None)) => return Err(foreign("its greeting is another's".to_owned())),
        Ok(Err(error)) => return Err(foreign(error.to_string())),
        Err(_) => return Err(foreign("it says nothing".to_owned())),
    }
    let answered = timeout(ANSWER_TIMEOUT, async {
        wire::send_frame(&mut stream, &payload).await?;
        wire::read_frame(&mut stream).await
    });
    let answered = answered.await.unwrap_or_else(|_| {
        let words = "it has not answered for a minute and a half";
        Err(io::Error::new(io::ErrorKind::TimedOut, words))
    });
    let payload = match answered {
        Ok(payload) => payload,
        Err(source) => return Err(AdminError::Lost { path, source }),
    };
    let answered: Result<AdminReply, AdminFailure> =
        value::decode(&payload).map_err(|error| foreign(error.to_string()))?;
    Ok(answered?)
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than the server waits for its store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
