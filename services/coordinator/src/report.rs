//! Results of participants, on their way to the record: here, or on the replica that runs the saga.

use std::time::Duration;

use ledger::{ExecuteError, Outcome};
use sagamesh_api::saga::v1::peer_service_client::PeerServiceClient;
use sagamesh_api::saga::v1::{self as pb, ReportResultRequest, ResultAck, ResultStatus};
use tokio::time::Instant;

use crate::decider::{Coordinator, Rejection, Reply, saga_stream};
use crate::engine::Engine;
use crate::forward::{self, Hops};
use crate::hub::Reported;
use crate::saga;

/// How long a result looks for the replica that takes it: longer than a lease, and than what takes the shard over then.
const LOOK_FOR: Duration = Duration::from_secs(20);
/// How long a replica may take to record a result that is handed to it: one that stands still must not hold it up for long.
const HAND_ON: Duration = Duration::from_secs(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of a result.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The participant need not send it again.
    Settled(ResultAck),
    /// Another replica owns the saga's shard.
    Elsewhere(i64),
    /// The saga's definition is not known here, or not yet.
    Unprepared,
    /// Only a newer program can go on with the saga. If none comes, the participant is told so: behind a barrier it answers the same again.
    Newer(ResultAck),
    /// It is not on record: it must be sent again.
    Unrecorded,
}

/// What the ledger's answer means for the participant.
pub(crate) fn verdict(saga_id: &str, lease_token: u64, outcome: Outcome<Coordinator>) -> Verdict {
    let (status, message) = match outcome.map(|executed| executed.reply) {
        Ok(Reply::Result(ResultStatus::Superseded)) => (
            ResultStatus::Superseded,
            "the attempt is no longer the newest".to_owned(),
        ),
        Ok(Reply::Result(status)) => (status, String::new()),
        Err(ExecuteError::Rejected(Rejection::Elsewhere(shard))) => {
            return Verdict::Elsewhere(shard);
        }
        Err(ExecuteError::Rejected(Rejection::Unprepared)) => return Verdict::Unprepared,
        Err(ExecuteError::Rejected(Rejection::Saga(refusal @ saga::Refusal::Newer(_)))) => {
            return Verdict::Newer(ResultAck {
                lease_token,
                status: ResultStatus::Invalid.into(),
                message: refusal.to_string(),
            });
        }
        Err(ExecuteError::Rejected(Rejection::Saga(refusal))) => (
            saga::result_status(&Err(refusal.clone())),
            refusal.to_string(),
        ),
        Err(ExecuteError::Rejected(rejection)) => (ResultStatus::Invalid, rejection.to_string()),
        // It would fail again for ever, so it is not asked for again.
        Err(ExecuteError::Storage(error)) if !error.0.is_transient() => {
            tracing::error!(saga = saga_id, %error, "a result is dropped: its saga cannot be read");
            let message =
                "the saga's record cannot be read: the coordinator's operators must look at it";
            (ResultStatus::Invalid, message.to_owned())
        }
        Ok(_) | Err(_) => return Verdict::Unrecorded,
    };
    Verdict::Settled(ResultAck {
        lease_token,
        status: status.into(),
        message,
    })
}

impl Engine {
    /// Records a result, if its saga runs here.
    pub(crate) async fn record(&self, result: pb::Result) -> Verdict {
        let (saga_id, token) = (result.saga_id.clone(), result.lease_token);
        let reported = self.dispatch.with(|hub, _| hub.reported(&result));
        let stream = match reported {
            Reported::Live(stream) => stream,
            Reported::Unawaited => saga_stream(&saga_id),
        };
        let command = saga::Command::Result(Box::new(result));
        let outcome = self.ledger.execute(self.command(stream, command, false));
        let verdict = verdict(&saga_id, token, outcome.await);
        if matches!(verdict, Verdict::Unrecorded) {
            self.dispatch.with(|hub, _| hub.unreported(token));
        }
        verdict
    }

    /// Brings a result, about which there is this verdict so far, to whoever runs its saga, also while that changes. `None` if that took too long.
    pub(crate) async fn deliver(
        &self,
        result: pb::Result,
        mut verdict: Verdict,
    ) -> Option<ResultAck> {
        let stop = self.tasks.token();
        let until = Instant::now() + LOOK_FOR;
        loop {
            match verdict {
                Verdict::Settled(ack) => return Some(ack),
                Verdict::Newer(ack) if Instant::now() >= until => return Some(ack),
                _ if Instant::now() >= until => return None,
                Verdict::Elsewhere(shard) => {
                    if let Some(ack) = self.hand_on(&result, shard).await {
                        return Some(ack);
                    }
                }
                // It says in the log why, and is tried again.
                Verdict::Unprepared => drop(self.load_definitions().await),
                Verdict::Unrecorded | Verdict::Newer(_) => {}
            }
            verdict = self.record(result.clone()).await;
            if !matches!(verdict, Verdict::Settled(_)) {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => return None,
                }
            }
        }
    }

    async fn hand_on(&self, result: &pb::Result, shard: i64) -> Option<ResultAck> {
        let hops = Hops::default();
        let owner = self.owner(shard, hops).await.ok()?;
        let request = ReportResultRequest {
            result: Some(result.clone()),
        };
        let mut request = forward::onward(request, hops);
        request.set_timeout(HAND_ON);
        let answer = PeerServiceClient::new(owner).report_result(request).await;
        match answer {
            Ok(response) => response.into_inner().ack,
            Err(status) => {
                tracing::debug!(saga = result.saga_id, %status, "a result was not taken; it is tried again");
                None
            }
        }
    }
}
