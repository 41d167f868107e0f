//! `docs/grpcurl.md`, call by call.

use anyhow::{Context as _, ensure};
use sagamesh_tests::System;
use tokio::process::Command;

use crate::tools::{not_tested, program, root, works};

/// A line of a page: a command, and what must be part of its answer.
struct Call {
    command: String,
    expected: Vec<String>,
}

/// The commands in a page's `sh` blocks, in order; lines that begin with `# =>` say what the command above answers.
fn calls(page: &str) -> anyhow::Result<Vec<Call>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if let Some(answer) = line.strip_prefix("# => ").filter(|_| inside) {
            let call = calls.last_mut().context("an answer before any command")?;
            call.expected.push(answer.to_owned());
        } else if inside {
            calls.push(Call {
                command: line.to_owned(),
                expected: Vec::new(),
            });
        }
    }
    Ok(calls)
}

#[tokio::test]
async fn every_call_on_the_grpcurl_page_works_as_printed() -> anyhow::Result<()> {
    let grpcurl = program("SAGAMESH_GRPCURL", "grpcurl");
    if !works(&grpcurl, &["--version"]).await {
        return not_tested(
            "grpcurl is not here (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4; SAGAMESH_GRPCURL names it)",
        );
    }
    let page = std::fs::read_to_string(root().join("docs/grpcurl.md"))?;
    let calls = calls(&page)?;
    // One shell for all of them, since they share variables; a line before each call tells the answers apart.
    let mut script = String::from("exec 2>&1\ngrpcurl() { \"$SAGAMESH_GRPCURL\" \"$@\"; }\n");
    for (number, call) in calls.iter().enumerate() {
        script += &format!("echo; echo '@@ {number} @@'\n{}\n", call.command);
    }
    let system = System::start().await?;
    system.restock("keyboard", 100, 4_990).await?;
    let binaries = sagamesh_tests::binaries::folder()?;
    // The page puts `target/release` in front, which may hold an older build: the binaries under test stand in for it.
    let script = script.replace("$PWD/target/release", &binaries.display().to_string());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(root());
    bash.env("SAGAMESH_DATA_DIR", system.folder())
        .env("SAGAMESH_GRPCURL", grpcurl);
    let bash = bash.kill_on_drop(true).output().await?;
    let text = String::from_utf8(bash.stdout)?;
    let mut tried = 0;
    for (number, call) in calls.iter().enumerate() {
        let answer = text
            .split_once(&format!("@@ {number} @@\n"))
            .map(|(_, rest)| rest.split("\n@@ ").next().unwrap_or_default())
            .with_context(|| format!("`{}` was not reached:\n{text}", call.command))?;
        if call.command.starts_with("grpcurl ") {
            ensure!(
                !call.expected.is_empty(),
                "`{}` has no answer",
                call.command
            );
            tried += 1;
        }
        for expected in &call.expected {
            ensure!(
                answer.contains(expected),
                "`{}` does not answer `{expected}`, but\n{answer}",
                call.command
            );
        }
        let fails = call.expected.iter().any(|text| text.starts_with("Code: "));
        ensure!(
            answer.contains("ERROR:") == fails || call.command.contains("-max-time"),
            "`{}` answers\n{answer}",
            call.command
        );
    }
    ensure!(tried > 30, "the page shows only {tried} calls");
    system.stop().await?;
    Ok(())
}
