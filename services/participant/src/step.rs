//! Handlers of steps.

use std::future::Future;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::{Outcome, StepCommand};

/// Does one step, or undoes it. A closure `|command: StepCommand| async move { .. }` is one, and so is any type whose
/// `run` is an `async fn`.
///
/// The same command may come more than once, also at the same time: use the [`crate::barrier`]. A handler that outlives the
/// command's timeout is dropped, so hold nothing that a drop leaves half-done (a transaction rolls back). A handler that
/// panics has an unknown outcome. Up to its first `await` that waits, a handler runs on the stream's own task: like all async
/// code it must not block.
pub trait Step: Send + Sync + 'static {
    /// Runs one attempt.
    fn run(&self, command: StepCommand) -> impl Future<Output = Outcome> + Send;
}

impl<F, Fut> Step for F
where
    F: Fn(StepCommand) -> Fut + Send + Sync + 'static,
    Fut: Future + Send,
    Fut::Output: Into<Outcome>,
{
    async fn run(&self, command: StepCommand) -> Outcome {
        self(command).await.into()
    }
}

/// [`Step`] behind a pointer.
pub(crate) trait DynStep: Send + Sync {
    /// Runs one attempt.
    fn run_boxed(&self, command: StepCommand) -> BoxFuture<'_, Outcome>;
}

impl<S: Step> DynStep for S {
    fn run_boxed(&self, command: StepCommand) -> BoxFuture<'_, Outcome> {
        self.run(command).boxed()
    }
}
