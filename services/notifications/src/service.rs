//! `shop.notifications.v1.NotificationService`.

use sagamesh_api::shop::notifications::v1::notification_service_server::NotificationService;
use sagamesh_api::shop::notifications::v1::{ListNotificationsRequest, ListNotificationsResponse};
use tonic::{Request, Response, Status};

use crate::queries::Queries;

/// The service.
pub(crate) struct Service {
    pub(crate) queries: Queries,
}

#[tonic::async_trait]
impl NotificationService for Service {
    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        Ok(Response::new(self.queries.list(request.get_ref()).await?))
    }
}
