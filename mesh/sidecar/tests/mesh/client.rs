//! A gRPC client of an app, which dials its own sidecar; messages are plain bytes.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Calls `destination` through the sidecar at `outbound`.
#[derive(Clone)]
pub(crate) struct Client(Channel);

impl Client {
    pub(crate) fn new(outbound: SocketAddr, destination: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{outbound}"))
            .unwrap()
            .origin(format!("http://{destination}").parse().unwrap());
        Self(endpoint.connect_lazy())
    }

    pub(crate) async fn unary(
        &self,
        method: &'static str,
        message: &[u8],
    ) -> Result<Response<Bytes>, Status> {
        self.send(method, Request::new(Bytes::copy_from_slice(message)))
            .await
    }

    pub(crate) async fn send(
        &self,
        method: &'static str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        grpc.unary(request, method.parse().unwrap(), Raw).await
    }

    pub(crate) async fn stream(
        &self,
        method: &'static str,
        messages: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        grpc.streaming(Request::new(messages), method.parse().unwrap(), Raw)
            .await
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
