//! `ledger.v1.FeedService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use sagamesh_api::ledger::v1::{self as proto, feed_service_server};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::Subscription;
use crate::log::Log;
use crate::{Error, Recorded};

const ERRORS: chassis::Domain = chassis::Domain("ledger.sagamesh");

/// Events of one message at most.
const BATCH: usize = 512;
/// Bytes of one message at most, roughly: below the usual limit of 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// An empty message is sent when nothing else was for so long.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Serves the log to other services.
#[derive(Clone)]
pub struct FeedService {
    log: Arc<Log>,
    stop: CancellationToken,
}

impl FeedService {
    /// The full name, for health.
    pub const NAME: &'static str = "ledger.v1.FeedService";

    pub(crate) fn new(log: Arc<Log>, stop: CancellationToken) -> Self {
        Self { log, stop }
    }

    /// As a service for a server's routes.
    pub fn into_server(self) -> feed_service_server::FeedServiceServer<Self> {
        feed_service_server::FeedServiceServer::new(self)
    }

    async fn check(&self, request: &proto::SubscribeRequest) -> Result<Subscription, Status> {
        let consumer = &request.consumer;
        let named = (1..=63).contains(&consumer.len())
            && consumer
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !named {
            let mut violations = chassis::Violations::new();
            violations.add("consumer", "must be 1 to 63 characters of [a-z0-9-]");
            return Err(ERRORS.invalid(violations).into());
        }
        let found = self.log.id();
        if !request.log_id.is_empty() && *request.log_id != *found {
            let error = Error::LogReplaced {
                expected: request.log_id.clone(),
                found: found.to_string(),
            };
            return Err(ERRORS
                .problem(Code::FailedPrecondition, "LOG_REPLACED", error.to_string())
                .into());
        }
        // The consumer may have come from a replica that knows of newer events than this one.
        if request.after_position > self.log.head() {
            self.log
                .newest()
                .await
                .map_err(|error| unreadable(&error))?;
        }
        Subscription::new(Arc::clone(&self.log), request.after_position).map_err(|error| {
            ERRORS
                .problem(Code::OutOfRange, "POSITION_OUT_OF_RANGE", error.to_string())
                .into()
        })
    }
}

/// Responses of one subscription.
pub(crate) type Responses =
    Pin<Box<dyn Stream<Item = Result<proto::SubscribeResponse, Status>> + Send>>;

struct Serving {
    subscription: Subscription,
    /// Read, but not sent yet.
    pending: std::collections::VecDeque<Recorded>,
    prefix: String,
    log_id: Arc<str>,
    stop: CancellationToken,
    lag: metrics::Gauge,
    first: bool,
}

#[tonic::async_trait]
impl feed_service_server::FeedService for FeedService {
    type SubscribeStream = Responses;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Responses>, Status> {
        let request = request.into_inner();
        let subscription = self.check(&request).await?;
        tracing::info!(consumer = %request.consumer, after = request.after_position, "a consumer subscribed");
        let serving = Serving {
            subscription,
            pending: std::collections::VecDeque::new(),
            prefix: request.stream_prefix,
            log_id: self.log.id(),
            stop: self.stop.clone(),
            lag: metrics::gauge!("ledger_feed_lag", "consumer" => request.consumer),
            first: true,
        };
        Ok(Response::new(Box::pin(stream::unfold(
            Some(serving),
            |serving| async {
                let mut serving = serving?;
                match serving.next().await {
                    Ok(Some(response)) => Some((Ok(response), Some(serving))),
                    Ok(None) => None,
                    Err(error) => {
                        tracing::warn!(%error, "a feed ended");
                        Some((Err(unreadable(&error)), None))
                    }
                }
            },
        ))))
    }
}

impl Serving {
    /// The next message; `None` when the process shuts down.
    async fn next(&mut self) -> Result<Option<proto::SubscribeResponse>, Error> {
        // The first message comes at once: it tells the consumer the log id.
        let patience = if std::mem::take(&mut self.first) {
            Duration::ZERO
        } else {
            HEARTBEAT
        };
        if self.pending.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                events = self.subscription.next(BATCH) => self.pending.extend(events?),
                () = tokio::time::sleep(patience) => {}
            }
        }
        let mut position = self.subscription.position();
        let (mut events, mut bytes) = (Vec::new(), 0);
        while let Some(event) = self.pending.pop_front() {
            position = event.position;
            if event.stream.as_str().starts_with(&self.prefix) {
                bytes += event.data.len();
                events.push(message(event));
            }
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        let head_position = self.subscription.head();
        self.lag.set(head_position.saturating_sub(position) as f64);
        Ok(Some(proto::SubscribeResponse {
            log_id: self.log_id.to_string(),
            events,
            position,
            head_position,
        }))
    }
}

fn unreadable(error: &Error) -> Status {
    ERRORS
        .problem(Code::Unavailable, "LOG_UNREADABLE", error.to_string())
        .into()
}

fn message(event: Recorded) -> proto::Event {
    proto::Event {
        position: event.position,
        stream: event.stream.to_string(),
        version: event.version,
        r#type: event.type_name.into_owned(),
        data: event.data.to_vec(),
        commit_time: Some(chassis::timestamp::from_millis(event.commit_millis)),
    }
}
