//! The whole shop: from `sagamesh up` to the first completed order, and orders per second through REST.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use chassis::{Env, PeerChannel};
use hdrhistogram::Histogram;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sagamesh_api::shop::inventory::v1::RestockRequest;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::v1::Money;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::args::Shop;
use crate::disk::Place;
use crate::process::{self, Running};
use crate::report::millis;

/// Items that the orders are spread over.
const ITEMS: u32 = 16;
/// An item that every new shop has.
const FIRST_ITEM: &str = "keyboard";
/// The longest that the first order may take.
const FIRST_ORDER: Duration = Duration::from_secs(60);

type Http = Client<HttpConnector, Full<Bytes>>;

/// Starts the shop and measures it.
pub(crate) async fn run(place: &Place, options: &Shop) -> anyhow::Result<()> {
    let folder = place.folder("shop")?;
    let (shop, launcher, took) = Open::start(&folder, options.sagamesh.as_deref()).await?;
    println!(
        "from `sagamesh up` to the first COMPLETED order: {:.0} ms",
        millis(took)
    );
    shop.restock().await?;
    println!(
        "\n{:>7} {:>9} {:>8} {:>8}   CPU µs per order",
        "clients", "orders/s", "p50 ms", "p99 ms"
    );
    for &clients in &options.clients {
        shop.load(clients, Duration::from_secs_f64(options.seconds))
            .await?;
    }
    drop(launcher);
    Ok(())
}

/// The shop, running.
#[derive(Clone)]
pub(crate) struct Open {
    http: Http,
    gateway: String,
    inventory: PeerChannel,
    token: String,
    pids: Vec<(String, String)>,
}

impl Open {
    /// Starts it with limits that no customer meets, and waits for its first order; says how long that took.
    pub(crate) async fn start(
        folder: &Path,
        sagamesh: Option<&Path>,
    ) -> anyhow::Result<(Self, Running, Duration)> {
        let sagamesh = match sagamesh {
            Some(binary) => binary.to_owned(),
            None => process::beside("sagamesh")?,
        };
        let started = Instant::now();
        let mut command = Command::new(&sagamesh);
        command
            .arg("--data-dir")
            .arg(folder)
            .args(["up", "--port", "0"])
            .stdout(Stdio::null());
        for limit in ["SUBJECT", "ADDRESS"] {
            command
                .env(format!("SAGAMESH_RATE_PER_{limit}"), "1000000")
                .env(format!("SAGAMESH_BURST_PER_{limit}"), "1000000");
        }
        let launcher = Running::spawn(command, &folder.with_extension("log"))?;
        let shop = Self::first_order(&sagamesh, folder).await?;
        Ok((shop, launcher, started.elapsed()))
    }

    /// Its processes: label and process id.
    pub(crate) fn pids(&self) -> &[(String, String)] {
        &self.pids
    }

    /// Places an order of one of the items and waits for its end.
    pub(crate) async fn order_number(&self, number: u32) -> anyhow::Result<String> {
        self.order(&sku(number % ITEMS)).await
    }

    /// Waits until an order is through.
    async fn first_order(sagamesh: &Path, folder: &Path) -> anyhow::Result<Self> {
        let until = Instant::now() + FIRST_ORDER;
        loop {
            match Self::try_first_order(sagamesh, folder).await {
                Ok(shop) => return Ok(shop),
                Err(error) if Instant::now() > until => {
                    return Err(error.context("no order was completed"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn try_first_order(sagamesh: &Path, folder: &Path) -> anyhow::Result<Self> {
        let system: Value = serde_json::from_slice(&std::fs::read(system_file(folder))?)?;
        let url_of = |service: &str| {
            let processes = system["processes"].as_array();
            let process = processes
                .into_iter()
                .flatten()
                .find(|process| process["service"] == service);
            process
                .and_then(|process| process["url"].as_str())
                .map(str::to_owned)
                .context("no such service")
        };
        let pids = system["processes"].as_array().into_iter().flatten();
        let pids = pids.filter_map(|process| {
            Some((
                process["label"].as_str()?.to_owned(),
                process["pid"].to_string(),
            ))
        });
        let token = Command::new(sagamesh)
            .arg("--data-dir")
            .arg(folder)
            .args(["token", "--sub", "bench"])
            .output()
            .await?;
        let token = if token.status.success() {
            token
        } else {
            bail!("{}", String::from_utf8_lossy(&token.stderr))
        };
        // Through the mesh, as the operator, where there is one.
        let outbound = system["mesh"]["outbound"].as_str().map(str::parse);
        let inventory = match outbound {
            Some(outbound) => chassis::channel(
                &Env::system().through(Some(outbound.context("no address")?)),
                "http://inventory.sagamesh.svc.cluster.local:50051",
            ),
            None => chassis::channel(&Env::system(), &url_of("inventory")?),
        };
        let shop = Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            gateway: system["gateway"].as_str().context("no gateway")?.to_owned(),
            inventory,
            token: String::from_utf8(token.stdout)?.trim().to_owned(),
            pids: pids.collect(),
        };
        match shop.order(FIRST_ITEM).await? {
            status if status == "CONFIRMED" => Ok(shop),
            other => bail!("the order is {other}"),
        }
    }

    /// Places an order and waits for its end.
    async fn order(&self, sku: &str) -> anyhow::Result<String> {
        let body = json!({
            "lines": [{ "sku": sku, "quantity": 1 }],
            "payment_method": "pm_ok", "currency": "EUR", "contact_email": "bench@example.com",
        });
        let request = Request::post(format!("{}/v1/orders", self.gateway))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .header("prefer", "wait=20")
            .body(Full::from(body.to_string()))?;
        let answer = self.http.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status != StatusCode::CREATED {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        let order: Value = serde_json::from_slice(&body)?;
        Ok(order["status"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn restock(&self) -> anyhow::Result<()> {
        let mut client = InventoryServiceClient::new(self.inventory.clone());
        for item in 0..ITEMS {
            let request = RestockRequest {
                request_id: uuid::Uuid::now_v7().to_string(),
                sku: sku(item),
                quantity: 10_000_000,
                name: format!("Item {item}"),
                unit_price: Some(Money {
                    minor_units: 100,
                    currency: "EUR".into(),
                }),
            };
            client.restock(request).await.context("filling the stock")?;
        }
        Ok(())
    }

    async fn load(&self, clients: usize, length: Duration) -> anyhow::Result<()> {
        let warm = Instant::now() + Duration::from_secs(1);
        let until = warm + length;
        let mut all = JoinSet::new();
        for client in 0..clients {
            let shop = self.clone();
            all.spawn(async move {
                let mut micros: Histogram<u64> = Histogram::new_with_bounds(1, 120_000_000, 3)?;
                let sku = sku(u32::try_from(client)? % ITEMS);
                while Instant::now() < until {
                    let started = Instant::now();
                    let status = shop.order(&sku).await?;
                    if status != "CONFIRMED" {
                        bail!("an order is {status}");
                    }
                    let ended = Instant::now();
                    if ended >= warm && ended < until {
                        micros.saturating_record(u64::try_from((ended - started).as_micros())?);
                    }
                }
                Ok(micros)
            });
        }
        tokio::time::sleep_until(warm.into()).await;
        let before = self.cpu();
        tokio::time::sleep_until(until.into()).await;
        let after = self.cpu();
        let mut micros: Histogram<u64> = Histogram::new_with_bounds(1, 120_000_000, 3)?;
        while let Some(client) = all.join_next().await {
            micros.add(client??)?;
        }
        let orders = micros.len().max(1) as f64;
        let costs = before
            .iter()
            .zip(after)
            .map(|((name, before), (_, after))| {
                format!(
                    "{name} {:.0}",
                    after.saturating_sub(*before).as_secs_f64() * 1e6 / orders
                )
            });
        println!(
            "{clients:>7} {:>9.0} {:>8.2} {:>8.2}   {}",
            orders / length.as_secs_f64(),
            micros.value_at_quantile(0.5) as f64 / 1e3,
            micros.value_at_quantile(0.99) as f64 / 1e3,
            costs.collect::<Vec<_>>().join(", "),
        );
        Ok(())
    }

    /// CPU time of each process, and of this one.
    fn cpu(&self) -> Vec<(String, Duration)> {
        let services = self
            .pids
            .iter()
            .map(|(service, pid)| (service.clone(), process::cpu(pid)));
        services
            .chain([("client".to_owned(), process::cpu("self"))])
            .collect()
    }
}

fn sku(item: u32) -> String {
    format!("bench-{item}")
}

fn system_file(folder: &Path) -> PathBuf {
    folder.join("system.json")
}
