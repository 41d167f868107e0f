//! Events as they are stored: protobuf messages under their full type names.

use prost::Message as _;
use sagamesh_api::shop::payments::v1 as api;

use super::{Operation, journal};

/// Everything that can happen to a payment.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The processor is about to be asked.
    Intent(api::IntentRecorded),
    /// The money is held.
    Authorized(api::PaymentAuthorized),
    /// The processor said no.
    Declined(api::PaymentDeclined),
    /// The hold was given up.
    Voided(api::PaymentVoided),
    /// The money was taken.
    Captured(api::PaymentCaptured),
    /// The money went back.
    Refunded(api::PaymentRefunded),
}

impl Event {
    /// The journal entry that it carries, if it moved money.
    pub fn entry(&self) -> Option<&api::JournalEntry> {
        match self {
            Self::Authorized(event) => event.entry.as_ref(),
            Self::Voided(event) => event.entry.as_ref(),
            Self::Captured(event) => event.entry.as_ref(),
            Self::Refunded(event) => event.entry.as_ref(),
            Self::Intent(_) | Self::Declined(_) => None,
        }
    }

    /// What people are shown from this event on; none if it changes nothing that they see.
    pub fn shows(&self) -> Option<api::PaymentState> {
        match self {
            Self::Intent(intent) => match Operation::parse(&intent.operation)? {
                Operation::Authorize => Some(api::PaymentState::Authorizing),
                Operation::Capture => Some(api::PaymentState::Capturing),
                Operation::Void | Operation::Refund => None,
            },
            Self::Authorized(_) => Some(api::PaymentState::Authorized),
            Self::Declined(declined) => match Operation::parse(&declined.operation)? {
                Operation::Authorize | Operation::Capture => Some(api::PaymentState::Declined),
                Operation::Void | Operation::Refund => None,
            },
            Self::Voided(_) => Some(api::PaymentState::Voided),
            Self::Captured(_) => Some(api::PaymentState::Captured),
            Self::Refunded(_) => Some(api::PaymentState::Refunded),
        }
    }
}

/// A stored event that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its type is none of this service's.
    #[error("`{0}` is no event of payments")]
    UnknownType(String),
    /// Its bytes are no message of its type.
    #[error("a stored `{type_name}` cannot be read: {source}")]
    Malformed {
        /// The type that it claims to be.
        type_name: String,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// Its journal entry does not balance: it was damaged, or not written by this service.
    #[error("a stored `{type_name}` carries a wrong journal entry: {source}")]
    Unbalanced {
        /// Its type.
        type_name: String,
        /// What is wrong.
        source: journal::Unbalanced,
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
                        concat!("shop.payments.v1.", $message)
                    })+
                }
            }

            /// Reads an event back, and checks its journal entry.
            pub fn decode(type_name: &str, data: &[u8]) -> Result<Self, DecodeError> {
                let malformed = |source| DecodeError::Malformed { type_name: type_name.to_owned(), source };
                let event = match type_name {
                    $(concat!("shop.payments.v1.", $message) => {
                        prost::Message::decode(data).map(Self::$variant).map_err(malformed)?
                    })+
                    other => return Err(DecodeError::UnknownType(other.to_owned())),
                };
                event.entry().map_or(Ok(()), journal::check).map_err(|source| DecodeError::Unbalanced {
                    type_name: type_name.to_owned(),
                    source,
                })?;
                Ok(event)
            }
        }
    };
}

events! {
    Intent => "IntentRecorded",
    Authorized => "PaymentAuthorized",
    Declined => "PaymentDeclined",
    Voided => "PaymentVoided",
    Captured => "PaymentCaptured",
    Refunded => "PaymentRefunded",
}
