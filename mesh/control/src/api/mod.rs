//! What is served: Linkerd's four proxy APIs, the registry's and the operator's.

mod destination;
mod identity;
mod inbound;
mod mesh;
mod outbound;
mod registry;
mod token;

use std::collections::VecDeque;
use std::pin::Pin;

use chassis::Domain;
use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use destination::Destinations;
pub use identity::{Identities, Issued};
pub use inbound::InboundPolicies;
pub use mesh::Operators;
pub use outbound::OutboundPolicies;
pub use registry::Registrations;

use crate::world::{Mesh, World};

/// The domain of meshd's errors.
pub(crate) const ERRORS: Domain = Domain("meshd.sagamesh");

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers what `tell` makes of the world, first at once and then whenever the world changes, until `draining`. `tell`
/// says nothing when nothing changed for its caller; its error ends the stream.
pub(crate) fn follow<T, F>(mesh: &Mesh, draining: CancellationToken, tell: F) -> Answers<T>
where
    T: Send + 'static,
    F: FnMut(&World) -> Result<Vec<T>, Status> + Send + 'static,
{
    let state = Following {
        worlds: mesh.watch(),
        draining,
        tell,
        waiting: VecDeque::new(),
        ended: false,
    };
    Box::pin(stream::unfold(state, |mut state| async move {
        let next = state.next().await?;
        state.ended = next.is_err();
        Some((next, state))
    }))
}

struct Following<T, F> {
    worlds: tokio::sync::watch::Receiver<World>,
    draining: CancellationToken,
    tell: F,
    waiting: VecDeque<T>,
    ended: bool,
}

impl<T, F: FnMut(&World) -> Result<Vec<T>, Status>> Following<T, F> {
    async fn next(&mut self) -> Option<Result<T, Status>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(next) = self.waiting.pop_front() {
                return Some(Ok(next));
            }
            // Many changes at once are one: only the newest world is looked at.
            self.draining
                .run_until_cancelled(self.worlds.changed())
                .await?
                .ok()?;
            let world = self.worlds.borrow_and_update().clone();
            match (self.tell)(&world) {
                Ok(told) => self.waiting.extend(told),
                Err(status) => return Some(Err(status)),
            }
        }
    }
}

/// Only what differs from the message before.
pub(crate) fn when_new<T: Clone + PartialEq>(last: &mut Option<T>, message: T) -> Vec<T> {
    if last.as_ref() == Some(&message) {
        return Vec::new();
    }
    *last = Some(message.clone());
    vec![message]
}
