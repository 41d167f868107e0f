use std::sync::Mutex;

use http_body_util::BodyExt as _;

use super::*;
use crate::http::{RequestBody, ResponseBody};
use crate::policy::outbound::Backoff;

/// Answers each try with the next of these, and keeps the bodies it was sent.
#[derive(Default)]
struct Script {
    answers: Mutex<Vec<Answer>>,
    bodies: Mutex<Vec<String>>,
}

enum Answer {
    Grpc(i32),
    Slow,
    FailFast,
    LoadShed,
}

impl Serve for Arc<Script> {
    async fn call(&self, request: Request) -> Result<Response, ProxyError> {
        let answer = self.answers.lock().unwrap().remove(0);
        let body = request.into_body().collect().await.unwrap().to_bytes();
        self.bodies
            .lock()
            .unwrap()
            .push(String::from_utf8(body.to_vec()).unwrap());
        match answer {
            Answer::Grpc(status) => {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.into());
                let (parts, ()) = http::Response::builder()
                    .header("grpc-status", status)
                    .body(())
                    .unwrap()
                    .into_parts();
                let mut response =
                    Response::from_parts(parts, ResponseBody::full(None, Some(trailers)));
                response
                    .body_mut()
                    .set_grpc_status(u8::try_from(status).unwrap());
                Ok(response)
            }
            Answer::Slow => std::future::pending().await,
            Answer::FailFast => Err(ProxyError::FailFast("orders".into())),
            Answer::LoadShed => Err(ProxyError::LoadShed("orders")),
        }
    }
}

fn policy() -> Retry {
    Retry {
        max_retries: 2,
        max_request_bytes: 64,
        conditions: Conditions {
            grpc: 1 << 14,
            http: Vec::new(),
        },
        timeout: Some(Duration::from_millis(300)),
        backoff: Some(Backoff {
            min: Duration::from_millis(25),
            max: Duration::from_millis(250),
            jitter: 1.0,
        }),
    }
}

/// The gRPC status of the answer (or -1), and the bodies of the tries.
async fn call(answers: Vec<Answer>, body: &str) -> (i32, Vec<String>, Arc<RetryMetrics>) {
    let script = Arc::new(Script {
        answers: Mutex::new(answers),
        ..Script::default()
    });
    let metrics = Arc::new(RetryMetrics::new(
        &Registry::default(),
        true,
        &Labels::new(),
    ));
    let layer = RetryLayer {
        policy: Some(policy()),
        metrics: Arc::clone(&metrics),
    };
    let request = http::Request::builder()
        .header("content-type", "application/grpc")
        .body(RequestBody::full(body.to_owned()))
        .unwrap();
    let status = match layer
        .layer(Arc::clone(&script))
        .call(Box::new(request))
        .await
    {
        Ok(response) => response.body().known_grpc_status().map_or(-1, i32::from),
        Err(_) => -1,
    };
    let bodies = script.bodies.lock().unwrap().clone();
    (status, bodies, metrics)
}

#[tokio::test(start_paused = true)]
async fn a_condition_is_tried_again_with_the_same_body() {
    let (status, bodies, metrics) = call(vec![Answer::Grpc(14), Answer::Grpc(0)], "hello").await;
    assert_eq!((status, bodies), (0, vec!["hello".to_owned(); 2]));
    assert_eq!((metrics.requests.get(), metrics.successes.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_limit_ends_it() {
    let (status, bodies, metrics) = call(
        vec![Answer::Grpc(14), Answer::Grpc(14), Answer::Grpc(14)],
        "x",
    )
    .await;
    assert_eq!((status, bodies.len()), (14, 3));
    assert_eq!(
        (metrics.requests.get(), metrics.limit_exceeded.get()),
        (2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn other_statuses_and_load_shedding_are_final() {
    assert_eq!(call(vec![Answer::Grpc(13)], "x").await.0, 13);
    let (status, bodies, _) = call(vec![Answer::LoadShed], "x").await;
    assert_eq!((status, bodies.len()), (-1, 1));
}

#[tokio::test(start_paused = true)]
async fn slow_tries_and_fail_fast_are_tried_again() {
    let (status, bodies, _) =
        call(vec![Answer::Slow, Answer::FailFast, Answer::Grpc(0)], "x").await;
    assert_eq!((status, bodies.len()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_sent_once() {
    let large = "x".repeat(65);
    let (status, bodies, _) = call(vec![Answer::Grpc(14)], &large).await;
    assert_eq!((status, bodies.len()), (14, 1));
}

#[tokio::test(start_paused = true)]
async fn with_nobody_to_ask_again_the_first_answer_stands() {
    let (status, bodies, metrics) = call(vec![Answer::Grpc(14), Answer::FailFast], "x").await;
    assert_eq!((status, bodies.len()), (14, 2));
    assert_eq!((metrics.overflow.get(), metrics.successes.get()), (1, 0));
}
