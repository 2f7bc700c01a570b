//! The socket that a server keeps in the folder of its store.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::Inspect;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::message::{AdminFailure, AdminReply, AdminRequest};
use super::wire::{self, Verdict};
use crate::rpc::value;

/// Lets operators ask the process that owns a store. Dropping it removes the socket and ends what
/// is under way; what was asked of the store by then may still be done.
///
/// It holds the store: close it before the store, or [`close`](Self::close) the store itself.
#[must_use = "a socket that is dropped is removed"]
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    /// Device and inode, so that nobody else's socket is removed.
    file: (u64, u64),
    accepting: JoinHandle<()>,
}

/// The name of the socket in the folder of its store.
pub const SOCKET_NAME: &str = "ADMIN";

// === impl AdminSocket ===

impl AdminSocket {
    /// Serves operators of `store` on the socket `ADMIN` in `folder`, which should be the folder of
    /// the store: that is where `onlyonce records` looks for it.
    ///
    /// Call it in the process that has opened the store, on a tokio runtime. The socket has mode
    /// 0600, and whoever is neither of this process' user nor root is refused also where the file
    /// system does not keep to that. At most 8 ask at once. A socket that a dead process has left
    /// is replaced.
    ///
    /// # Errors
    ///
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) when a living server serves there;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when the path is longer than a socket's may
    /// be, about 100 bytes; whatever else the operating system says.
    pub fn serve(store: Arc<dyn Inspect>, folder: impl AsRef<Path>) -> io::Result<Self> {
        let path = folder.as_ref().join(SOCKET_NAME);
        // Answers at once: a living listener takes the connection, a dead one refuses it.
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let words = format!("a server serves operators at {} already", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, words));
        }
        let draft = folder.as_ref().join(DRAFT_NAME);
        remove_if_there(&draft)?;
        let listener = UnixListener::bind(&draft).map_err(|error| {
            let path = draft.display();
            io::Error::new(
                error.kind(),
                format!("no socket can be made at {path}: {error}"),
            )
        })?;
        // Nobody finds it under its name before it is ours alone.
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
        let made = fs::symlink_metadata(&draft)?;
        fs::rename(&draft, &path)?;
        Ok(Self {
            path,
            file: (made.dev(), made.ino()),
            accepting: tokio::spawn(accept(listener, store, made.uid())),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket and lets go of the store. What was asked of the store by then may still
    /// be done.
    pub async fn close(mut self) {
        self.remove();
        self.accepting.abort();
        // OK because a task that was aborted has ended.
        let _ = (&mut self.accepting).await;
    }

    fn remove(&self) {
        // OK to ignore because the next server replaces what is left.
        if let Ok(found) = fs::symlink_metadata(&self.path)
            && (found.dev(), found.ino()) == self.file
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        self.remove();
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, store: Arc<dyn Inspect>, owner: u32) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    let refusals = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    // Dropped together with this future: then every conversation ends.
    let mut conversations = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept operators");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = conversations.join_next() => continue,
        };
        let known = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == owner || peer.uid() == ROOT);
        let place = known.then(|| Arc::clone(&places).try_acquire_owned());
        let store = Arc::clone(&store);
        match place {
            Some(Ok(place)) => {
                conversations.spawn(async move {
                    converse(stream, &*store).await;
                    drop(place);
                });
            }
            refused => {
                let Ok(place) = Arc::clone(&refusals).try_acquire_owned() else {
                    continue;
                };
                let verdict = refused.map_or(Verdict::Stranger, |_| Verdict::Busy);
                conversations.spawn(async move {
                    refuse(stream, verdict).await;
                    drop(place);
                });
            }
        }
    }
}

async fn refuse(mut stream: UnixStream, verdict: Verdict) {
    let refused = async {
        wire::read_hello(&mut stream).await?;
        wire::send_verdict(&mut stream, verdict).await
    };
    // OK to ignore because a peer that is gone needs no words.
    let _ = timeout(HANDSHAKE_TIMEOUT, refused).await;
}

/// One question and one answer. Whatever the peer does, it ends.
async fn converse(mut stream: UnixStream, store: &dyn Inspect) {
    let shaken = timeout(HANDSHAKE_TIMEOUT, shake_hands(&mut stream)).await;
    if !matches!(shaken, Ok(Ok(true))) {
        tracing::debug!("no operator's client: connection closed");
        return;
    }
    let Ok(Ok(payload)) = timeout(TRANSFER_TIMEOUT, wire::read_frame(&mut stream)).await else {
        tracing::debug!("no question came from an operator's client: connection closed");
        return;
    };
    let answered = answer(&payload, store).await;
    drop(payload);
    let Ok(payload) = value::encode(&answered) else {
        tracing::warn!("an answer to an operator cannot be encoded");
        return;
    };
    // OK to ignore because a peer that is gone needs no answer.
    let _ = timeout(TRANSFER_TIMEOUT, wire::send_frame(&mut stream, &payload)).await;
}

async fn shake_hands(stream: &mut UnixStream) -> io::Result<bool> {
    let Some(version) = wire::read_hello(stream).await? else {
        return Ok(false);
    };
    let verdict = if version == wire::VERSION {
        Verdict::Go
    } else {
        Verdict::Version
    };
    wire::send_verdict(stream, verdict).await?;
    Ok(verdict == Verdict::Go)
}

async fn answer(payload: &[u8], store: &dyn Inspect) -> Result<AdminReply, AdminFailure> {
    let request: AdminRequest = value::decode(payload)
        .map_err(|error| AdminFailure::Invalid(format!("the question cannot be read: {error}")))?;
    let executed = timeout(STORE_TIMEOUT, super::execute(store, request)).await;
    executed.unwrap_or_else(|_| {
        let seconds = STORE_TIMEOUT.as_secs();
        Err(AdminFailure::Store(format!(
            "the store has not answered for {seconds} s; a change may still be made"
        )))
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const DRAFT_NAME: &str = "ADMIN.new";

const ROOT: u32 = 0;

/// Few people ask at once, and each may bring an answer of 16 MiB.
const CONVERSATIONS_MAX: usize = 8;

/// A client says who it is at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// For 16 MiB between two processes of one machine, however busy.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// A sweep drops files and may take seconds; who waits for longer has a disk that hangs.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// Enough for somebody to close a file.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
