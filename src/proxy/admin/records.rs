//! What operators do with records on the page: look, resolve, seal. Only who says the token may.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use super::super::attempts::Attempts;
use super::super::config::Secret;
use super::super::problem::problem;
use crate::admin::{
    AdminFailure, AdminReply, AdminRequest, KeyName, ListQuery, Outcome, StateView, execute,
};
use crate::http::Body;
use crate::storage::Inspect;

/// What is known of keys.
pub(super) struct Seen<'a> {
    pub(super) inspect: Option<&'a Arc<dyn Inspect>>,
    /// Who has asked for them, as far as this process has seen.
    pub(super) attempts: Option<Arc<Attempts>>,
}

/// Which key, and what of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    key: String,
    #[serde(default)]
    principal: Option<String>,
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    answer: Option<Given>,
    #[serde(default)]
    by: Option<String>,
}

/// The answer of a call that took effect, as its operator knows it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    code: u16,
    content_type: String,
    body: String,
}

/// Why an operator is told no.
struct Refused(StatusCode, &'static str, String);

/// Answers `POST /api/WHAT`.
pub(super) async fn answer(
    seen: &Seen<'_>,
    token: Option<&Secret>,
    what: &str,
    head: &Parts,
    body: Bytes,
) -> Response<Body> {
    match answered(seen, token, what, head, body).await {
        Ok(document) => {
            let mut response = Response::new(Body::from(document.to_string()));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(Refused(code, name, detail)) => problem(code, name, &detail),
    }
}

async fn answered(
    seen: &Seen<'_>,
    token: Option<&Secret>,
    what: &str,
    head: &Parts,
    body: Bytes,
) -> Result<Value, Refused> {
    let refused = |code, name, detail: &str| Refused(code, name, detail.to_owned());
    let Some(token) = token else {
        let detail = "records are shown only where --admin-token-file was said";
        return Err(refused(StatusCode::FORBIDDEN, "no-token", detail));
    };
    if !says(&head.headers, token) {
        // Guessing is slow.
        sleep(AFTER_A_GUESS).await;
        let detail = "the token is not right";
        return Err(refused(StatusCode::UNAUTHORIZED, "wrong-token", detail));
    }
    if !is_of_this_page(&head.headers) {
        let detail = "only the page of this proxy may ask";
        return Err(refused(StatusCode::FORBIDDEN, "another-site", detail));
    }
    let Some(inspect) = seen.inspect else {
        let detail = "an egress keeps no records; ask the ingress";
        return Err(refused(StatusCode::NOT_FOUND, "no-records", detail));
    };
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
        Refused(
            StatusCode::BAD_REQUEST,
            "request-unreadable",
            error.to_string(),
        )
    })?;
    if what == "list" {
        return list(inspect).await;
    }
    let name = asked.name();
    let request = asked.request(what)?;
    let key = name.scoped().map_err(of_failure)?;
    let reply = ask(inspect, request).await?;
    let attempts = seen.attempts.as_ref().map(|attempts| attempts.of(&key));
    match reply {
        AdminReply::Key(view) => Ok(json!({ "key": view, "attempts": attempts })),
        AdminReply::Superseded(view) => {
            Ok(json!({ "key": view, "attempts": attempts, "superseded": true }))
        }
        _ => Err(refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "store",
            "an odd reply",
        )),
    }
}

/// The first page of what is in doubt, with the figures of the store.
async fn list(inspect: &Arc<dyn Inspect>) -> Result<Value, Refused> {
    let query = ListQuery {
        state: Some(StateView::InDoubt),
        records_max: LISTED_MAX,
        ..ListQuery::default()
    };
    let page = ask(inspect, AdminRequest::List(query)).await?;
    let stats = ask(inspect, AdminRequest::Stats).await?;
    let (AdminReply::Page(page), AdminReply::Stats(stats)) = (page, stats) else {
        let words = "an odd reply".to_owned();
        return Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, "store", words));
    };
    Ok(json!({ "records": page.records, "next": page.next, "stats": stats }))
}

async fn ask(inspect: &Arc<dyn Inspect>, request: AdminRequest) -> Result<AdminReply, Refused> {
    match timeout(STORE_WITHIN, execute(&**inspect, request)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(failure)) => Err(of_failure(failure)),
        Err(_elapsed) => {
            let words = "the store did not answer in time; look at what it holds now";
            let code = StatusCode::SERVICE_UNAVAILABLE;
            Err(Refused(code, "store", words.to_owned()))
        }
    }
}

fn of_failure(failure: AdminFailure) -> Refused {
    match failure {
        AdminFailure::Invalid(words) => Refused(StatusCode::BAD_REQUEST, "request-invalid", words),
        AdminFailure::Store(words) => Refused(StatusCode::SERVICE_UNAVAILABLE, "store", words),
    }
}

// === impl Asked ===

impl Asked {
    fn name(&self) -> KeyName {
        KeyName {
            principal: self.principal.clone(),
            operation: self.operation.clone(),
            key: self.key.clone(),
        }
    }

    fn request(self, what: &str) -> Result<AdminRequest, Refused> {
        let key = self.name();
        match what {
            "seal" => Ok(AdminRequest::Seal { key }),
            "show" => Ok(AdminRequest::Show {
                key,
                with_answer: false,
            }),
            "resolve" => Ok(AdminRequest::Resolve {
                key,
                token: self.token.unwrap_or_default(),
                outcome: match self.answer {
                    None => Outcome::NotApplied,
                    Some(given) => given.outcome()?,
                },
                by: self.by.unwrap_or_default(),
            }),
            _ => {
                let detail = "there are list, show, resolve and seal".to_owned();
                Err(Refused(StatusCode::NOT_FOUND, "no-such-page", detail))
            }
        }
    }
}

// === impl Given ===

impl Given {
    fn outcome(self) -> Result<Outcome, Refused> {
        let answer = Response::builder()
            .status(self.code)
            .header(header::CONTENT_TYPE, self.content_type)
            .body(Bytes::from(self.body));
        let answer = answer.map_err(|error| {
            Refused(
                StatusCode::BAD_REQUEST,
                "request-invalid",
                error.to_string(),
            )
        })?;
        let answer = crate::http::answer(answer);
        Ok(Outcome::Applied {
            format: answer.format().number(),
            answer: answer.body().to_vec(),
        })
    }
}

/// Compared by digests, so that how long it takes says nothing of the token.
fn says(headers: &HeaderMap, token: &Secret) -> bool {
    let said = headers.get(header::AUTHORIZATION);
    let said = said.and_then(|said| said.to_str().ok());
    let Some(said) = said.and_then(|said| said.strip_prefix("Bearer ")) else {
        return false;
    };
    Sha256::digest(said.as_bytes()) == Sha256::digest(token.0.as_bytes())
}

/// The token is in no cookie, so that no browser sends it by itself. That a page elsewhere has it and
/// asks is refused all the same.
fn is_of_this_page(headers: &HeaderMap) -> bool {
    let json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let site = headers.get("sec-fetch-site");
    let same = site.is_none_or(|site| site.as_bytes() == b"same-origin");
    json && same
}

/// Slower than nobody can wait, faster than somebody can guess.
const AFTER_A_GUESS: Duration = Duration::from_millis(500);

/// What a page shows; all of it is said by `onlyonce records list`.
const LISTED_MAX: u32 = 100;

/// As long as an operator waits before looking elsewhere.
const STORE_WITHIN: Duration = Duration::from_secs(10);
