use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sagamesh_api::shop::inventory::v1::inventory_service_server::{
    InventoryService, InventoryServiceServer,
};
use sagamesh_api::shop::inventory::v1::{
    CheckAvailabilityRequest, CheckAvailabilityResponse, GetItemRequest, GetItemResponse,
    GetReservationRequest, GetReservationResponse, LineAvailability, ListItemsRequest,
    ListItemsResponse, RestockRequest, RestockResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// How inventory answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Unavailable,
    /// It never answers.
    Hung,
}

#[derive(Debug)]
struct State {
    stock: BTreeMap<String, (u64, i64)>,
    mood: Mood,
    calls: u32,
}

/// An inventory: mugs at 5.00 and tea at 19.99.
#[derive(Clone)]
pub struct FakeInventory {
    address: String,
    state: Arc<Mutex<State>>,
}

impl FakeInventory {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let stock = [
            ("mug".to_owned(), (100, 500)),
            ("tea".to_owned(), (100, 1_999)),
        ]
        .into();
        let state = Arc::new(Mutex::new(State {
            stock,
            mood: Mood::Well,
            calls: 0,
        }));
        let fake = Self { address, state };
        let service = InventoryServiceServer::new(fake.clone());
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .expect("served");
        });
        fake
    }

    pub fn url(&self) -> String {
        self.address.clone()
    }

    pub fn mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    pub fn stock(&self, sku: &str, available: u64) {
        self.state
            .lock()
            .unwrap()
            .stock
            .get_mut(sku)
            .expect("known")
            .0 = available;
    }

    pub fn calls(&self) -> u32 {
        self.state.lock().unwrap().calls
    }
}

#[tonic::async_trait]
impl InventoryService for FakeInventory {
    async fn check_availability(
        &self,
        request: Request<CheckAvailabilityRequest>,
    ) -> Result<Response<CheckAvailabilityResponse>, Status> {
        let mood = {
            let mut state = self.state.lock().unwrap();
            state.calls += 1;
            state.mood
        };
        match mood {
            Mood::Well => {}
            Mood::Unavailable => return Err(Status::unavailable("down")),
            Mood::Hung => std::future::pending::<()>().await,
        }
        let state = self.state.lock().unwrap();
        let lines: Vec<_> = request
            .into_inner()
            .lines
            .into_iter()
            .map(|line| match state.stock.get(&line.sku) {
                Some((available, price)) => LineAvailability {
                    sku: line.sku,
                    requested: line.quantity,
                    available: *available,
                    unit_price: Some(super::eur(*price)),
                    unknown: false,
                },
                None => LineAvailability {
                    sku: line.sku,
                    requested: line.quantity,
                    unknown: true,
                    ..LineAvailability::default()
                },
            })
            .collect();
        let available = lines
            .iter()
            .all(|line| line.available >= u64::from(line.requested));
        Ok(Response::new(CheckAvailabilityResponse {
            available,
            lines,
        }))
    }

    async fn restock(
        &self,
        _: Request<RestockRequest>,
    ) -> Result<Response<RestockResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_item(
        &self,
        _: Request<GetItemRequest>,
    ) -> Result<Response<GetItemResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_items(
        &self,
        _: Request<ListItemsRequest>,
    ) -> Result<Response<ListItemsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_reservation(
        &self,
        _: Request<GetReservationRequest>,
    ) -> Result<Response<GetReservationResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
