//! How much is made of it.

/// What was asked for through the environment, or `otherwise`.
pub fn calls(otherwise: u64) -> u64 {
    let asked = std::env::var("ONLYONCE_CHAOS_CALLS");
    asked.map_or(otherwise, |calls| calls.parse().unwrap())
}
