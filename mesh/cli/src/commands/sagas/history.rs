//! Reads histories of sagas, to their end or as far as they are.

use std::time::Duration;

use sagamesh_api::saga::v1::transition::Kind;
use sagamesh_api::saga::v1::{SagaEvent, WatchSagaRequest};
use tokio::time::Instant;
use tonic::Code;

use super::{AWAY, Client};
use crate::failure::from_status;

/// Time between two tries to reach a coordinator that is away.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a saga that was announced may not be there yet.
const NOT_YET: Duration = Duration::from_secs(3);

/// Hands every event to `each` until the saga ends. Goes on where it was when the coordinator is away for a while.
pub(crate) async fn follow(
    client: &mut Client,
    saga_id: &str,
    each: impl FnMut(&SagaEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    follow_until(client, saga_id, is_end, each).await
}

/// The same up to the first event that `last` holds for, or to the end.
async fn follow_until(
    client: &mut Client,
    saga_id: &str,
    last: impl Fn(&SagaEvent) -> bool,
    mut each: impl FnMut(&SagaEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut seen = 0;
    let mut last_answer = Instant::now();
    loop {
        let request = WatchSagaRequest {
            saga_id: saga_id.to_owned(),
            after_version: seen,
        };
        let failure = match client.watch_saga(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            last_answer = Instant::now();
                            let Some(event) = message.event else { continue };
                            seen = event.version;
                            each(&event)?;
                            if last(&event) || is_end(&event) {
                                return Ok(());
                            }
                        }
                        Ok(None) => return Ok(()),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        let away = match failure.code() {
            // An order's saga is started a moment after the order was accepted.
            Code::NotFound if seen == 0 => NOT_YET,
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => AWAY,
            _ => Duration::ZERO,
        };
        if last_answer.elapsed() >= away {
            return Err(from_status(
                "coordinator",
                &format!("following saga {saga_id}"),
                &failure,
            )
            .into());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The history up to `version`.
pub(crate) async fn until(
    client: &mut Client,
    saga_id: &str,
    version: u64,
) -> anyhow::Result<Vec<SagaEvent>> {
    let mut events: Vec<SagaEvent> = Vec::new();
    if version == 0 {
        return Ok(events);
    }
    let what = || format!("reading the history of saga {saga_id}");
    let request = WatchSagaRequest {
        saga_id: saga_id.to_owned(),
        after_version: 0,
    };
    let answer = client
        .watch_saga(request)
        .await
        .map_err(|status| from_status("coordinator", &what(), &status))?;
    let mut stream = answer.into_inner();
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| from_status("coordinator", &what(), &status))?
    {
        let Some(event) = message.event else { continue };
        let last = event.version >= version;
        events.push(event);
        if last {
            break;
        }
    }
    Ok(events)
}

/// The whole history of a saga, waiting for its end.
pub(crate) async fn whole(client: &mut Client, saga_id: &str) -> anyhow::Result<Vec<SagaEvent>> {
    let mut events = Vec::new();
    follow(client, saga_id, |event| {
        events.push(event.clone());
        Ok(())
    })
    .await?;
    Ok(events)
}

/// Returns once an attempt of the action of `step` was released.
pub(crate) async fn until_step(
    client: &mut Client,
    saga_id: &str,
    step: &str,
) -> anyhow::Result<()> {
    let begins = |event: &SagaEvent| {
        event.transitions.iter().any(
            |transition| matches!(&transition.kind, Some(Kind::Dispatched(it)) if it.step == step),
        )
    };
    follow_until(client, saga_id, begins, |_| Ok(())).await
}

fn is_end(event: &SagaEvent) -> bool {
    event
        .transitions
        .iter()
        .any(|transition| matches!(transition.kind, Some(Kind::Ended(_))))
}
