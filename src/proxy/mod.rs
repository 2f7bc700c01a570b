//! A proxy that dedupes in front of any HTTP service, and its other half beside the client.
//!
//! ```text
//!                        a bad link
//!   client -> [egress] ==============> [ingress] -> service
//!             makes a key,              executes each key
//!             sends until it            at most once
//!             is answered
//! ```
//!
//! The ingress alone makes the calls of clients safe that send an `Idempotency-Key`. With the egress
//! beside the client, a client that knows nothing of keys is safe too, from egress to ingress. The
//! link between client and egress, and the egress's own end, are in nobody's hands: a client that
//! sends again by itself what it did not see answered there makes another call.
//!
//! `src/manual/proxy.md` is the page for users. From code:
//!
//! ```
//! use onlyonce::proxy::{Ingress, Mode, Principal, Proxy, ProxyConfig, Upstream};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let ingress = Ingress::new("memory:".parse()?, Principal::Global);
//! let upstream = Upstream::parse("http://127.0.0.1:8000", Default::default(), false)?;
//! let config = ProxyConfig::new("127.0.0.1:0".parse()?, upstream, Mode::Ingress(Box::new(ingress)));
//! let proxy = Proxy::start(config).await?;
//! println!("listening at {}", proxy.listens_at());
//! let left = proxy.stop().await?;
//! assert_eq!(left.calls, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access_log;
mod admin;
mod attempts;
mod config;
mod delivery;
mod earlier_runs;
mod egress;
mod error;
mod figures;
mod forward;
mod front;
mod hop;
mod ingress;
mod listen;
mod opened;
mod outbox;
mod principal;
mod problem;
mod reconcile;
mod run;
mod stream;
mod tls;
mod upstream;

pub use self::config::{
    AccessLogFormat, CloseDelimited, Egress, InDoubt, Ingress, KeepAlive, Keyless, Mode,
    ProxyConfig, ProxyLimits, Secret, Upstream, UpstreamStatus, header_name, read_file,
};
pub use self::error::{ConfigError, ProxyError};
pub use self::hop::FENCING_TOKEN;
pub use self::principal::{Credentials, Jwt, Principal};
pub use self::reconcile::{OUTCOME, PRINCIPAL};
pub use self::run::{LeftOver, Proxy};
pub use self::tls::{ClientTls, ServerTls};
