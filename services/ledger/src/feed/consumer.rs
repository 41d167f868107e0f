//! Follows another service's feed.

use std::time::Duration;

use sagamesh_api::ledger::v1::{SubscribeRequest, feed_service_client::FeedServiceClient};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::store::BoxFuture;
use crate::{Error, Recorded, StreamId};

/// A stream that says nothing for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(20);

/// What one message of a feed holds.
#[derive(Debug, Clone)]
pub struct Received {
    /// The log it comes from.
    pub log_id: String,
    /// The events, in order; empty when all were filtered out.
    pub events: Vec<Recorded>,
    /// Store this with the effects of the events.
    pub position: u64,
}

/// Handles a feed. The position is stored by the handler, in the same transaction as the effects.
pub trait Handler: Send + 'static {
    /// The log and position handled last, as stored; `None` to start from the first event.
    fn position(&mut self) -> BoxFuture<'_, Result<Option<(String, u64)>, Error>>;

    /// Handles a message. After an error the feed is subscribed to again from the stored position.
    fn handle(&mut self, received: Received) -> BoxFuture<'_, Result<(), Error>>;

    /// The log was replaced by another one (a restore): forget the position, or refuse and be asked again later.
    fn log_replaced(&mut self) -> BoxFuture<'_, Result<(), Error>>;
}

/// Follows one feed for as long as the process runs.
#[derive(Clone)]
pub struct Consumer {
    channel: chassis::PeerChannel,
    name: &'static str,
    stream_prefix: String,
}

impl Consumer {
    /// A consumer of this name (1 to 63 characters of `[a-z0-9-]`) for the service behind `channel`.
    pub fn new(name: &'static str, channel: chassis::PeerChannel) -> Self {
        Self {
            channel,
            name,
            stream_prefix: String::new(),
        }
    }

    /// Only events of streams whose names start with this.
    pub fn stream_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.stream_prefix = prefix.into();
        self
    }

    /// Connects, hands on what comes, and connects again with backoff, until `stop` is cancelled.
    pub async fn run(self, mut handler: impl Handler, stop: CancellationToken) {
        let mut pause = Duration::from_millis(50);
        loop {
            let before = tokio::time::Instant::now();
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = self.follow(&mut handler) => result,
            };
            if before.elapsed() > Duration::from_secs(10) {
                pause = Duration::from_millis(50);
            }
            if let Err(error) = result {
                tracing::warn!(consumer = self.name, %error, "a feed broke off; it is subscribed to again");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
            }
        }
    }

    /// One subscription, until it ends.
    async fn follow(&self, handler: &mut impl Handler) -> Result<(), Error> {
        let (log_id, after_position) = handler.position().await?.unwrap_or_default();
        let request = SubscribeRequest {
            after_position,
            log_id,
            stream_prefix: self.stream_prefix.clone(),
            consumer: self.name.to_owned(),
        };
        let mut client = FeedServiceClient::new(self.channel.clone());
        let mut responses = match client.subscribe(request).await {
            Ok(response) => response.into_inner(),
            Err(status) if replaced(&status) => return handler.log_replaced().await,
            Err(status) => return Err(lost(&status)),
        };
        loop {
            let next = tokio::time::timeout(SILENCE, responses.message()).await;
            let response = match next {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(lost(&status)),
                Err(_) => {
                    return Err(Error::Timeout(format!(
                        "a heartbeat of the feed for {}",
                        self.name
                    )));
                }
            };
            let events = response
                .events
                .into_iter()
                .map(|event| Recorded {
                    position: event.position,
                    stream: StreamId::from(event.stream),
                    version: event.version,
                    type_name: event.r#type.into(),
                    data: event.data.into(),
                    commit_millis: event
                        .commit_time
                        .as_ref()
                        .map_or(0, chassis::timestamp::to_millis),
                })
                .collect();
            handler
                .handle(Received {
                    log_id: response.log_id,
                    events,
                    position: response.position,
                })
                .await?;
        }
    }
}

fn replaced(status: &Status) -> bool {
    chassis::problem::reason(status).as_deref() == Some("LOG_REPLACED")
        || status.code() == Code::OutOfRange
}

fn lost(status: &Status) -> Error {
    Error::Timeout(format!(
        "the feed ({}: {})",
        status.code(),
        status.message()
    ))
}
