//! gRPC and gRPC-Web: the shop's own services, called for whoever the token names.

use std::time::Duration;

use axum::Router;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sagamesh_api::saga::v1::saga_service_server::SagaServiceServer;
use sagamesh_api::shop::inventory::v1::inventory_service_server::{
    InventoryService, InventoryServiceServer,
};
use sagamesh_api::shop::inventory::v1::{
    CheckAvailabilityRequest, CheckAvailabilityResponse, GetItemRequest, GetItemResponse,
    GetReservationRequest, GetReservationResponse, ListItemsRequest, ListItemsResponse,
    RestockRequest, RestockResponse,
};
use sagamesh_api::shop::notifications::v1::notification_service_server::{
    NotificationService, NotificationServiceServer,
};
use sagamesh_api::shop::notifications::v1::{ListNotificationsRequest, ListNotificationsResponse};
use sagamesh_api::shop::orders::v1::order_service_server::{OrderService, OrderServiceServer};
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, CancelOrderResponse, GetOrderRequest, GetOrderResponse, ListOrdersRequest,
    ListOrdersResponse, PlaceOrderRequest, PlaceOrderResponse, WatchOrderRequest,
    WatchOrderResponse,
};
use sagamesh_api::shop::payments::v1::payment_service_server::{
    PaymentService, PaymentServiceServer,
};
use sagamesh_api::shop::payments::v1::{
    GetPaymentRequest, GetPaymentResponse, GetTrialBalanceRequest, GetTrialBalanceResponse,
    ListPaymentsRequest, ListPaymentsResponse,
};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use crate::ERRORS;
use crate::auth::Caller;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::{door, patience};

/// Full names of the services that are served here.
pub const SERVICES: [&str; 5] = [
    "shop.orders.v1.OrderService",
    "shop.inventory.v1.InventoryService",
    "shop.payments.v1.PaymentService",
    "shop.notifications.v1.NotificationService",
    "saga.v1.SagaService",
];

/// Largest reflection request: names are short, and everybody may ask.
const REFLECTION_LIMIT: usize = 16 * 1024;

/// The services behind the token, and reflection beside them for everybody.
pub(crate) fn routes(gateway: &Gateway, config: &Config) -> anyhow::Result<Router> {
    let limit = config.limits.max_body_bytes;
    let protected =
        Routes::new(OrderServiceServer::new(gateway.clone()).max_decoding_message_size(limit))
            .add_service(
                InventoryServiceServer::new(gateway.clone()).max_decoding_message_size(limit),
            )
            .add_service(
                PaymentServiceServer::new(gateway.clone()).max_decoding_message_size(limit),
            )
            .add_service(
                NotificationServiceServer::new(gateway.clone()).max_decoding_message_size(limit),
            )
            .add_service(SagaServiceServer::new(gateway.clone()).max_decoding_message_size(limit))
            .into_axum_router()
            .reset_fallback()
            .layer(axum::middleware::from_fn(patience::message))
            .layer(axum::middleware::from_fn_with_state(
                gateway.clone(),
                door::subject,
            ));
    if !config.chassis.server.reflection {
        return Ok(protected);
    }
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sagamesh_api::FILE_DESCRIPTOR_SET)
            // So that clients that know nothing but reflection can read the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
        SERVICES
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let v1 = reflection().build_v1()?;
    let v1alpha = reflection().build_v1alpha()?;
    let open = Routes::new(v1.max_decoding_message_size(REFLECTION_LIMIT))
        .add_service(v1alpha.max_decoding_message_size(REFLECTION_LIMIT))
        .into_axum_router()
        .reset_fallback()
        .layer(axum::middleware::from_fn(patience::reflection));
    Ok(protected.merge(open))
}

/// The caller, if the token has the scope.
pub(crate) fn caller<T>(request: &Request<T>, scope: &'static str) -> Result<Caller, Status> {
    let caller = request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| Status::internal("a request came in without passing the door"))?;
    caller.require(scope)?;
    Ok(caller.clone())
}

/// The time that the caller allows.
fn asked(metadata: &tonic::metadata::MetadataMap) -> Option<Duration> {
    let value = metadata.get(chassis::deadline::GRPC_TIMEOUT)?;
    let value = http::HeaderValue::from_bytes(value.as_encoded_bytes()).ok()?;
    chassis::deadline::parse(&value)
}

impl Gateway {
    /// The first answer of a stream, which must come in time although the stream may go on.
    pub(crate) async fn first_answer<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::time::timeout(self.timeout, answer)
            .await
            .unwrap_or_else(|_| {
                let text = "the service behind did not answer in time";
                Err(ERRORS
                    .problem(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", text)
                    .into())
            })
    }

    /// The request for the service behind, with the caller's remaining time or the gateway's own limit, whichever is less.
    pub(crate) fn onward<T>(
        &self,
        metadata: &tonic::metadata::MetadataMap,
        message: T,
    ) -> Request<T> {
        let asked = asked(metadata);
        crate::backends::within(
            asked.map_or(self.timeout, |asked| asked.min(self.timeout)),
            message,
        )
    }

    /// NOT_FOUND unless the order is the caller's.
    pub(crate) async fn own_order(&self, order_id: &str, caller: &Caller) -> Result<(), Status> {
        let request = GetOrderRequest {
            order_id: order_id.to_owned(),
            customer_id: caller.subject.clone(),
            min_position: 0,
        };
        self.backends
            .orders
            .clone()
            .get_order(crate::backends::within(self.timeout, request))
            .await
            .map(drop)
    }
}

#[tonic::async_trait]
impl OrderService for Gateway {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, Status> {
        let caller = caller(&request, "orders:write")?;
        let (metadata, _, mut message) = request.into_parts();
        message.customer_id = caller.subject;
        self.backends
            .orders
            .clone()
            .place_order(self.onward(&metadata, message))
            .await
    }

    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, mut message) = request.into_parts();
        message.customer_id = caller.subject;
        self.backends
            .orders
            .clone()
            .get_order(self.onward(&metadata, message))
            .await
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, mut message) = request.into_parts();
        message.customer_id = caller.subject;
        self.backends
            .orders
            .clone()
            .list_orders(self.onward(&metadata, message))
            .await
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<CancelOrderResponse>, Status> {
        let caller = caller(&request, "orders:write")?;
        let (metadata, _, mut message) = request.into_parts();
        message.customer_id = caller.subject;
        self.backends
            .orders
            .clone()
            .cancel_order(self.onward(&metadata, message))
            .await
    }

    type WatchOrderStream = BoxStream<'static, Result<WatchOrderResponse, Status>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, message) = request.into_parts();
        let watch = self
            .watch(message.order_id, caller, asked(&metadata))
            .await?;
        let changes = stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(change) => change.map(|change| (Ok(change), Some(watch))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}

#[tonic::async_trait]
impl InventoryService for Gateway {
    async fn check_availability(
        &self,
        request: Request<CheckAvailabilityRequest>,
    ) -> Result<Response<CheckAvailabilityResponse>, Status> {
        caller(&request, "inventory:read")?;
        let (metadata, _, message) = request.into_parts();
        self.backends
            .inventory
            .clone()
            .check_availability(self.onward(&metadata, message))
            .await
    }

    async fn restock(
        &self,
        request: Request<RestockRequest>,
    ) -> Result<Response<RestockResponse>, Status> {
        caller(&request, "inventory:write")?;
        let (metadata, _, message) = request.into_parts();
        self.backends
            .inventory
            .clone()
            .restock(self.onward(&metadata, message))
            .await
    }

    async fn get_item(
        &self,
        request: Request<GetItemRequest>,
    ) -> Result<Response<GetItemResponse>, Status> {
        caller(&request, "inventory:read")?;
        let (metadata, _, message) = request.into_parts();
        self.backends
            .inventory
            .clone()
            .get_item(self.onward(&metadata, message))
            .await
    }

    async fn list_items(
        &self,
        request: Request<ListItemsRequest>,
    ) -> Result<Response<ListItemsResponse>, Status> {
        caller(&request, "inventory:read")?;
        let (metadata, _, message) = request.into_parts();
        self.backends
            .inventory
            .clone()
            .list_items(self.onward(&metadata, message))
            .await
    }

    async fn get_reservation(
        &self,
        request: Request<GetReservationRequest>,
    ) -> Result<Response<GetReservationResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, message) = request.into_parts();
        self.own_order(&message.reservation_id, &caller).await?;
        self.backends
            .inventory
            .clone()
            .get_reservation(self.onward(&metadata, message))
            .await
    }
}

#[tonic::async_trait]
impl PaymentService for Gateway {
    async fn get_payment(
        &self,
        request: Request<GetPaymentRequest>,
    ) -> Result<Response<GetPaymentResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, message) = request.into_parts();
        self.own_order(&message.payment_id, &caller).await?;
        self.backends
            .payments
            .clone()
            .get_payment(self.onward(&metadata, message))
            .await
    }

    async fn list_payments(
        &self,
        request: Request<ListPaymentsRequest>,
    ) -> Result<Response<ListPaymentsResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, mut message) = request.into_parts();
        message.customer_id = caller.subject;
        self.backends
            .payments
            .clone()
            .list_payments(self.onward(&metadata, message))
            .await
    }

    async fn get_trial_balance(
        &self,
        request: Request<GetTrialBalanceRequest>,
    ) -> Result<Response<GetTrialBalanceResponse>, Status> {
        // Of the whole shop, not of the caller: no customer's scope.
        caller(&request, "books:read")?;
        let (metadata, _, message) = request.into_parts();
        self.backends
            .payments
            .clone()
            .get_trial_balance(self.onward(&metadata, message))
            .await
    }
}

#[tonic::async_trait]
impl NotificationService for Gateway {
    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let caller = caller(&request, "orders:read")?;
        let (metadata, _, mut message) = request.into_parts();
        message.customer_id = caller.subject;
        self.backends
            .notifications
            .clone()
            .list_notifications(self.onward(&metadata, message))
            .await
    }
}
