//! Development tokens: signed with the key that the gateway makes in the data folder on its first start.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Who the tokens come from and who they are for: by the variables that the gateway reads, too.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Names {
    /// Who it comes from: `iss`, as the gateway requires it
    #[arg(
        long,
        env = "SAGAMESH_JWT_ISSUER",
        default_value = "sagamesh",
        value_name = "NAME"
    )]
    issuer: String,
    /// Who it is for: `aud`, as the gateway requires it
    #[arg(
        long,
        env = "SAGAMESH_JWT_AUDIENCE",
        default_value = "sagamesh-gateway",
        value_name = "NAME"
    )]
    audience: String,
}

impl Names {
    /// From the variables alone, for commands that make a token on the way.
    pub(crate) fn from_environment() -> Names {
        let read = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        Names {
            issuer: read("SAGAMESH_JWT_ISSUER", "sagamesh"),
            audience: read("SAGAMESH_JWT_AUDIENCE", "sagamesh-gateway"),
        }
    }
}

/// What a customer of the shop may do.
pub(crate) const CUSTOMER_SCOPES: &str = "orders:read orders:write inventory:read";

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
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
    names: &Names,
    subject: &str,
    scopes: &str,
    ttl: Duration,
) -> anyhow::Result<String> {
    check_subject(subject)?;
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
        iss: &names.issuer,
        aud: &names.audience,
        sub: subject,
        scope: scopes,
        iat: now,
        nbf: now.saturating_sub(5),
        exp: now + ttl.as_secs(),
        jti: uuid::Uuid::now_v7().to_string(),
    };
    jsonwebtoken::encode(&header, &claims, &key).context("cannot sign the token")
}

/// Refuses what the gateway would refuse.
fn check_subject(subject: &str) -> Result<(), Failure> {
    let printable = subject.bytes().all(|byte| byte.is_ascii_graphic());
    if printable && (1..=128).contains(&subject.len()) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("{subject:?} cannot be a customer: the gateway takes 1 to 128 printable ASCII characters without spaces"),
    )
    .hint("Write it otherwise, for example alice or alice@example.com."))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_what_the_gateway_takes() {
        for good in ["a", "alice@example.com", &"x".repeat(128)] {
            assert!(check_subject(good).is_ok(), "{good}");
        }
        for wrong in ["", "a b", "zoë", "a\n", &"x".repeat(129)] {
            let refused = check_subject(wrong).err();
            assert_eq!(
                refused.map(|failure| failure.exit),
                Some(Exit::Usage),
                "{wrong}"
            );
        }
    }
}
