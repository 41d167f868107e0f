//! A script, line by line.

use std::time::Duration;

use participant::testing::{ScriptedCoordinator, ScriptedStream};
use sagamesh_api::saga::v1::participate_request as to;
use serde_json::Value;
use tonic::{Code, Status};

use crate::database::Database;
use crate::messages::{contains, hello_in_json, in_json, response};
use crate::process::{Gate, start};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a case; panics where something else happens than it says.
pub(crate) async fn run<D: Database>(name: String, case: Value, database: D) {
    let mut replicas = [
        Some(ScriptedCoordinator::start().await),
        Some(ScriptedCoordinator::start().await),
    ];
    let urls = [0, 1].map(|number: usize| replicas[number].as_ref().unwrap().url());
    let gate = Gate::new();
    let mut tasks = start(&urls[0], &case, &database, &gate);
    let mut streams: [Option<ScriptedStream>; 2] = [None, None];
    for (number, line) in case["script"].as_array().unwrap().iter().enumerate() {
        println!("{name}, line {}: {line}", number + 1);
        let at = line["at"]
            .as_u64()
            .map_or(0, |at| usize::try_from(at).unwrap() - 1);
        let line = in_full(line, &urls);
        let (what, value) = line.as_object().unwrap().iter().next().unwrap();
        match what.as_str() {
            "accept" => {
                let accepted = replicas[at].as_mut().unwrap().accept().await;
                let hello = hello_in_json(&accepted.hello);
                assert!(contains(&hello, value), "the Hello is {hello}");
                streams[at] = Some(accepted);
            }
            "close" => streams[at] = None,
            "down" => {
                streams[at] = None;
                replicas[at].take().unwrap().stop().await;
            }
            "stop" => tasks.begin_drain(),
            "stopped" => tasks.shutdown(PATIENCE).await.unwrap(),
            "start" => tasks = start(&urls[0], &case, &database, &gate),
            "release" => gate.permits.add_permits(number_of(value)),
            "held" => {
                let mut held = gate.held.subscribe();
                let wanted = value.as_u64().unwrap();
                let enough = held.wait_for(|held| *held >= wanted);
                tokio::time::timeout(PATIENCE, enough)
                    .await
                    .expect("handlers that wait")
                    .unwrap();
            }
            "effects" => {
                for (saga, expected) in value.as_object().unwrap() {
                    let found = Value::from(database.effects(saga).await);
                    assert!(
                        contains(&found, expected),
                        "saga {saga} has the effects {found}"
                    );
                }
            }
            _ => {
                // For the whole line: heartbeats alone may go on for ever.
                let act = act(streams[at].as_ref().expect("a stream"), what, value);
                tokio::time::timeout(PATIENCE, act)
                    .await
                    .expect("what the line waits for");
            }
        }
    }
    tasks.begin_drain();
}

/// A line with the replicas' addresses in it, and without the replica that it is about.
fn in_full(line: &Value, urls: &[String]) -> Value {
    let mut line = line.clone();
    line.as_object_mut().unwrap().remove("at");
    let mut text = line.to_string();
    for (number, url) in (1..).zip(urls) {
        text = text.replace(&format!("$URL{number}"), url);
    }
    serde_json::from_str(&text).unwrap()
}

/// A line about a stream.
async fn act(stream: &ScriptedStream, what: &str, value: &Value) {
    match what {
        "send" => match response(value) {
            Some(message) => stream.send(message),
            None => stream.send_empty(),
        },
        "fail" => stream.fail(Status::new(code(value), "as the script says")),
        "expect" => until(stream, std::slice::from_ref(value)).await,
        "expect_all" => until(stream, value.as_array().unwrap()).await,
        "closed" => {
            while let Some(message) = stream.next().await {
                assert!(
                    is_passed_over(&message),
                    "expected the end, got {message:?}"
                );
            }
        }
        _ => panic!("this runner does not know that line"),
    }
}

/// Reads until all of these have come, in any order.
async fn until(stream: &ScriptedStream, expected: &[Value]) {
    let mut left: Vec<&Value> = expected.iter().collect();
    while !left.is_empty() {
        let message = stream.next().await.expect("a message, not the end");
        let passed_over = is_passed_over(&message);
        let json = in_json(message);
        match left.iter().position(|expected| contains(&json, expected)) {
            Some(found) => drop(left.remove(found)),
            None => assert!(passed_over, "expected {left:?}, got {json}"),
        }
    }
}

fn is_passed_over(message: &to::Message) -> bool {
    matches!(message, to::Message::Credit(_) | to::Message::Heartbeat(_))
}

fn number_of(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn code(name: &Value) -> Code {
    match name.as_str().unwrap() {
        "UNAVAILABLE" => Code::Unavailable,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        other => panic!("this runner does not know the code {other}"),
    }
}
