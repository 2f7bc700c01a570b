//! What the command is told: by flags, by the environment, and by a file, in this order.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

/// All settings. Each has the same name as a flag, in the environment (`ONLYONCE_PROXY_` and the name
/// in capitals, `_` for `-`) and in the file.
#[derive(Args, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProxyArguments {
    /// A TOML file with settings; flags and environment count before it
    #[arg(long, env = "ONLYONCE_PROXY_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,

    /// Where clients are listened to, such as 127.0.0.1:8080
    #[arg(long, env = "ONLYONCE_PROXY_LISTEN", value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// Where requests go: http://HOST:PORT, or https
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM", value_name = "URL")]
    pub(super) upstream: Option<String>,
    /// ingress, in front of the service (default), or egress, beside the client
    #[arg(long, env = "ONLYONCE_PROXY_MODE", value_name = "MODE")]
    pub(super) mode: Option<String>,
    /// Ingress: memory:, sled:PATH or postgres://... Egress: sled:PATH, where calls outlive its process
    #[arg(
        long,
        env = "ONLYONCE_PROXY_STORE",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(super) store: Option<String>,
    /// Ingress: makes the schema of a shared store, or brings it to the newest version
    #[arg(long, env = "ONLYONCE_PROXY_MIGRATE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) migrate: Option<bool>,
    /// Ingress: how long answers are kept [24h]
    #[arg(long, env = "ONLYONCE_PROXY_RETENTION", value_name = "TIME")]
    pub(super) retention: Option<String>,
    /// Ingress: how long settled calls are remembered [7d]
    #[arg(long, env = "ONLYONCE_PROXY_HORIZON", value_name = "TIME")]
    pub(super) horizon: Option<String>,

    /// Scope: all callers are one principal and trust each other with their keys
    #[arg(long, env = "ONLYONCE_PROXY_GLOBAL_SCOPE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) global_scope: Option<bool>,
    /// Scope: the header in which a trusted gateway names the principal
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_HEADER", value_name = "NAME")]
    pub(super) scope_header: Option<String>,
    /// Scope: the user of Basic, whose password somebody in front has checked
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_BASIC_USER_TRUSTED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) scope_basic_user_trusted: Option<bool>,
    /// Scope: a file of lines PRINCIPAL SHA256-OF-CREDENTIAL, which are checked here
    #[arg(long, env = "ONLYONCE_PROXY_STATIC_CREDENTIALS", value_name = "FILE")]
    pub(super) static_credentials: Option<PathBuf>,
    /// Scope: the claim of a bearer token, which is checked here
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_JWT_CLAIM", value_name = "CLAIM")]
    pub(super) scope_jwt_claim: Option<String>,
    /// The public key (PEM), or the secret, that tokens are checked with; or a folder of such, any of which will do
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_JWT_KEY", value_name = "FILE")]
    pub(super) scope_jwt_key: Option<PathBuf>,
    /// RS256, ES256, EdDSA, HS256 and their like
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_JWT_ALGORITHM", value_name = "NAME")]
    pub(super) scope_jwt_algorithm: Option<String>,
    /// For whom tokens must be
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_JWT_AUDIENCE", value_name = "TEXT")]
    pub(super) scope_jwt_audience: Option<String>,
    /// Of whom tokens must be
    #[arg(long, env = "ONLYONCE_PROXY_SCOPE_JWT_ISSUER", value_name = "TEXT")]
    pub(super) scope_jwt_issuer: Option<String>,

    /// Ingress: POST and PATCH without a key: refuse (default), pass, or generate
    #[arg(long, env = "ONLYONCE_PROXY_KEYLESS", value_name = "POLICY")]
    pub(super) keyless: Option<String>,
    /// Ingress: a call in doubt that comes again: refuse (default), or rerun
    #[arg(long, env = "ONLYONCE_PROXY_IN_DOUBT", value_name = "POLICY")]
    pub(super) in_doubt: Option<String>,
    /// Ingress: where the service says what became of a call in doubt
    #[arg(long, env = "ONLYONCE_PROXY_RECONCILE_URL", value_name = "URL")]
    pub(super) reconcile_url: Option<String>,
    /// Ingress: the service refuses a fencing token smaller than one that it has seen
    #[arg(long, env = "ONLYONCE_PROXY_RECONCILE_FENCED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) reconcile_fenced: Option<bool>,
    /// Ingress: a 503 of the service says that nothing was executed
    #[arg(long, env = "ONLYONCE_PROXY_RELEASE_503", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) release_503: Option<bool>,
    /// Ingress: an answer without a length, ended by its connection: in-doubt (default), or trust
    #[arg(long, env = "ONLYONCE_PROXY_CLOSE_DELIMITED", value_name = "POLICY")]
    pub(super) close_delimited: Option<String>,
    /// Ingress: the service's own Idempotency-Status: ignore (default), or trust
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM_STATUS", value_name = "POLICY")]
    pub(super) upstream_status: Option<String>,

    /// Egress: attempts of a call [16]
    #[arg(long, env = "ONLYONCE_PROXY_ATTEMPTS_MAX", value_name = "N")]
    pub(super) attempts_max: Option<u32>,
    /// Egress: how long an attempt is waited for [5s]
    #[arg(long, env = "ONLYONCE_PROXY_ATTEMPT_TIMEOUT", value_name = "TIME")]
    pub(super) attempt_timeout: Option<String>,
    /// Egress: retries a second beyond a fifth of the calls [10]
    #[arg(long, env = "ONLYONCE_PROXY_RETRIES_PER_SECOND", value_name = "N")]
    pub(super) retries_per_second: Option<u32>,
    /// Egress with a store: how old a call of an earlier run may be that was never sent and is still made [1h]
    #[arg(long, env = "ONLYONCE_PROXY_OUTBOX_UNSENT_MAX", value_name = "TIME")]
    pub(super) outbox_unsent_max: Option<String>,
    /// Egress with a store: further headers that are credentials and not kept, with commas between them
    #[arg(long, env = "ONLYONCE_PROXY_OUTBOX_LEAVE_OUT", value_name = "NAMES")]
    pub(super) outbox_leave_out: Option<String>,
    /// Egress: connections to clients stay open; only for clients that send nothing again by themselves
    #[arg(long, env = "ONLYONCE_PROXY_KEEP_ALIVE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) keep_alive: Option<bool>,

    /// Where operators and monitoring are listened to: /, /healthz, /readyz, /metrics
    #[arg(long, env = "ONLYONCE_PROXY_ADMIN", value_name = "ADDR")]
    pub(super) admin: Option<String>,
    /// A file with the token that operators say on the admin page
    #[arg(long, env = "ONLYONCE_PROXY_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(super) admin_token_file: Option<PathBuf>,
    /// A line for each request on standard output: off (default), text or json
    #[arg(long, env = "ONLYONCE_PROXY_ACCESS_LOG", value_name = "FORMAT")]
    pub(super) access_log: Option<String>,

    /// Connections of clients [10240]
    #[arg(long, env = "ONLYONCE_PROXY_CONNECTIONS_MAX", value_name = "N")]
    pub(super) connections_max: Option<usize>,
    /// Requests that are being answered at once [4096]
    #[arg(long, env = "ONLYONCE_PROXY_REQUESTS_MAX", value_name = "N")]
    pub(super) requests_max: Option<usize>,
    /// Bytes of a request's head [65536]
    #[arg(long, env = "ONLYONCE_PROXY_HEAD_BYTES_MAX", value_name = "BYTES")]
    pub(super) head_bytes_max: Option<usize>,
    /// Header lines of a request [128]
    #[arg(long, env = "ONLYONCE_PROXY_HEADER_LINES_MAX", value_name = "N")]
    pub(super) header_lines_max: Option<usize>,
    /// Bytes of a request's body [1048576]
    #[arg(long, env = "ONLYONCE_PROXY_BODY_BYTES_MAX", value_name = "BYTES")]
    pub(super) body_bytes_max: Option<usize>,
    /// Bytes of an answer that is recorded [1048576]
    #[arg(long, env = "ONLYONCE_PROXY_ANSWER_BYTES_MAX", value_name = "BYTES")]
    pub(super) answer_bytes_max: Option<usize>,
    /// How long a client may take for a head, a body, and to take an answer [30s]
    #[arg(long, env = "ONLYONCE_PROXY_CLIENT_TIMEOUT", value_name = "TIME")]
    pub(super) client_timeout: Option<String>,
    /// How long a request may take in all [30s]
    #[arg(long, env = "ONLYONCE_PROXY_TIMEOUT", value_name = "TIME")]
    pub(super) timeout: Option<String>,
    /// How long a connection to the upstream may have been idle and still be used [1s]
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM_IDLE", value_name = "TIME")]
    pub(super) upstream_idle: Option<String>,
    /// How long what is under way may take when the proxy is told to stop [30s]
    #[arg(long, env = "ONLYONCE_PROXY_DRAIN", value_name = "TIME")]
    pub(super) drain: Option<String>,

    /// Towards clients: the certificate, with its chain, in PEM
    #[arg(long, env = "ONLYONCE_PROXY_TLS_CERTIFICATE", value_name = "FILE")]
    pub(super) tls_certificate: Option<PathBuf>,
    /// Towards clients: its private key, in PEM
    #[arg(long, env = "ONLYONCE_PROXY_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// Towards clients: only those with a certificate of this authority are let in
    #[arg(long, env = "ONLYONCE_PROXY_TLS_CLIENT_CA", value_name = "FILE")]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// Towards the upstream: the authority to believe [the system's]
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM_CA", value_name = "FILE")]
    pub(super) upstream_ca: Option<PathBuf>,
    /// Towards the upstream: the certificate to show
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM_CERTIFICATE", value_name = "FILE")]
    pub(super) upstream_certificate: Option<PathBuf>,
    /// Towards the upstream: its private key
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM_KEY", value_name = "FILE")]
    pub(super) upstream_key: Option<PathBuf>,
    /// Towards the upstream: HTTP/2 without negotiation
    #[arg(long, env = "ONLYONCE_PROXY_UPSTREAM_HTTP2", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) upstream_http2: Option<bool>,
}

// === impl ProxyArguments ===

impl ProxyArguments {
    /// With what the file says, where nothing else says it.
    pub(super) fn with_file(self) -> Result<Self, String> {
        let Some(path) = &self.config else {
            return Ok(self);
        };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("config: {shown} cannot be read: {error}"))?;
        let wrong = |error: &dyn std::fmt::Display| format!("config: {shown}: {error}");
        // Read as settings first: its errors name the line and the setting.
        let said: Self = toml::from_str(&text).map_err(|error| {
            // Without the line itself, which may hold a password.
            let line = error.span().map_or(0, |span| {
                text[..span.start.min(text.len())].matches('\n').count() + 1
            });
            format!("config: {shown}: line {line}: {}", error.message())
        })?;
        let mut whole = table(&said).map_err(|error| wrong(&error))?;
        whole.extend(table(&self).map_err(|error| wrong(&error))?);
        toml::Value::Table(whole)
            .try_into()
            .map_err(|error| wrong(&error))
    }
}

fn table(arguments: &ProxyArguments) -> Result<toml::Table, toml::ser::Error> {
    toml::Table::try_from(arguments)
}
