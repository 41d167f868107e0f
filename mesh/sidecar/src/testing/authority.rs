//! A certificate authority in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

/// A certificate authority in memory. A clone is the same.
#[derive(Clone)]
pub struct Authority {
    issuer: Arc<CertifiedIssuer<'static, KeyPair>>,
    life: Arc<Mutex<Duration>>,
    signed: Arc<std::sync::atomic::AtomicUsize>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one, whose certificates live for an hour.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(vec!["identity.linkerd.cluster.local".to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, "identity.linkerd.cluster.local");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self {
            issuer: Arc::new(issuer),
            life: Arc::new(Mutex::new(Duration::from_secs(3600))),
            signed: Arc::default(),
        })
    }

    /// Its own certificate, in PEM.
    pub fn anchors(&self) -> String {
        self.issuer.pem()
    }

    /// How long certificates live from now on.
    pub fn set_life(&self, life: Duration) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// How many signing requests were signed.
    pub fn signed(&self) -> usize {
        self.signed.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Signs a request in DER for `identity`. The certificate, in DER, and when it runs out.
    ///
    /// # Errors
    /// If the request is not readable, or not for `identity`.
    pub fn sign(&self, identity: &str, csr: &[u8]) -> anyhow::Result<(Vec<u8>, SystemTime)> {
        let mut csr = CertificateSigningRequestParams::from_der(&csr.to_vec().into())?;
        let names = &csr.params.subject_alt_names;
        let for_it = matches!(names.as_slice(), [rcgen::SanType::DnsName(name)] if name.as_str() == identity);
        anyhow::ensure!(for_it, "the request is for {names:?}, not for {identity}");
        let expires = self.limit(&mut csr.params)?;
        let certificate = csr.signed_by(&*self.issuer)?;
        self.signed
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok((certificate.der().to_vec(), expires))
    }

    /// A certificate and its key for a client of a test's own, in DER.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn client(&self, identity: &str, expired: bool) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![identity.to_owned()])?;
        self.limit(&mut params)?;
        if expired {
            let past = SystemTime::now()
                .checked_sub(Duration::from_secs(7200))
                .context("the clock is far off")?;
            params.not_before = past.into();
            params.not_after = (past + Duration::from_secs(3600)).into();
        }
        let certificate = params.signed_by(&key, &*self.issuer)?;
        Ok((certificate.der().to_vec(), key.serialize_der()))
    }

    fn limit(&self, params: &mut CertificateParams) -> anyhow::Result<SystemTime> {
        let now = SystemTime::now();
        let expires = now + *self.life.lock().unwrap_or_else(PoisonError::into_inner);
        params.not_before = now
            .checked_sub(Duration::from_secs(2))
            .context("the clock is far off")?
            .into();
        params.not_after = expires.into();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(expires)
    }
}
