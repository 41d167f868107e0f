//! What events add up to.

use sagamesh_api::shop::v1::Money;

use super::Event;

/// What the processor can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Hold the money.
    Authorize,
    /// Give the hold up.
    Void,
    /// Take the held money.
    Capture,
    /// Give taken money back.
    Refund,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Authorize, Self::Void, Self::Capture, Self::Refund];

    /// Its name in events and in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Void => "void",
            Self::Capture => "capture",
            Self::Refund => "refund",
        }
    }

    /// The operation of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
    }

    /// The processor's idempotency key for this operation of a payment.
    pub fn key(self, payment_id: &str) -> String {
        format!("{payment_id}/{}", self.name())
    }
}

/// What a payment is about.
#[derive(Clone, PartialEq)]
pub struct Details {
    /// Whose money.
    pub customer_id: String,
    /// How much.
    pub amount: Money,
    /// Token of the payment method. Secret: never shown nor logged.
    pub payment_method: String,
}

impl std::fmt::Debug for Details {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Details")
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

/// Where the money is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Untouched.
    #[default]
    Nothing,
    /// Held for us.
    Held,
    /// Ours.
    Taken,
    /// The hold was given up.
    LetGo,
    /// It was ours and went back.
    GivenBack,
}

/// A "no" of the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decline {
    /// To what.
    pub operation: Operation,
    /// Machine-readable.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A payment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payment {
    /// What it is about; none before its first intent.
    pub details: Option<Details>,
    /// Where the money is.
    pub hold: Hold,
    /// The operation whose intent is on record without an outcome.
    pub open: Option<Operation>,
    /// The last "no".
    pub declined: Option<Decline>,
}

impl Payment {
    /// Applies an event.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::Intent(intent) => {
                self.open = Operation::parse(&intent.operation);
                if self.details.is_none() {
                    self.details = Some(Details {
                        customer_id: intent.customer_id.clone(),
                        amount: intent.amount.clone().unwrap_or_default(),
                        payment_method: intent.payment_method.clone(),
                    });
                }
            }
            Event::Authorized(_) => self.moved(Hold::Held, Operation::Authorize),
            Event::Captured(_) => self.moved(Hold::Taken, Operation::Capture),
            Event::Voided(_) => self.moved(Hold::LetGo, Operation::Void),
            Event::Refunded(_) => self.moved(Hold::GivenBack, Operation::Refund),
            Event::Declined(declined) => {
                let Some(operation) = Operation::parse(&declined.operation) else {
                    return;
                };
                self.closed(operation);
                self.declined = Some(Decline {
                    operation,
                    reason: declined.reason.clone(),
                    message: declined.message.clone(),
                });
            }
        }
    }

    fn moved(&mut self, hold: Hold, by: Operation) {
        self.hold = hold;
        self.closed(by);
        if self.ended() {
            self.open = None;
        }
    }

    /// An outcome closes its own intent; an undo that has begun meanwhile stays open.
    fn closed(&mut self, operation: Operation) {
        if self.open == Some(operation) {
            self.open = None;
        }
    }

    /// Nothing can happen to it any more.
    pub fn ended(&self) -> bool {
        matches!(self.hold, Hold::LetGo | Hold::GivenBack)
    }
}
