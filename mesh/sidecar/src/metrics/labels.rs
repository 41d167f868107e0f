//! Labels of a series, rendered once.

use std::fmt::Write as _;

/// Labels of a series: `a="1",b="2"`, escaped, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(String);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let value = value.to_string();
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{name}=\"{value}\"");
        self
    }

    /// Adds `target_addr`, `target_ip`, `target_port`.
    #[must_use]
    pub fn with_target(self, target: std::net::SocketAddr) -> Self {
        self.with("target_addr", target)
            .with("target_ip", target.ip())
            .with("target_port", target.port())
    }

    /// Adds all of another set.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        if !self.0.is_empty() && !other.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&other.0);
        self
    }

    /// As text between the braces of a series.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let labels = Labels::new()
            .with("a", "x\"y\\z\n")
            .and(&Labels::new().with("b", 1));
        assert_eq!(labels.as_str(), "a=\"x\\\"y\\\\z\\n\",b=\"1\"");
    }
}
