//! The books balance and stock is conserved at every instant that a reader can see, in each database; and across databases, once no saga is open.

use std::collections::BTreeMap;

use inventory::domain::{Event as Stock, Item, Reservation, ReservationStatus};
use ledger::Recorded;
use orders::decider::decode;
use orders::domain::OrderState;
use payments::domain::{Event as Payment, Operation, journal};
use sagamesh_api::shop::orders::v1::OrderStatus;

use super::facts::Facts;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    let mut shop = Shop::default();
    for entry in facts.history {
        let wrong = match &entry.what {
            What::Durable {
                machine, events, ..
            } => match &**machine {
                "inventory" => shop.stock(events),
                "payments" => shop.money(events),
                "orders" => shop.orders(events),
                _ => Ok(()),
            },
            What::Banked {
                payment,
                operation,
                approved: true,
            } => {
                let done = shop.bank.entry(payment.clone()).or_default();
                done.push(*operation);
                Ok(())
            }
            What::Ordered { order } => match shop.orders.contains_key(order) {
                true => Ok(()),
                false => Err(format!("order {order} was taken, and is not on record")),
            },
            _ => Ok(()),
        };
        if let Err(text) = wrong {
            violated(format!("at {}: {text}", entry.at));
        }
    }
    if !shop.orders.is_empty() {
        shop.at_rest(violated);
    }
}

/// All databases, as far as they are followed.
#[derive(Default)]
struct Shop {
    items: BTreeMap<String, Item>,
    stocked: BTreeMap<String, u64>,
    reservations: BTreeMap<String, Reservation>,
    accounts: BTreeMap<String, i64>,
    orders: BTreeMap<String, OrderState>,
    bank: BTreeMap<String, Vec<Operation>>,
}

impl Shop {
    /// One transaction of inventory.
    fn stock(&mut self, events: &[Recorded]) -> Result<(), String> {
        for recorded in events {
            let event = Stock::decode(&recorded.type_name, &recorded.data)
                .map_err(|error| error.to_string())?;
            let key = recorded.stream.key().to_owned();
            if let Stock::Restocked(restocked) = &event {
                *self.stocked.entry(key.clone()).or_default() += restocked.quantity;
            }
            match recorded.stream.kind() {
                "item" => self.items.entry(key).or_default().evolve(&event),
                _ => self.reservations.entry(key).or_default().evolve(&event),
            }
        }
        let (mut held, mut sold): (BTreeMap<&str, u64>, BTreeMap<&str, u64>) = Default::default();
        for reservation in self.reservations.values() {
            let of = match reservation.status {
                ReservationStatus::Held => &mut held,
                ReservationStatus::Committed => &mut sold,
                _ => continue,
            };
            for (sku, quantity) in &reservation.lines {
                *of.entry(sku).or_default() += u64::from(*quantity);
            }
        }
        for (sku, item) in &self.items {
            let stocked = self.stocked.get(sku).copied().unwrap_or(0);
            let whole = item.on_hand() + item.committed == stocked;
            let of = |all: &BTreeMap<&str, u64>| all.get(&**sku).copied().unwrap_or(0);
            if !whole || of(&held) != item.reserved || of(&sold) != item.committed {
                return Err(format!(
                    "{sku}: {stocked} came in, and there is {item:?}; reservations hold {} and sold {}",
                    of(&held),
                    of(&sold)
                ));
            }
        }
        Ok(())
    }

    /// One transaction of payments.
    fn money(&mut self, events: &[Recorded]) -> Result<(), String> {
        for recorded in events {
            let event = Payment::decode(&recorded.type_name, &recorded.data)
                .map_err(|error| error.to_string())?;
            let Some(entry) = event.entry() else {
                continue;
            };
            journal::check(entry).map_err(|error| error.to_string())?;
            for posting in &entry.postings {
                let amount = posting.amount.as_ref().map_or(0, |it| it.minor_units);
                *self.accounts.entry(posting.account.clone()).or_default() += amount;
            }
        }
        let sum: i64 = self.accounts.values().sum();
        let held: i64 = self.balance("authorized:");
        if sum != 0 || held < 0 {
            return Err(format!("all accounts sum to {sum}, {held} is held"));
        }
        Ok(())
    }

    fn orders(&mut self, events: &[Recorded]) -> Result<(), String> {
        for recorded in events {
            let event =
                decode(&recorded.type_name, &recorded.data).map_err(|error| error.to_string())?;
            let key = recorded.stream.key().to_owned();
            self.orders.entry(key).or_default().evolve(&event);
        }
        Ok(())
    }

    fn balance(&self, accounts: &str) -> i64 {
        let matching = self.accounts.iter();
        matching
            .filter(|(name, _)| name.starts_with(accounts))
            .map(|(_, balance)| balance)
            .sum()
    }

    /// No saga is open: all databases, and the bank, must tell the same.
    fn at_rest(&self, violated: &mut dyn FnMut(String)) {
        let mut worth = 0;
        for (id, state) in &self.orders {
            let Some(order) = &state.order else {
                continue;
            };
            let status = state.status();
            let total = order.total.as_ref().map_or(0, |total| total.minor_units);
            let reserved = self.reservations.get(id).map(|it| it.status);
            let did = |operation| {
                let done = self.bank.get(id);
                done.is_some_and(|done| done.contains(&operation))
            };
            let (stock, money) = match status {
                OrderStatus::Confirmed => (
                    reserved == Some(ReservationStatus::Committed),
                    did(Operation::Capture) && !did(Operation::Refund),
                ),
                OrderStatus::Rejected => (
                    matches!(reserved, None | Some(ReservationStatus::Released)),
                    !did(Operation::Capture)
                        && (!did(Operation::Authorize) || did(Operation::Void)),
                ),
                OrderStatus::Refunded => (
                    reserved == Some(ReservationStatus::Returned),
                    did(Operation::Capture) && did(Operation::Refund),
                ),
                _ => (false, false),
            };
            if status == OrderStatus::Confirmed {
                worth += total;
            }
            if !stock || !money {
                violated(format!(
                    "order {id} is {status:?}, its reservation {reserved:?}, and the bank did {:?}",
                    self.bank.get(id)
                ));
            }
        }
        let (merchant, held) = (self.balance("merchant:"), self.balance("authorized:"));
        if merchant.abs() != worth || held != 0 {
            violated(format!(
                "the merchant has {merchant}, {held} is held, and confirmed orders are worth {worth}"
            ));
        }
    }
}
