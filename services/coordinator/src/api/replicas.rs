//! `saga.v1.PeerService`: what the other replicas ask.

use chassis::Violations;
use sagamesh_api::saga::v1::peer_service_server::PeerService;
use sagamesh_api::saga::v1::{
    CancelSagaAsOperatorRequest, CancelSagaAsOperatorResponse, ReportResultRequest,
    ReportResultResponse, ResultAck, ResultStatus,
};
use tonic::{Request, Response, Status};

use super::participate::check_result;
use super::{Replicas, check};
use crate::decider::{Reply, saga_stream};
use crate::forward;
use crate::problems::{ERRORS, storage};
use crate::report::Verdict;
use crate::saga;

#[tonic::async_trait]
impl PeerService for Replicas {
    async fn report_result(
        &self,
        request: Request<ReportResultRequest>,
    ) -> Result<Response<ReportResultResponse>, Status> {
        let result = request.into_inner().result;
        let mut result =
            result.ok_or_else(|| ERRORS.invalid_field("result", "is missing: say how it ended"))?;
        let most = self.engine.options.max_payload_bytes;
        let ack = match check_result(&mut result, most) {
            Err(message) => ResultAck {
                lease_token: result.lease_token,
                status: ResultStatus::Invalid.into(),
                message,
            },
            Ok(()) => match self.engine.record(result).await {
                Verdict::Settled(ack) | Verdict::Newer(ack) => ack,
                // The replica that asks looks again who owns it.
                Verdict::Elsewhere(_) => return Err(forward::moving().into()),
                Verdict::Unprepared => {
                    self.engine.load_definitions().await?;
                    return Err(forward::moving().into());
                }
                Verdict::Unrecorded => return Err(storage().into()),
            },
        };
        Ok(Response::new(ReportResultResponse { ack: Some(ack) }))
    }

    async fn cancel_saga_as_operator(
        &self,
        request: Request<CancelSagaAsOperatorRequest>,
    ) -> Result<Response<CancelSagaAsOperatorResponse>, Status> {
        let CancelSagaAsOperatorRequest {
            saga_id,
            operator,
            reason,
        } = request.into_inner();
        let mut found = Violations::new();
        check::saga_id(&mut found, "saga_id", &saga_id);
        check::text(&mut found, "operator", &operator, 1, 128);
        check::text(&mut found, "reason", &reason, 1, 1_000);
        found.into_result(ERRORS)?;
        let command = saga::Command::Cancel {
            requester: operator,
            reason,
        };
        let asked = self.engine.ask(saga_stream(&saga_id), command, false).await;
        let reply = asked.map_err(chassis::Problem::from)?;
        Ok(Response::new(CancelSagaAsOperatorResponse {
            changed: matches!(reply, Reply::Saga { changed: true, .. }),
        }))
    }
}
