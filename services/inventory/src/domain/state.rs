//! What events add up to.

use sagamesh_api::shop::inventory::v1 as api;

use super::Event;

/// The counts of one item. `on_hand = available + reserved` by construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Its name; empty while there is no such item.
    pub name: String,
    /// Currency of its price; empty while there is no such item.
    pub currency: String,
    /// Price of one, in minor units.
    pub price_minor: i64,
    /// Free to be reserved.
    pub available: u64,
    /// Held by reservations.
    pub reserved: u64,
    /// Sold since the beginning, less what came back.
    pub committed: u64,
}

impl Item {
    /// Whether the item was ever stocked.
    pub fn exists(&self) -> bool {
        !self.currency.is_empty()
    }

    /// How many there are.
    pub fn on_hand(&self) -> u64 {
        self.available.saturating_add(self.reserved)
    }

    /// Applies an event of this item's stream. Others change nothing.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::Restocked(restocked) => {
                self.available = self.available.saturating_add(restocked.quantity);
                self.name.clone_from(&restocked.name);
                if let Some(price) = &restocked.unit_price {
                    self.price_minor = price.minor_units;
                    self.currency.clone_from(&price.currency);
                }
            }
            Event::Reserved(api::StockReserved { quantity, .. }) => {
                self.available = self.available.saturating_sub(u64::from(*quantity));
                self.reserved = self.reserved.saturating_add(u64::from(*quantity));
            }
            Event::Released(api::StockReleased { quantity, .. }) => {
                self.reserved = self.reserved.saturating_sub(u64::from(*quantity));
                self.available = self.available.saturating_add(u64::from(*quantity));
            }
            Event::Committed(api::StockCommitted { quantity, .. }) => {
                self.reserved = self.reserved.saturating_sub(u64::from(*quantity));
                self.committed = self.committed.saturating_add(u64::from(*quantity));
            }
            Event::Returned(api::StockReturned { quantity, .. }) => {
                self.committed = self.committed.saturating_sub(u64::from(*quantity));
                self.available = self.available.saturating_add(u64::from(*quantity));
            }
            Event::ReservationMade(_)
            | Event::ReservationReleased(_)
            | Event::ReservationCommitted(_)
            | Event::ReservationReturned(_) => {}
        }
    }
}

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReservationStatus {
    /// There is none.
    #[default]
    Absent,
    /// Stock is held.
    Held,
    /// The stock is sold.
    Committed,
    /// The stock went back unsold.
    Released,
    /// The sale was undone.
    Returned,
}

/// What is held for one order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// Where it stands.
    pub status: ReservationStatus,
    /// What it holds: (SKU, quantity), in the order of its event.
    pub lines: Vec<(String, u32)>,
}

impl Reservation {
    /// Applies an event of this reservation's stream. Others change nothing.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::ReservationMade(made) => {
                self.status = ReservationStatus::Held;
                self.lines = made
                    .lines
                    .iter()
                    .map(|line| (line.sku.clone(), line.quantity))
                    .collect();
            }
            Event::ReservationReleased(_) => self.status = ReservationStatus::Released,
            Event::ReservationCommitted(_) => self.status = ReservationStatus::Committed,
            Event::ReservationReturned(_) => self.status = ReservationStatus::Returned,
            Event::Restocked(_)
            | Event::Reserved(_)
            | Event::Released(_)
            | Event::Committed(_)
            | Event::Returned(_) => {}
        }
    }

    /// Nothing can happen to it any more but being asked about.
    pub fn ended(&self) -> bool {
        matches!(
            self.status,
            ReservationStatus::Released | ReservationStatus::Returned
        )
    }
}
