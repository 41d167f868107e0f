//! Who gets in, how often, and how many at a time.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{GetOrderRequest, WatchOrderRequest};
use sagamesh_api::shop::payments::v1::GetTrialBalanceRequest;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use serde_json::json;
use tonic::Code;

use crate::Outcome;
use crate::rig::{Rig, endless, new_order, stranger_key};

#[tokio::test]
async fn tokens_that_must_not_get_in() -> Outcome {
    let rig = Rig::start(&[]).await;
    let good = rig.claims("ann");
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(rig.kid.clone());
    let now = jsonwebtoken::get_current_timestamp();
    let with = |claim: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        rig.sign(&claims)
    };
    let unsigned = |alg: &str| {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.",
            part(json!({"alg": alg, "typ": "JWT", "kid": rig.kid})),
            part(good.clone())
        )
    };
    // The public key, which everybody can read, used as the secret of an HMAC.
    let confused = {
        let x = rig.jwks["keys"][0]["x"].as_str().ok_or("no x")?;
        let header = Header {
            kid: Some(rig.kid.clone()),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(x.as_bytes()))?
    };
    let nameless = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &good, &rig.key)?;
    let unknown = jsonwebtoken::encode(
        &Header {
            kid: Some("other".to_owned()),
            ..header.clone()
        },
        &good,
        &stranger_key(),
    )?;
    let forged = jsonwebtoken::encode(&header, &good, &stranger_key())?;
    let mut missing = good.clone();
    missing.as_object_mut().ok_or("claims")?.remove("exp");

    for (token, reason) in [
        (unsigned("none"), "TOKEN_MALFORMED"),
        (unsigned("ES256"), "TOKEN_SIGNATURE"),
        (confused, "TOKEN_ALGORITHM"),
        (nameless, "TOKEN_KEY_UNKNOWN"),
        (unknown, "TOKEN_KEY_UNKNOWN"),
        (forged, "TOKEN_SIGNATURE"),
        (with("exp", json!(now - 60)), "TOKEN_EXPIRED"),
        (with("nbf", json!(now + 60)), "TOKEN_NOT_YET_VALID"),
        (with("iss", json!("else")), "TOKEN_ISSUER"),
        (with("aud", json!("else")), "TOKEN_AUDIENCE"),
        (with("sub", json!("")), "TOKEN_MALFORMED"),
        (rig.sign(&missing), "TOKEN_MALFORMED"),
        ("a.b.c".to_owned(), "TOKEN_MALFORMED"),
        ("x".repeat(9000), "TOKEN_MALFORMED"),
    ] {
        let answer = rig.get("/v1/orders", &token).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::UNAUTHORIZED, reason),
            "{token}: {answer:?}"
        );
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
        assert!(
            !answer.body.contains(&token),
            "the token must not come back"
        );
    }
    let nobody = rig.send(Method::GET, "/v1/orders", &[], "").await;
    assert_eq!(
        (nobody.status, nobody.reason().as_str()),
        (StatusCode::UNAUTHORIZED, "TOKEN_MISSING")
    );
    assert_eq!(
        rig.get("/v1/orders", &rig.token("ann")).await.status,
        StatusCode::OK
    );
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn scopes_and_foreign_orders() -> Outcome {
    let rig = Rig::start(&[]).await;
    let mut reader = rig.claims("ann");
    reader["scope"] = json!("orders:read");
    let refused = rig
        .post("/v1/orders", &rig.sign(&reader), &new_order())
        .await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::FORBIDDEN, "SCOPE_MISSING")
    );
    assert_eq!(refused.json()["context"]["scope"], "orders:write");

    let placed = rig
        .post("/v1/orders", &rig.token("ann"), &new_order())
        .await;
    assert_eq!(placed.status, StatusCode::ACCEPTED, "{placed:?}");
    let path = placed.header("location").to_owned();
    assert_eq!(
        rig.get(&path, &rig.token("ann")).await.status,
        StatusCode::OK
    );
    assert_eq!(
        rig.get(&path, &rig.token("bob")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        rig.get(&format!("{path}/events"), &rig.token("bob"))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    // The books are everybody's: no scope of a customer's opens them.
    let mut client = PaymentServiceClient::connect(format!("http://{}", rig.address)).await?;
    let mut books = rig.claims("bookkeeper");
    books["scope"] = json!("books:read");
    for (token, code) in [
        (rig.token("ann"), Code::PermissionDenied),
        (rig.sign(&books), Code::Ok),
    ] {
        let mut request = tonic::Request::new(GetTrialBalanceRequest {});
        let bearer = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", bearer);
        let answer = client.get_trial_balance(request).await;
        assert_eq!(
            answer.map_or_else(|status| status.code(), |_| Code::Ok),
            code
        );
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn too_many_requests_are_refused_in_the_callers_language() -> Outcome {
    let rig = Rig::start(&["--rate-per-subject", "1", "--burst-per-subject", "2"]).await;
    let token = rig.token("ann");
    let first = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (
            first.header("ratelimit-limit"),
            first.header("ratelimit-remaining")
        ),
        ("2", "1")
    );
    rig.get("/v1/orders", &token).await;
    let refused = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED")
    );
    assert_eq!(
        (
            refused.header("retry-after"),
            refused.header("ratelimit-remaining")
        ),
        ("1", "0")
    );
    assert_eq!(
        rig.get("/v1/orders", &rig.token("bob")).await.status,
        StatusCode::OK,
        "others are not held up"
    );

    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let mut request = tonic::Request::new(GetOrderRequest::default());
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    let status = client
        .get_order(request)
        .await
        .expect_err("ann is over her limit");
    assert_eq!(
        (status.code(), chassis::problem::reason(&status).as_deref()),
        (tonic::Code::ResourceExhausted, Some("RATE_LIMITED"))
    );
    assert!(chassis::problem::retry_after(&status).is_some());
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_it_ends() -> Outcome {
    let rig = Rig::start(&["--max-concurrent-requests", "1"]).await;
    let token = rig.token("ann");
    let path = endless(&rig, &token).await;
    let id = path.rsplit('/').next().ok_or("an id")?.to_owned();
    let authorised = |message| {
        let mut request = tonic::Request::new(message);
        let bearer = format!("Bearer {token}").parse().expect("ascii");
        request.metadata_mut().insert("authorization", bearer);
        request
    };
    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let watch = WatchOrderRequest {
        order_id: id,
        customer_id: String::new(),
    };
    let mut stream = client.watch_order(authorised(watch)).await?.into_inner();
    stream.message().await?.ok_or("the order as it is")?;

    let refused = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED")
    );
    assert_eq!(refused.header("retry-after"), "1");
    let mut get = tonic::Request::new(GetOrderRequest::default());
    get.metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    let status = client.get_order(get).await.expect_err("no place");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);

    drop(stream);
    while rig.get("/v1/orders", &token).await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn keys_are_rotated_while_it_runs() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("keys.json");
    // Another system's key pair stands for the new one.
    let other = Rig::start(&[]).await;
    let file = path.to_str().ok_or("UTF-8")?.to_owned();
    let first = gateway::dev_key::load_or_create(folder.path())?;
    std::fs::write(&path, serde_json::to_string(&first)?)?;
    let rig = Rig::start(&["--jwks", &file, "--jwks-refresh", "10ms"]).await;
    let pem = std::fs::read(folder.path().join(gateway::dev_key::KEY_FILE))?;
    let header = Header {
        kid: first.keys[0].common.key_id.clone(),
        ..Header::new(Algorithm::ES256)
    };
    let old = jsonwebtoken::encode(
        &header,
        &rig.claims("ann"),
        &EncodingKey::from_ec_pem(&pem)?,
    )?;
    let new = other.token("ann");
    assert_eq!(rig.get("/v1/orders", &old).await.status, StatusCode::OK);
    let refused = rig.get("/v1/orders", &new).await;
    assert_eq!(refused.reason(), "TOKEN_KEY_UNKNOWN");

    // A file that is no key set changes nothing; the next one is taken.
    std::fs::write(&path, "not JSON")?;
    assert_eq!(rig.get("/v1/orders", &old).await.status, StatusCode::OK);
    // Beside keys of kinds that are not known here: those are left out, and not published.
    let mut next = other.jwks.clone();
    let keys = next["keys"].as_array_mut().ok_or("keys")?;
    keys.insert(
        0,
        json!({"kid": "odd", "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
    );
    keys.push(json!({"kid": "odder", "kty": "OKP", "crv": "X25519", "x": "AA", "use": "enc"}));
    std::fs::write(&path, next.to_string())?;
    while rig.get("/v1/orders", &new).await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    let refused = rig.get("/v1/orders", &old).await;
    assert_eq!(refused.reason(), "TOKEN_KEY_UNKNOWN");
    let published = rig
        .send(Method::GET, "/.well-known/jwks.json", &[], "")
        .await;
    assert_eq!(published.json(), other.jwks);
    rig.stop().await;
    other.stop().await;
    Ok(())
}

#[test]
fn a_key_verifies_by_the_algorithm_that_it_names() -> Outcome {
    let rsa: Pkcs8V1Der<'_> = rsa::KeyPair::generate(KeySize::Rsa2048)?.as_der()?;
    let rsa = STANDARD.encode(rsa.as_ref());
    let rsa = format!("-----BEGIN PRIVATE KEY-----\n{rsa}\n-----END PRIVATE KEY-----\n");
    let rsa = EncodingKey::from_rsa_pem(rsa.as_bytes())?;
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
    let p384 = EncodingKey::from_ec_der(p384.to_pkcs8v1()?.as_ref());
    for (key, algorithm) in [
        (&rsa, Algorithm::PS256),
        (&rsa, Algorithm::RS256),
        (&p384, Algorithm::ES384),
    ] {
        let mut jwk = Jwk::from_encoding_key(key, algorithm)?;
        jwk.common.key_id = Some("k".to_owned());
        let (set, _) = gateway::jwks::read(&json!({"keys": [jwk]}).to_string())?;
        let verifier = gateway::auth::Verifier::new(&set, "i", "a")?;
        let now = jsonwebtoken::get_current_timestamp();
        let claims = json!({"iss": "i", "aud": "a", "sub": "ann", "exp": now + 60});
        let sign = |algorithm| {
            let header = Header {
                kid: Some("k".to_owned()),
                ..Header::new(algorithm)
            };
            jsonwebtoken::encode(&header, &claims, key).map(|token| format!("Bearer {token}"))
        };
        let caller = verifier.verify(Some(&sign(algorithm)?))?;
        assert_eq!(caller.subject, "ann");
        if key.family() == rsa.family() {
            let other = verifier.verify(Some(&sign(Algorithm::RS512)?));
            assert_eq!(
                other.expect_err("another algorithm").reason(),
                "TOKEN_ALGORITHM"
            );
        }
    }
    Ok(())
}

#[test]
fn key_sets_that_are_not_usable_are_explained() {
    let refused = |set: serde_json::Value| {
        let set = serde_json::from_value(set).expect("a key set");
        let verifier = gateway::auth::Verifier::new(&set, "iss", "aud");
        verifier.expect_err("not usable").to_string()
    };
    assert!(refused(json!({"keys": []})).contains("holds no key"));
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"});
    assert!(refused(json!({"keys": [secret]})).contains("not supported"));
    let point = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
    let other = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
    let nameless = json!({"kty": "EC", "crv": "P-256", "x": point, "y": other});
    assert!(refused(json!({"keys": [nameless]})).contains("has no `kid`"));
    let named = json!({"kty": "EC", "crv": "P-256", "x": point, "y": other, "kid": "a"});
    assert!(refused(json!({"keys": [named, named]})).contains("two keys"));
}

#[tokio::test]
async fn floods_from_one_address_end_before_tokens_are_checked() -> Outcome {
    let flags = ["--rate-per-address", "1", "--burst-per-address", "2"];
    let rig = Rig::start(&[&flags[..], &["--trust-forwarded-for"]].concat()).await;
    let from = |forwarded: &'static str| {
        let headers = [("x-forwarded-for", forwarded)];
        let rig = &rig;
        async move { rig.send(Method::GET, "/v1/orders", &headers, "").await }
    };
    for _ in 0..2 {
        assert_eq!(from("10.0.0.1").await.status, StatusCode::UNAUTHORIZED);
    }
    // What the client claims stands before what our own proxy wrote, and does not help.
    let refused = from("10.9.9.9, 10.0.0.1").await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED")
    );
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(from("10.0.0.2").await.status, StatusCode::UNAUTHORIZED);
    rig.stop().await;

    // Without a proxy of ours the header is nothing but a claim.
    let rig = Rig::start(&flags).await;
    let claim = |address: &'static str| {
        let headers = [("x-forwarded-for", address)];
        let rig = &rig;
        async move {
            rig.send(Method::GET, "/v1/orders", &headers, "")
                .await
                .status
        }
    };
    claim("10.0.0.1").await;
    claim("10.0.0.2").await;
    assert_eq!(claim("10.0.0.3").await, StatusCode::TOO_MANY_REQUESTS);
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn one_subject_cannot_take_every_place() -> Outcome {
    let rig = Rig::start(&["--max-concurrent-per-subject", "1"]).await;
    let token = rig.token("ann");
    let path = endless(&rig, &token).await;
    let mut watch = tonic::Request::new(WatchOrderRequest {
        order_id: path.rsplit('/').next().ok_or("an id")?.to_owned(),
        customer_id: String::new(),
    });
    let bearer = format!("Bearer {token}").parse()?;
    watch.metadata_mut().insert("authorization", bearer);
    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let mut stream = client.watch_order(watch).await?.into_inner();
    stream.message().await?.ok_or("the order as it is")?;
    let refused = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_AT_ONCE")
    );
    let other = rig.get("/v1/orders", &rig.token("bob")).await;
    assert_eq!(other.status, StatusCode::OK);
    drop(stream);
    while rig.get("/v1/orders", &token).await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn strangers_have_places_of_their_own_and_callers_keep_theirs() -> Outcome {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let rig = Rig::start(&["--max-anonymous", "2", "--max-anonymous-per-address", "1"]).await;
    let token = rig.token("ann");
    let channel = tonic::transport::Endpoint::new(format!("http://{}", rig.address))?;
    let mut client = ServerReflectionClient::new(channel.connect().await?);
    let (asking, asked) = tokio::sync::mpsc::channel::<ServerReflectionRequest>(1);
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let stream = client.server_reflection_info(asked).await?;
    let refused = rig.send(Method::GET, "/healthz", &[], "").await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED")
    );
    assert_eq!(rig.get("/v1/orders", &token).await.status, StatusCode::OK);
    drop((asking, stream));
    while rig.send(Method::GET, "/healthz", &[], "").await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    // What is longer than any name is refused when its length is known.
    let long = tokio_stream::iter([ServerReflectionRequest {
        host: "x".repeat(20_000),
        message_request: None,
    }]);
    let mut answers = client.server_reflection_info(long).await?.into_inner();
    assert!(!matches!(answers.message().await, Ok(Some(_))));
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn addresses_of_services_behind_stay_inside() -> Outcome {
    let rig = Rig::start(&[]).await;
    let answer = rig.get("/v1/items", &rig.token("ann")).await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "BACKEND_UNAVAILABLE")
    );
    assert_eq!(
        answer.json()["detail"],
        "inventory does not answer just now: try again"
    );
    assert_eq!(answer.header("retry-after"), "1");
    rig.stop().await;
    Ok(())
}
