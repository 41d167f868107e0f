//! `sagamesh stock` and `sagamesh books`.

use std::process::ExitCode;

use clap::Subcommand;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::inventory::v1::{
    Item, ListItemsRequest, ListItemsResponse, RestockRequest,
};
use sagamesh_api::shop::payments::v1::GetTrialBalanceRequest;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use sagamesh_api::shop::v1::Money;

use crate::args::Common;
use crate::connect;
use crate::failure::{Exit, from_status};
use crate::output::{self, Format};
use crate::system::System;

/// See and fill the stock.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the items
    List,
    /// Add stock to an item; a new one needs --name and --price
    Restock {
        /// The item: letters, digits, - and _
        sku: String,
        /// How many more: 1 to 1,000,000,000
        #[arg(allow_negative_numbers = true, value_parser = quantity)]
        quantity: u64,
        /// Name of the item
        #[arg(long)]
        name: Option<String>,
        /// Price of one in minor units (cents) and its currency, for example 8900EUR
        #[arg(long, value_parser = price, value_name = "PRICE")]
        price: Option<Money>,
        /// Id of this request (UUID): the same again changes nothing [default: a new one]
        #[arg(long)]
        request_id: Option<String>,
    },
}

pub(crate) async fn run(common: &Common, command: Command) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let mut client = InventoryServiceClient::new(connect::service(&system, "inventory")?);
    match command {
        Command::List => {
            let items = items(&mut client).await?;
            match common.output {
                Format::Json => {
                    let response = ListItemsResponse {
                        items,
                        next_page_token: String::new(),
                    };
                    output::line(&output::json(
                        "shop.inventory.v1.ListItemsResponse",
                        &response,
                    )?);
                }
                Format::Table => output::line(&table(&items)),
            }
        }
        Command::Restock {
            sku,
            quantity,
            name,
            price,
            request_id,
        } => {
            let request = RestockRequest {
                request_id: request_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
                sku,
                quantity,
                name: name.unwrap_or_default(),
                unit_price: price,
            };
            let answer = client.restock(connect::request(request)).await;
            let item = answer
                .map_err(|status| from_status("inventory", "adding stock", &status))?
                .into_inner()
                .item
                .unwrap_or_default();
            match common.output {
                Format::Json => output::line(&output::json("shop.inventory.v1.Item", &item)?),
                Format::Table => output::line(&table(&[item])),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All items.
pub(crate) async fn items(
    client: &mut InventoryServiceClient<connect::Channel>,
) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = connect::request(ListItemsRequest {
            page_size: 500,
            page_token,
        });
        let page = client
            .list_items(request)
            .await
            .map_err(|status| from_status("inventory", "listing the stock", &status))?
            .into_inner();
        items.extend(page.items);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(items);
        }
    }
}

fn table(items: &[Item]) -> String {
    let mut table = output::table(&["sku", "name", "available", "reserved", "sold", "price"]);
    for item in items {
        table.add_row([
            item.sku.clone(),
            item.name.clone(),
            item.available.to_string(),
            item.reserved.to_string(),
            item.committed.to_string(),
            output::money(item.unit_price.as_ref()),
        ]);
    }
    output::text(&table)
}

/// `sagamesh books`.
pub(crate) async fn books(common: &Common) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let mut client = PaymentServiceClient::new(connect::service(&system, "payments")?);
    let answer = client
        .get_trial_balance(connect::request(GetTrialBalanceRequest {}))
        .await;
    let books = answer
        .map_err(|status| from_status("payments", "reading the books", &status))?
        .into_inner();
    match common.output {
        Format::Json => output::line(&output::json(
            "shop.payments.v1.GetTrialBalanceResponse",
            &books,
        )?),
        Format::Table => {
            let mut table = output::table(&["account", "balance"]);
            for account in &books.accounts {
                table.add_row([
                    account.name.clone(),
                    output::money(account.balance.as_ref()),
                ]);
            }
            output::line(&output::text(&table));
            output::line(if books.balanced {
                "\nThe books balance: the sum over all accounts is zero."
            } else {
                "\nTHE BOOKS DO NOT BALANCE."
            });
        }
    }
    Ok(if books.balanced {
        ExitCode::SUCCESS
    } else {
        Exit::EndedOtherwise.into()
    })
}

fn quantity(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=1_000_000_000).contains(count))
        .ok_or_else(|| format!("{text} is no quantity: write a number from 1 to 1,000,000,000"))
}

fn price(text: &str) -> Result<Money, String> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (units, currency) = text.split_at(digits);
    let wrong = || {
        format!(
            "{text} is no price: write minor units and currency, for example 8900EUR for 89.00 EUR"
        )
    };
    let minor_units = units.parse().map_err(|_| wrong())?;
    if currency.len() != 3 || !currency.chars().all(|letter| letter.is_ascii_uppercase()) {
        return Err(wrong());
    }
    Ok(Money {
        minor_units,
        currency: currency.to_owned(),
    })
}
