//! Who is calling: JSON Web Tokens, checked against a key set.
//!
//! The key decides the algorithm, never the token: a P-256 key verifies ES256 and nothing else, so that neither `alg: none` nor a public key used as an
//! HMAC secret gets through. Symmetric keys in a key set are never used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;
use tonic::Code;

use crate::ERRORS;

/// Seconds by which the signer's clock may differ.
const LEEWAY_SECONDS: u64 = 5;
/// Longest time between two looks at whether a token has expired.
const EXPIRY_LOOK: Duration = Duration::from_secs(30);
/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Someone with a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `sub` of the token: the customer.
    pub subject: String,
    scopes: Arc<BTreeSet<String>>,
    /// When the token expires, in Unix seconds; the leeway comes on top.
    expires: u64,
}

impl Caller {
    /// A caller for tests and tools.
    pub fn new<'a>(subject: &str, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            subject: subject.to_owned(),
            scopes: Arc::new(scopes.into_iter().map(str::to_owned).collect()),
            expires: u64::MAX,
        }
    }

    /// The same caller, whose token expires then (Unix seconds).
    #[must_use]
    pub fn until(self, expires: u64) -> Self {
        Self { expires, ..self }
    }

    /// Whether the token is still good, by the same leeway as in its full check.
    fn alive(&self, now: u64) -> bool {
        now < self.expires.saturating_add(LEEWAY_SECONDS)
    }

    /// Waits until the token is not good any more, and says so: what goes on for longer than a request ends with that.
    pub(crate) async fn expired(&self) -> chassis::Problem {
        loop {
            let now = jsonwebtoken::get_current_timestamp();
            if !self.alive(now) {
                return expired();
            }
            let left = self.expires.saturating_add(LEEWAY_SECONDS) - now;
            // Not in one go: the clock that tokens go by may be set, and stands still for no suspended machine.
            tokio::time::sleep(Duration::from_secs(left).min(EXPIRY_LOOK)).await;
        }
    }

    /// # Errors
    /// PERMISSION_DENIED (SCOPE_MISSING) that names the scope.
    pub fn require(&self, scope: &'static str) -> Result<(), chassis::Problem> {
        if self.scopes.contains(scope) {
            return Ok(());
        }
        let message = format!("the token lacks the scope `{scope}`: ask for a token with it");
        Err(ERRORS
            .problem(Code::PermissionDenied, "SCOPE_MISSING", message)
            .metadata("scope", scope))
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since the Unix epoch; RFC 7519 allows fractions.
    exp: f64,
    /// RFC 9068: one string, scopes separated by spaces.
    #[serde(default)]
    scope: String,
}

/// Verifies tokens.
pub struct Verifier {
    keys: BTreeMap<String, (DecodingKey, Validation)>,
    jwks: String,
    /// Tokens that were verified, by their SHA-256: a signature costs fifty times what a hash does.
    verified: Mutex<HashMap<[u8; 32], Caller>>,
}

/// Most verified tokens that are remembered.
const MAX_VERIFIED: usize = 8192;

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("keys", &self.keys.keys())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier for the keys of a key set.
    ///
    /// # Errors
    /// The set is empty, or one of its keys has no `kid`, is symmetric, or of a kind that is not supported.
    pub fn new(set: &JwkSet, issuer: &str, audience: &str) -> anyhow::Result<Self> {
        let mut keys = BTreeMap::new();
        for (index, jwk) in set.keys.iter().enumerate() {
            let Some(kid) = &jwk.common.key_id else {
                anyhow::bail!("keys[{index}] of the key set has no `kid`: give every key one");
            };
            let algorithm = crate::jwks::algorithm(jwk).map_err(|why| {
                anyhow::anyhow!("keys[{index}] ({kid}) of the key set cannot be used: {why}")
            })?;
            let mut validation = Validation::new(algorithm);
            validation.leeway = LEEWAY_SECONDS;
            validation.validate_nbf = true;
            validation.set_issuer(&[issuer]);
            validation.set_audience(&[audience]);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            let key = DecodingKey::from_jwk(jwk)?;
            anyhow::ensure!(
                keys.insert(kid.clone(), (key, validation)).is_none(),
                "two keys of the key set have the `kid` {kid}: give each its own"
            );
        }
        anyhow::ensure!(
            !keys.is_empty(),
            "the key set holds no key: nobody could ever come in"
        );
        Ok(Self {
            keys,
            jwks: serde_json::to_string(set)?,
            verified: Mutex::default(),
        })
    }

    /// The key set as JSON.
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// The caller behind an `Authorization` header.
    ///
    /// # Errors
    /// UNAUTHENTICATED with the reason; never the token itself.
    pub fn verify(&self, header: Option<&str>) -> Result<Caller, chassis::Problem> {
        let header = header.ok_or_else(|| {
            refused(
                "TOKEN_MISSING",
                "send `Authorization: Bearer TOKEN`; `sagamesh token` prints one for development",
            )
        })?;
        let token = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| {
                refused(
                    "TOKEN_MALFORMED",
                    "the Authorization header must read `Bearer TOKEN`",
                )
            })?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused("TOKEN_MALFORMED", "the token is longer than 8 KiB"));
        }
        let hash = digest(token);
        let now = jsonwebtoken::get_current_timestamp();
        if let Some(caller) = self.known(&hash, now) {
            return Ok(caller);
        }
        let caller = self.decode(token)?;
        self.remember(hash, &caller, now);
        Ok(caller)
    }

    /// The caller of a token that was verified before and has not expired since.
    fn known(&self, hash: &[u8; 32], now: u64) -> Option<Caller> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let found = verified.get(hash)?;
        found.alive(now).then(|| found.clone())
    }

    fn remember(&self, hash: [u8; 32], caller: &Caller, now: u64) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= MAX_VERIFIED {
            verified.retain(|_, caller| caller.alive(now));
            if verified.len() >= MAX_VERIFIED {
                verified.clear();
            }
        }
        verified.insert(hash, caller.clone());
    }

    /// The caller behind a token.
    fn decode(&self, token: &str) -> Result<Caller, chassis::Problem> {
        let head = jsonwebtoken::decode_header(token).map_err(|error| explain(&error))?;
        let kid = head.kid.ok_or_else(|| {
            refused(
                "TOKEN_KEY_UNKNOWN",
                "the token's header names no key (`kid`)",
            )
        })?;
        let (key, validation) = self.keys.get(&kid).ok_or_else(|| {
            refused(
                "TOKEN_KEY_UNKNOWN",
                "the token was signed with a key that is not in the key set (`kid`)",
            )
        })?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, validation)
            .map_err(|error| explain(&error))?
            .claims;
        let printable = claims.sub.bytes().all(|byte| byte.is_ascii_graphic());
        if claims.sub.is_empty() || claims.sub.len() > 128 || !printable {
            return Err(refused(
                "TOKEN_MALFORMED",
                "the token's `sub` must have 1 to 128 printable ASCII characters without spaces",
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "fractions do not count, and what is no time has expired"
        )]
        let expires = claims.exp as u64;
        Ok(Caller::new(&claims.sub, claims.scope.split_whitespace()).until(expires))
    }
}

fn digest(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

fn refused(reason: &'static str, message: &str) -> chassis::Problem {
    ERRORS.problem(Code::Unauthenticated, reason, message)
}

fn expired() -> chassis::Problem {
    refused("TOKEN_EXPIRED", "the token has expired: get a new one")
}

fn explain(error: &jsonwebtoken::errors::Error) -> chassis::Problem {
    match error.kind() {
        ErrorKind::ExpiredSignature => expired(),
        ErrorKind::ImmatureSignature => {
            refused("TOKEN_NOT_YET_VALID", "the token is not valid yet (`nbf`)")
        }
        ErrorKind::InvalidIssuer => refused(
            "TOKEN_ISSUER",
            "the token's `iss` is not the one accepted here",
        ),
        ErrorKind::InvalidAudience => {
            refused("TOKEN_AUDIENCE", "the token's `aud` is not this gateway")
        }
        ErrorKind::InvalidAlgorithm => refused(
            "TOKEN_ALGORITHM",
            "the token's `alg` is not the one of its key",
        ),
        ErrorKind::InvalidSignature => refused("TOKEN_SIGNATURE", "the token's signature is wrong"),
        ErrorKind::MissingRequiredClaim(claim) => refused(
            "TOKEN_MALFORMED",
            &format!("the token lacks the claim `{claim}`"),
        ),
        _ => refused("TOKEN_MALFORMED", "the token is not a valid JSON Web Token"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::json;

    fn verifier() -> (Verifier, impl Fn(u64) -> String) {
        let folder = tempfile::tempdir().expect("a folder");
        let set = crate::dev_key::load_or_create(folder.path()).expect("a key");
        let pem = std::fs::read(folder.path().join(crate::dev_key::KEY_FILE)).expect("the key");
        let key = EncodingKey::from_ec_pem(&pem).expect("a key");
        let mut header = Header::new(Algorithm::ES256);
        header.kid = set.keys[0].common.key_id.clone();
        let sign = move |expires: u64| {
            let claims = json!({"iss": "i", "aud": "a", "sub": "ann", "exp": expires, "scope": "orders:read"});
            format!(
                "Bearer {}",
                jsonwebtoken::encode(&header, &claims, &key).expect("signed")
            )
        };
        (Verifier::new(&set, "i", "a").expect("usable"), sign)
    }

    #[test]
    fn a_remembered_token_expires_all_the_same() {
        let (verifier, sign) = verifier();
        let now = jsonwebtoken::get_current_timestamp();
        let token = sign(now + 60);
        let caller = verifier.verify(Some(&token)).expect("good");
        assert_eq!(
            verifier.verify(Some(&token)),
            Ok(caller.clone()),
            "from memory"
        );
        let hash = digest(token.strip_prefix("Bearer ").expect("the scheme"));
        assert_eq!(verifier.known(&hash, now + 64), Some(caller));
        assert_eq!(
            verifier.known(&hash, now + 65),
            None,
            "expired, leeway included"
        );
        let reason = |token: &str| verifier.verify(Some(token)).expect_err("refused").reason();
        assert_eq!(reason(&sign(now - 60)), "TOKEN_EXPIRED");
        // A signature that lacks a byte makes it another token.
        assert!(verifier.verify(Some(&token[..token.len() - 1])).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (verifier, _) = verifier();
        let caller = Caller::new("ann", []).until(2_000_000_000);
        for index in 0..u32::try_from(MAX_VERIFIED).expect("small") * 2 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&index.to_be_bytes());
            verifier.remember(hash, &caller, 1_000_000_000);
        }
        assert!(verifier.verified.lock().expect("no panic").len() <= MAX_VERIFIED);
    }
}
