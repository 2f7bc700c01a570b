//! The method by tarpc, as its README has it: TCP, frames with a length, bincode.

#![allow(
    missing_docs,
    reason = "tarpc's macro writes items without documentation"
)]

use std::time::Duration;

use futures_util::StreamExt as _;
use tarpc::client::Config;
use tarpc::context::Context;
use tarpc::serde_transport::Transport;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[tarpc::service]
pub trait Echo {
    async fn echo(text: String) -> String;
}

#[derive(Clone)]
struct Answering;

impl Echo for Answering {
    async fn echo(self, _: Context, text: String) -> String {
        text
    }
}

/// Serves one connection to `listener`, and makes it.
pub(super) async fn start(listener: TcpListener) -> EchoClient {
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        let framed = LengthDelimitedCodec::builder().new_framed(stream);
        let transport = tarpc::serde_transport::new(framed, Bincode::default());
        let requests = BaseChannel::with_defaults(transport).execute(Answering.serve());
        requests
            .for_each(|answer| async {
                tokio::spawn(answer);
            })
            .await;
    });
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket option");
    let framed = LengthDelimitedCodec::builder().new_framed(stream);
    let transport: Transport<_, _, _, _> = tarpc::serde_transport::new(framed, Bincode::default());
    EchoClient::new(Config::default(), transport).spawn()
}

/// With the deadline of the native client.
pub(super) fn context() -> Context {
    let mut context = tarpc::context::current();
    context.deadline = (Instant::now() + Duration::from_secs(30)).into_std();
    context
}
