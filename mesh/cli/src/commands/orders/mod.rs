//! `sagamesh order`: through the gateway, as a customer.

mod shop;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use sagamesh_api::shop::orders::v1::{
    ListOrdersResponse, Order, OrderLine, OrderStatus, PlaceOrderRequest,
};

use crate::args::Common;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, short};
use crate::system::System;

pub(crate) use shop::Shop;

/// Place orders and follow them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Place an order
    Place {
        /// What: SKU, or SKU=QUANTITY
        #[arg(required = true, value_parser = line, value_name = "SKU[=QUANTITY]")]
        lines: Vec<OrderLine>,
        /// How to pay: pm_ok, pm_declined, pm_insufficient_funds, pm_flaky, pm_timeout_authorize, pm_timeout_capture, pm_slow
        #[arg(long, default_value = "pm_ok", value_name = "TOKEN")]
        payment_method: String,
        /// Currency to pay in
        #[arg(long, default_value = "EUR")]
        currency: String,
        /// Where to write to the customer
        #[arg(long, default_value = "", hide_default_value = true)]
        email: String,
        /// Id of this request (UUID): the same again returns the same order [default: a new one]
        #[arg(long)]
        request_id: Option<String>,
        /// Follow the order until it ends
        #[arg(long, short)]
        wait: bool,
        #[command(flatten)]
        who: Who,
    },
    /// Show an order
    Get {
        /// Its id
        order_id: String,
        #[command(flatten)]
        who: Who,
    },
    /// List orders, newest first
    List {
        /// Most orders to show
        #[arg(long, default_value = "50")]
        limit: usize,
        #[command(flatten)]
        who: Who,
    },
    /// Follow an order until it ends
    Watch {
        /// Its id
        order_id: String,
        #[command(flatten)]
        who: Who,
    },
    /// Cancel an order: a pending one is undone, a confirmed one is refunded
    Cancel {
        /// Its id
        order_id: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        who: Who,
    },
}

/// In whose name.
#[derive(Clone, Debug, Args)]
pub(crate) struct Who {
    /// The customer; a development token is made for them
    #[arg(long, default_value = "alice", value_name = "NAME")]
    customer: String,
    /// A token to use instead
    #[arg(long, env = "SAGAMESH_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

pub(crate) async fn run(common: &Common, command: Command) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let open = |who: &Who| match &who.token {
        Some(token) => Shop::with_token(&system, token.clone()),
        None => Shop::open(&system, &who.customer),
    };
    match command {
        Command::Place {
            lines,
            payment_method,
            currency,
            email,
            request_id,
            wait,
            who,
        } => {
            let mut shop = open(&who)?;
            let request_id = request_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            let customer_id = String::new();
            let request = PlaceOrderRequest {
                request_id,
                customer_id,
                lines,
                payment_method,
                currency,
                contact_email: email,
            };
            let order = shop.place(request).await?;
            if wait {
                return watch(common, &mut shop, &order.order_id).await;
            }
            show(common, &order)?;
            if common.output == Format::Table {
                output::line(&format!(
                    "\nFollow it with `sagamesh saga watch {}`.",
                    order.saga_id
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Get { order_id, who } => {
            show(common, &open(&who)?.get(&order_id).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::List { limit, who } => {
            let (orders, next_page_token) = open(&who)?.list(limit).await?;
            match common.output {
                Format::Json => {
                    let response = ListOrdersResponse {
                        orders,
                        next_page_token,
                    };
                    output::line(&output::json(
                        "shop.orders.v1.ListOrdersResponse",
                        &response,
                    )?);
                }
                Format::Table => {
                    output::line(&table(&orders));
                    if !next_page_token.is_empty() {
                        output::line(&format!("There are more than these {limit}: see --limit."));
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch { order_id, who } => watch(common, &mut open(&who)?, &order_id).await,
        Command::Cancel {
            order_id,
            reason,
            who,
        } => {
            show(common, &open(&who)?.cancel(&order_id, reason).await?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn watch(common: &Common, shop: &mut Shop, order_id: &str) -> anyhow::Result<ExitCode> {
    let mut shown = None;
    let order = shop
        .watch(order_id, |order| {
            match common.output {
                Format::Json => output::line(&output::json_line("shop.orders.v1.Order", order)?),
                Format::Table if shown != Some(order.status) => {
                    let why = if order.rejection_reason.is_empty() {
                        String::new()
                    } else {
                        format!(": {} ({})", order.rejection_message, order.rejection_reason)
                    };
                    output::line(&format!(
                        "order {} is {}{why}",
                        order.order_id,
                        status(order)
                    ));
                }
                Format::Table => {}
            }
            shown = Some(order.status);
            Ok(())
        })
        .await?;
    Ok(if order.status() == OrderStatus::Rejected {
        Exit::EndedOtherwise.into()
    } else {
        ExitCode::SUCCESS
    })
}

fn show(common: &Common, order: &Order) -> anyhow::Result<()> {
    match common.output {
        Format::Json => output::line(&output::json("shop.orders.v1.Order", order)?),
        Format::Table => {
            output::line(&table(std::slice::from_ref(order)));
            if !order.rejection_reason.is_empty() {
                output::line(&format!(
                    "rejected: {} ({})",
                    order.rejection_message, order.rejection_reason
                ));
            }
            if order.cancel_requested {
                output::line("its cancellation is under way");
            }
        }
    }
    Ok(())
}

fn status(order: &Order) -> &'static str {
    short(order.status().as_str_name(), "ORDER_STATUS_")
}

fn table(orders: &[Order]) -> String {
    let mut table = output::table(&["order", "status", "total", "lines", "placed"]);
    for order in orders {
        let lines: Vec<String> = order
            .lines
            .iter()
            .map(|line| format!("{} {}", line.quantity, line.sku))
            .collect();
        table.add_row([
            order.order_id.clone(),
            status(order).to_owned(),
            output::money(order.total.as_ref()),
            lines.join(", "),
            output::time(order.create_time.as_ref()),
        ]);
    }
    output::text(&table)
}

fn line(text: &str) -> Result<OrderLine, String> {
    let (sku, quantity) = text.split_once('=').unwrap_or((text, "1"));
    let quantity = quantity
        .parse()
        .map_err(|_| Failure::new(Exit::Usage, format!("{quantity} is no quantity")).message)?;
    Ok(OrderLine {
        sku: sku.to_owned(),
        quantity,
        unit_price: None,
    })
}
