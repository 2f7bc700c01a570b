//! Does what an operator asks, on a store that is open in this process.

use std::time::Duration;

use onlyonce_storage::journal::StepResolution;
use onlyonce_storage::{
    Answer, AnswerBytes, AnswerFormat, Cursor, FencingToken, Inspect, KeyDigest, ListRequest,
    OpenState, Operator, Resolution, ScopedKey, SettleError, StepName, StoreError, Timestamp,
};

use super::message::{
    AdminFailure, AdminReply, AdminRequest, KeyView, ListQuery, Outcome, PageView, RecordView,
    StatsView, StepOutcome, SweptView, token_of,
};

/// Does it. Dropping the future does not undo what was asked.
///
/// # Errors
///
/// When it cannot be asked so, or the store fails.
pub async fn execute(
    store: &dyn Inspect,
    request: AdminRequest,
) -> Result<AdminReply, AdminFailure> {
    match request {
        AdminRequest::List(query) => list(store, query).await.map(AdminReply::Page),
        AdminRequest::Show { key, with_answer } => {
            let bytes = if with_answer {
                AnswerBytes::Show
            } else {
                AnswerBytes::LeaveOut
            };
            show(store, key.scoped()?, bytes).await.map(AdminReply::Key)
        }
        AdminRequest::Stats => {
            let stats = store.stats().await.map_err(failed)?;
            Ok(AdminReply::Stats(StatsView::of(stats)))
        }
        AdminRequest::Resolve {
            key,
            token,
            outcome,
            by,
        } => {
            let (token, by) = (named_token(&token)?, operator(&by)?);
            let applied = matches!(outcome, Outcome::Applied { .. });
            let operator = by.as_str().to_owned();
            let resolution = match outcome {
                Outcome::Applied { format, answer } => {
                    Resolution::Applied(Answer::new(AnswerFormat::new(format), answer))
                }
                Outcome::NotApplied => Resolution::NotApplied,
            };
            let key = key.scoped()?;
            onlyonce_storage::kill_point!("admin: resolution read, nothing done");
            let resolved = store.resolve(key.clone(), token, resolution, by).await;
            if resolved.is_ok() {
                // Of what was not applied nothing else keeps the name.
                let key = key.digest();
                tracing::info!(target: "onlyonce", operator, applied, %token, ?key, "an operator has resolved a call in doubt");
            }
            onlyonce_storage::kill_point!("admin: resolved, nobody told");
            told(store, key, resolved).await
        }
        AdminRequest::ResolveStep {
            key,
            token,
            step,
            outcome,
            by,
        } => {
            let by = operator(&by)?;
            let name = StepName::parse(&step).map_err(|error| invalid(&error.to_string()))?;
            let resolution = match outcome {
                StepOutcome::Done { result } => StepResolution::Done(result.into()),
                StepOutcome::NotExecuted => StepResolution::NotExecuted,
            };
            resolve_step(
                store,
                (key.scoped()?, named_token(&token)?),
                (name, resolution),
                &by,
            )
            .await
        }
        AdminRequest::Seal { key } => {
            let key = key.scoped()?;
            onlyonce_storage::kill_point!("admin: seal read, nothing done");
            store.seal(key.clone()).await.map_err(failed)?;
            onlyonce_storage::kill_point!("admin: sealed, nobody told");
            show_now(store, key).await.map(AdminReply::Key)
        }
        AdminRequest::Sweep { confirm_clock } => {
            if confirm_clock {
                store.confirm_clock().await.map_err(failed)?;
            }
            let swept = store.sweep().await.map_err(failed)?;
            Ok(AdminReply::Swept(SweptView {
                store: store.id().to_string(),
                answers: swept.answers,
                tombstones: swept.tombstones,
                paused: swept.paused.map(|suspicion| suspicion.to_string()),
            }))
        }
    }
}

async fn resolve_step(
    store: &dyn Inspect,
    (key, token): (ScopedKey, FencingToken),
    (name, resolution): (StepName, StepResolution),
    by: &Operator,
) -> Result<AdminReply, AdminFailure> {
    let Some(journal) = store.journal() else {
        return Err(invalid(
            "this store keeps no journals: no call in it has steps",
        ));
    };
    let done = matches!(resolution, StepResolution::Done(_));
    let step = name.as_str().to_owned();
    onlyonce_storage::kill_point!("admin: resolution of a step read, nothing done");
    let resolved = journal
        .resolve_step(key.clone(), token, name, resolution)
        .await;
    if resolved.is_ok() {
        // Nothing else keeps the name.
        let (operator, key) = (by.as_str(), key.digest());
        tracing::info!(target: "onlyonce", operator, step, done, %token, ?key, "an operator has resolved a step of a call in doubt");
    }
    onlyonce_storage::kill_point!("admin: step resolved, nobody told");
    told(store, key, resolved).await
}

/// The key as it is now: somebody else may have moved on already.
async fn told(
    store: &dyn Inspect,
    key: ScopedKey,
    resolved: Result<(), SettleError>,
) -> Result<AdminReply, AdminFailure> {
    match resolved {
        Ok(()) => show_now(store, key).await.map(AdminReply::Key),
        Err(SettleError::Fenced) => show_now(store, key).await.map(AdminReply::Superseded),
        Err(SettleError::Store(error)) => Err(failed(error)),
        Err(error) => Err(AdminFailure::Store(error.to_string())),
    }
}

async fn list(store: &dyn Inspect, query: ListQuery) -> Result<PageView, AdminFailure> {
    let mut request = ListRequest::new();
    request.state = query.state.map(super::StateView::open).transpose()?;
    request.principal = query.principal;
    request.operation = query.operation;
    request.age_min = Duration::from_millis(query.age_min_ms);
    request.records_max = query.records_max as usize;
    if let Some(after) = query.after {
        let after = cursor_of(&after);
        request.after = Some(after.ok_or_else(|| invalid("that is no place of a list"))?);
    }
    let page = store.list(request).await.map_err(failed)?;
    Ok(PageView {
        store: store.id().to_string(),
        now_ms: store.now().as_millis(),
        records: page
            .records
            .into_iter()
            .map(|record| RecordView::of(record.listed()))
            .collect(),
        next: page.next.map(text_of),
    })
}

async fn show(
    store: &dyn Inspect,
    key: ScopedKey,
    bytes: AnswerBytes,
) -> Result<KeyView, AdminFailure> {
    let view = store.show(key, bytes).await.map_err(failed)?;
    Ok(KeyView::of(store.id(), store.now(), view))
}

async fn show_now(store: &dyn Inspect, key: ScopedKey) -> Result<KeyView, AdminFailure> {
    show(store, key, AnswerBytes::LeaveOut).await
}

fn named_token(text: &str) -> Result<FencingToken, AdminFailure> {
    let words = "a token is two numbers with a point between, as `show` says it";
    token_of(text).ok_or_else(|| invalid(words))
}

fn operator(name: &str) -> Result<Operator, AdminFailure> {
    Operator::parse(name).map_err(|error| invalid(&error.to_string()))
}

fn invalid(what: &str) -> AdminFailure {
    AdminFailure::Invalid(what.to_owned())
}

fn failed(error: StoreError) -> AdminFailure {
    match error {
        // Nothing was changed, and another answer would do.
        StoreError::AnswerTooLarge { .. } | StoreError::JournalTooLarge { .. } => {
            AdminFailure::Invalid(error.to_string())
        }
        other => AdminFailure::Store(other.to_string()),
    }
}

/// `in-doubt:18bcfe56801:9f...`
fn text_of(cursor: Cursor) -> String {
    let part = match cursor.state {
        OpenState::InDoubt => IN_DOUBT,
        OpenState::InProgress => IN_PROGRESS,
    };
    let time = cursor.time.as_millis();
    let key = cursor.key.as_bytes().iter();
    let key: String = key.map(|byte| format!("{byte:02x}")).collect();
    format!("{part}:{time:x}:{key}")
}

fn cursor_of(text: &str) -> Option<Cursor> {
    let mut parts = text.split(':');
    let state = match parts.next()? {
        IN_DOUBT => OpenState::InDoubt,
        IN_PROGRESS => OpenState::InProgress,
        _ => return None,
    };
    let time = u64::from_str_radix(parts.next()?, 16).ok()?;
    let hex = parts.next()?.as_bytes();
    if hex.len() != 64 || !hex.iter().all(u8::is_ascii_hexdigit) || parts.next().is_some() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Cursor {
        state,
        time: Timestamp::from_millis(time),
        key: KeyDigest::from_bytes(key),
    })
}

const IN_DOUBT: &str = "in-doubt";
const IN_PROGRESS: &str = "in-progress";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_a_list_comes_back_from_its_text_and_other_texts_are_none() {
        for state in [OpenState::InDoubt, OpenState::InProgress] {
            let cursor = Cursor {
                state,
                time: Timestamp::from_millis(1_700_000_000_000),
                key: KeyDigest::from_bytes([0x9f; 32]),
            };
            let text = text_of(cursor);
            assert_eq!(cursor_of(&text), Some(cursor), "{text}");
            let cut = &text[..text.len() - 1];
            let longer = format!("{text}:");
            let other = text.replace("9f", "+f");
            for text in [cut, &longer, &other, "", ":", "in-doubt", "sealed:1:9f"] {
                assert_eq!(cursor_of(text), None, "{text}");
            }
        }
        assert_eq!(cursor_of(&format!("in-doubt:1:{}", "é".repeat(32))), None);
    }

    #[test]
    fn a_token_is_two_numbers_and_nothing_else() {
        let token = onlyonce_storage::FencingToken::new(3, 300);
        assert_eq!(token_of(&token.to_string()), Some(token));
        for text in [
            "",
            "3",
            "3.",
            ".3",
            "3.3.3",
            "-1.3",
            "3.18446744073709551616",
        ] {
            assert_eq!(token_of(text), None, "{text}");
        }
    }
}
