//! The development key pair: made on the first start, so that one command gives a system with real tokens.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use jsonwebtoken::jwk::{Jwk, JwkSet, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};

/// File of the private key: PKCS #8, PEM, mode 0600.
pub const KEY_FILE: &str = "dev-signing-key.pem";
/// File of the public key set.
pub const JWKS_FILE: &str = "jwks.json";

/// Reads the key set of the data folder, after making a key pair there if it has none.
///
/// # Errors
/// The folder cannot be written, or its files are not what they should be.
pub fn load_or_create(folder: &Path) -> anyhow::Result<JwkSet> {
    let (key_path, jwks_path) = (folder.join(KEY_FILE), folder.join(JWKS_FILE));
    if !key_path.exists() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("make the data folder {}", folder.display()))?;
        if publish(&key_path, &generate()?)? {
            tracing::info!(path = %key_path.display(), "made a development key pair: for production give a key set with --jwks");
        }
    }
    let pem = std::fs::read(&key_path).with_context(|| format!("read {}", key_path.display()))?;
    let key = EncodingKey::from_ec_pem(&pem).with_context(|| {
        format!(
            "{} is not an EC private key: delete it to have a new one made",
            key_path.display()
        )
    })?;
    let set = public(&key)?;
    let text = serde_json::to_string_pretty(&set)?;
    if std::fs::read_to_string(&jwks_path).ok().as_deref() != Some(text.as_str()) {
        let temporary = beside(&jwks_path);
        std::fs::write(&temporary, &text)
            .and_then(|()| std::fs::rename(&temporary, &jwks_path))
            .with_context(|| format!("write {}", jwks_path.display()))?;
    }
    Ok(set)
}

/// The key set with the public half of a key.
pub(crate) fn public(key: &EncodingKey) -> anyhow::Result<JwkSet> {
    let mut jwk = Jwk::from_encoding_key(key, Algorithm::ES256).context("derive the public key")?;
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256)?);
    jwk.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
    Ok(JwkSet { keys: vec![jwk] })
}

/// A fresh P-256 private key as PKCS #8 PEM.
pub(crate) fn generate() -> anyhow::Result<String> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map_err(|_| anyhow::anyhow!("generate a P-256 key"))?;
    let der = pair
        .to_pkcs8v1()
        .map_err(|_| anyhow::anyhow!("encode the P-256 key"))?;
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap_or_default())
        .collect();
    Ok(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    ))
}

/// Makes a file, whole or not at all, readable by its owner alone from its first byte on. Gateways that start together each try: the
/// first one's file is the one, and the others are told that it was not theirs.
fn publish(path: &Path, text: &str) -> anyhow::Result<bool> {
    let temporary = beside(path);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    // A link is refused where there is a file; a rename would replace it.
    let linked = written.and_then(|()| std::fs::hard_link(&temporary, path));
    let _ = std::fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
    }
}

/// Where nobody else writes what becomes a file of that name.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", uuid::Uuid::now_v7()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_that_start_together_have_one_key() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let begin = std::sync::Barrier::new(8);
        let sets: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                scope.spawn(|| {
                    begin.wait();
                    load_or_create(folder.path())
                })
            };
            let all: Vec<_> = (0..8).map(|_| start()).collect();
            all.into_iter()
                .map(|one| one.join().expect("no panic"))
                .collect()
        });
        let mut ids = Vec::new();
        for set in sets {
            ids.push(set?.keys[0].common.key_id.clone());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder.path())? {
            names.push(entry?.file_name().into_string().unwrap_or_default());
        }
        names.sort();
        assert_eq!(names, [KEY_FILE, JWKS_FILE], "nothing else is left");
        Ok(())
    }
}
