//! A gateway in front of services that answer from memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use clap::Parser as _;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use sagamesh_api::shop::orders::v1::order_service_server::{OrderService, OrderServiceServer};
use sagamesh_api::shop::orders::v1::{self as orders, Order, OrderStatus};
use sagamesh_api::shop::payments::v1 as payments;
use sagamesh_api::shop::payments::v1::payment_service_server::{
    PaymentService, PaymentServiceServer,
};
use serde_json::{Value, json};
use tonic::{Request as GrpcRequest, Response, Status};

/// Orders kept in memory; every placed order is CONFIRMED when it is watched, but with `pm_forever` it stays PENDING.
#[derive(Clone, Default)]
pub struct FakeOrders(pub Arc<Mutex<BTreeMap<String, Order>>>);

#[tonic::async_trait]
impl OrderService for FakeOrders {
    async fn place_order(
        &self,
        request: GrpcRequest<orders::PlaceOrderRequest>,
    ) -> Result<Response<orders::PlaceOrderResponse>, Status> {
        let request = request.into_inner();
        if request.payment_method == "pm_panic" {
            let details = tonic_types::ErrorDetails::with_bad_request_violation(
                "lines[0].sku",
                "no such SKU",
            );
            return Err(<Status as tonic_types::StatusExt>::with_error_details(
                tonic::Code::InvalidArgument,
                "lines[0].sku: no such SKU",
                details,
            ));
        }
        let order = Order {
            order_id: request.request_id,
            customer_id: request.customer_id,
            lines: request.lines,
            status: OrderStatus::Pending.into(),
            etag: if request.payment_method == "pm_forever" {
                "forever"
            } else {
                "1"
            }
            .to_owned(),
            create_time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            ..Default::default()
        };
        self.0
            .lock()
            .expect("not poisoned")
            .insert(order.order_id.clone(), order.clone());
        Ok(Response::new(orders::PlaceOrderResponse {
            order: Some(order),
            position: 7,
        }))
    }

    async fn get_order(
        &self,
        request: GrpcRequest<orders::GetOrderRequest>,
    ) -> Result<Response<orders::GetOrderResponse>, Status> {
        let request = request.into_inner();
        let orders = self.0.lock().expect("not poisoned");
        let order = orders.get(&request.order_id).filter(|order| {
            request.customer_id.is_empty() || order.customer_id == request.customer_id
        });
        let order = order
            .cloned()
            .ok_or_else(|| Status::not_found("no such order"))?;
        Ok(Response::new(orders::GetOrderResponse {
            order: Some(order),
        }))
    }

    async fn list_orders(
        &self,
        request: GrpcRequest<orders::ListOrdersRequest>,
    ) -> Result<Response<orders::ListOrdersResponse>, Status> {
        let customer = request.into_inner().customer_id;
        let orders = self
            .0
            .lock()
            .expect("not poisoned")
            .values()
            .filter(|order| order.customer_id == customer)
            .cloned()
            .collect();
        Ok(Response::new(orders::ListOrdersResponse {
            orders,
            next_page_token: String::new(),
        }))
    }

    async fn cancel_order(
        &self,
        _: GrpcRequest<orders::CancelOrderRequest>,
    ) -> Result<Response<orders::CancelOrderResponse>, Status> {
        Err(Status::failed_precondition("the order was rejected"))
    }

    type WatchOrderStream =
        futures_util::stream::BoxStream<'static, Result<orders::WatchOrderResponse, Status>>;

    async fn watch_order(
        &self,
        request: GrpcRequest<orders::WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let found = self.get_order(GrpcRequest::new(orders::GetOrderRequest {
            order_id: request.get_ref().order_id.clone(),
            customer_id: request.get_ref().customer_id.clone(),
            min_position: 0,
        }));
        let pending = found.await?.into_inner().order.expect("an order");
        let change = |order| Ok(orders::WatchOrderResponse { order });
        if pending.etag == "forever" {
            let one = tokio_stream::iter([change(Some(pending))]);
            return Ok(Response::new(
                one.chain(futures_util::stream::pending()).boxed(),
            ));
        }
        let mut confirmed = pending.clone();
        confirmed.set_status(OrderStatus::Confirmed);
        confirmed.etag = "2".to_owned();
        self.0
            .lock()
            .expect("not poisoned")
            .insert(confirmed.order_id.clone(), confirmed.clone());
        let changes = [change(Some(pending)), change(None), change(Some(confirmed))];
        Ok(Response::new(tokio_stream::iter(changes).boxed()))
    }
}

/// Every payment is captured.
struct FakePayments;

#[tonic::async_trait]
impl PaymentService for FakePayments {
    async fn get_payment(
        &self,
        request: GrpcRequest<payments::GetPaymentRequest>,
    ) -> Result<Response<payments::GetPaymentResponse>, Status> {
        let payment = payments::Payment {
            payment_id: request.into_inner().payment_id,
            state: payments::PaymentState::Captured.into(),
            ..Default::default()
        };
        Ok(Response::new(payments::GetPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn list_payments(
        &self,
        _: GrpcRequest<payments::ListPaymentsRequest>,
    ) -> Result<Response<payments::ListPaymentsResponse>, Status> {
        Ok(Response::new(payments::ListPaymentsResponse::default()))
    }

    async fn get_trial_balance(
        &self,
        _: GrpcRequest<payments::GetTrialBalanceRequest>,
    ) -> Result<Response<payments::GetTrialBalanceResponse>, Status> {
        Ok(Response::new(payments::GetTrialBalanceResponse {
            balanced: true,
            ..Default::default()
        }))
    }
}

/// A running gateway. Orders and payments answer; nothing listens where inventory and notifications should be.
pub struct Rig {
    pub address: SocketAddr,
    /// Where the fake orders and payments answer.
    pub backend_url: String,
    pub folder: std::path::PathBuf,
    pub key: EncodingKey,
    pub kid: String,
    pub jwks: Value,
    /// The gateway's own tasks: `begin_drain` is what a signal does.
    pub gateway: chassis::Tasks,
    tasks: chassis::Tasks,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub async fn start(flags: &[&str]) -> Self {
        let tasks = chassis::Tasks::new();
        let backend = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let backend_url = format!("http://{}", backend.local_addr().expect("bound"));
        let server = tonic::transport::Server::builder()
            .add_service(OrderServiceServer::new(FakeOrders::default()))
            .add_service(PaymentServiceServer::new(FakePayments))
            .serve_with_incoming_shutdown(
                tokio_stream::wrappers::TcpListenerStream::new(backend),
                tasks.token().cancelled_owned(),
            );
        tasks.spawn("backend", async move {
            server.await.expect("the backend serves");
        });

        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().to_str().expect("UTF-8");
        let mut arguments = vec![
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--data-dir",
            data_dir,
        ];
        arguments.extend([
            "--orders",
            &backend_url,
            "--payments",
            &backend_url,
            "--inventory",
            "http://127.0.0.1:1",
            "--notifications",
            "http://127.0.0.1:1",
            "--coordinator",
            "http://127.0.0.1:1",
        ]);
        arguments.extend(flags);
        let config = gateway::Config::parse_from(arguments);
        let process = chassis::Process::for_test_with("gateway", config.chassis.clone());
        let address = process.grpc_addr();
        gateway::dev_key::load_or_create(folder.path()).expect("a key");
        let pem =
            std::fs::read(folder.path().join(gateway::dev_key::KEY_FILE)).expect("the key's file");
        let jwks: Value = serde_json::from_slice(
            &std::fs::read(folder.path().join(gateway::dev_key::JWKS_FILE)).expect("the key set"),
        )
        .expect("JSON");
        let own = process.tasks.clone();
        let gateway = own.clone();
        tasks.spawn("gateway", {
            let stop = tasks.token();
            async move {
                let serving = gateway::run(config, process);
                tokio::select! {
                    ended = serving => ended.expect("the gateway serves"),
                    () = stop.cancelled() => own.token().cancel(),
                }
            }
        });
        Self {
            address,
            backend_url,
            folder: folder.path().to_owned(),
            key: EncodingKey::from_ec_pem(&pem).expect("the development key"),
            kid: jwks["keys"][0]["kid"].as_str().expect("a kid").to_owned(),
            jwks,
            gateway,
            tasks,
            _folder: folder,
        }
    }

    pub async fn stop(self) {
        self.tasks
            .shutdown(std::time::Duration::from_secs(10))
            .await
            .expect("every task stops");
    }

    /// Claims that are good.
    pub fn claims(&self, subject: &str) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"iss": "sagamesh", "aud": "sagamesh-gateway", "sub": subject, "exp": now + 60, "scope": "orders:read orders:write inventory:read"})
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key).expect("signed")
    }

    pub fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }

    /// One request to this gateway.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        request(
            &format!("http://{}", self.address),
            method,
            path,
            headers,
            body,
        )
        .await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(
            Method::GET,
            path,
            &[("authorization", &format!("Bearer {token}"))],
            "",
        )
        .await
    }

    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        let headers = [
            ("authorization", &*format!("Bearer {token}")),
            ("content-type", "application/json"),
        ];
        self.send(Method::POST, path, &headers, &body.to_string())
            .await
    }
}

/// One request over HTTP/1.1.
pub async fn request(
    base: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{base}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::from(body.to_owned()))
        .expect("a request");
    Answer::read(client.request(request).await.expect("an answer")).await
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub async fn read(response: http::Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
            .to_str()
            .expect("text")
    }

    /// The problem's reason, after checking that it is one.
    pub fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        problem["reason"].as_str().expect("a reason").to_owned()
    }
}

/// Another P-256 key than the gateway's, as PKCS #8 DER.
pub fn stranger_key() -> EncodingKey {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    EncodingKey::from_ec_der(pair.to_pkcs8v1().expect("encoded").as_ref())
}

/// An order that can be placed.
pub fn new_order() -> Value {
    json!({"lines": [{"sku": "tea", "quantity": 2}], "payment_method": "pm_ok", "currency": "EUR"})
}

/// An order that stays PENDING, and its path.
pub async fn endless(rig: &Rig, token: &str) -> String {
    let mut order = new_order();
    order["payment_method"] = json!("pm_forever");
    let placed = rig.post("/v1/orders", token, &order).await;
    placed.header("location").to_owned()
}
