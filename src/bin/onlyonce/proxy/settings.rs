//! What is said, made into what makes sense. Errors name the setting.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use onlyonce::StoreUrl;
use onlyonce::proxy::{
    AccessLogFormat, ClientTls, CloseDelimited, ConfigError, Credentials, Egress, InDoubt, Ingress,
    Jwt, KeepAlive, Keyless, Mode, Principal, ProxyConfig, ProxyLimits, Secret, ServerTls,
    Upstream, UpstreamStatus, header_name, read_file,
};
use onlyonce::storage::RetentionOptions;
use onlyonce::storage::outbox::OUTBOX_BODY_BYTES_LIMIT;

use super::arguments::ProxyArguments;

type Parsed<T> = Result<T, ConfigError>;

/// What the proxy is told.
pub(super) fn config(said: &ProxyArguments) -> Parsed<ProxyConfig> {
    let listen = address("listen", required("listen", said.listen.as_deref())?)?;
    let upstream = upstream(said)?;
    let mode = match said.mode.as_deref() {
        None | Some("ingress") => Mode::Ingress(Box::new(ingress(said)?)),
        Some("egress") => Mode::Egress(egress(said)?),
        Some(_) => return Err(wrong("mode", "say ingress or egress")),
    };
    let mut config = ProxyConfig::new(listen, upstream, mode);
    let admin = said.admin.as_deref();
    config.admin = admin.map(|admin| address("admin", admin)).transpose()?;
    config.admin_token = admin_token(said)?;
    config.access_log = match said.access_log.as_deref() {
        None | Some("off") => AccessLogFormat::Off,
        Some("json") => AccessLogFormat::Json,
        Some("text") => AccessLogFormat::Text,
        Some(_) => return Err(wrong("access-log", "say off, text or json")),
    };
    config.limits = limits(said)?;
    outbox_bytes(&config)?;
    config.tls = server_tls(said)?;
    Ok(config)
}

fn ingress(said: &ProxyArguments) -> Parsed<Ingress> {
    for (field, is_said) in [
        ("attempts-max", said.attempts_max.is_some()),
        ("attempt-timeout", said.attempt_timeout.is_some()),
        ("retries-per-second", said.retries_per_second.is_some()),
        ("keep-alive", said.keep_alive.is_some()),
        ("outbox-unsent-max", said.outbox_unsent_max.is_some()),
        ("outbox-leave-out", said.outbox_leave_out.is_some()),
    ] {
        if is_said {
            return Err(wrong(
                field,
                "this is for --mode egress: an ingress sends nothing again",
            ));
        }
    }
    let store = required("store", said.store.as_deref())?;
    let store = store_url(store)?;
    let shared = matches!(store, StoreUrl::Postgres(_));
    let mut ingress = Ingress::new(store, principal(said)?);
    ingress.migrate = said.migrate.unwrap_or(false);
    if ingress.migrate && !shared {
        return Err(wrong("migrate", "only a shared store has a schema"));
    }
    ingress.retention = retention(said)?;
    ingress.keyless = match said.keyless.as_deref() {
        None | Some("refuse") => Keyless::Refuse,
        Some("pass") => Keyless::Pass,
        Some("generate") => Keyless::Generate,
        Some(_) => return Err(wrong("keyless", "say refuse, pass or generate")),
    };
    ingress.in_doubt = in_doubt(said)?;
    ingress.release_503 = said.release_503.unwrap_or(false);
    ingress.close_delimited = match said.close_delimited.as_deref() {
        None | Some("in-doubt") => CloseDelimited::InDoubt,
        Some("trust") => CloseDelimited::Trusted,
        Some(_) => return Err(wrong("close-delimited", "say in-doubt or trust")),
    };
    ingress.upstream_status = match said.upstream_status.as_deref() {
        None | Some("ignore") => UpstreamStatus::Ignored,
        Some("trust") => UpstreamStatus::Trusted,
        Some(_) => return Err(wrong("upstream-status", "say ignore or trust")),
    };
    Ok(ingress)
}

fn store_url(said: &str) -> Parsed<StoreUrl> {
    said.parse()
        .map_err(|error| ConfigError::new("store", format!("{error}")))
}

/// Exactly one of them.
fn principal(said: &ProxyArguments) -> Parsed<Principal> {
    let basic = said.scope_basic_user_trusted.unwrap_or(false);
    let sources = [
        ("global-scope", said.global_scope.unwrap_or(false)),
        ("scope-header", said.scope_header.is_some()),
        ("scope-basic-user-trusted", basic),
        ("static-credentials", said.static_credentials.is_some()),
        ("scope-jwt-claim", said.scope_jwt_claim.is_some()),
    ];
    let mut sources = sources.iter().filter(|(_, is_said)| *is_said);
    let source = sources.next().map(|(field, _)| *field);
    if let (Some(first), Some((second, _))) = (source, sources.next()) {
        let problem = format!("{first} is said too, and only one of them can name the principal");
        return Err(ConfigError::new(second, problem));
    }
    let jwt_alone = said.scope_jwt_claim.is_none()
        && (said.scope_jwt_key.is_some()
            || said.scope_jwt_algorithm.is_some()
            || said.scope_jwt_audience.is_some()
            || said.scope_jwt_issuer.is_some());
    if jwt_alone {
        return Err(wrong(
            "scope-jwt-claim",
            "say which claim names the principal",
        ));
    }
    match source {
        Some("global-scope") => Ok(Principal::Global),
        Some("scope-header") => {
            let name = said.scope_header.as_deref().unwrap_or_default();
            Ok(Principal::Header(header_name("scope-header", name)?))
        }
        Some("scope-basic-user-trusted") => Ok(Principal::BasicUserTrusted),
        Some("static-credentials") => {
            let file = file("static-credentials", said.static_credentials.as_ref())?;
            let text = String::from_utf8(file)
                .map_err(|_| wrong("static-credentials", "the file is no text"))?;
            Ok(Principal::Credentials(Credentials::parse(&text)?))
        }
        Some(_) => {
            let claim = said.scope_jwt_claim.as_deref().unwrap_or_default();
            let algorithm = said.scope_jwt_algorithm.as_deref();
            let mut keys = keys("scope-jwt-key", said.scope_jwt_key.as_ref())?.into_iter();
            let first = keys.next();
            let first = first.ok_or_else(|| wrong("scope-jwt-key", "the folder holds no file"))?;
            let jwt = Jwt::new(
                claim,
                &first,
                required("scope-jwt-algorithm", algorithm)?,
                said.scope_jwt_audience.as_deref(),
                said.scope_jwt_issuer.as_deref(),
            )?;
            let jwt = keys.try_fold(jwt, |jwt, key| jwt.or_key(&key))?;
            Ok(Principal::Jwt(Box::new(jwt)))
        }
        None => Err(wrong(
            "scope",
            "say whose keys they are: one of --scope-header, --static-credentials, \
             --scope-jwt-claim, --scope-basic-user-trusted, or --global-scope where all callers \
             trust each other",
        )),
    }
}

fn in_doubt(said: &ProxyArguments) -> Parsed<InDoubt> {
    let fenced = said.reconcile_fenced.unwrap_or(false);
    match (said.in_doubt.as_deref(), &said.reconcile_url) {
        (None | Some("refuse" | "rerun"), None) if fenced => Err(wrong(
            "reconcile-fenced",
            "this says something of --reconcile-url, which is not said",
        )),
        (None | Some("refuse"), None) => Ok(InDoubt::Refuse),
        (None, Some(url)) => {
            let url = url
                .parse()
                .map_err(|_| wrong("reconcile-url", "no URL; say http://HOST:PORT/PATH"))?;
            Ok(InDoubt::Reconcile { url, fenced })
        }
        (Some("rerun"), None) => Ok(InDoubt::Rerun),
        (Some("refuse" | "rerun"), Some(_)) => Err(wrong(
            "in-doubt",
            "with --reconcile-url it is the service that says",
        )),
        _ => Err(wrong("in-doubt", "say refuse or rerun")),
    }
}

fn egress(said: &ProxyArguments) -> Parsed<Egress> {
    let scoped = said.global_scope.unwrap_or(false)
        || said.scope_header.is_some()
        || said.scope_basic_user_trusted.unwrap_or(false)
        || said.static_credentials.is_some()
        || said.scope_jwt_claim.is_some()
        || said.scope_jwt_key.is_some()
        || said.scope_jwt_algorithm.is_some()
        || said.scope_jwt_audience.is_some()
        || said.scope_jwt_issuer.is_some();
    for (field, is_said) in [
        ("scope", scoped),
        ("keyless", said.keyless.is_some()),
        ("in-doubt", said.in_doubt.is_some()),
        ("reconcile-url", said.reconcile_url.is_some()),
        ("reconcile-fenced", said.reconcile_fenced.is_some()),
        ("release-503", said.release_503.is_some()),
        ("close-delimited", said.close_delimited.is_some()),
        ("upstream-status", said.upstream_status.is_some()),
        ("retention", said.retention.is_some()),
        ("horizon", said.horizon.is_some()),
        ("migrate", said.migrate.is_some()),
    ] {
        if is_said {
            let problem =
                "this is for the ingress: an egress keeps no records and knows no principals";
            return Err(wrong(field, problem));
        }
    }
    let mut egress = Egress::default();
    if let Some(attempts) = said.attempts_max {
        let attempts = NonZeroU32::new(attempts);
        egress.attempts_max = attempts.ok_or_else(|| wrong("attempts-max", "at least 1"))?;
    }
    if let Some(timeout) = &said.attempt_timeout {
        egress.attempt_timeout = time("attempt-timeout", timeout)?;
        if egress.attempt_timeout.is_zero() {
            return Err(wrong("attempt-timeout", "more than nothing"));
        }
    }
    if let Some(store) = &said.store {
        egress.outbox = match store_url(store)? {
            StoreUrl::Sled(path) => Some(path),
            _ => return Err(wrong("store", "an egress keeps its calls in sled:PATH")),
        };
    }
    for (field, is_said) in [
        ("outbox-unsent-max", said.outbox_unsent_max.is_some()),
        ("outbox-leave-out", said.outbox_leave_out.is_some()),
    ] {
        if is_said && egress.outbox.is_none() {
            return Err(wrong(field, "this is of the outbox: say --store sled:PATH"));
        }
    }
    if let Some(age) = &said.outbox_unsent_max {
        egress.outbox_unsent_max = time("outbox-unsent-max", age)?;
    }
    if let Some(names) = &said.outbox_leave_out {
        let name = |name: &str| header_name("outbox-leave-out", name.trim());
        egress.outbox_leave_out = names.split(',').map(name).collect::<Result<_, _>>()?;
    }
    if let Some(retries) = said.retries_per_second {
        egress.retries_per_second = retries;
    }
    if said.keep_alive == Some(true) {
        egress.keep_alive = KeepAlive::Yes;
    }
    Ok(egress)
}

/// What is kept can be no larger than an outbox keeps.
fn outbox_bytes(config: &ProxyConfig) -> Parsed<()> {
    if !matches!(&config.mode, Mode::Egress(egress) if egress.outbox.is_some()) {
        return Ok(());
    }
    for (field, bytes) in [
        ("body-bytes-max", config.limits.body_bytes_max),
        ("answer-bytes-max", config.limits.answer_bytes_max),
    ] {
        if bytes > OUTBOX_BODY_BYTES_LIMIT {
            let problem = format!("with --store, at most {OUTBOX_BODY_BYTES_LIMIT}");
            return Err(ConfigError::new(field, problem));
        }
    }
    Ok(())
}

fn upstream(said: &ProxyArguments) -> Parsed<Upstream> {
    let url = required("upstream", said.upstream.as_deref())?;
    let ca = optional_file("upstream-ca", said.upstream_ca.as_ref())?;
    let certificate = said.upstream_certificate.as_ref();
    let identity = match (certificate, said.upstream_key.as_ref()) {
        (None, None) => None,
        (certificate, key) => Some((
            file("upstream-certificate", certificate)?,
            file("upstream-key", key)?,
        )),
    };
    let tls = ClientTls::new(
        ca.as_deref(),
        identity
            .as_ref()
            .map(|(certificate, key)| (certificate.as_slice(), key.as_slice())),
    )?;
    Upstream::parse(url, tls, said.upstream_http2.unwrap_or(false))
}

fn server_tls(said: &ProxyArguments) -> Parsed<Option<ServerTls>> {
    let ca = optional_file("tls-client-ca", said.tls_client_ca.as_ref())?;
    if said.tls_certificate.is_none() && said.tls_key.is_none() {
        return match ca {
            None => Ok(None),
            Some(_) => Err(wrong(
                "tls-certificate",
                "clients are checked only over TLS",
            )),
        };
    }
    let certificate = file("tls-certificate", said.tls_certificate.as_ref())?;
    let key = file("tls-key", said.tls_key.as_ref())?;
    ServerTls::new(&certificate, &key, ca.as_deref()).map(Some)
}

fn admin_token(said: &ProxyArguments) -> Parsed<Option<Secret>> {
    let Some(path) = &said.admin_token_file else {
        return Ok(None);
    };
    if said.admin.is_none() {
        return Err(wrong(
            "admin",
            "a token for operators needs an address for them",
        ));
    }
    let text = String::from_utf8(read_file("admin-token-file", path)?)
        .map_err(|_| wrong("admin-token-file", "the file is no text"))?;
    Secret::new("admin-token-file", text.trim().to_owned()).map(Some)
}

fn retention(said: &ProxyArguments) -> Parsed<Option<RetentionOptions>> {
    if said.retention.is_none() && said.horizon.is_none() {
        return Ok(None);
    }
    let mut options = RetentionOptions::default();
    if let Some(answer) = &said.retention {
        options.answer = time("retention", answer)?;
    }
    if let Some(horizon) = &said.horizon {
        options.horizon = time("horizon", horizon)?;
    }
    RetentionOptions::new(options.answer, options.horizon)
        .map(Some)
        .map_err(|error| ConfigError::new("horizon", error.to_string()))
}

fn limits(said: &ProxyArguments) -> Parsed<ProxyLimits> {
    let mut limits = ProxyLimits::default();
    for (field, said, limit, least, most) in [
        (
            "connections-max",
            said.connections_max,
            &mut limits.connections_max,
            1,
            COUNT_MAX,
        ),
        (
            "requests-max",
            said.requests_max,
            &mut limits.requests_max,
            1,
            COUNT_MAX,
        ),
        // hyper takes no less.
        (
            "head-bytes-max",
            said.head_bytes_max,
            &mut limits.head_bytes_max,
            8_192,
            16 << 20,
        ),
        (
            "header-lines-max",
            said.header_lines_max,
            &mut limits.header_lines_max,
            16,
            // More than a table of headers takes well.
            4_096,
        ),
        (
            "body-bytes-max",
            said.body_bytes_max,
            &mut limits.body_bytes_max,
            1,
            // A body is held in memory.
            1 << 30,
        ),
        (
            "answer-bytes-max",
            said.answer_bytes_max,
            &mut limits.answer_bytes_max,
            1_024,
            onlyonce::storage::ANSWER_BYTES_LIMIT,
        ),
    ] {
        let Some(said) = said else { continue };
        if said < least {
            return Err(ConfigError::new(field, format!("at least {least}")));
        }
        if said > most {
            return Err(ConfigError::new(field, format!("at most {most}")));
        }
        *limit = said;
    }
    for (field, said, limit) in [
        (
            "client-timeout",
            &said.client_timeout,
            &mut limits.client_timeout,
        ),
        ("timeout", &said.timeout, &mut limits.timeout),
    ] {
        if let Some(said) = said {
            *limit = time(field, said)?;
            if limit.is_zero() {
                return Err(wrong(field, "more than nothing"));
            }
        }
    }
    for (field, said, limit) in [
        (
            "upstream-idle",
            &said.upstream_idle,
            &mut limits.upstream_idle,
        ),
        ("drain", &said.drain, &mut limits.drain),
    ] {
        if let Some(said) = said {
            *limit = time(field, said)?;
        }
    }
    Ok(limits)
}

fn address(field: &'static str, text: &str) -> Parsed<SocketAddr> {
    let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| wrong(field, "no address; say HOST:PORT, such as 127.0.0.1:8080"))
}

/// `500ms`, `30s`, `5m`, `24h`, `7d`
fn time(field: &'static str, text: &str) -> Parsed<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| no_time(field))?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(no_time(field)),
    };
    let millis = number.checked_mul(millis).ok_or_else(|| no_time(field))?;
    let time = Duration::from_millis(millis);
    if time > TIME_MAX {
        return Err(wrong(field, "at most a year"));
    }
    Ok(time)
}

fn no_time(field: &'static str) -> ConfigError {
    wrong(
        field,
        "no time; say a number and ms, s, m, h or d, such as 30s",
    )
}

fn required<'a>(field: &'static str, said: Option<&'a str>) -> Parsed<&'a str> {
    said.ok_or_else(|| wrong(field, "this must be said"))
}

fn file(field: &'static str, path: Option<&PathBuf>) -> Parsed<Vec<u8>> {
    let path = path.ok_or_else(|| wrong(field, "this must be said too"))?;
    read_file(field, path)
}

/// What a file says, or each file of a folder, in the order of their names. Names that begin with a
/// point are passed over: so are the ones that a folder mounted into a container has of its own.
fn keys(field: &'static str, path: Option<&PathBuf>) -> Parsed<Vec<Vec<u8>>> {
    let path = path.ok_or_else(|| wrong(field, "this must be said too"))?;
    if !path.is_dir() {
        return Ok(vec![read_file(field, path)?]);
    }
    let listed = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let listed = listed.map_err(|error| {
        let path = path.display();
        ConfigError::new(field, format!("{path} cannot be read: {error}"))
    })?;
    let hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b".")
    };
    let mut files: Vec<PathBuf> = listed.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|path| !hidden(path));
    files.sort_unstable();
    files.iter().map(|path| read_file(field, path)).collect()
}

fn optional_file(field: &'static str, path: Option<&PathBuf>) -> Parsed<Option<Vec<u8>>> {
    path.map(|path| read_file(field, path)).transpose()
}

fn wrong(field: &'static str, problem: &str) -> ConfigError {
    ConfigError::new(field, problem)
}

/// A million of connections or requests is more than a process has memory for.
const COUNT_MAX: usize = 1_000_000;

const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests;
