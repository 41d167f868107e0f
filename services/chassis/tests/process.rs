//! A real process: signals, the end of stdin, the addresses file. The child is this same test binary.
#![cfg(unix)]
#![expect(clippy::expect_used, reason = "tests")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FILE: &str = "CHASSIS_TEST_ADDRESSES";

/// What the child does; a no-op when the tests run.
#[test]
fn child() {
    let Some(file) = std::env::var_os(FILE) else {
        return;
    };
    let mut config = chassis::ChassisConfig::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.admin_listen = config.server.listen;
    config.server.addresses_file = Some(PathBuf::from(file));
    config.server.exit_with_parent = true;
    let ran = chassis::run("child", config, |process| {
        process.serve(tonic::service::Routes::default(), &[])
    });
    ran.expect("a clean end");
}

fn start(file: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// The child's ready probe answers.
fn wait_until_ready(file: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let ready = std::fs::read(file).ok().and_then(|text| {
            let addresses: serde_json::Value =
                serde_json::from_slice(&text).expect("never half written");
            let mut stream = std::net::TcpStream::connect(addresses["admin"].as_str()?).ok()?;
            std::io::Write::write_all(
                &mut stream,
                b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            )
            .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer.starts_with("HTTP/1.1 200"))
        });
        if ready == Some(true) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the child is not ready after 20 s");
}

/// Its log, once it has ended well.
fn ended_well(mut child: Child) -> String {
    let mut log = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut log)
        .expect("text");
    let status = child.wait().expect("an end");
    assert!(status.success(), "{status}: {log}");
    log
}

#[test]
fn it_ends_when_its_parent_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("addresses.json");
    let mut child = start(&file);
    wait_until_ready(&file);
    drop(child.stdin.take());
    assert!(ended_well(child).contains("stdin ended"));
}

#[test]
fn it_drains_on_a_signal() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("addresses.json");
        let child = start(&file);
        wait_until_ready(&file);
        let sent = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
        assert!(ended_well(child).contains(&format!("SIG{signal}")));
    }
}
