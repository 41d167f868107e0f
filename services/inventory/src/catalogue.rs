//! The demo's catalogue: a few items, put on the shelf once.

use ledger::Ledger;

use crate::decider::{Command, Inventory};
use crate::domain::Restock;

/// SKU, name, price in cents, pieces.
const ITEMS: [(&str, &str, i64, u64); 6] = [
    ("coffee-beans", "Coffee beans, 1 kg", 18_90, 100_000),
    ("espresso-cup", "Espresso cup", 9_50, 50_000),
    ("filter-paper", "Filter paper, 100 sheets", 3_20, 80_000),
    ("grinder", "Hand grinder", 89_00, 2_000),
    ("kettle", "Gooseneck kettle", 64_00, 1_500),
    ("limited-print", "Limited art print", 45_00, 3),
];

/// Stocks every item of the catalogue that does not exist yet. What exists is left as it is, so that a restart adds nothing.
///
/// # Errors
/// If the ledger cannot write.
pub async fn seed(ledger: &Ledger<Inventory>) -> anyhow::Result<()> {
    for (sku, name, price_minor, quantity) in ITEMS {
        let price = Some((price_minor, "EUR".to_owned()));
        let restock = Restock {
            sku: sku.to_owned(),
            quantity,
            name: name.to_owned(),
            price,
        };
        ledger.execute(Command::Seed(restock)).await?;
    }
    Ok(())
}
