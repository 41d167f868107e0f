//! What somebody at the public port can send, for tests with random bytes and for fuzzers: each of these takes any bytes,
//! and panics when what must hold for all of them does not.
#![expect(clippy::expect_used, reason = "for tests alone")]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jsonwebtoken::EncodingKey;
use serde_json::Value;

use crate::auth::Verifier;
use crate::dev_key;
use crate::rest::extract::{parse, prefer_wait};
use crate::rest::model::{CancelRequest, NewOrder, PageQuery, ReadQuery, RestockRequest};
use crate::rest::request_id;

const ISSUER: &str = "i";
const AUDIENCE: &str = "a";
/// By how much the signer's clock may differ.
const LEEWAY_SECONDS: f64 = 5.0;
/// Values of this length are not part of any message by chance.
const TELLING: usize = 12;

/// A token. The first byte says what the rest is: an `Authorization` header as it comes; or claims, which are signed with
/// the right key.
///
/// # Panics
/// If it is accepted and should not be, or an error repeats it.
pub fn token(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    match first % 3 {
        0 => forged(&String::from_utf8_lossy(rest)),
        1 => forged(&format!("Bearer {}", String::from_utf8_lossy(rest))),
        _ => signed(rest),
    }
}

/// Nobody has the key: whatever it says, it is refused, and not repeated.
fn forged(header: &str) {
    let refused = SIGNER.verifier.verify(Some(header));
    let refused = refused.expect_err("a header that nobody signed");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let token = header.rsplit(' ').next().unwrap_or_default();
    let told = refused.message().contains(token);
    assert!(token.len() < TELLING || !told, "{refused}");
}

/// Claims that the right key signed: accepted if they are for this gateway and have not expired.
fn signed(claims: &[u8]) {
    let token = SIGNER.sign(claims);
    let header = format!("Bearer {token}");
    let first = SIGNER.verifier.verify(Some(&header));
    assert_eq!(SIGNER.verifier.verify(Some(&header)), first, "from memory");
    let caller = match first {
        Ok(caller) => caller,
        Err(refused) => {
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
            return;
        }
    };
    assert!((1..=128).contains(&caller.subject.len()));
    assert!(caller.subject.bytes().all(|byte| byte.is_ascii_graphic()));
    // What claims that nobody looks at say, and in which bytes, is their signer's business.
    let claims = String::from_utf8_lossy(claims);
    let claims: Value = serde_json::from_str(&claims).expect("claims that were accepted");
    let is_or_has = |claim: &str, wanted: &str| match &claims[claim] {
        Value::String(text) => text == wanted,
        Value::Array(all) => all.iter().any(|one| one == wanted),
        _ => false,
    };
    assert!(
        is_or_has("iss", ISSUER) && is_or_has("aud", AUDIENCE),
        "{claims}"
    );
    assert_eq!(claims["sub"], caller.subject.as_str());
    let expires = claims["exp"].as_f64().expect("a time");
    // An exact time is below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "exact for times")]
    let now = jsonwebtoken::get_current_timestamp() as f64;
    assert!(expires + LEEWAY_SECONDS + 1.0 >= now, "{claims}");
}

/// What a request says beside its token: a body, a query and headers. The first byte says which.
///
/// # Panics
/// If an error repeats a value that was sent: it may be a card's number.
pub fn rest(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let refused = match first % 6 {
        0 => parse::<NewOrder>(rest).err(),
        1 => parse::<CancelRequest>(rest).err(),
        2 => parse::<RestockRequest>(rest).err(),
        3 => return query(rest),
        4 => return headers(rest),
        // Whole: the longest of them in the shape that it must have.
        _ => parse::<NewOrder>(&[br#"{"lines":["#, rest, b"]}"].concat()).err(),
    };
    let Some(refused) = refused else { return };
    let told = format!("{refused:?}");
    if let Ok(value) = serde_json::from_slice(rest) {
        each_leaf(&value, &mut |leaf| {
            assert!(!told.contains(leaf), "{leaf} is in {told}");
        });
    }
}

/// Every text and number that is long enough to tell something, and has a digit, as cards and addresses do.
fn each_leaf(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text)
            if text.len() >= TELLING && text.bytes().any(|b| b.is_ascii_digit()) =>
        {
            look(text);
        }
        Value::Number(number) => {
            let text = number.to_string();
            if text.len() >= TELLING {
                look(&text);
            }
        }
        Value::Array(all) => all.iter().for_each(|one| each_leaf(one, look)),
        Value::Object(all) => all.values().for_each(|one| each_leaf(one, look)),
        _ => {}
    }
}

fn query(bytes: &[u8]) {
    let text: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
    let whole = String::from_utf8_lossy(bytes);
    for uri in [
        format!("/v1/orders?{whole}"),
        format!("/v1/orders?page_token={text}"),
    ] {
        // What is no address is refused before it gets here.
        let Ok(uri) = uri.parse() else { continue };
        // Refusals are theirs: that they are given is enough.
        let _ = axum::extract::Query::<PageQuery>::try_from_uri(&uri);
        let _ = axum::extract::Query::<ReadQuery>::try_from_uri(&uri);
    }
}

fn headers(bytes: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for name in ["prefer", "idempotency-key"] {
        headers.insert(name, value.clone());
    }
    if let Ok(Some(wait)) = prefer_wait(&headers) {
        assert!(wait.as_secs() <= 60);
    }
    let id = request_id(&headers, None).expect("one source alone is never in conflict");
    assert!(id.len() <= bytes.len());
}

/// Who signs good tokens.
struct Signer {
    key: EcdsaKeyPair,
    kid: String,
    verifier: Verifier,
}

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pem = dev_key::generate().expect("a key");
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body);
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der.expect("base64"));
    let set = EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key");
    let set = dev_key::public(&set).expect("its public half");
    Signer {
        key: key.expect("a key"),
        kid: set.keys[0].common.key_id.clone().expect("an id"),
        verifier: Verifier::new(&set, ISSUER, AUDIENCE).expect("a usable set"),
    }
});

impl Signer {
    fn sign(&self, claims: &[u8]) -> String {
        let head = serde_json::json!({"alg": "ES256", "typ": "JWT", "kid": self.kid}).to_string();
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.expect("signed").as_ref())
        )
    }
}
