//! Texts that claim to be idempotency keys, in the code and on the wire.

use onlyonce_storage::{IdempotencyKey, KeyPolicy, Scope, ScopedKey};

use super::{Target, few_times};
use crate::rpc::fuzzing::message::key_on_the_wire;

pub(super) const TARGET: Target = Target {
    name: "key",
    run,
    seeds,
    memory_bytes_max: few_times,
};

fn run(bytes: &[u8]) {
    // What the manual says a key is, said once more and differently.
    let is_key =
        matches!(bytes.len(), 1..=255) && bytes.iter().all(|byte| (33..127).contains(byte));
    let on_the_wire = key_on_the_wire(bytes);
    assert_eq!(on_the_wire.is_ok(), is_key, "{on_the_wire:?}");
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parsed = IdempotencyKey::parse(text);
    assert_eq!(parsed, on_the_wire);
    check_scope(text);
    let Ok(key) = parsed else {
        return;
    };
    assert_eq!(key.as_str().as_bytes(), bytes);
    assert!(KeyPolicy::default().check(&key).is_ok());
    let _ = KeyPolicy::entropy_bits_min(64.0).check(&key);
    let digest = ScopedKey::new(Scope::global(), key.clone()).digest();
    assert_eq!(digest, ScopedKey::new(Scope::global(), key).digest());
}

fn check_scope(text: &str) {
    let is_part = matches!(text.len(), 1..=255);
    assert_eq!(Scope::principal(text).is_ok(), is_part);
    let Ok(scope) = Scope::global().operation(text) else {
        assert!(!is_part);
        return;
    };
    assert_eq!(scope.operation_name(), Some(text));
    assert_ne!(scope.digest(), Scope::global().digest());
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let derived = IdempotencyKey::derived("invoices", b"2026-0001");
    vec![
        ("business", b"order-4711".to_vec()),
        ("uuid", b"0193d2c8-6e1f-7c3a-9f5b-1d2e3f405162".to_vec()),
        ("derived", derived.as_str().as_bytes().to_vec()),
        ("longest", vec![b'x'; 255]),
        ("too-long", vec![b'x'; 256]),
        ("two-words", b"two words".to_vec()),
        ("quoted", b"\"8e03978e\", \"8e03978f\"".to_vec()),
        ("line-end", b"order\r\nIdempotency-Key: other".to_vec()),
        ("not-ascii", "kéy-\u{202e}".as_bytes().to_vec()),
        ("not-utf-8", b"key\xff\xfe".to_vec()),
    ]
}
