//! The certificate authority of one machine: made at the first start, kept in the data folder.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::files;

/// Validity of the authority's own certificate.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of two processes may differ by so much.
const SKEW: Duration = Duration::from_secs(60);
const MAX_BYTES: u64 = 64 * 1024;

/// Signs certificates of workloads.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, which everyone trusts, in PEM.
    pub certificate: String,
    lifetime: Duration,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate for a workload.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// DER.
    pub certificate: Vec<u8>,
    /// When it ends.
    pub valid_until: SystemTime,
}

/// Why a signing request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no request, or its signature is wrong.
    #[error("the signing request cannot be read, or is not signed with its own key: {0}")]
    Unreadable(String),
    /// It asks for another name.
    #[error("the signing request is for {0}, and not for this identity alone")]
    OtherName(String),
    /// Its key is of another kind.
    #[error("the signing request's key is not ECDSA P-256, which proxies use")]
    OtherKey,
    /// It could not be signed.
    #[error("the certificate cannot be signed: {0}")]
    Unsigned(String),
}

impl Authority {
    /// Opens the authority of a folder (`ca.key`, `ca.crt`), or makes one.
    ///
    /// # Errors
    /// If its files cannot be read, do not belong together or cannot be written.
    pub fn open(folder: &Path, lifetime: Duration, now: SystemTime) -> anyhow::Result<Self> {
        let (key_path, certificate_path) = (folder.join("ca.key"), folder.join("ca.crt"));
        let read = |path: &Path| {
            files::read(path, MAX_BYTES).with_context(|| format!("cannot read {}", path.display()))
        };
        let (key, certificate) = match (read(&key_path)?, read(&certificate_path)?) {
            (Some(key), Some(certificate)) => {
                let key = KeyPair::from_pem(&key)
                    .with_context(|| format!("{} is damaged", key_path.display()))?;
                (key, certificate)
            }
            (None, Some(_)) => anyhow::bail!(
                "{} is there without {}: put the key back, or remove both and start every workload again",
                certificate_path.display(),
                key_path.display()
            ),
            // A key alone is left by a crash of the first start: nobody trusts it yet.
            (_, None) => {
                let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
                let certificate = own_certificate(&key, now)?;
                files::write(&key_path, &key.serialize_pem(), true)
                    .with_context(|| format!("cannot write {}", key_path.display()))?;
                files::write(&certificate_path, &certificate, false)
                    .with_context(|| format!("cannot write {}", certificate_path.display()))?;
                tracing::info!(certificate = %certificate_path.display(), "made a certificate authority for this data folder");
                (key, certificate)
            }
        };
        must_belong_together(&key, &certificate).with_context(|| {
            format!("{} and {}", key_path.display(), certificate_path.display())
        })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .with_context(|| format!("{} is damaged", certificate_path.display()))?;
        Ok(Self {
            issuer,
            certificate,
            lifetime,
        })
    }

    /// Signs a certificate for `identity` with the key of a signing request (DER) that asks for exactly that name. All
    /// else in the request is ignored. `serial` is random.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn sign(
        &self,
        identity: &str,
        request: &[u8],
        serial: [u64; 2],
        now: SystemTime,
    ) -> Result<Leaf, Refusal> {
        let request = CertificateSigningRequestParams::from_der(&request.to_vec().into())
            .map_err(|error| Refusal::Unreadable(error.to_string()))?;
        if *request.public_key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(Refusal::OtherKey);
        }
        must_ask_for(&request.params, identity)?;
        let unsigned = |error: rcgen::Error| Refusal::Unsigned(error.to_string());
        let mut params = CertificateParams::new([identity.to_owned()]).map_err(unsigned)?;
        params.distinguished_name = named(identity);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let mut bytes = serial.map(u64::to_be_bytes).concat();
        // Positive, and of a fixed length.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from(bytes));
        let valid_until = now + self.lifetime;
        params.not_before = OffsetDateTime::from(now - SKEW);
        params.not_after = OffsetDateTime::from(valid_until);
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(unsigned)?;
        Ok(Leaf {
            certificate: certificate.der().to_vec(),
            valid_until,
        })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn own_certificate(key: &KeyPair, now: SystemTime) -> anyhow::Result<String> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = named("root.linkerd.cluster.local");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::from(now - SKEW);
    params.not_after = OffsetDateTime::from(now + AUTHORITY_LIFETIME);
    Ok(params.self_signed(key)?.pem())
}

fn must_belong_together(key: &KeyPair, certificate: &str) -> anyhow::Result<()> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
        .context("the certificate is damaged")?;
    let parsed = pem.parse_x509().context("the certificate is damaged")?;
    use rcgen::PublicKeyData as _;
    anyhow::ensure!(
        parsed.public_key().raw == key.subject_public_key_info(),
        "the certificate is not of this key"
    );
    Ok(())
}

/// The names in a request: the identity in its SAN, and in its CN if it has one; nothing else.
fn must_ask_for(params: &CertificateParams, identity: &str) -> Result<(), Refusal> {
    let names: Vec<String> = params
        .subject_alt_names
        .iter()
        .map(|name| match name {
            SanType::DnsName(name) => name.as_str().to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    if names != [identity] {
        return Err(Refusal::OtherName(if names.is_empty() {
            "no name".to_owned()
        } else {
            names.join(", ").chars().take(300).collect()
        }));
    }
    for (kind, value) in params.distinguished_name.iter() {
        let same = *kind == DnType::CommonName && text(value) == Some(identity);
        if *kind == DnType::CommonName && !same {
            return Err(Refusal::OtherName("another common name".to_owned()));
        }
    }
    Ok(())
}

fn text(value: &rcgen::DnValue) -> Option<&str> {
    match value {
        rcgen::DnValue::Utf8String(text) => Some(text),
        rcgen::DnValue::PrintableString(text) => Some(text.as_str()),
        rcgen::DnValue::Ia5String(text) => Some(text.as_str()),
        _ => None,
    }
}
