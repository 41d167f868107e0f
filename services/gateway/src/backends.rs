//! The services behind the gateway.

use std::time::Duration;

use chassis::PeerChannel;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;

use crate::config::Config;

/// Clients of the services behind the gateway. Cheap to clone; a call takes a clone.
#[derive(Clone)]
pub(crate) struct Backends {
    pub(crate) orders: OrderServiceClient<PeerChannel>,
    pub(crate) inventory: InventoryServiceClient<PeerChannel>,
    pub(crate) payments: PaymentServiceClient<PeerChannel>,
    pub(crate) notifications: NotificationServiceClient<PeerChannel>,
    pub(crate) sagas: SagaServiceClient<PeerChannel>,
}

impl Backends {
    pub(crate) fn new(config: &Config, env: &chassis::Env) -> Self {
        Self {
            orders: OrderServiceClient::new(chassis::channel(env, &config.orders)),
            inventory: InventoryServiceClient::new(chassis::channel(env, &config.inventory)),
            payments: PaymentServiceClient::new(chassis::channel(env, &config.payments)),
            sagas: SagaServiceClient::new(chassis::channel(env, &config.coordinator)),
            notifications: NotificationServiceClient::new(chassis::channel(
                env,
                &config.notifications,
            )),
        }
    }
}

/// A request that must be answered in time.
pub(crate) fn within<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}
