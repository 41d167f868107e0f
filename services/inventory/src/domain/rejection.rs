//! Why inventory says no.

/// A business "no": nothing changed, and asking again changes nothing unless stock does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not enough is free.
    #[error("only {available} of `{sku}` are available, {wanted} were asked for")]
    InsufficientStock {
        /// What.
        sku: String,
        /// How many were asked for.
        wanted: u32,
        /// How many are free.
        available: u64,
    },
    /// No such item.
    #[error("there is no item `{sku}`")]
    UnknownSku {
        /// What was asked for.
        sku: String,
    },
    /// An item is sold in another currency.
    #[error("`{sku}` is sold in {item}, not in {asked}")]
    CurrencyMismatch {
        /// What.
        sku: String,
        /// Currency of the item.
        item: String,
        /// Currency of the request.
        asked: String,
    },
    /// The lines of a reservation are not acceptable.
    #[error("{0}")]
    InvalidLines(String),
    /// There would be more in stock than is allowed.
    #[error(
        "`{sku}` has {on_hand} in stock: {quantity} more would exceed {}",
        super::MAX_STOCK
    )]
    StockLimit {
        /// What.
        sku: String,
        /// How many there are.
        on_hand: u64,
        /// How many were to be added.
        quantity: u64,
    },
    /// A new item needs a name and a price.
    #[error("`{sku}` is new: its {missing} is required")]
    NewItemIncomplete {
        /// What.
        sku: String,
        /// `name` or `unit_price`.
        missing: &'static str,
    },
    /// The id holds other lines.
    #[error("reservation `{id}` exists with other lines")]
    ReservationExists {
        /// Which.
        id: String,
    },
    /// Nothing was ever reserved under this id.
    #[error("there is no reservation `{id}`")]
    ReservationUnknown {
        /// Which.
        id: String,
    },
    /// The stock already went back.
    #[error("reservation `{id}` was released: its stock went back")]
    ReservationReleased {
        /// Which.
        id: String,
    },
    /// The stock is already sold.
    #[error("reservation `{id}` was committed: its stock is sold")]
    ReservationCommitted {
        /// Which.
        id: String,
    },
}

impl Rejection {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InsufficientStock { .. } => "INSUFFICIENT_STOCK",
            Self::UnknownSku { .. } => "UNKNOWN_SKU",
            Self::CurrencyMismatch { .. } => "CURRENCY_MISMATCH",
            Self::InvalidLines(_) => "INVALID_LINES",
            Self::StockLimit { .. } => "STOCK_LIMIT_EXCEEDED",
            Self::NewItemIncomplete { .. } => "NEW_ITEM_INCOMPLETE",
            Self::ReservationExists { .. } => "RESERVATION_EXISTS",
            Self::ReservationUnknown { .. } => "RESERVATION_UNKNOWN",
            Self::ReservationReleased { .. } => "RESERVATION_RELEASED",
            Self::ReservationCommitted { .. } => "RESERVATION_COMMITTED",
        }
    }
}
