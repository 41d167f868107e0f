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

/// Hands every event to `each` until the saga ends. Goes on where it was when the coordinator is away for a while.
pub(crate) async fn follow(
    client: &mut Client,
    saga_id: &str,
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
                            if is_end(&event) {
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
        let passing = matches!(
            failure.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
        );
        if !passing || last_answer.elapsed() > AWAY {
            return Err(from_status(&format!("following saga {saga_id}"), &failure).into());
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
        .map_err(|status| from_status(&what(), &status))?;
    let mut stream = answer.into_inner();
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| from_status(&what(), &status))?
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

fn is_end(event: &SagaEvent) -> bool {
    event
        .transitions
        .iter()
        .any(|transition| matches!(transition.kind, Some(Kind::Ended(_))))
}
