//! The ways to hand mails over: files, and a mail server.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use chassis::Env;
use ledger::StoreConfig;
use notifications::domain::{Total, compose};
use notifications::mail::{Files, Mail, MailError, Mailer, Smtp, SmtpUrl, write};
use sagamesh_api::shop::notifications::v1::{NotificationKind, NotificationState};
use support::{FakeOrders, Running, order_id, quiet_coordinator};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

fn mail(id: &str) -> Mail {
    let total = Total {
        minor_units: 1_999,
        currency: "EUR".to_owned(),
    };
    let note = compose(
        NotificationKind::Receipt,
        "order-1",
        "alice",
        "alice@example.com",
        &[],
        &total,
        "",
    );
    write(
        id,
        &note,
        &"The shop <shop@example.com>".parse().expect("an address"),
        &Env::system(),
    )
    .expect("written")
}

#[tokio::test]
async fn files_are_whole_private_and_replace_themselves() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = folder.path().join("deep/outbox");
    let files = Files::new(&outbox).expect("made");
    for _ in 0..2 {
        files.send(&mail("order-1.receipt")).await.expect("taken");
    }
    let names: Vec<_> = std::fs::read_dir(&outbox)
        .expect("there")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["order-1.receipt.eml"]);
    let path = files.path("order-1.receipt");
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(
        text.contains("Message-ID: <order-1.receipt@notifications.sagamesh>"),
        "{text}"
    );
    assert!(text.contains("To: alice@example.com") && text.contains("19.99 EUR"));
    assert_eq!(
        std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::metadata(&outbox)
            .expect("there")
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    // No id leads out of the folder.
    for id in ["../../x", "/etc/passwd", "..", "a/b"] {
        assert_eq!(files.path(id).parent(), Some(outbox.as_path()), "{id}");
    }
    std::fs::remove_dir_all(&outbox).expect("removed");
    assert!(matches!(
        files.send(&mail("order-1.receipt")).await,
        Err(MailError::Passing(_))
    ));
}

/// A mail server that takes every mail, or answers RCPT with `refusal`. What it took, and where.
async fn mail_server(refusal: Option<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("smtp://{}", listener.local_addr().expect("bound"));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let keep = Arc::clone(&keep);
            tokio::spawn(async move {
                let (read, mut write) = socket.split();
                let mut lines = BufReader::new(read).lines();
                write
                    .write_all(b"220 test ESMTP\r\n")
                    .await
                    .expect("written");
                let (mut text, mut in_data) = (String::new(), false);
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match line.as_str() {
                        "." if in_data => {
                            in_data = false;
                            keep.lock().unwrap().push(std::mem::take(&mut text));
                            "250 taken\r\n"
                        }
                        line if in_data => {
                            text.push_str(line);
                            text.push('\n');
                            continue;
                        }
                        "DATA" => {
                            in_data = true;
                            "354 go on\r\n"
                        }
                        "QUIT" => "221 bye\r\n",
                        line if line.starts_with("EHLO") => "250 test\r\n",
                        line if line.starts_with("RCPT") => refusal.unwrap_or("250 ok\r\n"),
                        _ => "250 ok\r\n",
                    };
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, taken)
}

#[tokio::test]
async fn mails_go_to_the_mail_server() {
    let (url, taken) = mail_server(None).await;
    let smtp = Smtp::new(&url.parse().expect("an address")).expect("made");
    smtp.send(&mail("order-1.receipt")).await.expect("taken");
    let taken = taken.lock().unwrap().clone();
    assert_eq!(taken.len(), 1);
    assert!(
        taken[0].contains("Message-ID: <order-1.receipt@notifications.sagamesh>"),
        "{}",
        taken[0]
    );
    assert!(taken[0].contains("19.99 EUR"));
}

#[tokio::test]
async fn refusals_are_told_apart_and_name_nobody() {
    for (answer, lasting) in [
        ("550 no such user <alice@example.com>\r\n", true),
        ("451 alice@example.com is greylisted\r\n", false),
    ] {
        let (url, _) = mail_server(Some(answer)).await;
        let error = Smtp::new(&url.parse().expect("an address"))
            .expect("made")
            .send(&mail("x"))
            .await
            .expect_err("refused");
        assert_eq!(matches!(error, MailError::Lasting(_)), lasting, "{error}");
        assert!(
            !error.to_string().contains("alice") && error.to_string().contains(&answer[..3]),
            "{error}"
        );
    }
    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("bound");
    let error = Smtp::new(&format!("smtp://{gone}").parse().expect("an address"))
        .expect("made")
        .send(&mail("x"))
        .await;
    assert!(matches!(error, Err(MailError::Passing(_))), "{error:?}");
}

#[test]
fn addresses_of_mail_servers_are_checked_and_hide_their_password() {
    for bad in ["", "mail.example.com", "http://mail.example.com"] {
        let error = bad.parse::<SmtpUrl>().expect_err("refused");
        assert!(error.contains("smtp://host:25"), "{error}");
    }
    let url: SmtpUrl = "smtps://shop:hunter2@mail.example.com"
        .parse()
        .expect("an address");
    assert!(!format!("{url:?}").contains("hunter2"));
}

#[tokio::test]
async fn the_service_sends_over_smtp_when_it_is_configured_and_to_files_otherwise() {
    let (orders, coordinator) = (FakeOrders::start().await, quiet_coordinator().await);
    let (url, taken) = mail_server(None).await;
    for smtp in [Some(url.as_str()), None] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StoreConfig::sqlite(folder.path(), "");
        let id = order_id();
        orders.placed(&id, "alice@example.com").await;
        let service = Running::with_smtp(
            store,
            folder.path(),
            &orders.url,
            &coordinator.url(),
            None,
            smtp,
        )
        .await;
        service
            .until(&format!("{id}.receipt"), NotificationState::Sent)
            .await;
        let wanted = format!("<{id}.receipt@");
        let file = folder
            .path()
            .join("outbox")
            .join(format!("{id}.receipt.eml"));
        assert_eq!(
            taken
                .lock()
                .unwrap()
                .iter()
                .any(|mail| mail.contains(&wanted)),
            smtp.is_some()
        );
        assert_eq!(file.exists(), smtp.is_none());
        service.stop().await;
    }
    orders.stop().await;
}
