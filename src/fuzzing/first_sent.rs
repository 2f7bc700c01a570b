//! Times that a caller names, against a clock and records that nobody promises to be sane.

use std::time::Duration;

use onlyonce_storage::codec::decode;
use onlyonce_storage::journal::StepResolution;
use onlyonce_storage::record::Record;
use onlyonce_storage::transition::{self, Circumstances, ClaimStep, Refusal};
use onlyonce_storage::{
    AnswerFormat, ClaimRequest, FencingToken, Fingerprint, FingerprintAlgorithm, Fingerprints,
    IdempotencyKey, RetentionOptions, Scope, ScopedKey, StepName, StepNote, StoreLimits, Timestamp,
};

use super::Target;
use super::record::{WRITTEN, memory_bytes_max, sealed};

pub(super) const TARGET: Target = Target {
    name: "first_sent",
    run,
    seeds,
    memory_bytes_max,
};

/// Three times of eight bytes (now, forgotten until, first sent), and behind them a record.
fn run(bytes: &[u8]) {
    let Some((times, record)) = bytes.split_first_chunk::<24>() else {
        return;
    };
    let time = |at: usize| {
        let mut millis = [0; 8];
        millis.copy_from_slice(&times[at..at + 8]);
        Timestamp::from_millis(u64::from_le_bytes(millis))
    };
    let (now, forgotten_until, first_sent) = (time(0), time(8), time(16));
    let records = WRITTEN.map(|format| decode(&sealed(format, record)).ok());
    for sole_incarnation in [None, Some(3)] {
        let at = Circumstances {
            now,
            retention: RetentionOptions::default(),
            forgotten_until,
            sole_incarnation,
        };
        claim_of_an_absent_key(first_sent, &at);
        for record in records.iter().flatten() {
            every_change_of(record, first_sent, &at);
        }
    }
}

/// Ahead, stale or claimed; and never claimed where the call may have been forgotten.
fn claim_of_an_absent_key(first_sent: Timestamp, at: &Circumstances) {
    let told = at.now.as_millis().max(at.forgotten_until.as_millis());
    let ahead = first_sent.as_millis() > told.saturating_add(FIVE_MINUTES_MS);
    let forgotten = first_sent <= at.forgotten_until;
    let step = transition::claim(None, &request(Some(first_sent)), TOKEN, at);
    match step {
        Ok(ClaimStep::Refuse(Refusal::FirstSentAhead)) => assert!(ahead && !forgotten),
        Ok(ClaimStep::Refuse(Refusal::Stale)) => assert!(forgotten),
        Ok(ClaimStep::Claim(call)) => {
            assert!(!forgotten && !ahead, "{at:?} {first_sent:?}");
            assert_eq!(call.first_sent, Some(first_sent));
        }
        other => panic!("{other:?}"),
    }
    let without = transition::claim(None, &request(None), TOKEN, at);
    assert!(matches!(without, Ok(ClaimStep::Claim(_))), "{without:?}");
}

/// Whatever the record says, nothing panics, and a key that is there is never given anew.
fn every_change_of(record: &Record, first_sent: Timestamp, at: &Circumstances) {
    let own = record.call().map_or(TOKEN, |call| call.token);
    let mut request = request(Some(first_sent));
    if let Some(call) = record.call() {
        request.fingerprints = Fingerprints::new(call.fingerprint);
    }
    let step = transition::claim(Some(record), &request, TOKEN, at);
    assert!(!matches!(step, Ok(ClaimStep::Claim(_))), "{step:?}");
    for token in [own, TOKEN] {
        let answer = onlyonce_storage::Answer::new(AnswerFormat::new(1), &b""[..]);
        let lease = Duration::from_secs(30);
        let _ = transition::renew(Some(record), token, lease, at);
        let _ = transition::complete(Some(record), token, answer.clone(), at);
        let _ = transition::release(Some(record), token);
        let limits = StoreLimits::default().journal();
        let name = StepName::parse("charge").expect("the name is one");
        let undone = StepResolution::NotExecuted;
        let resolved = transition::resolve_step(Some(record), token, &name, undone, limits, at);
        assert!(resolved.is_err() || record.journal().is_some());
        let noted = transition::note(Some(record), token, &StepNote::begun(name), limits, at);
        assert!(noted.is_err() || record.journal().is_some());
    }
}

fn request(first_sent: Option<Timestamp>) -> ClaimRequest {
    let key = IdempotencyKey::parse("order-4711").expect("the key is one");
    let fingerprint = Fingerprint::from_parts(FingerprintAlgorithm::new(1), [0xab; 32]);
    let mut request = ClaimRequest::new(
        ScopedKey::new(Scope::global(), key),
        Fingerprints::new(fingerprint),
        Duration::from_secs(30),
    );
    request.first_sent = first_sent;
    request
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |now: u64, forgotten: u64, first_sent: u64, record: &[u8]| {
        let times = [now, forgotten, first_sent].map(u64::to_le_bytes);
        [times.as_flattened(), record].concat()
    };
    let now = 1_700_000_000_000;
    let mut seeds = vec![
        ("in-time", bytes(now, 1, now - 1, &[])),
        ("just-ahead", bytes(now, 1, now + FIVE_MINUTES_MS, &[])),
        ("ahead", bytes(now, 1, now + FIVE_MINUTES_MS + 1, &[])),
        ("forgotten", bytes(now, now - 9, now - 9, &[])),
        ("clock-set-back", bytes(1, now, now + 1, &[])),
        ("end-of-time", bytes(u64::MAX, u64::MAX, u64::MAX, &[])),
    ];
    for (name, record) in super::record::records() {
        let encoded = onlyonce_storage::codec::encode(&record);
        let payload = &encoded[1..encoded.len() - 8];
        seeds.push((name, bytes(now, 1, now - 1, payload)));
    }
    seeds
}

const TOKEN: FencingToken = FencingToken::new(9, 1);

/// How far clocks may differ, as `src/manual/defaults.md` says.
const FIVE_MINUTES_MS: u64 = 5 * 60 * 1_000;
