//! The key set in use: from a file that is read again when it changes, so that keys are rotated without a restart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;

use crate::auth::Verifier;
use crate::config::AuthConfig;
use crate::dev_key;
use crate::jwks::{self, Skipped};

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
        let mut warned = BTreeSet::new();
        let keys = Self::new(verifier(&path, &text, config, &mut warned)?);
        let file = File { path, text, warned };
        tasks.spawn_essential(
            "key set",
            follow(keys.clone(), file, config.clone(), tasks.draining()),
        );
        Ok(keys)
    }
}

/// The file of a key set.
struct File {
    path: PathBuf,
    /// What it held at the last look.
    text: String,
    /// Keys that are left out, and that this was said of.
    warned: BTreeSet<Skipped>,
}

/// Takes over what the file holds whenever that changes. A file that is not usable changes nothing but the log.
async fn follow(
    keys: Keys,
    mut file: File,
    config: AuthConfig,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut tick = tokio::time::interval(config.jwks_refresh.max(Duration::from_millis(10)));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let text = match read(&file.path) {
            Ok(text) if text == file.text => continue,
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(%error, "the key set cannot be read: keeping the one in use");
                continue;
            }
        };
        match verifier(&file.path, &text, &config, &mut file.warned) {
            Ok(verifier) => {
                tracing::info!(path = %file.path.display(), "the key set has changed");
                keys.replace(verifier);
            }
            Err(error) => {
                tracing::error!(%error, "the key set is not usable: keeping the one in use");
            }
        }
        // A broken file is reported once, not at every look.
        file.text = text;
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read the key set {}", path.display()))
}

fn verifier(
    path: &Path,
    text: &str,
    config: &AuthConfig,
    warned: &mut BTreeSet<Skipped>,
) -> anyhow::Result<Verifier> {
    let (set, skipped) =
        jwks::read(text).with_context(|| format!("use the key set {}", path.display()))?;
    for skipped in skipped {
        if !warned.contains(&skipped) {
            tracing::warn!(key = skipped.key, why = skipped.why, path = %path.display(), "a key of the key set is left out");
            warned.insert(skipped);
        }
    }
    Verifier::new(&set, &config.issuer, &config.audience)
}
