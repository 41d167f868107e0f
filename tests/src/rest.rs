//! A small HTTP client for the gateway's REST side.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null when it is no JSON.
    pub json: serde_json::Value,
    /// Its body as text.
    pub text: String,
}

/// `GET`.
///
/// # Errors
/// When nobody answers.
pub async fn get(base: &str, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
    send(Method::GET, base, path, token, &[], None).await
}

/// `POST` of JSON.
///
/// # Errors
/// When nobody answers.
pub async fn post(
    base: &str,
    path: &str,
    token: Option<&str>,
    body: &serde_json::Value,
) -> anyhow::Result<Answer> {
    send(Method::POST, base, path, token, &[], Some(body.to_string())).await
}

/// Any request.
///
/// # Errors
/// When nobody answers.
pub async fn send(
    method: Method,
    base: &str,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<String>,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{base}{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = tokio::time::timeout(PATIENCE, async {
        let response = client.request(request).await.context("no answer")?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("half an answer")?.to_bytes();
        anyhow::Ok((parts, body))
    });
    let (parts, body) = answer
        .await
        .with_context(|| format!("{path} takes too long"))??;
    let text = String::from_utf8_lossy(&body).into_owned();
    let json = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        json,
        text,
    })
}
