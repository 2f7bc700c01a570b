//! From an address to a connection.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::ChannelOptions;
use super::connection::Connection;
use super::session::Sessions;
use crate::rpc::frame::payload_bytes_max;
use crate::rpc::handshake::{Hello, Welcome, read_hello};
use crate::rpc::{Connecting, HandshakeError};

/// Both directions of a connection.
pub(in crate::rpc) type Pipe = (
    Box<dyn AsyncRead + Send + Unpin>,
    Box<dyn AsyncWrite + Send + Unpin>,
);

/// Connects otherwise than over TCP: a simulation does.
pub(in crate::rpc) type Connector =
    Arc<dyn Fn() -> BoxFuture<'static, io::Result<Pipe>> + Send + Sync>;

/// Resolves, connects and shakes hands, all within the options' time.
pub(super) async fn dial(
    address: &str,
    options: &ChannelOptions,
    sessions: Option<&Sessions>,
    connector: Option<&Connector>,
) -> Result<Arc<Connection>, Connecting> {
    let within = options.connect_timeout;
    let began = Instant::now();
    if let Some(connector) = connector {
        let (read, write) = timeout(within, connector())
            .await
            .map_err(|_| Connecting::TimedOut { within })?
            .map_err(io_error)?;
        return greet(read, write, options, sessions, began).await;
    }
    let stream = timeout(within, TcpStream::connect(address))
        .await
        .map_err(|_| Connecting::TimedOut { within })?
        .map_err(io_error)?;
    // A call is one small write, and its reply is waited for.
    stream.set_nodelay(true).map_err(io_error)?;
    let (read, write) = stream.into_split();
    greet(read, write, options, sessions, began).await
}

async fn greet(
    mut read: impl AsyncRead + Send + Unpin + 'static,
    mut write: impl AsyncWrite + Send + Unpin + 'static,
    options: &ChannelOptions,
    sessions: Option<&Sessions>,
    began: Instant,
) -> Result<Arc<Connection>, Connecting> {
    let within = options.connect_timeout;
    let mut buffer = BytesMut::new();
    let wanted = sessions.map(Sessions::wanted);
    let session = wanted.as_ref().map(|(id, _)| *id);
    let shaken = shake_hands(&mut read, &mut write, &mut buffer, options, session);
    // What is left, and not a point in time: there may be none so far away.
    let mut welcome = timeout(within.saturating_sub(began.elapsed()), shaken)
        .await
        .map_err(|_| HandshakeError::TimedOut { within })??;
    welcome.session = match (sessions, wanted) {
        (Some(sessions), Some((_, asked))) => sessions.welcomed(&asked, &welcome),
        _ => None,
    };
    Ok(Connection::start(read, write, buffer, welcome, options))
}

async fn shake_hands(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    options: &ChannelOptions,
    session: Option<u64>,
) -> Result<Welcome, HandshakeError> {
    let hello = Hello {
        credential: options.credential.clone(),
        session,
        frame_bytes_max: payload_bytes_max(options.frame_bytes_max),
    };
    // A server may refuse without listening; then its words say more than our failed write.
    let written = write.write_all(&hello.encode()).await;
    match (read_hello(read, buffer).await, written) {
        (Ok(hello), _) => Welcome::decode(&hello),
        (Err(HandshakeError::Closed), Err(error)) => Err(HandshakeError::Io(Arc::new(error))),
        (Err(error), _) => Err(error),
    }
}

fn io_error(error: io::Error) -> Connecting {
    Connecting::Io(Arc::new(error))
}
