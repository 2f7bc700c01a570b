//! How many cuts, and of what workload.

/// How many times the power is cut while a store serves. The other tests cut in proportion.
pub fn cuts() -> u64 {
    number("ONLYONCE_POWER_CUTS").unwrap_or(100)
}

pub fn seed() -> u64 {
    number("ONLYONCE_POWER_SEED").unwrap_or(1)
}

/// A number below `bound` that depends on the seed and on what it is for, and on nothing that was
/// drawn before.
pub fn draw(purpose: &str, bound: u64) -> u64 {
    let drawn = blake3::hash(format!("{} {purpose}", seed()).as_bytes());
    let (first, _) = drawn.as_bytes().split_first_chunk::<8>().unwrap();
    u64::from_le_bytes(*first) % bound
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}
