//! Double entry: every movement of money is one entry whose postings sum to zero, per currency.

use std::collections::BTreeMap;

use sagamesh_api::shop::payments::v1::{JournalEntry, Posting};
use sagamesh_api::shop::v1::Money;

/// An entry that does not balance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbalanced {
    /// The postings of a currency do not sum to zero.
    #[error("its postings in {currency} sum to {sum}, not to zero")]
    Sum {
        /// Which currency.
        currency: String,
        /// Their sum, in minor units.
        sum: i128,
    },
    /// A posting has no amount.
    #[error("its posting to `{0}` has no amount")]
    NoAmount(String),
}

/// Whether the postings of an entry sum to zero, per currency. No postings do.
///
/// # Errors
/// The first currency that does not balance, or a posting without an amount.
pub fn check(entry: &JournalEntry) -> Result<(), Unbalanced> {
    let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
    for posting in &entry.postings {
        let amount = posting
            .amount
            .as_ref()
            .ok_or_else(|| Unbalanced::NoAmount(posting.account.clone()))?;
        *sums.entry(&amount.currency).or_default() += i128::from(amount.minor_units);
    }
    match sums.into_iter().find(|(_, sum)| *sum != 0) {
        Some((currency, sum)) => Err(Unbalanced::Sum {
            currency: currency.to_owned(),
            sum,
        }),
        None => Ok(()),
    }
}

/// The account of a customer's money.
pub fn customer(customer_id: &str) -> String {
    format!("customer:{customer_id}")
}

/// The account of money that is held.
pub fn authorized(currency: &str) -> String {
    format!("authorized:{currency}")
}

/// The account of money that was taken.
pub fn merchant(currency: &str) -> String {
    format!("merchant:{currency}")
}

/// An entry that moves `amount` from one account (credit) to another (debit): balanced by construction.
pub fn transfer(from: String, to: String, amount: &Money) -> JournalEntry {
    let posting = |account, minor_units| Posting {
        account,
        amount: Some(Money {
            minor_units,
            currency: amount.currency.clone(),
        }),
    };
    JournalEntry {
        postings: vec![
            posting(to, amount.minor_units),
            posting(from, -amount.minor_units),
        ],
    }
}
