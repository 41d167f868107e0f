//! What is never written down: customers and strangers are played, and whatever the system said is searched.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use chassis::Env;
use http::Method;
use sagamesh_api::mesh::v1::DeregisterRequest;
use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;
use sagamesh_api::saga::v1::participant_service_client::ParticipantServiceClient;
use sagamesh_api::saga::v1::{Hello, ParticipateRequest, participate_request};
use sagamesh_api::shop::orders::v1::GetOrderRequest;
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::payments::v1::GetPaymentRequest;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use sagamesh_tests::collector::Collector;
use sagamesh_tests::secrets::{Secrets, tree};
use sagamesh_tests::{Options, System, binaries, rest};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tonic::{Code, Request, Status};

use crate::{CUSTOMER, EMAIL, PATIENCE, order, process, processes, text};

const OTHER_CUSTOMER: &str = "customer-v3x8z1";
const CARD: &str = "4929123456781234";
const DECLINED: &str = "pm_card_k7q2w9_declined";
const MISPLACED: &str = "misplaced-k7q2w9";

#[tokio::test]
async fn nothing_secret_or_personal_is_in_logs_metrics_spans_or_errors() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let system = System::start_with(Options {
        environment: vec![
            // Everything there is, and all of it exported.
            ("RUST_LOG", "trace,opentelemetry_sdk=info"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                collector.url().to_owned().leak(),
            ),
        ],
        ..Default::default()
    })
    .await?;
    system.restock("tea", 50, 450).await?;

    let mut secrets = Secrets::default();
    for value in [
        CUSTOMER,
        OTHER_CUSTOMER,
        EMAIL,
        "kim.k7q2w9",
        CARD,
        DECLINED,
        "pm_ok",
        MISPLACED,
    ] {
        secrets.add(value, value);
    }
    let mut errors = Errors::default();
    shop(&system, &mut secrets, &mut errors).await?;
    strangers(&system, &mut secrets, &mut errors).await?;
    let mesh = system.folder().join("mesh");
    for entry in std::fs::read_dir(mesh.join("tokens"))? {
        let path = entry?.path();
        let token = std::fs::read_to_string(&path)?;
        let (pod, secret) = token.split_once('.').context("a token without a secret")?;
        secrets.add(format!("the token of {pod}"), secret.trim());
    }
    secrets.add_key(&mesh.join("ca.key"))?;
    secrets.add_key(&system.folder().join("dev-signing-key.pem"))?;
    assert!(secrets.count() > 20, "{}", secrets.count());

    let mut found = Vec::new();
    let record = system.record()?;
    for process in processes(&record)? {
        let label = text(process, "label")?;
        let metrics = rest::get(text(process, "admin")?, "/metrics", None).await?;
        assert_eq!(metrics.status, 200, "{label}");
        assert!(metrics.text.contains("# TYPE"), "{label}: {}", metrics.text);
        found.extend(secrets.found_in(&format!("{label}'s metrics"), metrics.text.as_bytes()));
    }
    found.extend(secrets.found_in("system.json", record.to_string().as_bytes()));
    let greeting = system.greeting.clone();
    let logs = system.folder().join("logs");
    let (folder, rest_of_output) = system.stop().await?;
    found.extend(secrets.found_in("what `up` prints", (greeting + &rest_of_output).as_bytes()));

    let mut lines = 0;
    for path in tree(&logs)?.into_iter().filter(|path| path.is_file()) {
        let log = std::fs::read(&path)?;
        lines += log.iter().filter(|byte| **byte == b'\n').count();
        found.extend(secrets.found_in(&path.display().to_string(), &log));
    }
    assert!(lines > 10_000, "everything is logged: {lines} lines");

    let spans = collector.received();
    for service in ["gateway", "orders", "payments", "coordinator"] {
        let exported = spans.iter().any(|span| contains(span, service.as_bytes()));
        assert!(exported, "no span of {service} in {} exports", spans.len());
    }
    for span in &spans {
        found.extend(secrets.found_in("an exported span", span));
    }
    for (name, error) in &errors.0 {
        found.extend(secrets.found_in(&format!("the answer to {name}"), error.as_bytes()));
    }
    drop(folder);
    found.sort();
    found.dedup_by_key(|found| found.split(": ").next().map(str::to_owned));
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// What was refused, and in which words.
#[derive(Default)]
struct Errors(BTreeMap<String, String>);

impl Errors {
    fn http(&mut self, name: &str, expected: u16, answer: &rest::Answer) {
        assert_eq!(answer.status, expected, "{name}: {}", answer.text);
        let all = format!("{:?}\n{}", answer.headers, answer.text);
        assert!(self.0.insert(name.to_owned(), all).is_none(), "{name}");
    }

    fn grpc<T>(&mut self, name: &str, expected: Code, answer: Result<T, Status>) {
        let status = answer.err().unwrap_or_else(|| Status::ok(""));
        assert_eq!(status.code(), expected, "{name}: {status:?}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        let all = format!("{status:?}\n{details}");
        assert!(self.0.insert(name.to_owned(), all).is_none(), "{name}");
    }
}

/// Customers of the shop: orders that end well and badly, and requests that are refused.
async fn shop(system: &System, secrets: &mut Secrets, errors: &mut Errors) -> anyhow::Result<()> {
    let gateway = system.gateway()?;
    let token = system.token(CUSTOMER).await?;
    let other = system.token(OTHER_CUSTOMER).await?;
    secrets.add_jwt("a token", &token);
    secrets.add_jwt("another token", &other);

    let mut ids = Vec::new();
    for (method, status) in [
        ("pm_ok", "CONFIRMED"),
        (DECLINED, "REJECTED"),
        ("pm_flaky", "CONFIRMED"),
        ("pm_timeout_authorize", "CONFIRMED"),
    ] {
        let key = uuid::Uuid::now_v7().to_string();
        secrets.add("an idempotency key", &key);
        let place = |body: Value| {
            let headers = [("idempotency-key", key.as_str()), ("prefer", "wait=60")];
            let (gateway, token) = (gateway.clone(), token.clone());
            async move {
                let body = Some(body.to_string());
                rest::send(
                    Method::POST,
                    &gateway,
                    "/v1/orders",
                    Some(&token),
                    &headers,
                    body,
                )
                .await
            }
        };
        let placed = place(order(method)).await?;
        assert_eq!(placed.status, 201, "{method}: {}", placed.text);
        assert_eq!(placed.json["status"], status, "{method}: {}", placed.text);
        ids.push(
            placed.json["order_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
        let mut changed = order(method);
        changed["lines"][0]["quantity"] = json!(2);
        errors.http(
            &format!("{method} again, changed"),
            409,
            &place(changed).await?,
        );
    }
    let path = |id: &str| format!("/v1/orders/{id}");
    let cancel = format!("{}/cancel", path(&ids[1]));
    let why = json!({"reason": MISPLACED});
    let cancelled = rest::post(&gateway, &cancel, Some(&token), &why).await?;
    errors.http("cancelling a rejected order", 409, &cancelled);
    let foreign = rest::get(&gateway, &path(&ids[0]), Some(&other)).await?;
    errors.http("another's order", 404, &foreign);

    let mut wrong: Vec<(&str, Value)> = vec![
        ("a card for a method", order(&format!("card {CARD}"))),
        ("a body that is a text", json!(MISPLACED)),
    ];
    for (name, field, value) in [
        (
            "a number for a method",
            "payment_method",
            json!(4_929_123_456_781_234_u64),
        ),
        ("a text for lines", "lines", json!(MISPLACED)),
        ("a list for an address", "contact_email", json!([EMAIL])),
        (
            "no address",
            "contact_email",
            json!(format!("{EMAIL} {EMAIL}")),
        ),
        ("a key that is none", "request_id", json!(MISPLACED)),
        ("a currency that is none", "currency", json!(MISPLACED)),
        ("a card for a field", CARD, json!(1)),
    ] {
        let mut body = order("pm_ok");
        body[field] = value;
        wrong.push((name, body));
    }
    for (name, body) in &wrong {
        errors.http(
            name,
            400,
            &rest::post(&gateway, "/v1/orders", Some(&token), body).await?,
        );
    }
    let cut = Some(format!("{{\"payment_method\": \"{CARD}"));
    let cut = rest::send(Method::POST, &gateway, "/v1/orders", Some(&token), &[], cut).await?;
    errors.http("half a body", 400, &cut);
    let query = format!("/v1/orders?access_token={token}&contact={EMAIL}");
    errors.http(
        "a token in the query",
        400,
        &rest::get(&gateway, &query, Some(&token)).await?,
    );
    Ok(())
}

/// Whoever shows what is not his, or nothing, at every door there is.
async fn strangers(
    system: &System,
    secrets: &mut Secrets,
    errors: &mut Errors,
) -> anyhow::Result<()> {
    let gateway = system.gateway()?;
    let token = system.token(CUSTOMER).await?;
    secrets.add_jwt("a token that is tampered with", &token);
    let (head, signature) = token.rsplit_once('.').context("a signature")?;
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    secrets.add_jwt("a forged token", &forged);
    for (name, token) in [
        ("a forged token", forged.as_str()),
        ("no token at all", MISPLACED),
    ] {
        errors.http(
            name,
            401,
            &rest::get(&gateway, "/v1/orders", Some(token)).await?,
        );
        let mut request = Request::new(GetOrderRequest::default());
        let bearer = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", bearer);
        let mut orders = OrderServiceClient::new(chassis::channel(&Env::system(), &gateway));
        let answer = orders.get_order(request).await;
        errors.grpc(&format!("{name}, over gRPC"), Code::Unauthenticated, answer);
    }
    let unscoped = system.sagamesh(&["token", "--sub", CUSTOMER, "--scopes", "orders:read"]);
    let unscoped = unscoped.await?.trim().to_owned();
    secrets.add_jwt("a token without a scope", &unscoped);
    let placed = rest::post(&gateway, "/v1/orders", Some(&unscoped), &order("pm_ok")).await?;
    errors.http("a scope that is missing", 403, &placed);

    let mut payments = PaymentServiceClient::new(system.channel_as("notifications-0", "payments")?);
    let request = GetPaymentRequest {
        payment_id: MISPLACED.to_owned(),
        min_position: 0,
    };
    let denied = payments.get_payment(request).await;
    errors.grpc("a call that policy denies", Code::PermissionDenied, denied);

    let coordinator = system.channel_as("notifications-0", "coordinator")?;
    let hello = ParticipateRequest {
        message: Some(participate_request::Message::Hello(Hello {
            participant: "payments".into(),
            instance: "payments-0".into(),
            actions: vec!["payments.CapturePayment".into()],
            credits: 1,
            attempts_in_progress: Vec::new(),
            ..Hello::default()
        })),
    };
    let posing = ParticipantServiceClient::new(coordinator)
        .participate(tokio_stream::iter([hello]))
        .await;
    errors.grpc("posing as a participant", Code::PermissionDenied, posing);

    let secret = "5ec7e7".repeat(10) + "5ec7";
    secrets.add("a forged token of a pod", &secret);
    let control = system.record()?["mesh"]["control"]
        .as_str()
        .map(str::to_owned);
    let control = control.context("no control plane")?;
    let mut request = Request::new(DeregisterRequest {
        instance_id: "orders-0".into(),
    });
    let bearer = format!("Bearer orders-0.{secret}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut registry = RegistryServiceClient::new(chassis::channel(&Env::system(), &control));
    let refused = registry.deregister(request).await;
    errors.grpc("a forged token of a pod", Code::Unauthenticated, refused);

    let inbound = process(&system.record()?, "orders-0-sidecar")?["url"].clone();
    let inbound = inbound
        .as_str()
        .context("no address")?
        .trim_start_matches("http://");
    let inbound = inbound.replace(":4140", ":4143");
    let mut plain = tokio::net::TcpStream::connect(inbound).await?;
    let request =
        format!("POST / HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\n\r\n");
    // It may be hung up on before all is written.
    let _ = plain.write_all(request.as_bytes()).await;
    Ok(())
}

#[tokio::test]
async fn passwords_of_databases_are_not_shown() -> anyhow::Result<()> {
    const PASSWORD: &str = "hunter-k7q2w9";
    let url = format!("postgres://shop:{PASSWORD}@127.0.0.1:1/shop?host=/nowhere");
    let folder = tempfile::tempdir()?;
    for (program, arguments) in [
        ("sagamesh", vec!["up", "--postgres", &url]),
        (
            "orders",
            vec!["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
        ),
    ] {
        let output = tokio::process::Command::new(binaries::path(program)?)
            .args(arguments)
            .env("SAGAMESH_DATA_DIR", folder.path())
            .env("SAGAMESH_DATABASE_URL", &url)
            .env("RUST_LOG", "trace")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output.with_context(|| format!("{program} does not give up"))??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success(), "{program}: {said}");
        assert!(said.contains("error:"), "{program}: {said}");
        assert!(!said.contains(PASSWORD), "{program}: {said}");
    }
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[test]
fn what_is_looked_for_is_found() {
    let mut secrets = Secrets::default();
    secrets.add("the card", CARD);
    let found = secrets.found_in("a log", format!("a\nlevel=INFO card={CARD}\n").as_bytes());
    assert_eq!(found, ["the card is in a log: level=INFO card=<<HERE>>"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(tree(path).is_ok_and(|tree| tree.len() > 5));
}
