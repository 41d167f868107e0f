//! Reads the sources and keeps the architecture: what is pure stays pure, dependencies point one way, and the README
//! tells the truth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Every Rust file below `folder`.
fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(sources(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The files in which nothing but deciding happens.
fn pure_files() -> anyhow::Result<Vec<PathBuf>> {
    let mut pure = sources(&root().join("services/coordinator/src/saga"))?;
    for path in sources(&root().join("services"))? {
        let in_domain = path.components().any(|part| part.as_os_str() == "domain");
        if in_domain || path.ends_with("domain.rs") || path.ends_with("barrier/rule.rs") {
            pure.push(path);
        }
    }
    for name in ["timeline.rs", "launcher/plan.rs"] {
        pure.push(root().join("mesh/cli/src").join(name));
    }
    pure.retain(|path| {
        !path.ends_with("tests.rs") && !path.components().any(|part| part.as_os_str() == "tests")
    });
    Ok(pure)
}

/// The code of a file without comments and without what follows `#[cfg(test)]`.
fn code(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)?;
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    Ok(lines
        .map(|line| line.split(" // ").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n"))
}

/// Whether `code` has `word` as a word, or a path that begins with it.
fn names(code: &str, word: &str) -> bool {
    let part_of_name = |letter: Option<char>| {
        letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    };
    code.match_indices(word).any(|(at, _)| {
        !part_of_name(code[..at].chars().next_back())
            && !part_of_name(code[at + word.len()..].chars().next())
    })
}

#[test]
fn pure_code_has_no_io_clocks_or_randomness() -> anyhow::Result<()> {
    let forbidden = [
        "tokio",
        "sqlx",
        "tonic",
        "hyper",
        "SystemTime",
        "Instant",
        "rand",
        "now_v7",
        "now_v4",
        "new_v4",
        "std::fs",
        "TcpListener",
        "TcpStream",
        "UdpSocket",
        "ToSocketAddrs",
        "std::env",
        "std::process",
        "thread",
        "async",
        "HashMap",
        "HashSet",
        "tracing",
        "println",
        "eprintln",
    ];
    let files = pure_files()?;
    ensure!(
        files.len() > 20,
        "only {} pure files were found: has a folder been renamed?",
        files.len()
    );
    let mut wrong = Vec::new();
    for path in files {
        let code = code(&path)?;
        for word in forbidden.iter().filter(|word| names(&code, word)) {
            wrong.push(format!("{} names {word}", path.display()));
        }
    }
    ensure!(
        wrong.is_empty(),
        "pure code does something:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

/// Which crates of this workspace each one may use.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let service = vec!["sagamesh-api", "chassis", "ledger", "participant"];
    BTreeMap::from([
        ("sagamesh-api", vec![]),
        ("chassis", vec!["sagamesh-api"]),
        ("ledger", vec!["sagamesh-api", "chassis"]),
        ("participant", vec!["sagamesh-api", "chassis", "ledger"]),
        ("coordinator", vec!["sagamesh-api", "chassis", "ledger"]),
        ("orders", service.clone()),
        ("inventory", service.clone()),
        ("payments", service.clone()),
        ("notifications", service),
        ("gateway", vec!["sagamesh-api", "chassis"]),
        ("sagamesh-cli", vec!["sagamesh-api", "chassis"]),
    ])
}

#[test]
fn dependencies_point_one_way() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let members: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let allowed = allowed();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else {
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            // Tests may use more: a mock of a peer, for example.
            if dependency["kind"].is_null() && members.contains(&other) && !allowed.contains(&other)
            {
                wrong.push(format!("{name} uses {other}"));
            }
        }
    }
    for name in allowed.keys() {
        ensure!(members.contains(name), "there is no crate {name}");
    }
    ensure!(
        wrong.is_empty(),
        "dependencies point the wrong way: {}",
        wrong.join(", ")
    );
    Ok(())
}

fn metadata() -> anyhow::Result<serde_json::Value> {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1"])?;
    Ok(serde_json::from_str(&text)?)
}

fn cargo(arguments: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output()?;
    ensure!(
        output.status.success(),
        "cargo {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn there_is_one_crypto_provider_and_one_version_of_each_framework() -> anyhow::Result<()> {
    let tree = cargo(&["tree", "--workspace", "--prefix", "none", "--format", "{p}"])?;
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            let known = versions.entry(name).or_default();
            if !known.contains(&version) {
                known.push(version);
            }
        }
    }
    for name in [
        "ring",
        "openssl",
        "openssl-sys",
        "native-tls",
        "reqwest",
        "protoc-bin-vendored",
    ] {
        ensure!(
            !versions.contains_key(name),
            "{name} is in the dependency tree: `cargo tree -i {name}` says why"
        );
    }
    for name in [
        "tonic",
        "axum",
        "hyper",
        "tower-http",
        "rustls",
        "prost",
        "sqlx",
        "tokio",
    ] {
        let found = versions.get(name).map(Vec::as_slice).unwrap_or_default();
        ensure!(
            found.len() == 1,
            "{name} is there in these versions: {found:?}"
        );
    }
    Ok(())
}

#[test]
fn files_stay_small() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for folder in ["services", "mesh", "tests", "bench"] {
        for path in sources(&root().join(folder))? {
            let lines = std::fs::read_to_string(&path)?.lines().count();
            let most = if path.ends_with("tests.rs")
                || path.components().any(|part| part.as_os_str() == "tests")
            {
                1_000
            } else {
                500
            };
            if lines > most {
                wrong.push(format!(
                    "{} has {lines} lines, more than {most}",
                    path.display()
                ));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "split what holds two ideas:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

/// The commands in the README's code blocks.
fn readme_commands() -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let mut inside = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && language == "sh";
        } else if inside {
            commands.push(line.trim().to_owned());
        }
    }
    Ok(commands)
}

#[test]
fn the_readmes_targets_and_files_exist() -> anyhow::Result<()> {
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    let commands = readme_commands()?;
    ensure!(commands.len() > 10, "the README shows hardly a command");
    for target in commands
        .iter()
        .filter_map(|command| command.strip_prefix("make "))
    {
        let target = target.split_whitespace().next().unwrap_or_default();
        ensure!(
            makefile.contains(&format!("\n{target}: ")),
            "the README's `make {target}` is not in the Makefile"
        );
    }
    let text = std::fs::read_to_string(root().join("README.md"))?;
    for link in text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        if !link.starts_with("http") && !link.starts_with('#') {
            ensure!(
                root().join(link).exists(),
                "the README points to {link}, which is not there"
            );
        }
    }
    Ok(())
}

#[test]
fn the_readmes_sagamesh_commands_exist() -> anyhow::Result<()> {
    let sagamesh = sagamesh_tests::binaries::path("sagamesh")?;
    for command in readme_commands()? {
        let Some((_, rest)) = command.split_once("sagamesh ") else {
            continue;
        };
        let words: Vec<&str> = rest
            .split_whitespace()
            .take_while(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
            .collect();
        // `order place keyboard`: the words up to the last that is a command.
        let known = (1..=words.len().min(2)).rev().any(|count| {
            let help = Command::new(&sagamesh)
                .args(&words[..count])
                .arg("--help")
                .output();
            help.is_ok_and(|help| help.status.success())
        });
        ensure!(known, "the README's `{command}` is no command");
        for flag in command
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
        {
            let help = Command::new(&sagamesh)
                .args(words.iter().take(2))
                .arg("--help")
                .output()?;
            let flag = flag.split('=').next().unwrap_or_default();
            let text = String::from_utf8_lossy(&help.stdout).into_owned();
            ensure!(
                text.contains(flag) || command.contains("curl"),
                "`{command}`: no option {flag}"
            );
        }
    }
    Ok(())
}
