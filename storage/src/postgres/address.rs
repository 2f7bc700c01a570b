//! The address of a database: what the driver takes, and how the connection is encrypted.

use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::Config;

use super::error::OpenError;

/// How a connection is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Not at all.
    None,
    /// Against who only listens: whoever answers is believed.
    Unverified,
    /// The server shows a certificate for the name in the address, of an authority in this file or of
    /// those that the system believes.
    Verified { authorities: Option<PathBuf> },
}

/// What an address says.
pub(super) fn parse(text: &str) -> Result<(Config, Encryption), OpenError> {
    let refused = |reason: String| OpenError::Address { reason };
    let (rest, told) = without_tls(text);
    let config = Config::from_str(&rest).map_err(|error| refused(error.to_string()))?;
    let last = |name: &str| {
        let of_name = told.iter().rev().find(|(told, _)| told == name);
        of_name.map(|(_, value)| value.as_str())
    };
    all_is_read_here(text, &config).map_err(|reason| refused(reason.to_owned()))?;
    let root = last("sslrootcert");
    let authorities = match root {
        None | Some("system") => None,
        Some("") => {
            let reason = "sslrootcert is empty; name a file, or say system";
            return Err(refused(reason.to_owned()));
        }
        Some(file) => Some(PathBuf::from(file)),
    };
    let encryption = match last("sslmode") {
        Some("verify-full") => Encryption::Verified { authorities },
        // Whoever names authorities wants them asked, those of the system too.
        Some("require") if root.is_some() => Encryption::Verified { authorities },
        Some("require") => Encryption::Unverified,
        Some("disable") => Encryption::None,
        None | Some("prefer") if root.is_none() => Encryption::None,
        None | Some("prefer") => {
            let reason = "sslrootcert without sslmode=verify-full protects nothing";
            return Err(refused(reason.to_owned()));
        }
        Some("verify-ca") => {
            let reason = "sslmode=verify-ca believes a certificate for any name; say verify-full";
            return Err(refused(reason.to_owned()));
        }
        Some(_) => {
            let reason = "sslmode is none of disable, prefer, require and verify-full";
            return Err(refused(reason.to_owned()));
        }
    };
    Ok((config, encryption))
}

/// Nothing about encryption is left to the driver, and none of it stands where the driver reads the
/// credentials: they go as far as the first `@`, also where that was meant for a parameter.
fn all_is_read_here(text: &str, config: &Config) -> Result<(), &'static str> {
    if config.get_ssl_mode() != Config::new().get_ssl_mode() {
        return Err("write sslmode as it is, without % in its name");
    }
    let url = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
    let Some((credentials, _)) = url.and_then(|url| url.split_once('@')) else {
        return Ok(());
    };
    let user = credentials.split(':').next().unwrap_or_default();
    let parameters = credentials.split_once('?').map(|(_, told)| decoded(told));
    let demands = |told: String| TLS.iter().any(|name| told.contains(name));
    if user.contains(['/', '?']) || parameters.is_some_and(demands) {
        return Err(
            "a / or ? stands before its first @: write an @ of the parameters as %40, and in a user \
             %2F and %3F",
        );
    }
    Ok(())
}

/// The address without what the driver does not know, and that.
fn without_tls(text: &str) -> (String, Vec<(String, String)>) {
    let is_url = SCHEMES.iter().any(|scheme| text.starts_with(scheme));
    match is_url {
        true => of_url(text),
        false => of_words(text),
    }
}

fn of_url(text: &str) -> (String, Vec<(String, String)>) {
    // A password may hold a question mark.
    let after_user = text.find('@').map_or(0, |at| at + 1);
    let Some(query) = text[after_user..].find('?').map(|at| after_user + at) else {
        return (text.to_owned(), Vec::new());
    };
    let mut told = Vec::new();
    let mut left = Vec::new();
    for pair in text[query + 1..].split('&') {
        match pair.split_once('=') {
            Some((name, value)) if TLS.contains(&name) => {
                told.push((name.to_owned(), decoded(value)));
            }
            _ => left.push(pair),
        }
    }
    let base = &text[..query];
    let rest = match left.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", left.join("&")),
    };
    (rest, told)
}

/// `name=value` and `name='a value'`, with `\` before what is meant as it is.
fn of_words(text: &str) -> (String, Vec<(String, String)>) {
    let mut told = Vec::new();
    let mut rest = String::new();
    let mut left = text;
    loop {
        let start = left.trim_start();
        let Some((name, after)) = start.split_once('=') else {
            // Nothing is left, or what the driver refuses.
            rest.push_str(start);
            return (rest, told);
        };
        let value_at = after.trim_start();
        let (value, length) = word(value_at);
        let name_as_told = name.trim_end();
        let skipped = after.len() - value_at.len();
        let whole = start.len() - after.len() + skipped + length;
        if TLS.contains(&name_as_told) {
            told.push((name_as_told.to_owned(), value));
        } else {
            rest.push_str(&start[..whole]);
            rest.push(' ');
        }
        left = &start[whole..];
    }
}

/// A value, and how many bytes it takes.
fn word(text: &str) -> (String, usize) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            '\'' if quoted => return (value, at + 1),
            space if !quoted && space.is_whitespace() => return (value, at),
            other => value.push(other),
        }
    }
    (value, text.len())
}

/// Without `%2F` and its like.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let hex = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                left = &rest[2..];
            }
            _ => {
                bytes.push(first);
                left = rest;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What the driver does not know, or knows with fewer values.
const TLS: [&str; 2] = ["sslmode", "sslrootcert"];

#[cfg(test)]
mod tests {
    use super::*;

    fn encryption(text: &str) -> Encryption {
        parse(text).unwrap().1
    }

    #[test]
    fn the_mode_is_read_wherever_it_stands_and_the_rest_is_left_to_the_driver() {
        let file = Encryption::Verified {
            authorities: Some("/etc/a b/ca.pem".into()),
        };
        let system = Encryption::Verified { authorities: None };
        for (text, meant) in [
            ("postgres://u:p?w@h/d", Encryption::None),
            ("postgres://u@h/d?sslmode=disable", Encryption::None),
            (
                "postgres://u@h/d?sslmode=prefer&connect_timeout=3",
                Encryption::None,
            ),
            ("postgres://u@h/d?sslmode=require", Encryption::Unverified),
            (
                "postgresql://h/d?application_name=x&sslmode=verify-full",
                system.clone(),
            ),
            (
                "postgres://u@h/d?sslmode=verify-full&sslrootcert=system",
                system.clone(),
            ),
            (
                "postgres://u@h/d?sslrootcert=%2Fetc%2Fa%20b/ca.pem&sslmode=require&user=v",
                file.clone(),
            ),
            (
                "postgres://u@h/d?sslmode=require&sslrootcert=system",
                system.clone(),
            ),
            ("host=h user=u sslmode=verify-full", system),
            ("host=h sslmode = require", Encryption::Unverified),
            (
                r"sslmode=verify-full sslrootcert='/etc/a b/ca.pem' host=h password='it\'s = b'",
                file,
            ),
        ] {
            assert_eq!(encryption(text), meant, "{text}");
        }
        let (config, _) = parse(r"sslmode=require password='it\'s = b' host=h,i port=1,2").unwrap();
        assert_eq!(config.get_password(), Some(&b"it's = b"[..]));
        assert_eq!(config.get_hosts().len(), 2);
        let (config, _) = parse("postgres://u@h/d?sslmode=require&application_name=x").unwrap();
        assert_eq!(config.get_application_name(), Some("x"));
    }

    #[test]
    fn a_mode_that_protects_less_than_it_seems_to_is_refused_in_words() {
        for (text, words) in [
            ("postgres://u@h/d?sslmode=verify-ca", "say verify-full"),
            ("postgres://u@h/d?sslmode=verify_full", "none of disable"),
            ("postgres://u@h/d?sslmode=", "none of disable"),
            ("host=h sslmode=", "none of disable"),
            ("postgres://u@h/d?sslrootcert=/ca.pem", "without sslmode"),
            ("postgres://u@h/d?sslrootcert=system", "without sslmode"),
            (
                "host=h sslmode=prefer sslrootcert=system",
                "without sslmode",
            ),
            (
                "postgres://u@h/d?sslmode=require&sslrootcert=",
                "name a file",
            ),
            (
                "postgres://u@h/d?sslmode=verify-full&sslrootcert=",
                "name a file",
            ),
            (
                "postgres://db.example/app?sslmode=require&user=app@db.example",
                "as %40",
            ),
            (
                "postgres://db.example:5432/app?sslmode=require&user=app@db.example",
                "as %40",
            ),
            ("postgres://h:1?ssl%6Dode=require&options=a@b", "as %40"),
            ("postgres://h/app?sslmode=require&options=a@b", "as %40"),
            ("postgres://u@h/d?ssl%6Dode=require", "write sslmode"),
            ("postgres://u@h/d?%73slmode=disable", "write sslmode"),
            (
                "host=h sslrootcert=/ca.pem sslmode=prefer",
                "without sslmode",
            ),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }
}
