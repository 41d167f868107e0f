//! Events as they are stored: protobuf messages under their full type names.

use prost::Message as _;
use sagamesh_api::shop::inventory::v1 as api;

/// Which stream an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `item/<sku>`.
    Item(String),
    /// `reservation/<id>`.
    Reservation(String),
}

impl Target {
    /// Name of the stream.
    pub fn stream(&self) -> String {
        match self {
            Self::Item(sku) => format!("item/{sku}"),
            Self::Reservation(id) => format!("reservation/{id}"),
        }
    }
}

/// Everything that can happen to stock.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Stock was added; name and price were set.
    Restocked(api::ItemRestocked),
    /// Available became reserved.
    Reserved(api::StockReserved),
    /// Reserved became available again.
    Released(api::StockReleased),
    /// Reserved left for good.
    Committed(api::StockCommitted),
    /// What had left came back.
    Returned(api::StockReturned),
    /// A reservation was made.
    ReservationMade(api::ReservationMade),
    /// A reservation was given up.
    ReservationReleased(api::ReservationReleased),
    /// A reservation was used.
    ReservationCommitted(api::ReservationCommitted),
    /// A reservation was undone by a refund.
    ReservationReturned(api::ReservationReturned),
}

/// A stored event that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its type is none of this service's.
    #[error("`{0}` is no event of inventory")]
    UnknownType(String),
    /// Its bytes are no message of its type.
    #[error("a stored `{type_name}` cannot be read: {source}")]
    Malformed {
        /// The type that it claims to be.
        type_name: String,
        /// What the decoder said.
        source: prost::DecodeError,
    },
}

macro_rules! events {
    ($($variant:ident => $message:literal),+ $(,)?) => {
        impl Event {
            /// Appends the encoded message, and returns its full type name.
            pub fn encode(&self, buffer: &mut Vec<u8>) -> &'static str {
                match self {
                    $(Self::$variant(message) => {
                        buffer.extend_from_slice(&message.encode_to_vec());
                        concat!("shop.inventory.v1.", $message)
                    })+
                }
            }

            /// Reads an event back.
            pub fn decode(type_name: &str, data: &[u8]) -> Result<Self, DecodeError> {
                let malformed = |source| DecodeError::Malformed { type_name: type_name.to_owned(), source };
                match type_name {
                    $(concat!("shop.inventory.v1.", $message) => {
                        prost::Message::decode(data).map(Self::$variant).map_err(malformed)
                    })+
                    other => Err(DecodeError::UnknownType(other.to_owned())),
                }
            }
        }
    };
}

events! {
    Restocked => "ItemRestocked",
    Reserved => "StockReserved",
    Released => "StockReleased",
    Committed => "StockCommitted",
    Returned => "StockReturned",
    ReservationMade => "ReservationMade",
    ReservationReleased => "ReservationReleased",
    ReservationCommitted => "ReservationCommitted",
    ReservationReturned => "ReservationReturned",
}
