//! What the built-in bank answers: a pure function of the payment method and of what it approved before.

use crate::domain::{Answer, Operation};

/// How a payment method of the built-in bank behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `pm_ok`: always fine.
    Fine,
    /// `pm_declined`: the card is refused.
    Declined,
    /// `pm_insufficient_funds`: there is not enough money.
    InsufficientFunds,
    /// `pm_flaky`: unavailable twice for each key, then fine.
    Flaky,
    /// `pm_timeout_authorize`: does the work of the first authorization and never answers it.
    SilentAuthorize,
    /// `pm_timeout_capture`: does the work of the first capture and never answers it.
    SilentCapture,
    /// `pm_slow`: answers after three seconds.
    Slow,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Fine,
        Self::Declined,
        Self::InsufficientFunds,
        Self::Flaky,
        Self::SilentAuthorize,
        Self::SilentCapture,
        Self::Slow,
    ];

    /// Its token.
    pub fn token(self) -> &'static str {
        match self {
            Self::Fine => "pm_ok",
            Self::Declined => "pm_declined",
            Self::InsufficientFunds => "pm_insufficient_funds",
            Self::Flaky => "pm_flaky",
            Self::SilentAuthorize => "pm_timeout_authorize",
            Self::SilentCapture => "pm_timeout_capture",
            Self::Slow => "pm_slow",
        }
    }

    /// The method of a token; none if the bank does not know it.
    pub fn parse(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.token() == token)
    }

    /// Whether it is for trying out what may go wrong.
    pub fn is_test_card(self) -> bool {
        self != Self::Fine
    }

    /// Whether the first call of this operation is done and never answered.
    pub fn is_silent(self, operation: Operation) -> bool {
        matches!(
            (self, operation),
            (Self::SilentAuthorize, Operation::Authorize)
                | (Self::SilentCapture, Operation::Capture)
        )
    }
}

/// What the bank answers to the first request of a key, given what it approved for this payment before.
pub fn answer(
    operation: Operation,
    method: Option<Method>,
    approved: &[Operation],
    key: &str,
) -> Answer {
    let has = |operation| approved.contains(&operation);
    let no = |reason: &str, message: &str| Answer::Declined {
        reason: reason.into(),
        message: message.into(),
    };
    let yes = || Answer::Approved {
        reference: format!("bank:{key}"),
    };
    match operation {
        Operation::Authorize if has(Operation::Void) => no(
            "AUTHORIZATION_VOIDED",
            "the authorization was voided before it came",
        ),
        Operation::Authorize => match method {
            None => no(
                "UNKNOWN_PAYMENT_METHOD",
                "the bank does not know this payment method",
            ),
            Some(Method::Declined) => no("CARD_DECLINED", "the bank refused the card"),
            Some(Method::InsufficientFunds) => no(
                "INSUFFICIENT_FUNDS",
                "there is not enough money in the account",
            ),
            Some(
                Method::Fine
                | Method::Flaky
                | Method::SilentAuthorize
                | Method::SilentCapture
                | Method::Slow,
            ) => yes(),
        },
        Operation::Void if has(Operation::Capture) => {
            no("ALREADY_CAPTURED", "the money was taken already")
        }
        // Also of an authorization that never came: should it come late, it is refused.
        Operation::Void => yes(),
        Operation::Capture if has(Operation::Void) => {
            no("AUTHORIZATION_VOIDED", "the authorization was voided")
        }
        Operation::Capture if has(Operation::Authorize) => yes(),
        Operation::Capture => no("NOT_AUTHORIZED", "nothing was authorized"),
        Operation::Refund if has(Operation::Capture) => yes(),
        Operation::Refund => no("NOT_CAPTURED", "nothing was captured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for method in Method::ALL {
            assert_eq!(Method::parse(method.token()), Some(method));
        }
        assert_eq!(Method::parse("pm_gold"), None);
    }

    #[test]
    fn every_answer() {
        use Operation::{Authorize, Capture, Refund, Void};
        let reason = |operation, approved: &[Operation]| match answer(
            operation,
            Some(Method::Fine),
            approved,
            "k",
        ) {
            Answer::Approved { reference } => reference,
            Answer::Declined { reason, .. } => reason,
        };
        for (operation, approved, expected) in [
            (Authorize, &[][..], "bank:k"),
            (Authorize, &[Void], "AUTHORIZATION_VOIDED"),
            (Void, &[], "bank:k"),
            (Void, &[Authorize], "bank:k"),
            (Void, &[Authorize, Capture], "ALREADY_CAPTURED"),
            (Capture, &[], "NOT_AUTHORIZED"),
            (Capture, &[Authorize], "bank:k"),
            (Capture, &[Authorize, Void], "AUTHORIZATION_VOIDED"),
            (Refund, &[], "NOT_CAPTURED"),
            (Refund, &[Authorize], "NOT_CAPTURED"),
            (Refund, &[Authorize, Capture], "bank:k"),
        ] {
            assert_eq!(
                reason(operation, approved),
                expected,
                "{operation:?} after {approved:?}"
            );
        }
        for (method, expected) in [
            (None, "UNKNOWN_PAYMENT_METHOD"),
            (Some(Method::Declined), "CARD_DECLINED"),
            (Some(Method::InsufficientFunds), "INSUFFICIENT_FUNDS"),
        ] {
            assert!(
                matches!(answer(Authorize, method, &[], "k"), Answer::Declined { reason, .. } if reason == expected)
            );
        }
    }
}
