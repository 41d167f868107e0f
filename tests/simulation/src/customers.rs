//! Customers of the shop: they order, and some think better of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use payments::processor::rules::Method;
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, GetOrderRequest, OrderLine, OrderStatus, PlaceOrderRequest,
};
use tonic::Code;

use crate::dice::Dice;
use crate::history::What;
use crate::setup::url;
use crate::world::World;

const HOST: &str = "customers";
const PAUSE: Duration = Duration::from_millis(700);
/// What they like; of the print there are three.
const GOODS: [&str; 4] = ["coffee-beans", "espresso-cup", "kettle", "limited-print"];

/// All customers.
#[derive(Clone)]
pub struct Customers {
    world: Arc<World>,
    orders: OrderServiceClient<chassis::PeerChannel>,
    waiting: Arc<AtomicU64>,
}

impl Customers {
    /// Customers on a host of their own.
    pub fn new(world: &Arc<World>) -> Self {
        let env = world.env_of_client(HOST);
        Self {
            orders: OrderServiceClient::new(chassis::channel(&env, &url("orders"))),
            waiting: Arc::new(AtomicU64::new(world.setup.orders)),
            world: Arc::clone(world),
        }
    }

    /// Whether every order has been placed and has ended, or was refused.
    pub fn are_served(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// One order, from its placing to its end.
    pub async fn order(self, number: u64, after: Duration) {
        let dice = Dice::named(self.world.seed, &format!("customer {number}"));
        tokio::time::sleep(after).await;
        if let Some(order) = self.place(number, &dice).await {
            if dice.happens(250) {
                tokio::time::sleep(dice.millis(0, 20_000)).await;
                self.cancel(&order).await;
            }
            self.wait(&order).await;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    async fn place(&self, number: u64, dice: &Dice) -> Option<String> {
        let methods = [Method::Fine, Method::Fine, Method::Fine, Method::Declined];
        let method = dice.pick(&methods).copied().unwrap_or(Method::Fine);
        let count = dice.within(1, 3);
        let first = dice.below(GOODS.len() as u64);
        let lines = (0..count).filter_map(|at| {
            let sku = GOODS.get(usize::try_from((first + at) % 4).unwrap_or(0))?;
            Some(OrderLine {
                sku: (*sku).to_owned(),
                quantity: u32::try_from(dice.within(1, 2)).unwrap_or(1),
                ..OrderLine::default()
            })
        });
        let request = PlaceOrderRequest {
            request_id: format!("00000000-0000-7000-8000-{number:012x}"),
            customer_id: format!("customer-{number}"),
            lines: lines.collect(),
            payment_method: method.token().to_owned(),
            currency: "EUR".to_owned(),
            contact_email: String::new(),
        };
        loop {
            match self.orders.clone().place_order(request.clone()).await {
                Ok(response) => {
                    let order = response.into_inner().order?.order_id;
                    let taken = What::Ordered {
                        order: order.clone(),
                    };
                    self.world.history.add(taken);
                    return Some(order);
                }
                Err(status) => {
                    let text = format!("order {number}: {:?} {}", status.code(), status.message());
                    match status.code() {
                        // Nothing of it is left, for example.
                        Code::FailedPrecondition | Code::NotFound => {
                            self.world.history.add(What::Note(text));
                            return None;
                        }
                        Code::Internal | Code::InvalidArgument | Code::DataLoss => {
                            self.world.history.add(What::Broken(text));
                            return None;
                        }
                        _ => self.world.history.add(What::Note(text)),
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn cancel(&self, order: &str) {
        let request = CancelOrderRequest {
            order_id: order.to_owned(),
            reason: "on second thoughts".to_owned(),
            ..CancelOrderRequest::default()
        };
        let answer = self.orders.clone().cancel_order(request).await;
        let how = answer.map_or_else(|status| format!("{:?}", status.code()), |_| "ok".to_owned());
        let text = format!("cancel {order}: {how}");
        self.world.history.add(What::Note(text));
    }

    async fn wait(&self, order: &str) {
        loop {
            tokio::time::sleep(PAUSE * 3).await;
            let request = GetOrderRequest {
                order_id: order.to_owned(),
                ..GetOrderRequest::default()
            };
            if let Ok(response) = self.orders.clone().get_order(request).await
                && let Some(order) = response.into_inner().order
                && matches!(
                    order.status(),
                    OrderStatus::Confirmed | OrderStatus::Rejected | OrderStatus::Refunded
                )
            {
                return;
            }
        }
    }
}
