//! HTTP/1.1 from an app to another, through HTTP/2 between the sidecars.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_sidecar::testing::{identity_of, policies};

use crate::harness::{Mesh, ORDERS};
use crate::proxy::{is_linkerd, skipped};

#[tokio::test]
async fn http1_arrives_as_http1() {
    let mesh = Mesh::start().await;
    mesh.control
        .set_policy("rest.sagamesh:8080", policies::http(ORDERS));
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::post(format!(
        "http://{}/v1/things?a=b",
        mesh.gateway.dial("rest.sagamesh:8080")
    ))
    .header("host", "rest.sagamesh:8080")
    .header("l5d-client-id", "spoofed")
    .header("connection", "x-hop")
    .header("x-hop", "1")
    .body(Full::from("text"))
    .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.version(), http::Version::HTTP_11);
    assert!(!response.headers().contains_key("l5d-orig-proto"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let client = identity_of("gateway");
    let expected =
        format!("POST /v1/things?a=b HTTP/1.1 host=rest.sagamesh:8080 client={client} body=text");
    assert_eq!(body, expected);
}

#[tokio::test]
async fn errors_are_http_statuses_for_http1() {
    if is_linkerd("gateway") {
        return skipped("it passes on what it does not know, to where it was meant to go");
    }
    let mesh = Mesh::start().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::get(format!("http://{}/", mesh.gateway.sidecar.outbound_addr()))
        .header("l5d-dst-override", "nobody:80")
        .body(Full::default())
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(
        response.headers().get("l5d-proxy-error").unwrap(),
        "nobody:80: not known in the mesh"
    );
}
