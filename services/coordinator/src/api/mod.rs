//! The gRPC services.

mod check;
mod definitions;
mod ends;
mod list;
mod operators;
mod participate;
mod protocol;
mod replicas;
mod sagas;
mod starts;
mod watch;

use crate::engine::Engine;

pub(crate) use definitions::warnings;
pub(crate) use protocol::VERSIONS;

/// `saga.v1.SagaService`.
#[derive(Clone)]
pub struct Sagas {
    pub(crate) engine: Engine,
}

/// `saga.v1.DefinitionService`.
#[derive(Clone)]
pub struct Definitions {
    pub(crate) engine: Engine,
}

/// `saga.v1.OperatorService`.
#[derive(Clone)]
pub struct Operators {
    pub(crate) engine: Engine,
}

/// `saga.v1.ParticipantService`.
#[derive(Clone)]
pub struct Participants {
    pub(crate) engine: Engine,
}

/// `saga.v1.PeerService`.
#[derive(Clone)]
pub struct Replicas {
    pub(crate) engine: Engine,
}

impl Sagas {
    /// Serves sagas.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

impl Definitions {
    /// Serves definitions.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

impl Operators {
    /// Serves operators.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

impl Participants {
    /// Serves participants.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

impl Replicas {
    /// Serves the other replicas.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

/// The stream type of a response.
pub(crate) type Responses<T> =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<T, tonic::Status>> + Send>>;
