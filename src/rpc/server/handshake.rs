//! The server's half of the handshake, and how a peer is turned away.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use onlyonce_storage::{Scope, SessionRequest, SessionState};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Server;
use crate::rpc::frame::{drain, payload_bytes_max};
use crate::rpc::handshake::{Hello, NEW_SESSION, Welcome, read_hello, refusal};
use crate::rpc::{HandshakeError, RefusalCode};

/// A client that was taken.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) scope: Scope,
    /// The largest frame that it takes.
    pub(super) frame_bytes_max: usize,
}

/// Reads the hello, asks who it is, and welcomes it. What follows the hello is left in `buffer`.
pub(super) async fn welcome(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    server: &Server,
) -> Result<Client, HandshakeError> {
    let hello = Hello::decode(&read_hello(read, buffer).await?)?;
    let Some(scope) = (server.authenticate)(hello.credential.as_bytes()) else {
        return Err(HandshakeError::Refused {
            code: RefusalCode::BadCredential,
            text: "the credential names nobody known here".into(),
        });
    };
    let welcome = Welcome {
        now: (server.now)(),
        store: server.store,
        session: session(server, &scope, hello.session).await,
        frame_bytes_max: payload_bytes_max(server.options.frame_bytes_max),
        in_flight_max: server.options.in_flight_max.max(1),
    };
    write
        .write_all(&welcome.encode())
        .await
        .map_err(|error| HandshakeError::Io(Arc::new(error)))?;
    Ok(Client {
        scope,
        frame_bytes_max: payload_bytes_max(hello.frame_bytes_max),
    })
}

/// The session of a client that wants one: its own as long as that lives, otherwise a new one.
/// `None` where there is none to be had: its calls are then remembered as calls without a session.
async fn session(server: &Server, scope: &Scope, wanted: Option<u64>) -> Option<u64> {
    let executions = server.executions.as_ref()?;
    let ask = async |request| match executions.session(scope.clone(), request).await {
        Ok(SessionState::Live { session, .. }) => Some(session),
        Ok(state) => {
            tracing::debug!(?state, "no session");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "no session");
            None
        }
    };
    let found = async {
        match wanted? {
            NEW_SESSION => ask(SessionRequest::Open).await,
            session => match ask(SessionRequest::Resume { session }).await {
                None => ask(SessionRequest::Open).await,
                found => found,
            },
        }
    };
    // A store that is slow must not keep the client from being welcomed. What it opens too late
    // expires.
    timeout(SESSION_WITHIN, found).await.ok().flatten()
}

/// Tells a peer why it is not taken, if it can still be told.
pub(super) async fn turn_away(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    error: &HandshakeError,
) {
    let (code, text) = match error {
        HandshakeError::Closed | HandshakeError::Io(_) | HandshakeError::TimedOut { .. } => return,
        HandshakeError::Refused { code, text } => (*code, text.to_string()),
        HandshakeError::Version { ours, theirs } => (
            RefusalCode::Version,
            format!("client speaks protocol version {theirs}, this server speaks version {ours}"),
        ),
        // Nothing of what the peer said is sent back to it.
        HandshakeError::Malformed(_) => (RefusalCode::Malformed, error.to_string()),
        HandshakeError::WrongPeer { .. } => (
            RefusalCode::Malformed,
            "this port speaks onlyonce RPC, and what came is something else".to_owned(),
        ),
    };
    // OK because a peer that does not listen cannot be told.
    let _ = timeout(LAST_WORD, async {
        write.write_all(&refusal(error, code, &text)).await?;
        write.shutdown().await?;
        drain(read).await;
        std::io::Result::Ok(())
    })
    .await;
}

/// Refuses a connection for which there is no place. Its hello is read first, so that a peer that
/// speaks something else learns that, and a client is not reset while it still writes.
pub(super) async fn refuse_full(mut stream: TcpStream, within: Duration) {
    let (mut read, mut write) = stream.split();
    let mut buffer = BytesMut::new();
    let error = match timeout(within, read_hello(&mut read, &mut buffer)).await {
        Err(_) => return,
        Ok(Err(error)) => error,
        Ok(Ok(_)) => HandshakeError::Refused {
            code: RefusalCode::TooManyConnections,
            text: "the server has as many connections as it takes".into(),
        },
    };
    turn_away(&mut read, &mut write, &error).await;
}

/// A third of the time for a handshake.
const SESSION_WITHIN: Duration = Duration::from_secs(1);

/// How long a peer may take to hear why it is turned away.
pub(super) const LAST_WORD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex, split};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_turned_away_may_finish_speaking_before_it_listens() {
        let (theirs, ours) = duplex(1024);
        let (mut read, mut write) = split(ours);
        let (mut listen, mut speak) = split(theirs);
        let error = HandshakeError::WrongPeer {
            said: "POST".into(),
        };
        let peer = async {
            speak.write_all(&[b'x'; 10_000]).await?;
            let mut answer = String::new();
            listen.read_to_string(&mut answer).await?;
            speak.shutdown().await?;
            std::io::Result::Ok(answer)
        };
        let (answer, ()) = tokio::join!(peer, async {
            turn_away(&mut read, &mut write, &error).await;
            drop((read, write));
        });
        assert!(answer.unwrap().starts_with("HTTP/1.1 400 "));
    }
}
