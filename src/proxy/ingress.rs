//! The half in front of the service.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use tower::{Layer, ServiceExt};

use super::attempts::{Attempts, Noted};
use super::config::{
    CloseDelimited, InDoubt, Ingress, Keyless, ProxyConfig, ProxyLimits, WRITTEN_DOWN_WITHIN,
};
use super::forward::Forward;
use super::opened::Opened;
use super::problem::{not_executed, problem};
use super::reconcile::reconciliation;
use super::{ConfigError, hop, upstream};
use crate::http::{Body, Dedupe, DedupeLayer, names};
use crate::middleware::server::{DedupeOptions, Executions, InDoubtPolicy};
use crate::storage::IdempotencyKey;

/// Executes each key at most once, by the service behind it.
pub(super) struct IngressProxy {
    dedupe: Dedupe<Forward>,
    executions: Executions,
    keyless: Keyless,
    principal: Option<HeaderName>,
    /// Where somebody may look at them.
    attempts: Option<Arc<Attempts>>,
}

// === impl IngressProxy ===

impl IngressProxy {
    pub(super) fn new(
        config: &ProxyConfig,
        ingress: &Ingress,
        opened: &Opened,
    ) -> Result<Self, ConfigError> {
        let limits = config.limits;
        let transport = upstream::transport(&config.upstream, &limits)?;
        let in_doubt = policy(&ingress.in_doubt, ingress.close_delimited, config, &limits)?;
        let mut options = DedupeOptions::default();
        // A call goes on when its client has gone, and is no open request any more.
        options.flights_max = limits.requests_max;
        let scope = Noted(ingress.principal.clone());
        let mut layer = DedupeLayer::with_options(opened.store(), scope, options)
            .in_doubt(in_doubt)
            .fingerprint_host()
            .body_bytes_max(limits.body_bytes_max)
            .body_timeout(limits.client_timeout)
            .answer_bytes_max(limits.answer_bytes_max)
            .deadline_max(limits.timeout + WRITTEN_DOWN_WITHIN);
        if ingress.keyless == Keyless::Pass {
            layer = layer.key_optional();
        }
        if ingress.release_503 {
            layer = layer.release_503();
        }
        let forward = Forward::new(transport, config, ingress);
        Ok(Self {
            executions: layer.executions(),
            dedupe: layer.layer(forward),
            keyless: ingress.keyless,
            principal: ingress.principal.header().cloned(),
            attempts: config.admin.map(|_| Attempts::new()),
        })
    }

    pub(super) fn executions(&self) -> Executions {
        self.executions.clone()
    }

    /// What was seen of keys, where somebody may look at it.
    pub(super) fn attempts(&self) -> Option<Arc<Attempts>> {
        self.attempts.clone()
    }

    pub(super) async fn answer(
        &self,
        client: SocketAddr,
        mut request: Request<Body>,
    ) -> Response<Body> {
        if let Err(error) = hop::check(request.headers(), self.principal.as_ref()) {
            let code = http::StatusCode::BAD_REQUEST;
            return not_executed(code, "request-unreadable", &error.to_string());
        }
        say_who_asks(&mut request, client);
        let made = self.make_key(&mut request);
        let attempts = self.attempts.as_ref();
        let under_way = attempts.and_then(|attempts| attempts.begin(&mut request));
        let mut response = match self.dedupe.clone().oneshot(request).await {
            Ok(response) => response,
            // What is not protected is answered by `Forward`, and what is leaves a doubt.
            Err(unanswered) => problem(
                http::StatusCode::BAD_GATEWAY,
                "upstream-lost",
                &unanswered.to_string(),
            ),
        };
        if let Some(under_way) = under_way {
            under_way.told(&response);
        }
        if let Some(key) = made {
            response.headers_mut().insert(names::KEY, key);
        }
        response
    }

    /// A key for a request that needs one and has none, where keys are made here.
    fn make_key(&self, request: &mut Request<Body>) -> Option<HeaderValue> {
        let needs = matches!(*request.method(), Method::POST | Method::PATCH);
        let has = request.headers().contains_key(names::KEY);
        if self.keyless != Keyless::Generate || !needs || has {
            return None;
        }
        let key = IdempotencyKey::unique();
        let value = HeaderValue::try_from(format!("\"{}\"", key.as_str())).ok()?;
        request.headers_mut().insert(names::KEY, value.clone());
        Some(value)
    }
}

/// Tells the service who asks.
fn say_who_asks(request: &mut Request<Body>, client: SocketAddr) {
    let address = client.ip().to_canonical().to_string();
    if let Ok(address) = HeaderValue::try_from(address) {
        let name = HeaderName::from_static("x-forwarded-for");
        request.headers_mut().append(name, address);
    }
    if let Some(host) = request.headers().get(header::HOST).cloned() {
        let name = HeaderName::from_static("x-forwarded-host");
        request.headers_mut().entry(name).or_insert(host);
    }
}

fn policy(
    in_doubt: &InDoubt,
    close_delimited: CloseDelimited,
    config: &ProxyConfig,
    limits: &ProxyLimits,
) -> Result<InDoubtPolicy, ConfigError> {
    Ok(match in_doubt {
        InDoubt::Refuse => InDoubtPolicy::Refuse,
        InDoubt::Rerun => InDoubtPolicy::RerunDeclaredSafe,
        InDoubt::Reconcile { url, fenced } => {
            let url: Arc<Uri> = Arc::new(url.clone());
            let reconciliation = reconciliation(&config.upstream, url, limits, close_delimited)?;
            InDoubtPolicy::Reconcile(if *fenced {
                reconciliation.outside_enforces_fencing()
            } else {
                reconciliation
            })
        }
    })
}
