//! What decides does nothing else.

use std::path::Path;

/// Every Rust file below a folder of `src/`.
fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn policy_and_translation_do_no_io() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for folder in ["policy", "translate"] {
        sources(&source.join(folder), &mut files);
    }
    assert!(files.len() > 12, "has a folder been renamed?");
    files.push(source.join("cluster_ip.rs"));
    files.push(source.join("service_config.rs"));
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a text");
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for word in [
            "tokio",
            "tonic",
            "async ",
            "std::fs",
            "std::env",
            "SystemTime",
            "Instant",
            "tracing",
            "rand::",
            "println",
        ] {
            assert!(!code.contains(word), "{} names {word}", path.display());
        }
    }
}
