//! The key set in use: from a file that is read again when it changes, so that keys are rotated without a restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use jsonwebtoken::jwk::JwkSet;

use crate::auth::Verifier;
use crate::config::AuthConfig;
use crate::dev_key;

/// The verifier in use. A clone sees every change.
#[derive(Clone, Debug)]
pub struct Keys {
    current: Arc<RwLock<Arc<Verifier>>>,
}

impl Keys {
    /// Keys that stay as they are.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            current: Arc::new(RwLock::new(Arc::new(verifier))),
        }
    }

    /// The verifier of this moment.
    pub fn current(&self) -> Arc<Verifier> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, verifier: Verifier) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifier);
    }

    /// Reads the configured key set, or makes the development key pair.
    ///
    /// # Errors
    /// The file cannot be read, or is not a usable key set.
    pub fn load(config: &AuthConfig, tasks: &chassis::Tasks) -> anyhow::Result<Self> {
        let Some(path) = config.jwks.clone() else {
            let set = dev_key::load_or_create(&config.data_dir)?;
            return Ok(Self::new(Verifier::new(
                &set,
                &config.issuer,
                &config.audience,
            )?));
        };
        let text = read(&path)?;
        let keys = Self::new(verifier(&path, &text, config)?);
        tasks.spawn_essential(
            "key set",
            follow(keys.clone(), path, text, config.clone(), tasks.draining()),
        );
        Ok(keys)
    }
}

/// Takes over what the file holds whenever that changes. A file that is not usable changes nothing but the log.
async fn follow(
    keys: Keys,
    path: PathBuf,
    mut seen: String,
    config: AuthConfig,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut tick = tokio::time::interval(config.jwks_refresh.max(Duration::from_millis(10)));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let text = match read(&path) {
            Ok(text) if text == seen => continue,
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(%error, "the key set cannot be read: keeping the one in use");
                continue;
            }
        };
        match verifier(&path, &text, &config) {
            Ok(verifier) => {
                tracing::info!(path = %path.display(), "the key set has changed");
                keys.replace(verifier);
            }
            Err(error) => {
                tracing::error!(%error, "the key set is not usable: keeping the one in use");
            }
        }
        // A broken file is reported once, not at every look.
        seen = text;
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read the key set {}", path.display()))
}

fn verifier(path: &Path, text: &str, config: &AuthConfig) -> anyhow::Result<Verifier> {
    let set: JwkSet = serde_json::from_str(text)
        .with_context(|| format!("{} is not a JSON Web Key Set", path.display()))?;
    Verifier::new(&set, &config.issuer, &config.audience)
}
