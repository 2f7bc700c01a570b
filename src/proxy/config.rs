//! What a proxy is told, once it is known to make sense.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderName, Uri};

use super::ConfigError;
use super::principal::Principal;
use super::tls::{ClientTls, ServerTls};
use crate::StoreUrl;

/// What a proxy is told.
#[derive(Debug)]
pub struct ProxyConfig {
    /// Where clients are listened to.
    pub listen: SocketAddr,
    /// Where requests go.
    pub upstream: Upstream,
    /// Which half of the pair it is.
    pub mode: Mode,
    /// Where operators and monitoring are listened to; nowhere by default.
    pub admin: Option<SocketAddr>,
    /// What operators say to change something on the admin page; without it they only look.
    pub admin_token: Option<Secret>,
    /// What is written of each request on standard output.
    pub access_log: AccessLogFormat,
    /// How much it takes in, and how long it waits.
    pub limits: ProxyLimits,
    /// TLS towards clients; without it they speak in the clear.
    pub tls: Option<ServerTls>,
}

/// Which half of the pair a proxy is.
#[derive(Debug)]
pub enum Mode {
    /// Beside the client: makes a key for each request, and sends it until it is answered.
    Egress(Egress),
    /// In front of the service: executes each key at most once. Boxed because it says more.
    Ingress(Box<Ingress>),
}

/// What the half beside the client is told.
#[derive(Clone, Debug)]
pub struct Egress {
    /// Attempts of a call, at most.
    pub attempts_max: std::num::NonZeroU32,
    /// How long an attempt is waited for.
    pub attempt_timeout: Duration,
    /// Retries a second that need not be earned by calls that were answered: see
    /// [`RetryBudgetOptions`](crate::middleware::client::RetryBudgetOptions).
    pub retries_per_second: u32,
    /// Whether connections to clients stay open after an answer.
    pub keep_alive: KeepAlive,
    /// The folder of the outbox, where calls are kept from before they are sent until their clients are
    /// told: those that an earlier run left there are driven on. Without one they end with the process.
    pub outbox: Option<PathBuf>,
    /// How old a call in the outbox may be that was never sent and is still made, when an earlier run
    /// has left it. Default one hour: who asked for it has long gone other ways then.
    pub outbox_unsent_max: Duration,
    /// Further headers that are credentials, and not kept in the outbox. None by default.
    pub outbox_leave_out: Vec<HeaderName>,
}

/// Whether a connection to a client stays open after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// It is closed, so that a client that sends again by itself what meets a closing connection
    /// never meets one.
    No,
    /// It stays, for clients that send nothing again.
    Yes,
}

/// What the half in front of the service is told.
#[derive(Debug)]
pub struct Ingress {
    /// Where records are kept.
    pub store: StoreUrl,
    /// Whether the schema of a shared store is made, or brought to the newest version, first.
    pub migrate: bool,
    /// How long answers are kept, and how long settled calls are remembered; the store's own by
    /// default.
    pub retention: Option<crate::storage::RetentionOptions>,
    /// Whose key it is.
    pub principal: Principal,
    /// What becomes of POST and PATCH without a key.
    pub keyless: Keyless,
    /// What becomes of a call in doubt when it comes again.
    pub in_doubt: InDoubt,
    /// A 503 of the upstream says that nothing was executed.
    pub release_503: bool,
    /// What an answer is worth that has no length and ends with its connection.
    pub close_delimited: CloseDelimited,
    /// What the upstream's own `Idempotency-Status` is worth.
    pub upstream_status: UpstreamStatus,
}

/// What an answer to a protected call is worth that has no length and ends with its connection, as
/// HTTP/1.0 allows: nobody can tell it from one that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseDelimited {
    /// Its call is in doubt.
    InDoubt,
    /// It is taken for whole, and recorded.
    Trusted,
}

/// What the upstream's own `Idempotency-Status` is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamStatus {
    /// It is taken away: the upstream may mean anything by it, and a word of it would free a key. Only
    /// `in-doubt` and `in-progress` count, which end nothing and free nothing: their call is in doubt.
    Ignored,
    /// The upstream dedupes in these words, by the same keys, and what it says of a call counts.
    Trusted,
}

/// What becomes of POST and PATCH without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyless {
    /// The proxy makes a key of its own and says it in the answer: what the client sends again by
    /// itself is another call.
    Generate,
    /// They pass, as often as they come, marked `unprotected`.
    Pass,
    /// They are refused with 400.
    Refuse,
}

/// What becomes of a call in doubt when it comes again.
#[derive(Clone, Debug)]
pub enum InDoubt {
    /// The service is asked at this address.
    Reconcile {
        /// Where.
        url: Uri,
        /// Whether the service refuses a fencing token that is smaller than one it has seen.
        fenced: bool,
    },
    /// It is told that it is in doubt.
    Refuse,
    /// It runs again: only for services whose effects are the same however often they happen.
    Rerun,
}

/// Scheme, authority and the start of the path of all requests.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// http or https.
    pub(super) scheme: Scheme,
    /// Host, and port where it is said.
    pub(super) authority: Authority,
    /// Without a slash at its end.
    pub(super) path: String,
    /// How https is spoken.
    pub tls: ClientTls,
    /// Whether HTTP/2 is spoken without having been negotiated.
    pub http2: bool,
}

/// How much a proxy takes in, and how long it waits. Each bound says what is answered at it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProxyLimits {
    /// Connections of clients. Default 10,240: what a process may open without being allowed more,
    /// on most systems. One more is told 503 and closed.
    pub connections_max: usize,
    /// Requests that are being answered at once. Default 4,096: with a body and an answer of a
    /// megabyte each they take 8 GiB at worst. One more is refused with 503. As many calls may be under
    /// way beside them whose clients have gone.
    pub requests_max: usize,
    /// Bytes of a request's head. Default 64 KiB, at least 8 KiB. A longer one is refused with 431.
    pub head_bytes_max: usize,
    /// Header lines of a request. Default 128. More are refused with 431.
    pub header_lines_max: usize,
    /// Bytes of a request's body. Default 1 MiB. A longer one is refused with 413.
    pub body_bytes_max: usize,
    /// Bytes of an answer that is recorded. Default 1 MiB. A longer one is delivered once, and its
    /// key is in doubt.
    pub answer_bytes_max: usize,
    /// How long a client may take for a head, for a body, and to take an answer. Default 30 s. One
    /// that is slower is told 408 where it can be told, and closed.
    pub client_timeout: Duration,
    /// How long a request may take in all. Default 30 s. Then the client is told 504; where the
    /// service may have executed it, the key is in doubt.
    pub timeout: Duration,
    /// How long a connection to the upstream may have been idle and still carry a request. Default
    /// 1 s: what is used is then seldom one that the upstream is closing, and a request on such a
    /// one would be in doubt.
    pub upstream_idle: Duration,
    /// How long what is under way may take when the proxy is told to stop. Default 30 s.
    pub drain: Duration,
}

/// What is written of each request on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON document a line.
    Json,
    /// Nothing.
    Off,
    /// One line of words.
    Text,
}

/// Something that nobody may print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(in crate::proxy) String);

// === impl ProxyConfig ===

impl ProxyConfig {
    /// A proxy with the default limits, without an admin address, an access log or TLS.
    #[must_use]
    pub fn new(listen: SocketAddr, upstream: Upstream, mode: Mode) -> Self {
        Self {
            listen,
            upstream,
            mode,
            admin: None,
            admin_token: None,
            access_log: AccessLogFormat::Off,
            limits: ProxyLimits::default(),
            tls: None,
        }
    }
}

// === impl Ingress ===

impl Ingress {
    /// Refuses requests without a key and calls in doubt.
    #[must_use]
    pub const fn new(store: StoreUrl, principal: Principal) -> Self {
        Self {
            store,
            migrate: false,
            retention: None,
            principal,
            keyless: Keyless::Refuse,
            in_doubt: InDoubt::Refuse,
            release_503: false,
            close_delimited: CloseDelimited::InDoubt,
            upstream_status: UpstreamStatus::Ignored,
        }
    }
}

// === impl Egress ===

impl Default for Egress {
    /// 16 attempts of 5 s: within the time of a request, a service that is started anew is met again.
    /// 10 retries a second need not be earned. Connections are closed.
    fn default() -> Self {
        Self {
            attempts_max: const { std::num::NonZeroU32::new(16).expect("not zero") },
            attempt_timeout: Duration::from_secs(5),
            retries_per_second: 10,
            keep_alive: KeepAlive::No,
            outbox: None,
            outbox_unsent_max: Duration::from_secs(60 * 60),
            outbox_leave_out: Vec::new(),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// `url` is `http://HOST[:PORT][/PATH]`, or with https.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn parse(url: &str, tls: ClientTls, http2: bool) -> Result<Self, ConfigError> {
        let wrong = |problem: &str| ConfigError::new("upstream", problem);
        let uri = Uri::from_str(url).map_err(|_| wrong("no URL; say http://HOST:PORT"))?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(wrong("say scheme and host, such as http://127.0.0.1:8000"));
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(wrong("only http and https are spoken"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("user and password do not belong into the URL"));
        }
        let path = parts.path_and_query;
        if path.as_ref().is_some_and(|path| path.query().is_some()) {
            return Err(wrong("a query cannot be put before that of the requests"));
        }
        let path = path.map_or_else(String::new, |path| {
            path.path().trim_end_matches('/').to_owned()
        });
        Ok(Self {
            scheme,
            authority,
            path,
            tls,
            http2,
        })
    }
}

// === impl Secret ===

impl Secret {
    /// Takes `text`, of at least 16 bytes, so that nobody guesses it.
    ///
    /// # Errors
    ///
    /// When it is shorter.
    pub fn new(field: &'static str, text: String) -> Result<Self, ConfigError> {
        if text.len() < 16 {
            let problem = "a secret needs at least 16 characters; try `openssl rand -hex 16`";
            return Err(ConfigError::new(field, problem));
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_240,
            requests_max: 4_096,
            head_bytes_max: 64 * 1024,
            header_lines_max: 128,
            body_bytes_max: 1 << 20,
            answer_bytes_max: 1 << 20,
            client_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            upstream_idle: Duration::from_secs(1),
            drain: Duration::from_secs(30),
        }
    }
}

/// The name of a header, as a setting says it.
///
/// # Errors
///
/// When it is none, or one that has a meaning of its own.
pub fn header_name(field: &'static str, text: &str) -> Result<HeaderName, ConfigError> {
    let name = HeaderName::from_str(text);
    let name = name.map_err(|_| ConfigError::new(field, "that is no name of a header"))?;
    let ours = name.as_str().starts_with("idempotency-");
    if ours || name == http::header::CONNECTION || name == http::header::HOST {
        let problem = "this header has a meaning of its own; say another one";
        return Err(ConfigError::new(field, problem));
    }
    Ok(name)
}

/// The content of the file that a setting names.
///
/// # Errors
///
/// When it cannot be read.
pub fn read_file(field: &'static str, path: &PathBuf) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| {
        let path = path.display();
        ConfigError::new(field, format!("{path} cannot be read: {error}"))
    })
}

/// Time for what is written down, beyond the upstream's: the answer that comes at the last moment is
/// recorded and delivered.
pub(super) const WRITTEN_DOWN_WITHIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_url_with_scheme_and_host_and_without_a_password() {
        let parse = |url: &str| Upstream::parse(url, ClientTls::default(), false);
        let upstream = parse("http://localhost:8000/api/").unwrap();
        assert_eq!(upstream.path, "/api");
        for wrong in [
            "localhost:8000",
            "/api",
            "ftp://host",
            "http://me:secret@host",
            "http://host/?q",
            "",
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.field, "upstream", "{wrong}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
