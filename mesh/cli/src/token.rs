//! Development tokens: signed with the key that the gateway makes in the data folder on its first start.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Who the tokens come from.
const ISSUER: &str = "sagamesh";
/// Who the tokens are for.
const AUDIENCE: &str = "sagamesh-gateway";
/// What a customer of the shop may do.
pub(crate) const CUSTOMER_SCOPES: &str = "orders:read orders:write inventory:read";

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'static str,
    aud: &'static str,
    sub: &'a str,
    scope: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
}

/// Makes a token for `subject` that lives for `ttl`.
pub(crate) fn make(
    data_dir: &Path,
    subject: &str,
    scopes: &str,
    ttl: Duration,
) -> anyhow::Result<String> {
    let path = data_dir.join("dev-signing-key.pem");
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::NotRunning, format!("there is no signing key at {}", path.display()))
                .hint("The gateway makes it on its first start: run `sagamesh up`, or name the system's folder with --data-dir.")
                .into());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let key = EncodingKey::from_ec_pem(&pem)
        .with_context(|| format!("{} is no EC key in PKCS#8 PEM", path.display()))?;
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(key_id(&data_dir.join("jwks.json"))?);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock of this machine is before 1970")?
        .as_secs();
    let claims = Claims {
        iss: ISSUER,
        aud: AUDIENCE,
        sub: subject,
        scope: scopes,
        iat: now,
        nbf: now.saturating_sub(5),
        exp: now + ttl.as_secs(),
        jti: uuid::Uuid::now_v7().to_string(),
    };
    jsonwebtoken::encode(&header, &claims, &key).context("cannot sign the token")
}

/// The id of the first key in a JSON Web Key Set.
fn key_id(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let set: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let id = set["keys"][0]["kid"]
        .as_str()
        .with_context(|| format!("{} has no key with a kid", path.display()))?;
    Ok(id.to_owned())
}
