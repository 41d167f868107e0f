//! Values that must never be written down, and the search for them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Named values. What is longer than a line is looked for in parts.
#[derive(Debug, Default)]
pub struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        assert!(value.len() >= 5, "{name} is too short to be looked for");
        self.0.push((name, value));
    }

    /// Adds a token with a signature: all of it, and each of its parts but the header, which says nothing.
    pub fn add_jwt(&mut self, name: &str, token: &str) {
        for part in token.split('.').skip(1) {
            self.add(name, part);
        }
    }

    /// Adds the lines of a private key in PEM.
    ///
    /// # Errors
    /// When it cannot be read, or holds none.
    pub fn add_key(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("-----") && line.len() > 16)
            .collect();
        anyhow::ensure!(!lines.is_empty(), "{} is no key", path.display());
        for line in lines {
            self.add(path.display().to_string(), line);
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What is found in `text`, said in words with the line that it is in. The value itself is not repeated.
    pub fn found_in(&self, place: &str, text: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        let mut found = Vec::new();
        for (name, value) in &self.0 {
            if let Some(line) = text.lines().find(|line| line.contains(value.as_str())) {
                let line = line.replace(value.as_str(), "<<HERE>>");
                let line: String = line.chars().take(2000).collect();
                found.push(format!("{name} is in {place}: {line}"));
            }
        }
        found
    }
}

/// Every file and folder below a folder, itself included.
///
/// # Errors
/// When one cannot be looked at.
pub fn tree(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            let entries = std::fs::read_dir(&path);
            for entry in entries.with_context(|| format!("cannot read {}", path.display()))? {
                found.push(entry?.path());
            }
        }
    }
    Ok(found)
}
