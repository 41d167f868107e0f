//! Load: customers who order without a pause, each over one connection of its own, as an app would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::stage::{LOAD_SKU, Stage};
use crate::token;

/// How many order at the same time. So few that what one process has under way when it is killed opens no circuit breaker.
const CUSTOMERS: usize = 4;
/// How long an order's end is waited for within its request.
const WAIT: &str = "wait=20";
/// The longest that a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time until a connection is made again.
const AGAIN: Duration = Duration::from_millis(20);
/// Most connections that may break for one request.
const MOST_BROKEN: usize = 100;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Each order with its state in the answer.
    pub(super) orders: BTreeMap<String, String>,
    /// Answers that were no orders.
    pub(super) failures: Vec<String>,
    /// Connections that broke: the request was sent again over a new one, under the same key.
    pub(super) broken: usize,
    /// How long it took.
    pub(super) seconds: f64,
}

/// Customers at work.
pub(super) struct Load {
    stop: CancellationToken,
    answered: Arc<watch::Sender<usize>>,
    customers: JoinSet<anyhow::Result<Placed>>,
    begun: Instant,
}

impl Load {
    /// Lets them begin.
    pub(super) fn begin(stage: &Stage) -> anyhow::Result<Load> {
        let system = &stage.system;
        let token = token::make(
            &system.data_dir,
            &token::Names::from_environment(),
            "alice",
            token::CUSTOMER_SCOPES,
            Duration::from_secs(600),
        )?;
        let stop = CancellationToken::new();
        let answered = Arc::new(watch::Sender::new(0));
        let mut customers = JoinSet::new();
        for _ in 0..CUSTOMERS {
            let customer = Customer {
                gateway: system.gateway.trim_start_matches("http://").to_owned(),
                token: token.clone(),
                line: None,
            };
            customers.spawn(customer.order(stop.clone(), Arc::clone(&answered)));
        }
        Ok(Load {
            stop,
            answered,
            customers,
            begun: Instant::now(),
        })
    }

    /// Returns once they have had so many more answers.
    pub(super) async fn go_on(&self, orders: usize) -> anyhow::Result<()> {
        let mut answered = self.answered.subscribe();
        let until = *answered.borrow() + orders;
        tokio::time::timeout(PATIENCE, answered.wait_for(|count| *count >= until))
            .await
            .context("customers get no more answers")?
            .context("no customer is left")?;
        Ok(())
    }

    /// Lets them finish what they have begun.
    pub(super) async fn end(mut self) -> anyhow::Result<Placed> {
        self.stop.cancel();
        let mut all = Placed::default();
        while let Some(placed) = self.customers.join_next().await {
            let placed = placed.context("a customer panicked")??;
            all.orders.extend(placed.orders);
            all.failures.extend(placed.failures);
            all.broken += placed.broken;
        }
        all.seconds = self.begun.elapsed().as_secs_f64();
        Ok(all)
    }
}

/// One customer.
struct Customer {
    gateway: String,
    token: String,
    line: Option<Line>,
}

/// A connection, closed when it is dropped.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Customer {
    async fn order(
        mut self,
        stop: CancellationToken,
        answered: Arc<watch::Sender<usize>>,
    ) -> anyhow::Result<Placed> {
        let mut placed = Placed::default();
        while !stop.is_cancelled() {
            let key = uuid::Uuid::now_v7().to_string();
            let mut broken = 0;
            let (status, order) = loop {
                let asking = tokio::time::timeout(PATIENCE, self.ask(&key));
                match asking.await.context("an order is not answered")? {
                    Ok(answer) => break answer,
                    // As any client does: whether the request arrived is not known, and with its key it need not be.
                    Err(error) => {
                        self.line = None;
                        broken += 1;
                        ensure!(broken < MOST_BROKEN, "no connection holds: {error:#}");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            placed.broken += broken;
            let text = |name: &str| order[name].as_str().map(str::to_owned);
            match (status.is_success(), text("order_id"), text("status")) {
                (true, Some(id), Some(state)) => {
                    placed.orders.insert(id, state);
                }
                _ => placed.failures.push(format!("{status} {order}")),
            }
            answered.send_modify(|count| *count += 1);
        }
        Ok(placed)
    }

    /// One request over the connection that there is, or a new one. An error means that it broke.
    async fn ask(&mut self, key: &str) -> anyhow::Result<(StatusCode, serde_json::Value)> {
        let body = serde_json::json!({
            "lines": [{"sku": LOAD_SKU, "quantity": 1}],
            "payment_method": "pm_ok",
            "currency": "EUR",
        });
        let request = Request::post("/v1/orders")
            .header("host", &self.gateway)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .header("prefer", WAIT)
            .body(Full::new(Bytes::from(body.to_string())))?;
        let line = match &mut self.line {
            Some(line) => line,
            none => none.insert(connect(&self.gateway).await?),
        };
        let response = line.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

async fn connect(gateway: &str) -> anyhow::Result<Line> {
    let stream = TcpStream::connect(gateway).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move {
        // Its end is told to whoever sends.
        let _ = connection.await;
    });
    Ok(Line {
        sender,
        driver: driver.abort_handle(),
    })
}
