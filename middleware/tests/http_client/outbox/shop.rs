//! A server with the real layer, which says what it is doing, and can be stopped there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use onlyonce_middleware::http::{Body, DedupeLayer, Read};
use onlyonce_storage::{ManualClock, MemoryOptions, MemoryStore, Scope, Timestamp};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

type Answering = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// What a server is doing. It goes on when the sender is used or dropped.
pub type Doing = (&'static str, oneshot::Sender<()>);

#[derive(Clone)]
pub struct Shop {
    pub address: SocketAddr,
    pub clock: Arc<ManualClock>,
    pub orders: Arc<Mutex<Vec<String>>>,
}

pub const ASKED: &str = "asked whether it dedupes";
pub const CAME: &str = "a call came";
pub const BEFORE: &str = "before the effect";
pub const AFTER: &str = "after the effect";
pub const HALF: &str = "half of the answer is out";

impl Shop {
    /// Tells `doing` what it does, if that listens.
    pub async fn open(doing: mpsc::UnboundedSender<Doing>) -> Self {
        let start = Timestamp::from_millis(1_763_740_800_000);
        let clock = Arc::new(ManualClock::new(start));
        let options = MemoryOptions::new().clock(Arc::<ManualClock>::clone(&clock));
        let store = Arc::new(MemoryStore::with_options(options));
        let orders = Arc::<Mutex<Vec<String>>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shop = Self {
            address: listener.local_addr().unwrap(),
            clock,
            orders: Arc::clone(&orders),
        };
        let told = doing.clone();
        let order = service_fn(move |request: Request<Body>| {
            let (orders, told) = (Arc::clone(&orders), told.clone());
            let doing: Answering = Box::pin(async move {
                if request.method() == http::Method::OPTIONS {
                    return Ok(Response::new(Body::default()));
                }
                let order = text(request.into_body()).await;
                tell(&told, BEFORE).await;
                orders.lock().push(order.clone());
                tell(&told, AFTER).await;
                let answer = Response::builder().status(201);
                Ok::<_, Infallible>(answer.body(Body::from(format!("did {order}"))).unwrap())
            });
            doing
        });
        let protected = DedupeLayer::new(store, Scope::global()).layer(order);
        let protected = BoxCloneSyncService::new(protected);
        let outer = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (protected, told) = (protected.clone(), doing.clone());
            let answering: Answering = Box::pin(async move {
                let question = request.method() == http::Method::OPTIONS;
                tell(&told, if question { ASKED } else { CAME }).await;
                let response = protected.oneshot(request.map(Body::stream)).await?;
                Ok::<_, Infallible>(response.map(|body| in_halves(body, told)))
            });
            answering
        });
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = TowerToHyperService::new(outer.clone());
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        shop
    }

    pub fn order(&self, order: &str) -> Request<Body> {
        order_at(self.address, order)
    }

    pub fn orders(&self) -> Vec<String> {
        self.orders.lock().clone()
    }
}

pub fn order_at(address: SocketAddr, order: &str) -> Request<Body> {
    let request = Request::post(format!("http://{address}/orders"));
    request.body(Body::from(order.to_owned())).unwrap()
}

pub async fn text(body: Body) -> String {
    let Read::Whole(contents) = body.read(1024).await.unwrap() else {
        panic!("orders and answers are short");
    };
    String::from_utf8(contents.bytes.to_vec()).unwrap()
}

fn tell(doing: &mpsc::UnboundedSender<Doing>, what: &'static str) -> BoxFuture<'static, ()> {
    let (go_on, wait) = oneshot::channel();
    let told = doing.send((what, go_on)).is_ok();
    Box::pin(async move {
        if told {
            let _ = wait.await;
        }
    })
}

fn in_halves(body: Body, told: mpsc::UnboundedSender<Doing>) -> Body {
    let Some(contents) = body.contents().cloned() else {
        return body;
    };
    if contents.bytes.is_empty() {
        return body;
    }
    let mut rest = contents.bytes;
    let half = rest.split_to(rest.len() / 2);
    let first = stream::once(async move { Ok::<_, Infallible>(Frame::data(half)) });
    let second = stream::once(async move {
        tell(&told, HALF).await;
        Ok(Frame::data(rest))
    });
    Body::stream(StreamBody::new(Box::pin(first.chain(second))))
}
