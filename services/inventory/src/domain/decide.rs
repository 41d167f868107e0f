//! Which changes are legal.

use sagamesh_api::shop::inventory::v1 as api;
use sagamesh_api::shop::v1::Money;

use super::{
    Event, Item, MAX_LINE_QUANTITY, MAX_LINES, MAX_STOCK, Rejection, Reservation,
    ReservationStatus, Target, is_sku,
};

/// A quantity of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: u32,
}

/// More of an item, checked for form already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restock {
    /// What.
    pub sku: String,
    /// How many more.
    pub quantity: u64,
    /// Its name from now on; empty keeps it.
    pub name: String,
    /// Its price from now on, in minor units with the currency; none keeps it.
    pub price: Option<(i64, String)>,
}

/// How a reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The order was given up.
    Release,
    /// The saga that wanted it is over or lost.
    Expire,
    /// The order was confirmed.
    Commit,
    /// The order was refunded.
    Return,
}

/// What is asked of the shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add stock.
    Restock(Restock),
    /// Hold all lines, or none.
    Reserve {
        /// For which order.
        reservation_id: String,
        /// What.
        lines: Vec<Line>,
        /// The currency that the order is in, if it says so.
        currency: Option<String>,
        /// When to begin to ask whether it is still needed.
        expire_millis: i64,
    },
    /// End a reservation.
    Settle {
        /// Which.
        reservation_id: String,
        /// How.
        how: Settlement,
        /// The SKUs that the caller believes it to hold. If they are not all of them, the answer says which are.
        skus: Vec<String>,
    },
}

impl Command {
    /// Every stream that it reads or writes.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = match self {
            Self::Restock(restock) => vec![Target::Item(restock.sku.clone())],
            Self::Reserve {
                reservation_id,
                lines,
                ..
            } => {
                let items = lines.iter().map(|line| Target::Item(line.sku.clone()));
                items
                    .chain([Target::Reservation(reservation_id.clone())])
                    .collect()
            }
            Self::Settle {
                reservation_id,
                skus,
                ..
            } => {
                let items = skus.iter().map(|sku| Target::Item(sku.clone()));
                items
                    .chain([Target::Reservation(reservation_id.clone())])
                    .collect()
            }
        };
        targets.sort();
        targets.dedup();
        targets
    }
}

/// The states that a command named.
pub trait Shelf {
    /// The item of a SKU that the command named.
    fn item(&self, sku: &str) -> &Item;
    /// The reservation that the command named.
    fn reservation(&self, id: &str) -> &Reservation;
}

/// An event and where it belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its stream.
    pub target: Target,
    /// What happened.
    pub event: Event,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Decided {
    /// These changes, together. None: it was so already.
    Changes(Vec<Change>),
    /// The command has to name the items of these SKUs too; ask again with them.
    Names(Vec<String>),
}

/// Decides a command on the states of all streams that it names.
pub fn decide(shelf: &dyn Shelf, command: &Command) -> Result<Decided, Rejection> {
    match command {
        Command::Restock(wanted) => restock(shelf.item(&wanted.sku), wanted),
        Command::Reserve {
            reservation_id,
            lines,
            currency,
            expire_millis,
        } => reserve(
            shelf,
            reservation_id,
            lines,
            currency.as_deref(),
            *expire_millis,
        ),
        Command::Settle {
            reservation_id,
            how,
            skus,
        } => settle(
            shelf.reservation(reservation_id),
            reservation_id,
            *how,
            skus,
        ),
    }
}

fn restock(item: &Item, wanted: &Restock) -> Result<Decided, Rejection> {
    let sku = || wanted.sku.clone();
    let (price_minor, currency) = match &wanted.price {
        Some((minor, currency)) => (*minor, currency.clone()),
        None if item.exists() => (item.price_minor, item.currency.clone()),
        None => {
            return Err(Rejection::NewItemIncomplete {
                sku: sku(),
                missing: "unit_price",
            });
        }
    };
    let name = match (wanted.name.is_empty(), item.exists()) {
        (false, _) => wanted.name.clone(),
        (true, true) => item.name.clone(),
        (true, false) => {
            return Err(Rejection::NewItemIncomplete {
                sku: sku(),
                missing: "name",
            });
        }
    };
    if item.exists() && item.currency != currency {
        return Err(Rejection::CurrencyMismatch {
            sku: sku(),
            item: item.currency.clone(),
            asked: currency,
        });
    }
    let total = item.on_hand().checked_add(wanted.quantity);
    if total.is_none_or(|total| total > MAX_STOCK) {
        return Err(Rejection::StockLimit {
            sku: sku(),
            on_hand: item.on_hand(),
            quantity: wanted.quantity,
        });
    }
    let unit_price = Some(Money {
        minor_units: price_minor,
        currency,
    });
    let event = Event::Restocked(api::ItemRestocked {
        sku: sku(),
        quantity: wanted.quantity,
        name,
        unit_price,
    });
    Ok(Decided::Changes(vec![Change {
        target: Target::Item(sku()),
        event,
    }]))
}

fn reserve(
    shelf: &dyn Shelf,
    id: &str,
    lines: &[Line],
    currency: Option<&str>,
    expire_millis: i64,
) -> Result<Decided, Rejection> {
    check_lines(lines)?;
    let reservation = shelf.reservation(id);
    match reservation.status {
        ReservationStatus::Absent => {}
        ReservationStatus::Released => {
            return Err(Rejection::ReservationReleased { id: id.to_owned() });
        }
        ReservationStatus::Held | ReservationStatus::Committed | ReservationStatus::Returned => {
            let same = reservation
                .lines
                .iter()
                .map(|(sku, quantity)| (sku.as_str(), *quantity));
            return if same.eq(lines.iter().map(|line| (line.sku.as_str(), line.quantity))) {
                Ok(Decided::Changes(Vec::new()))
            } else {
                Err(Rejection::ReservationExists { id: id.to_owned() })
            };
        }
    }
    for line in lines {
        check_line(shelf.item(&line.sku), line, currency)?;
    }
    let mut changes: Vec<Change> = lines.iter().map(|line| hold(id, line)).collect();
    let made = api::ReservationMade {
        lines: lines
            .iter()
            .map(|line| api::StockLine {
                sku: line.sku.clone(),
                quantity: line.quantity,
            })
            .collect(),
        expire_time: Some(timestamp(expire_millis)),
    };
    changes.push(Change {
        target: Target::Reservation(id.to_owned()),
        event: Event::ReservationMade(made),
    });
    Ok(Decided::Changes(changes))
}

fn hold(id: &str, line: &Line) -> Change {
    let event = Event::Reserved(api::StockReserved {
        reservation_id: id.to_owned(),
        quantity: line.quantity,
    });
    Change {
        target: Target::Item(line.sku.clone()),
        event,
    }
}

fn check_lines(lines: &[Line]) -> Result<(), Rejection> {
    let invalid = |why: String| Err(Rejection::InvalidLines(why));
    if lines.is_empty() || lines.len() > MAX_LINES {
        return invalid(format!(
            "a reservation has 1 to {MAX_LINES} lines, not {}",
            lines.len()
        ));
    }
    for (index, line) in lines.iter().enumerate() {
        if !is_sku(&line.sku) {
            return invalid(format!(
                "lines[{index}].sku is not 1 to 64 characters of [A-Za-z0-9_-]"
            ));
        }
        if !(1..=MAX_LINE_QUANTITY).contains(&line.quantity) {
            return invalid(format!(
                "lines[{index}].quantity is {}, not 1 to {MAX_LINE_QUANTITY}",
                line.quantity
            ));
        }
        if lines[..index].iter().any(|earlier| earlier.sku == line.sku) {
            return invalid(format!("lines[{index}].sku repeats `{}`", line.sku));
        }
    }
    Ok(())
}

fn check_line(item: &Item, line: &Line, currency: Option<&str>) -> Result<(), Rejection> {
    let sku = line.sku.clone();
    if !item.exists() {
        return Err(Rejection::UnknownSku { sku });
    }
    if let Some(asked) = currency.filter(|asked| *asked != item.currency) {
        return Err(Rejection::CurrencyMismatch {
            sku,
            item: item.currency.clone(),
            asked: asked.to_owned(),
        });
    }
    if item.available < u64::from(line.quantity) {
        return Err(Rejection::InsufficientStock {
            sku,
            wanted: line.quantity,
            available: item.available,
        });
    }
    Ok(())
}

/// What a settlement does to the counts.
#[derive(Clone, Copy)]
enum Movement {
    /// Reserved goes back to available.
    Back,
    /// Reserved leaves.
    Out,
    /// What left comes back.
    Again,
}

fn settle(
    reservation: &Reservation,
    id: &str,
    how: Settlement,
    named: &[String],
) -> Result<Decided, Rejection> {
    let Some((movement, ending)) = transition(reservation.status, how, id)? else {
        return Ok(Decided::Changes(Vec::new()));
    };
    if reservation
        .lines
        .iter()
        .any(|(sku, _)| !named.contains(sku))
    {
        return Ok(Decided::Names(
            reservation
                .lines
                .iter()
                .map(|(sku, _)| sku.clone())
                .collect(),
        ));
    }
    let mut changes: Vec<Change> = reservation
        .lines
        .iter()
        .map(|(sku, quantity)| Change {
            target: Target::Item(sku.clone()),
            event: moved(movement, id, *quantity),
        })
        .collect();
    changes.push(Change {
        target: Target::Reservation(id.to_owned()),
        event: ending,
    });
    Ok(Decided::Changes(changes))
}

/// The whole table: from where, how, to what. `None` is "it is so already".
fn transition(
    status: ReservationStatus,
    how: Settlement,
    id: &str,
) -> Result<Option<(Movement, Event)>, Rejection> {
    use ReservationStatus::{Absent, Committed, Held, Released, Returned};
    let id = || id.to_owned();
    let released = |expired| Event::ReservationReleased(api::ReservationReleased { expired });
    let committed = Event::ReservationCommitted(api::ReservationCommitted {});
    let returned = Event::ReservationReturned(api::ReservationReturned {});
    match (how, status) {
        (Settlement::Release, Held) => Ok(Some((Movement::Back, released(false)))),
        (Settlement::Expire, Held) => Ok(Some((Movement::Back, released(true)))),
        (Settlement::Release | Settlement::Expire, Absent | Released | Returned) => Ok(None),
        (Settlement::Release, Committed) => Err(Rejection::ReservationCommitted { id: id() }),
        (Settlement::Expire, Committed) => Ok(None),

        (Settlement::Commit, Held) => Ok(Some((Movement::Out, committed))),
        // Returned: a refund overtook the commit; both are done.
        (Settlement::Commit, Committed | Returned) => Ok(None),
        (Settlement::Commit, Absent) => Err(Rejection::ReservationUnknown { id: id() }),
        (Settlement::Commit, Released) => Err(Rejection::ReservationReleased { id: id() }),

        (Settlement::Return, Committed) => Ok(Some((Movement::Again, returned))),
        // The refund came before the commit did: the goods never left.
        (Settlement::Return, Held) => Ok(Some((Movement::Back, returned))),
        (Settlement::Return, Released | Returned) => Ok(None),
        (Settlement::Return, Absent) => Err(Rejection::ReservationUnknown { id: id() }),
    }
}

fn moved(movement: Movement, id: &str, quantity: u32) -> Event {
    let reservation_id = id.to_owned();
    match movement {
        Movement::Back => Event::Released(api::StockReleased {
            reservation_id,
            quantity,
        }),
        Movement::Out => Event::Committed(api::StockCommitted {
            reservation_id,
            quantity,
        }),
        Movement::Again => Event::Returned(api::StockReturned {
            reservation_id,
            quantity,
        }),
    }
}

fn timestamp(millis: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    prost_types::Timestamp {
        seconds: millis.div_euclid(1000),
        nanos,
    }
}
