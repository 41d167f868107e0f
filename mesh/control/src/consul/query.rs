//! The parameters of a query, and waiting for a change.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::request::go_duration;
use crate::registry::Registry;
use crate::registry::table::Entry;

/// How long a blocking query waits unless it says so, and at most.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const MAX_WAIT: Duration = Duration::from_secs(600);

/// What a query asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Only what passes.
    pub(super) passing: bool,
    tags: Vec<String>,
    index: u64,
    wait: Option<Duration>,
}

impl Wanted {
    /// Parses a query string. Parameters that mean nothing here (`dc`, `stale`, `token`, ...) are passed over, as they
    /// choose among servers of which there is one.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut wanted = Self::default();
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query.unwrap_or_default())
            .map_err(|error| format!("the query cannot be read: {error}"))?;
        for (key, value) in pairs {
            match key.as_str() {
                "passing" => wanted.passing = value != "false" && value != "0",
                "tag" => wanted.tags.push(value),
                "index" => {
                    wanted.index = value
                        .parse()
                        .map_err(|_| format!("index `{value}` is not a number"))?;
                }
                "wait" => wanted.wait = Some(go_duration(&value)?.min(MAX_WAIT)),
                "filter" | "near" | "node-meta" if !value.is_empty() => {
                    return Err(format!("`{key}` is not supported here"));
                }
                _ => {}
            }
        }
        Ok(wanted)
    }

    /// Whether an instance has every tag that is asked for.
    pub(super) fn tagged(&self, entry: &Entry) -> bool {
        self.tags.iter().all(|tag| entry.spec.tags.contains(tag))
    }

    /// Waits until the registry has changed after the index that the caller knows.
    pub(super) async fn wait(&self, registry: &Registry, draining: &CancellationToken) {
        if self.index == 0 {
            return;
        }
        let mut changes = registry.watch();
        let changed = changes.wait_for(|index| answered(*index) != self.index);
        let wait = self.wait.unwrap_or(DEFAULT_WAIT);
        // Whichever comes first; the answer is what is then.
        tokio::select! {
            _ = changed => {}
            () = tokio::time::sleep(wait) => {}
            () = draining.cancelled() => {}
        }
    }
}

/// The index as clients are told it: never 0, which would mean "do not wait".
pub(super) fn answered(index: u64) -> u64 {
    index.max(1)
}
