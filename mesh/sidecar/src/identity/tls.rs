//! TLS 1.3 with certificates of the mesh on both sides. A new certificate is used from the next handshake on; open
//! connections keep theirs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use tokio::sync::watch;

use crate::transport_header::ALPN;

/// Why there can be no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The trust anchors are not certificates.
    #[error("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS holds no usable certificate in PEM: {0}")]
    Anchors(String),
    /// The name cannot stand in a certificate, or no key could be made.
    #[error("cannot make a key and a signing request for `{0}`: {1}")]
    Request(String, rcgen::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// What the control plane signed is not usable.
    #[error("the control plane's certificate is not usable: {0}")]
    Certificate(String),
}

/// This workload's identity, shared by all connections.
pub(crate) struct Identity {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// For connections from peers.
    pub(crate) server: Arc<ServerConfig>,
    /// For connections to peers.
    pub(crate) client: Arc<ClientConfig>,
    csr: Vec<u8>,
    key: Arc<dyn rustls::sign::SigningKey>,
    current: Arc<Current>,
    anchors: Arc<RootCertStore>,
    ready: watch::Sender<bool>,
}

impl Identity {
    /// Makes a key and what needs no certificate yet.
    pub(crate) fn new(name: &str, anchors: &str) -> Result<Self, IdentityError> {
        let tls = |error: rustls::Error| IdentityError::Tls(error.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let anchors = Arc::new(roots(anchors)?);
        let (key, csr) = key_and_request(name, &provider)?;
        let current = Arc::new(Current::default());

        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&anchors),
            Arc::clone(&provider),
        )
        .build()
        .map_err(|error| IdentityError::Tls(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Resuming a session would let a peer in on a certificate that has run out since.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(Arc::clone(&anchors))
            .with_client_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesClientCert>);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();

        Ok(Self {
            name: name.into(),
            server: Arc::new(server),
            client: Arc::new(client),
            csr,
            key,
            current,
            anchors,
            ready: watch::Sender::new(false),
        })
    }

    /// The signing request, in DER.
    pub(crate) fn csr(&self) -> Vec<u8> {
        self.csr.clone()
    }

    /// Whether there is a certificate; changes once.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Uses this certificate from the next handshake on. Gives when it was made and when it runs out.
    pub(crate) fn install(
        &self,
        chain: Vec<Vec<u8>>,
    ) -> Result<(SystemTime, SystemTime), IdentityError> {
        let unusable = |why: String| IdentityError::Certificate(why);
        let chain: Vec<CertificateDer<'static>> =
            chain.into_iter().map(CertificateDer::from).collect();
        let leaf = chain
            .first()
            .ok_or_else(|| unusable("there is none".to_owned()))?;
        let names = names(leaf).ok_or_else(|| unusable("it cannot be read".to_owned()))?;
        if !names.iter().any(|name| **name == *self.name) {
            return Err(unusable(format!(
                "it is for {names:?}, not for {}",
                self.name
            )));
        }
        verify_own(leaf, &chain[1..], &self.anchors).map_err(unusable)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|error| unusable(error.to_string()))?;
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        };
        let validity = (
            time(parsed.validity().not_before.timestamp()),
            time(parsed.validity().not_after.timestamp()),
        );
        let certified = CertifiedKey::new(chain, Arc::clone(&self.key));
        certified
            .keys_match()
            .map_err(|error| unusable(error.to_string()))?;
        *self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        self.ready.send_replace(true);
        Ok(validity)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The certificate in use.
#[derive(Default)]
struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.get()
    }

    fn has_certs(&self) -> bool {
        self.get().is_some()
    }
}

/// The name in a peer's certificate, which the handshake has verified.
pub(crate) fn peer_name(certificates: Option<&[CertificateDer<'_>]>) -> Option<Arc<str>> {
    let names = names(certificates?.first()?)?;
    names.into_iter().next().map(Into::into)
}

fn names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let dns = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
    Some(dns.collect())
}

/// A certificate that peers would refuse must not replace one that they accept.
fn verify_own(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &Arc<RootCertStore>,
) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(anchors), provider)
        .build()
        .map_err(|error| error.to_string())?;
    verifier
        .verify_client_cert(leaf, intermediates, rustls::pki_types::UnixTime::now())
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn roots(pem: &str) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| IdentityError::Anchors(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| IdentityError::Anchors(error.to_string()))?;
    }
    if roots.is_empty() {
        Err(IdentityError::Anchors("there is none in it".to_owned()))
    } else {
        Ok(roots)
    }
}

type KeyAndRequest = (Arc<dyn rustls::sign::SigningKey>, Vec<u8>);

fn key_and_request(name: &str, provider: &CryptoProvider) -> Result<KeyAndRequest, IdentityError> {
    let failed = |error| IdentityError::Request(name.to_owned(), error);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let csr = params
        .serialize_request(&key)
        .map_err(failed)?
        .der()
        .to_vec();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|error| IdentityError::Tls(error.to_string()))?;
    Ok((key, csr))
}
