//! A JSON Web Key Set: which of its keys verify tokens, and by which algorithm.
//!
//! What cannot be used is left out (RFC 7517, section 5): an identity provider that adds a key of a kind that is not known here, or one for encryption,
//! must not keep its new signing keys from being taken. Only those that are used are published again.

use std::collections::BTreeSet;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// A key that is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Its `kid`, or its place in the set.
    pub key: String,
    /// Why, and what to do.
    pub why: &'static str,
}

#[derive(Deserialize)]
struct Raw {
    keys: Vec<serde_json::Value>,
}

/// Reads a key set: the keys that can be used, and those that cannot.
///
/// # Errors
/// It is no key set, or holds no key that can be used.
pub fn read(text: &str) -> anyhow::Result<(JwkSet, Vec<Skipped>)> {
    let raw: Raw = serde_json::from_str(text)?;
    anyhow::ensure!(
        !raw.keys.is_empty(),
        "the key set holds no key: nobody could ever come in"
    );
    let (mut keys, mut skipped, mut kids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (index, value) in raw.keys.into_iter().enumerate() {
        let kid = value.get("kid").and_then(serde_json::Value::as_str);
        let key = kid.map_or_else(|| format!("keys[{index}]"), str::to_owned);
        match usable(value, &mut kids) {
            Ok(jwk) => keys.push(jwk),
            Err(why) => skipped.push(Skipped { key, why }),
        }
    }
    if keys.is_empty() {
        let all: Vec<String> = skipped
            .iter()
            .map(|skipped| format!("{}: {}", skipped.key, skipped.why))
            .collect();
        anyhow::bail!(
            "the key set holds no key that can be used ({})",
            all.join("; ")
        );
    }
    Ok((JwkSet { keys }, skipped))
}

fn usable(value: serde_json::Value, kids: &mut BTreeSet<String>) -> Result<Jwk, &'static str> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is no JSON Web Key")?;
    algorithm(&jwk)?;
    DecodingKey::from_jwk(&jwk).map_err(|_| "its numbers cannot be read")?;
    let kid = jwk.common.key_id.clone();
    if kids.insert(kid.ok_or("it has no `kid`: give every key one")?) {
        Ok(jwk)
    } else {
        Err("another key before it has the same `kid`: give each its own")
    }
}

/// The one algorithm that a key is for.
///
/// # Errors
/// Why tokens cannot be verified with it.
pub(crate) fn algorithm(jwk: &Jwk) -> Result<Algorithm, &'static str> {
    let common = &jwk.common;
    let for_signatures = common
        .public_key_use
        .as_ref()
        .is_none_or(|wanted| *wanted == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !for_signatures {
        return Err("it is not for signatures (`use`, `key_ops`)");
    }
    let known: &[(KeyAlgorithm, Algorithm)] = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[(KeyAlgorithm::ES256, Algorithm::ES256)],
            EllipticCurve::P384 => &[(KeyAlgorithm::ES384, Algorithm::ES384)],
            _ => &[],
        },
        AlgorithmParameters::RSA(_) => &[
            // Unless it says so itself.
            (KeyAlgorithm::RS256, Algorithm::RS256),
            (KeyAlgorithm::RS384, Algorithm::RS384),
            (KeyAlgorithm::RS512, Algorithm::RS512),
            (KeyAlgorithm::PS256, Algorithm::PS256),
            (KeyAlgorithm::PS384, Algorithm::PS384),
            (KeyAlgorithm::PS512, Algorithm::PS512),
        ],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            &[(KeyAlgorithm::EdDSA, Algorithm::EdDSA)]
        }
        _ => &[],
    };
    let Some((_, usual)) = known.first() else {
        return Err(
            "it is of a kind that is not supported: use EC P-256/P-384, RSA or Ed25519 public keys",
        );
    };
    match common.key_algorithm {
        None => Ok(*usual),
        Some(wanted) => known
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, algorithm)| *algorithm)
            .ok_or("its `alg` is not one for signatures by a key of its kind"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const X: &str = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
    const Y: &str = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";

    fn with(kid: &str, more: Value) -> Value {
        let mut key = json!({"kid": kid});
        key.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        key
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let p256 = json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y});
        let mut for_encryption = p256.clone();
        for_encryption["use"] = json!("enc");
        let mut mistyped = p256.clone();
        mistyped["use"] = json!(5);
        let text = json!({"keys": [
            with("p521", json!({"kty": "EC", "crv": "P-521", "x": X, "y": Y})),
            with("secp256k1", json!({"kty": "EC", "crv": "secp256k1", "x": X, "y": Y})),
            with("x25519", json!({"kty": "OKP", "crv": "X25519", "x": X})),
            with("secret", json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"})),
            with("later", json!({"kty": "AKP", "pub": X, "alg": "ML-DSA-44"})),
            with("enc", for_encryption),
            with("oaep", json!({"kty": "RSA", "n": X, "e": "AQAB", "alg": "RSA-OAEP"})),
            with("mistyped", mistyped),
            with("garbled", json!({"kty": "EC", "crv": "P-256", "x": "!", "y": Y})),
            p256.clone(),
            "no key",
            with("good", p256.clone()),
            with("good", p256.clone()),
        ]});
        let (set, skipped) = read(&text.to_string()).expect("one is good");
        let kids: Vec<_> = set
            .keys
            .iter()
            .map(|key| key.common.key_id.as_deref())
            .collect();
        assert_eq!(kids, [Some("good")]);
        assert_eq!(skipped.len(), 12, "{skipped:?}");
        assert!(
            !serde_json::to_string(&set)
                .expect("JSON")
                .contains("c2VjcmV0")
        );
        assert!(crate::auth::Verifier::new(&set, "i", "a").is_ok());

        let none =
            json!({"keys": [with("p521", json!({"kty": "EC", "crv": "P-521", "x": X, "y": Y}))]});
        let error = read(&none.to_string())
            .expect_err("none is left")
            .to_string();
        assert!(error.contains("p521: it is of a kind"), "{error}");
        assert!(read(r#"{"keys":[]}"#).is_err() && read("[]").is_err());
    }

    #[test]
    fn a_key_says_what_it_is_for() {
        let algorithm_of = |key: Value| {
            let (set, _) = read(&json!({"keys": [with("k", key)]}).to_string()).ok()?;
            algorithm(&set.keys[0]).ok()
        };
        let rsa = |alg: &str| json!({"kty": "RSA", "n": X, "e": "AQAB", "use": "sig", "alg": alg});
        for (key, expected) in [
            (
                json!({"kty": "RSA", "n": X, "e": "AQAB"}),
                Some(Algorithm::RS256),
            ),
            (rsa("RS256"), Some(Algorithm::RS256)),
            (rsa("PS256"), Some(Algorithm::PS256)),
            (rsa("RS512"), Some(Algorithm::RS512)),
            (rsa("ES256"), None),
            (rsa("HS256"), None),
            (
                json!({"kty": "EC", "crv": "P-384", "x": X, "y": Y, "alg": "ES384"}),
                Some(Algorithm::ES384),
            ),
            (
                json!({"kty": "EC", "crv": "P-384", "x": X, "y": Y, "alg": "ES256"}),
                None,
            ),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "x": X, "key_ops": ["verify"]}),
                Some(Algorithm::EdDSA),
            ),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "x": X, "key_ops": ["sign"]}),
                None,
            ),
        ] {
            assert_eq!(algorithm_of(key.clone()), expected, "{key}");
        }
    }
}
