//! Whose key it is: exactly one of these must be said.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use sha2::{Digest, Sha256};

use super::ConfigError;
use crate::http::server::ScopeOf;
use crate::storage::{Clock, Scope, SystemClock};

/// Whose key it is. A request without a principal is refused.
#[derive(Clone)]
pub enum Principal {
    /// The user of `Authorization: Basic`, **whose password is not looked at**: somebody in front has
    /// done that.
    BasicUserTrusted,
    /// Whoever has one of these credentials, which are checked here.
    Credentials(Credentials),
    /// Everybody is one principal: all who can reach the proxy trust each other with their keys.
    Global,
    /// The value of a header that a gateway in front sets, and that it takes away from what
    /// strangers send.
    Header(HeaderName),
    /// A claim of a bearer token whose signature is checked here.
    Jwt(Box<Jwt>),
}

/// Digests of credentials, each with its principal.
#[derive(Clone)]
pub struct Credentials {
    principals: Arc<HashMap<[u8; 32], Scope>>,
}

/// How bearer tokens are checked.
#[derive(Clone)]
pub struct Jwt {
    /// One of them has signed.
    keys: Vec<DecodingKey>,
    algorithm: Algorithm,
    validation: Validation,
    claim: String,
    clock: Arc<dyn Clock>,
}

// === impl Principal ===

impl Principal {
    /// The header that names it, where one does.
    pub(super) const fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            _ => None,
        }
    }
}

impl ScopeOf for Principal {
    fn scope_of(&self, request: &Parts) -> Option<Scope> {
        let headers = &request.headers;
        match self {
            Self::BasicUserTrusted => {
                let credential = basic(headers)?;
                let (user, _) = credential.split_once(':')?;
                Scope::principal(user).ok()
            }
            Self::Credentials(credentials) => credentials.scope_of(headers),
            Self::Global => Some(Scope::global()),
            Self::Header(name) => {
                let mut values = headers.get_all(name).iter();
                let value = values.next()?.to_str().ok()?;
                // Two of them: one is the gateway's, and nobody knows which.
                if values.next().is_some() {
                    return None;
                }
                Scope::principal(value.trim()).ok()
            }
            Self::Jwt(jwt) => jwt.scope_of(headers),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BasicUserTrusted => "BasicUserTrusted",
            Self::Credentials(_) => "Credentials(..)",
            Self::Global => "Global",
            Self::Header(_) => "Header(..)",
            Self::Jwt(_) => "Jwt(..)",
        })
    }
}

// === impl Credentials ===

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Reads lines of `PRINCIPAL DIGEST`: the SHA-256 digest, in hexadecimal digits, of a bearer
    /// token, or of `USER:PASSWORD`. Empty lines and those that begin with `#` say nothing.
    ///
    /// The digest is not salted: give each principal a long random credential, such as 32 random
    /// bytes, and no password that somebody has thought of.
    ///
    /// # Errors
    ///
    /// When a line says something else, or none says anything.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |line: usize, what: &str| {
            ConfigError::new("static-credentials", format!("line {line}: {what}"))
        };
        let mut principals = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((principal, digest)) = line.split_once([' ', '\t']) else {
                return Err(wrong(
                    number,
                    "say PRINCIPAL and DIGEST, with a space between",
                ));
            };
            let scope = Scope::principal(principal)
                .map_err(|error| wrong(number, &format!("no principal: {error}")))?;
            let digest = hex(digest.trim()).ok_or_else(|| {
                wrong(
                    number,
                    "a digest has 64 hexadecimal digits; make one with `printf %s TOKEN | sha256sum`",
                )
            })?;
            if principals.insert(digest, scope).is_some() {
                return Err(wrong(number, "this credential stands there twice"));
            }
        }
        if principals.is_empty() {
            let problem = "the file names no credential, so that everybody would be refused";
            return Err(ConfigError::new("static-credentials", problem));
        }
        Ok(Self {
            principals: Arc::new(principals),
        })
    }

    /// How long the search takes says nothing of a credential: it is looked for by its digest.
    fn scope_of(&self, headers: &HeaderMap) -> Option<Scope> {
        let credential = match bearer(headers) {
            Some(token) => token.to_owned(),
            None => basic(headers)?,
        };
        let digest: [u8; 32] = Sha256::digest(credential.as_bytes()).into();
        self.principals.get(&digest).cloned()
    }
}

// === impl Jwt ===

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt(..)")
    }
}

impl Jwt {
    /// Checks tokens with `key`: a PEM file with a public key, or the secret of an `HS` algorithm.
    /// Tokens must expire, and be for `audience` and of `issuer` where these are said.
    ///
    /// # Errors
    ///
    /// When there is no such algorithm, or the key is not of its kind.
    pub fn new(
        claim: &str,
        key: &[u8],
        algorithm: &str,
        audience: Option<&str>,
        issuer: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let unknown = || {
            let problem = "say one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, \
                           PS512, ES256, ES384, EdDSA";
            ConfigError::new("scope-jwt-algorithm", problem)
        };
        let algorithm: Algorithm = algorithm.parse().map_err(|_| unknown())?;
        let key = decoding_key(algorithm, key)?;
        let mut validation = Validation::new(algorithm);
        // Judged below, by the clock of this program.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_required_spec_claims(&["exp"]);
        match audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            validation.set_required_spec_claims(&["exp", "iss"]);
        }
        if audience.is_some() {
            validation.required_spec_claims.insert("aud".to_owned());
        }
        Ok(Self {
            keys: vec![key],
            algorithm,
            validation,
            claim: claim.to_owned(),
            clock: Arc::new(SystemClock),
        })
    }

    /// Takes tokens too that are signed with this key: the old one, while keys change.
    ///
    /// # Errors
    ///
    /// When the key is not of the algorithm's kind, or there are 16 already: a token that nobody has
    /// signed is tried with each.
    pub fn or_key(mut self, key: &[u8]) -> Result<Self, ConfigError> {
        if self.keys.len() >= KEYS_MAX {
            let problem = format!("at most {KEYS_MAX} keys");
            return Err(ConfigError::new("scope-jwt-key", problem));
        }
        self.keys.push(decoding_key(self.algorithm, key)?);
        Ok(self)
    }

    fn scope_of(&self, headers: &HeaderMap) -> Option<Scope> {
        let token = bearer(headers)?;
        let claims = self.keys.iter().find_map(|key| {
            let decoded = jsonwebtoken::decode::<serde_json::Value>(token, key, &self.validation);
            Some(decoded.ok()?.claims)
        })?;
        let now = self.clock.now().as_millis() / 1_000;
        let seconds = |name: &str| claims.get(name).and_then(serde_json::Value::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "seconds have fewer digits")]
        let now = now as f64;
        if seconds("exp")? + LEEWAY_SECONDS < now {
            return None;
        }
        if seconds("nbf").is_some_and(|from| from - LEEWAY_SECONDS > now) {
            return None;
        }
        Scope::principal(claims.get(&self.claim)?.as_str()?).ok()
    }
}

fn decoding_key(algorithm: Algorithm, key: &[u8]) -> Result<DecodingKey, ConfigError> {
    let decoded = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            let secret = key.trim_ascii();
            if secret.len() < 32 {
                let problem = "the secret needs at least 32 bytes";
                return Err(ConfigError::new("scope-jwt-key", problem));
            }
            Ok(DecodingKey::from_secret(secret))
        }
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(key),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(key),
        _ => DecodingKey::from_rsa_pem(key),
    };
    decoded.map_err(|_| {
        let problem = "the file holds no public key in PEM of this algorithm";
        ConfigError::new("scope-jwt-key", problem)
    })
}

/// The one credential of a request with this scheme.
fn credential<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (said, rest) = value.trim().split_once(' ')?;
    said.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    credential(headers, "bearer")
}

/// `USER:PASSWORD`
fn basic(headers: &HeaderMap) -> Option<String> {
    let encoded = credential(headers, "basic")?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(digest)
}

/// Clocks of who makes tokens and who checks them differ.
const LEEWAY_SECONDS: f64 = 60.0;

/// Two are enough while keys change; each costs every token that nobody has signed a check.
const KEYS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use http::Request;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    fn scope(principal: &Principal, lines: &[(&str, &str)]) -> Option<Scope> {
        let mut request = Request::post("/");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        principal.scope_of(&request.body(()).unwrap().into_parts().0)
    }

    fn of(name: &str) -> Option<Scope> {
        Some(Scope::principal(name).unwrap())
    }

    // C13
    #[test]
    fn a_header_names_the_principal_only_where_it_stands_there_once() {
        let principal = Principal::Header(HeaderName::from_static("x-tenant"));
        assert_eq!(scope(&principal, &[("x-tenant", "ann")]), of("ann"));
        assert_eq!(scope(&principal, &[]), None);
        assert_eq!(scope(&principal, &[("x-tenant", "")]), None);
        let twice = [("x-tenant", "ann"), ("x-tenant", "bob")];
        assert_eq!(scope(&principal, &twice), None);
    }

    #[test]
    fn the_user_of_basic_is_the_principal_whatever_the_password() {
        let principal = Principal::BasicUserTrusted;
        for password in ["one", "two:three", ""] {
            let encoded = STANDARD.encode(format!("ann:{password}"));
            let line = format!("Basic {encoded}");
            assert_eq!(scope(&principal, &[("authorization", &line)]), of("ann"));
        }
        for wrong in ["Basic !", "Basic YW5u", "Bearer x", "Basic"] {
            assert_eq!(scope(&principal, &[("authorization", wrong)]), None);
        }
    }

    // I2
    #[test]
    fn a_credential_is_known_by_its_digest() {
        let digest = Sha256::digest(b"a-long-token");
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let basic = Sha256::digest(b"bob:secret");
        let basic: String = basic.iter().map(|byte| format!("{byte:02X}")).collect();
        let file = format!("# people\nann {digest}\n\nbob\t{basic}\n");
        let credentials = Credentials::parse(&file).unwrap();
        let principal = Principal::Credentials(credentials);
        let line = |line: &str| scope(&principal, &[("authorization", line)]);
        assert_eq!(line("Bearer a-long-token"), of("ann"));
        let encoded = STANDARD.encode("bob:secret");
        assert_eq!(line(&format!("Basic {encoded}")), of("bob"));
        let encoded = STANDARD.encode("bob:guess");
        assert_eq!(line(&format!("Basic {encoded}")), None);
        assert_eq!(line("Bearer a-long-tokem"), None);
        for wrong in ["", "ann", "ann 12", &format!("ann {digest}\nbob {digest}")] {
            let error = Credentials::parse(wrong).err().unwrap();
            assert_eq!(error.field, "static-credentials");
        }
    }

    #[test]
    fn a_token_counts_only_with_its_signature_its_time_and_its_audience() {
        let secret = [7; 32];
        let jwt = Jwt::new("sub", &secret, "HS256", Some("pay"), None).unwrap();
        let principal = Principal::Jwt(Box::new(jwt));
        let now = SystemClock.now().as_millis() / 1_000;
        let token = |secret: &[u8], claims: serde_json::Value| {
            let key = EncodingKey::from_secret(secret);
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
            scope(&principal, &[("authorization", &format!("Bearer {token}"))])
        };
        let good = json!({"sub": "ann", "exp": now + 600, "aud": "pay"});
        assert_eq!(token(&secret, good.clone()), of("ann"));
        assert_eq!(token(&[8; 32], good), None);
        for wrong in [
            json!({"sub": "ann", "exp": now - 600, "aud": "pay"}),
            json!({"sub": "ann", "exp": now + 600, "aud": "shop"}),
            json!({"sub": "ann", "exp": now + 600}),
            json!({"sub": "ann", "aud": "pay"}),
            json!({"sub": 7, "exp": now + 600, "aud": "pay"}),
            json!({"exp": now + 600, "aud": "pay"}),
            json!({"sub": "ann", "exp": now + 900, "nbf": now + 600, "aud": "pay"}),
        ] {
            assert_eq!(token(&secret, wrong.clone()), None, "{wrong}");
        }
        // A token that says of itself that it is not signed.
        let none = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.";
        assert_eq!(scope(&principal, &[("authorization", none)]), None);
        assert!(Jwt::new("sub", b"short", "HS256", None, None).is_err());
        assert!(Jwt::new("sub", b"no pem", "RS256", None, None).is_err());
        assert!(Jwt::new("sub", &secret, "none", None, None).is_err());
    }
}
