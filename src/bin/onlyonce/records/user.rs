//! Who runs the command, as the operating system says it.

use onlyonce::storage::Operator;

/// The user's name where it is known, and the number where it is not.
#[cfg(unix)]
pub(super) fn name() -> String {
    let id = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = users.lines().find_map(|line| name_in(line, id));
    known.unwrap_or_else(|| format!("uid-{id}"))
}

#[cfg(not(unix))]
pub(super) fn name() -> String {
    let named = std::env::var("USERNAME").ok();
    let named = named.filter(|name| Operator::parse(name).is_ok());
    named.unwrap_or_else(|| "unknown".to_owned())
}

/// `name:password:id:...`
#[cfg(unix)]
fn name_in(line: &str, id: u32) -> Option<String> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let its_id: u32 = fields.nth(1)?.parse().ok()?;
    (its_id == id && Operator::parse(name).is_ok()).then(|| name.to_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_kept_is_told_as_a_number() {
        assert_eq!(
            name_in("alice:x:1000:1000::/:", 1000),
            Some("alice".to_owned())
        );
        for line in [
            "",
            "alice",
            "alice:x",
            "alice:x:no:",
            "al ice:x:1000:",
            ":x:1000:",
        ] {
            assert_eq!(name_in(line, 1000), None, "{line}");
        }
        assert!(Operator::parse(&name()).is_ok());
    }
}
