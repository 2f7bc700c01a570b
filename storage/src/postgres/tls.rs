//! Encrypted connections, with rustls.
//!
//! The rule: **what an address demands is given, or the connection is not made.** A certificate that has
//! expired, is for another name, or is of an authority that nobody believes ends it before anything is
//! said, the password included.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Encryption;
use super::error::OpenError;

/// What rustls is told, made once for all connections of a store.
#[derive(Clone, Default)]
pub(super) struct Prepared(Arc<OnceLock<Arc<ClientConfig>>>);

/// Makes one connection encrypted.
pub(super) struct Connector {
    config: Arc<ClientConfig>,
    /// The server has said that it can.
    begun: Arc<AtomicBool>,
}

/// One handshake.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
    begun: Arc<AtomicBool>,
}

/// Why a handshake has failed, in words that say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// An encrypted connection.
pub(super) struct Encrypted<S>(TlsStream<S>);

/// Believes whoever answers, as long as they have the key of the certificate that they show.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

// === impl Prepared ===

impl Prepared {
    /// For one connection.
    pub(super) fn connector(
        &self,
        encryption: &Encryption,
    ) -> Result<Option<Connector>, OpenError> {
        let config = match (encryption, self.0.get()) {
            (Encryption::None, _) => return Ok(None),
            (_, Some(config)) => Arc::clone(config),
            (encryption, None) => {
                let config = Arc::new(config(encryption).map_err(tls)?);
                Arc::clone(self.0.get_or_init(|| config))
            }
        };
        Ok(Some(Connector {
            config,
            begun: Arc::default(),
        }))
    }
}

fn config(encryption: &Encryption) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match encryption {
        Encryption::Verified { authorities } => {
            builder.with_root_certificates(roots(authorities.as_deref())?)
        }
        Encryption::None | Encryption::Unverified => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(
                "this system has no certificates of authorities; name a file with sslrootcert"
                    .to_owned(),
            );
        }
        return Ok(roots);
    };
    let shown = file.display();
    let unread = |error: &dyn fmt::Display| format!("sslrootcert {shown} cannot be read: {error}");
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unread(&error))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| unread(&error))?;
        roots.add(certificate).map_err(|error| unread(&error))?;
    }
    if roots.is_empty() {
        return Err(format!("sslrootcert {shown} holds no certificate in PEM"));
    }
    Ok(roots)
}

// === impl Connector ===

impl Connector {
    /// What is to be asked whether the server takes TLS, once a connection has failed.
    pub(super) fn begun(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.begun)
    }
}

/// What an error has to do with encryption, if so. `begun`: the server has said that it can.
pub(super) fn refused(error: &tokio_postgres::Error, begun: &AtomicBool) -> Option<OpenError> {
    if error.code().is_some() {
        return None;
    }
    let source = std::error::Error::source(error)?;
    if let Some(refused) = source.downcast_ref::<Refused>() {
        return Some(tls(refused.0.clone()));
    }
    // Before the handshake there is nothing else that fails and is no failure of the network.
    if !begun.load(Ordering::Relaxed) && !source.is::<io::Error>() {
        return Some(tls(
            "the server offers no TLS; switch it on there (ssl = on), or reach it over a private \
             network with sslmode=disable"
                .to_owned(),
        ));
    }
    None
}

fn tls(reason: String) -> OpenError {
    OpenError::Tls { reason }
}

impl<S> MakeTlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = Refused;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, Refused> {
        let name = ServerName::try_from(domain.to_owned());
        let name = name.map_err(|_| {
            Refused(format!(
                "no certificate can be for the name {domain:?}; name the host otherwise"
            ))
        })?;
        Ok(Handshake {
            connector: TlsConnector::from(Arc::clone(&self.config)),
            name,
            begun: self.begun(),
        })
    }
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted<S>, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        self.begun.store(true, Ordering::Relaxed);
        Box::pin(async move {
            let name = self.name.to_str().into_owned();
            match self.connector.connect(self.name, stream).await {
                Ok(stream) => Ok(Encrypted(stream)),
                Err(error) => Err(words(error, &name)),
            }
        })
    }
}

/// What a handshake has failed with. A connection that was lost on the way is no refusal.
fn words(error: io::Error, name: &str) -> Box<dyn std::error::Error + Send + Sync> {
    let of_rustls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(of_rustls) = of_rustls else {
        return error.into();
    };
    let words = match of_rustls {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired; renew it there".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet; set the clocks".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the server's certificate is not for {name:?}; name the host as the certificate \
                 does, or have one made for this name"
                )
            }
            CertificateError::UnknownIssuer => {
                "the server's certificate is of an authority that is not believed here; name the \
                 file of its certificate with sslrootcert"
                    .to_owned()
            }
            other => format!("the server's certificate is not believed: {other}"),
        },
        other => other.to_string(),
    };
    Refused(words).into()
}

// === impl Encrypted ===

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Encrypted<S> {
    /// None: what ends the encryption is known by its certificate.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

// === impl Anybody ===

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
