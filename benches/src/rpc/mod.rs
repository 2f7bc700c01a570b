//! One method, which answers with the text that it is given, by each RPC.

mod grpc;
mod rival;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use onlyonce::middleware::stack;
use onlyonce::rpc::{
    Channel, ChannelOptions, Client, Incoming, Method, Reply, Request, Router, Server,
    ServerAdapter, Serving, Status,
};
use onlyonce_storage::{MemoryOptions, MemoryStore};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

use crate::calls::Calls;

/// By what a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// The native transport alone: no key, no deadline, no retry, no dedupe.
    Channel,
    /// The native client with all its layers, and a server that does not dedupe.
    Native,
    /// The same, and the server dedupes, with its store in memory.
    NativeMemory,
    /// tarpc, over TCP with bincode.
    Tarpc,
    /// tonic.
    Tonic,
}

/// A client of a server that both run here. Clones share the one connection.
#[derive(Clone, Debug)]
pub struct Echo {
    caller: Caller,
    _serving: Arc<Option<Serving>>,
}

#[derive(Clone, Debug)]
enum Caller {
    Channel(Channel),
    Native(Client),
    Tarpc(rival::EchoClient),
    Tonic(grpc::EchoClient),
}

// === impl Rpc ===

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Channel,
        Self::Native,
        Self::NativeMemory,
        Self::Tarpc,
        Self::Tonic,
    ];

    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Native => "native",
            Self::NativeMemory => "native-memory",
            Self::Tarpc => "tarpc",
            Self::Tonic => "tonic",
        }
    }
}

// === impl Echo ===

impl Echo {
    /// Starts a server on a port of its own, and connects to it.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub async fn start(rpc: Rpc) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (caller, serving) = match rpc {
            Rpc::Tarpc => (Caller::Tarpc(rival::start(listener).await), None),
            Rpc::Tonic => (Caller::Tonic(grpc::start(listener, address).await), None),
            Rpc::Channel | Rpc::Native | Rpc::NativeMemory => {
                let serving = serve(listener, rpc);
                (native(address, rpc), Some(serving))
            }
        };
        Self {
            caller,
            _serving: Arc::new(serving),
        }
    }

    /// One round trip.
    ///
    /// # Panics
    ///
    /// When it is not answered with `text`.
    pub async fn call(&self, text: &str) {
        let length = text.len();
        let text = text.to_owned();
        let answered = match &self.caller {
            Caller::Channel(channel) => {
                let request = Request::new(ECHO.name(), text.into_bytes());
                let reply = channel.clone().oneshot(request).await;
                assert_eq!(reply.expect("an answer").body.len(), length);
                return;
            }
            Caller::Native(client) => client.call(&ECHO, &text).await.expect("an answer"),
            Caller::Tarpc(client) => {
                let context = rival::context();
                client.echo(context, text).await.expect("an answer")
            }
            Caller::Tonic(client) => client.echo(text).await,
        };
        assert_eq!(answered.len(), length);
    }
}

fn native(address: SocketAddr, rpc: Rpc) -> Caller {
    match rpc {
        Rpc::Channel => {
            let options = ChannelOptions::default();
            Caller::Channel(Channel::new(address.to_string(), options))
        }
        _ => Caller::Native(Client::new(address.to_string())),
    }
}

fn serve(listener: TcpListener, rpc: Rpc) -> Serving {
    let routes = Router::new(())
        .method(&ECHO, |_caller, (), text: String| async move { Ok(text) })
        .into_routes();
    let server = Server::builder().global_scope();
    let serving = match rpc {
        Rpc::NativeMemory => {
            let options = MemoryOptions::new()
                .limits(Calls::limits())
                .records_max(100_000_000);
            let store = Arc::new(MemoryStore::with_options(options));
            let layers = stack::server(store, ServerAdapter::new(routes.clone()));
            let server = server.dedupe(layers.executions()).build();
            server
                .expect("a server")
                .serve(listener, layers.layer(routes))
        }
        Rpc::Native => server.build().expect("a server").serve(listener, routes),
        _ => {
            let echo = tower::service_fn(async |call: Incoming| {
                let reply = Reply::new(Status::Unprotected, call.arguments);
                Ok::<_, Infallible>(reply)
            });
            server.build().expect("a server").serve(listener, echo)
        }
    };
    serving.expect("it serves")
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

const ECHO: Method<String, String> = Method::new("echo");
