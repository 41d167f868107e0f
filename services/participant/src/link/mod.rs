//! One link: a stream to one coordinator, opened again whenever it breaks, and the handlers that its commands started.

mod attempt;
mod attempts;
mod backoff;
mod beats;
mod session;

use std::sync::Arc;
use std::time::Duration;

use sagamesh_api::saga::v1::participant_service_client::ParticipantServiceClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::attempt::Ended;
use self::attempts::Attempts;
use self::backoff::Backoff;
pub(crate) use self::beats::Beats;
use self::beats::Outgoing;
use self::session::{End, SessionError};
use crate::builder::Shared;
use crate::telemetry::LinkMetrics;

/// A result may be larger than gRPC's default of 4 MiB allows for answers; so may a command.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// What a result may carry until a coordinator has said so.
const DEFAULT_PAYLOAD_BYTES: u64 = 1024 * 1024;

/// A link. Its handlers and its unacknowledged results outlive any one stream.
pub(crate) struct Link {
    shared: Arc<Shared>,
    address: String,
    client: ParticipantServiceClient<chassis::PeerChannel>,
    attempts: Attempts,
    running: JoinSet<Ended>,
    beats: Outgoing,
    metrics: LinkMetrics,
    max_payload_bytes: u64,
    /// When the grace of a shutdown is over.
    stop_at: Option<Instant>,
}

impl Link {
    pub(crate) fn new(shared: Arc<Shared>, address: String) -> Self {
        let client = ParticipantServiceClient::new(chassis::channel(&shared.env, &address))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self {
            client,
            attempts: Attempts::new(shared.concurrency),
            running: JoinSet::new(),
            beats: Outgoing::new(Beats::default()),
            metrics: LinkMetrics::new(&shared.name),
            max_payload_bytes: DEFAULT_PAYLOAD_BYTES,
            stop_at: None,
            shared,
            address,
        }
    }

    /// Serves until the participant has drained. Handlers that still run then are dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let opened = Instant::now();
            let ended = self.session().await;
            let lived = opened.elapsed();
            self.while_no_stream();
            match ended {
                Ok(End::Drained) => {
                    info!(coordinator = %self.address, "participant has drained");
                    return;
                }
                Ok(End::CoordinatorDrained) => {
                    info!(coordinator = %self.address, "coordinator is stopping")
                }
                Err(error) => {
                    self.metrics.failures.increment(1);
                    self.say_why(&error);
                }
            }
            let wait = backoff.after(lived, self.shared.env.entropy.next_u64());
            if !self.wait(wait).await {
                return;
            }
            if self.attempts.is_settled() && self.shared.leave(&self.address) {
                info!(coordinator = %self.address, "the replica is gone; it is not called any more");
                return;
            }
        }
    }

    /// A coordinator that is not there yet is no news; one that breaks the contract is.
    fn say_why(&self, error: &SessionError) {
        match error {
            SessionError::Connect(_) => {
                debug!(coordinator = %self.address, %error, "no stream to the coordinator")
            }
            SessionError::Lost | SessionError::Silent(_) | SessionError::Broken(_) => {
                info!(coordinator = %self.address, %error, "lost the stream to the coordinator; connecting again");
            }
            SessionError::Refused(_) | SessionError::Protocol(_) | SessionError::Version(_) => {
                warn!(coordinator = %self.address, %error, "the coordinator and this participant do not understand each other");
            }
        }
    }

    /// Heartbeats that no stream of this link can carry are of no use later; other replicas may have taken over who waits for them.
    fn while_no_stream(&mut self) {
        for beat in self.beats.take() {
            self.shared.beat(beat);
        }
    }

    /// Waits before connecting again. Whether there is still a reason to: on shutdown, only unfinished business.
    async fn wait(&mut self, time: Duration) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut over = std::pin::pin!(tokio::time::sleep(time));
        loop {
            self.give_away();
            tokio::select! {
                biased;
                () = &mut over => break,
                Some(ended) = self.running.join_next() => {
                    self.keep(ended);
                }
                beats = self.beats.next() => {
                    for beat in beats {
                        shared.beat(beat);
                    }
                }
                () = shared.stop.cancelled(), if self.stop_at.is_none() => {
                    self.begin_stop();
                    break;
                }
            }
        }
        self.stop_at
            .is_none_or(|at| !self.attempts.is_settled() && Instant::now() < at)
    }

    /// Results do not wait for this replica while there is a stream to another one.
    fn give_away(&mut self) {
        if *self.shared.connected.borrow() > 0 {
            self.shared.orphan(self.attempts.give_away());
        }
    }

    /// The participant must stop: from now on the grace runs.
    fn begin_stop(&mut self) {
        self.stop_at
            .get_or_insert_with(|| Instant::now() + self.shared.grace);
    }
}
