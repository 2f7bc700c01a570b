//! TLS towards clients and towards the upstream: rustls with ring.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::ConfigError;

/// How https is spoken to clients.
#[derive(Clone)]
pub struct ServerTls(pub(super) Arc<ServerConfig>);

/// How https is spoken to the upstream.
#[derive(Clone)]
pub struct ClientTls(pub(super) Roots);

/// Whom to believe.
#[derive(Clone)]
pub(super) enum Roots {
    /// What was said, read already.
    Given(Arc<ClientConfig>),
    /// The operating system's; read where https is spoken.
    OfTheSystem,
}

// === impl ServerTls ===

impl ServerTls {
    /// Shows `certificates`, with the private key in `key`, both in PEM. Where `client_ca` is said,
    /// only clients with a certificate of it are let in.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, or they do not belong together.
    pub fn new(
        certificates: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
    ) -> Result<Self, ConfigError> {
        let chain = chain("tls-certificate", certificates)?;
        let key = private_key("tls-key", key)?;
        let builder = ServerConfig::builder_with_provider(provider());
        // OK because the provider has the suites of these versions.
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::new("tls-certificate", error.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots("tls-client-ca", ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = verifier
                    .build()
                    .map_err(|error| ConfigError::new("tls-client-ca", error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let problem = format!("the certificate and the key do not go together: {error}");
            ConfigError::new("tls-key", problem)
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

// === impl ClientTls ===

impl ClientTls {
    /// Believes `ca` (PEM), or the operating system where it is not said, and shows `identity`: a
    /// chain of certificates and a private key.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, or they do not belong together.
    pub fn new(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Self, ConfigError> {
        if ca.is_none() && identity.is_none() {
            return Ok(Self::default());
        }
        let roots = match ca {
            Some(ca) => roots("upstream-ca", ca)?,
            None => system_roots()?,
        };
        config(roots, identity).map(|config| Self(Roots::Given(Arc::new(config))))
    }

    /// What rustls is told.
    ///
    /// # Errors
    ///
    /// When the operating system believes nobody.
    pub(super) fn config(&self) -> Result<ClientConfig, ConfigError> {
        match &self.0 {
            Roots::Given(config) => Ok(ClientConfig::clone(config)),
            Roots::OfTheSystem => config(system_roots()?, None),
        }
    }

    /// Believes nobody: for http, where nobody is asked.
    pub(super) fn unused() -> Result<ClientConfig, ConfigError> {
        config(RootCertStore::empty(), None)
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self(Roots::OfTheSystem)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls(..)")
    }
}

fn config(
    roots: RootCertStore,
    identity: Option<(&[u8], &[u8])>,
) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::new("upstream-ca", error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificates, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = chain("upstream-certificate", certificates)?;
    let key = private_key("upstream-key", key)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        let problem = format!("the certificate and the key do not go together: {error}");
        ConfigError::new("upstream-key", problem)
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(ConfigError::new(
            field,
            "the file holds no certificate in PEM",
        )),
    }
}

fn private_key(field: &'static str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let key = PrivateKeyDer::from_pem_slice(pem);
    key.map_err(|_| ConfigError::new(field, "the file holds no private key in PEM"))
}

fn roots(field: &'static str, pem: &[u8]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(field, pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| ConfigError::new(field, error.to_string()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = "this system has no certificates of authorities; say which one to believe";
        return Err(ConfigError::new("upstream-ca", problem));
    }
    Ok(roots)
}
