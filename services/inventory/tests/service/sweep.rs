//! Expiry asks the coordinator, and acts only on its answer.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use inventory::sweeper::{Sweep, Sweeper};
use participant::Outcome;
use sagamesh_api::saga::v1::saga_service_server::{SagaService, SagaServiceServer};
use sagamesh_api::saga::v1::{self as saga, SagaState};
use sagamesh_api::shop::inventory::v1::ReservationState;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::shop::Shop;

/// A coordinator that knows a few sagas and does nothing else.
struct Coordinator(BTreeMap<String, (SagaState, bool)>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SagaService for Coordinator {
    type StartSagasStream = Answers<saga::StartSagasResponse>;
    type WatchSagaStream = Answers<saga::WatchSagaResponse>;

    async fn get_saga(
        &self,
        request: Request<saga::GetSagaRequest>,
    ) -> Result<Response<saga::GetSagaResponse>, Status> {
        let saga_id = request.into_inner().saga_id;
        if saga_id.starts_with("damaged") {
            return Err(Status::internal("this saga cannot be read"));
        }
        let (state, pivot_dispatched) = *self
            .0
            .get(&saga_id)
            .ok_or_else(|| Status::not_found("there is no such saga"))?;
        let saga = saga::Saga {
            saga_id,
            state: state as i32,
            pivot_dispatched,
            ..Default::default()
        };
        Ok(Response::new(saga::GetSagaResponse { saga: Some(saga) }))
    }

    async fn start_saga(
        &self,
        _: Request<saga::StartSagaRequest>,
    ) -> Result<Response<saga::StartSagaResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn start_sagas(
        &self,
        _: Request<Streaming<saga::StartSagasRequest>>,
    ) -> Result<Response<Self::StartSagasStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_sagas(
        &self,
        _: Request<saga::ListSagasRequest>,
    ) -> Result<Response<saga::ListSagasResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_saga(
        &self,
        _: Request<saga::WatchSagaRequest>,
    ) -> Result<Response<Self::WatchSagaStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn cancel_saga(
        &self,
        _: Request<saga::CancelSagaRequest>,
    ) -> Result<Response<saga::CancelSagaResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn signal_saga(
        &self,
        _: Request<saga::SignalSagaRequest>,
    ) -> Result<Response<saga::SignalSagaResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Serves it on a free port; returns its address.
async fn serve(sagas: &[(&str, SagaState, bool)]) -> String {
    let sagas = sagas
        .iter()
        .map(|(id, state, pivot)| ((*id).to_owned(), (*state, *pivot)))
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        tonic::transport::Server::builder().add_service(SagaServiceServer::new(Coordinator(sagas)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    format!("http://{address}")
}

fn sweeper(shop: &Shop, coordinator: &str, start_window: Duration, batch: u32) -> Sweeper {
    let sweep = Sweep {
        start_window,
        batch,
        ..Sweep::default()
    };
    Sweeper::new(
        shop.ledger.clone(),
        chassis::channel(&shop.env, coordinator),
        shop.env.clone(),
        sweep,
    )
}

async fn state(shop: &Shop, order: &str) -> ReservationState {
    shop.reservation(order).await.unwrap().state()
}

#[tokio::test]
async fn what_a_live_saga_holds_is_kept_and_the_rest_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::with_ttl(folder.path(), Duration::ZERO).await;
    shop.stock("cup", 100).await;
    let orders = [
        "running",
        "compensating",
        "parked",
        "completed",
        "no-pivot",
        "compensated",
        "leftovers",
        "unknown",
    ];
    for order in orders {
        assert_eq!(
            shop.reserve(order, r#"[{"sku":"cup","quantity":1}]"#).await,
            Outcome::done()
        );
    }
    shop.item("cup").await;
    let coordinator = serve(&[
        ("running", SagaState::Running, true),
        ("compensating", SagaState::Compensating, false),
        ("parked", SagaState::Parked, false),
        ("completed", SagaState::Completed, true),
        ("no-pivot", SagaState::Completed, false),
        ("compensated", SagaState::Compensated, false),
        ("leftovers", SagaState::CompensatedWithLeftovers, false),
    ])
    .await;

    let mut patient = sweeper(&shop, &coordinator, Duration::from_secs(3_600), 100);
    assert_eq!(patient.round().await.unwrap(), 4);
    for kept in ["running", "compensating", "parked", "unknown"] {
        assert_eq!(state(&shop, kept).await, ReservationState::Held, "{kept}");
    }
    for released in ["no-pivot", "compensated", "leftovers"] {
        assert_eq!(
            state(&shop, released).await,
            ReservationState::Released,
            "{released}"
        );
    }
    assert_eq!(state(&shop, "completed").await, ReservationState::Committed);
    assert_eq!(shop.counts("cup").await, (95, 4, 1));

    let mut impatient = sweeper(&shop, &coordinator, Duration::ZERO, 100);
    assert_eq!(impatient.round().await.unwrap(), 1);
    assert_eq!(state(&shop, "unknown").await, ReservationState::Released);
    assert_eq!(impatient.round().await.unwrap(), 0);
    assert_eq!(shop.counts("cup").await, (96, 3, 1));
}

#[tokio::test]
async fn long_sagas_do_not_hide_what_comes_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::with_ttl(folder.path(), Duration::ZERO).await;
    shop.stock("cup", 100).await;
    for order in ["a", "b", "c", "d", "z"] {
        assert_eq!(
            shop.reserve(order, r#"[{"sku":"cup","quantity":1}]"#).await,
            Outcome::done()
        );
    }
    shop.item("cup").await;
    let live = ["a", "b", "c", "d"].map(|id| (id, SagaState::Running, false));
    let mut sagas = live.to_vec();
    sagas.push(("z", SagaState::Compensated, false));
    let coordinator = serve(&sagas).await;
    let mut small = sweeper(&shop, &coordinator, Duration::ZERO, 2);
    let mut settled = 0;
    for _ in 0..3 {
        settled += small.round().await.unwrap();
    }
    assert_eq!(settled, 1);
    assert_eq!(state(&shop, "z").await, ReservationState::Released);
}

#[tokio::test]
async fn sagas_that_cannot_be_read_do_not_hide_what_comes_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::with_ttl(folder.path(), Duration::ZERO).await;
    shop.stock("cup", 100).await;
    // More in a row than a round takes, in front of one that is over.
    let damaged: Vec<_> = (0..7).map(|index| format!("damaged-{index}")).collect();
    for order in damaged.iter().map(String::as_str).chain(["over"]) {
        assert_eq!(
            shop.reserve(order, r#"[{"sku":"cup","quantity":1}]"#).await,
            Outcome::done()
        );
    }
    shop.item("cup").await;
    let coordinator = serve(&[("over", SagaState::Compensated, false)]).await;
    let mut sweeper = sweeper(&shop, &coordinator, Duration::ZERO, 100);
    let error = sweeper.round().await.expect_err("several in a row");
    assert!(format!("{error:#}").contains("damaged-4"), "{error:#}");
    assert_eq!(sweeper.round().await.unwrap(), 1, "it goes on behind them");
    assert_eq!(state(&shop, "over").await, ReservationState::Released);
    for order in &damaged {
        assert_eq!(state(&shop, order).await, ReservationState::Held);
    }
}

#[tokio::test]
async fn without_an_answer_nothing_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::with_ttl(folder.path(), Duration::ZERO).await;
    shop.stock("cup", 1).await;
    assert_eq!(
        shop.reserve("o", r#"[{"sku":"cup","quantity":1}]"#).await,
        Outcome::done()
    );
    shop.item("cup").await;
    // Bound and closed again: nobody answers there.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut sweeper = sweeper(&shop, &format!("http://{nobody}"), Duration::ZERO, 10);
    assert!(sweeper.round().await.is_err());
    assert_eq!(state(&shop, "o").await, ReservationState::Held);
}

#[tokio::test]
async fn what_is_not_due_is_not_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.stock("cup", 1).await;
    assert_eq!(
        shop.reserve("o", r#"[{"sku":"cup","quantity":1}]"#).await,
        Outcome::done()
    );
    shop.item("cup").await;
    let coordinator = serve(&[("o", SagaState::Compensated, false)]).await;
    assert_eq!(
        sweeper(&shop, &coordinator, Duration::ZERO, 10)
            .round()
            .await
            .unwrap(),
        0
    );
    assert_eq!(state(&shop, "o").await, ReservationState::Held);
}
