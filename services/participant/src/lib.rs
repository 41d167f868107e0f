//! The client side of the saga stream: register steps, connect to the coordinator, and let the barrier make every
//! command safe to repeat.
//!
//! ```no_run
//! # async fn example(env: &chassis::Env, tasks: &chassis::Tasks) -> Result<(), participant::BuildError> {
//! use participant::{Outcome, Participant, StepCommand};
//!
//! let running = Participant::builder("inventory", "http://127.0.0.1:50051", env)
//!     .concurrency(64)
//!     .action("inventory.ReserveStock", |command: StepCommand| async move {
//!         let Some(lines) = command.text("lines") else {
//!             return Outcome::rejected("LINES_MISSING", "the saga has no field `lines`");
//!         };
//!         // ... in ONE transaction of the service's own database: the barrier, then the work.
//!         Outcome::text(lines)
//!     })
//!     .compensation("inventory.ReleaseStock", |_command| async { Outcome::done() })
//!     .run(tasks)?;
//! running.connected().await;
//! # Ok(()) }
//! ```
//!
//! What the library does: one stream to each coordinator, reconnecting with jittered backoff; never more commands at a
//! time than there are credits; each result sent again until it was acknowledged; heartbeats for the stream and for each
//! attempt; a drain on shutdown. What the handler must do: be safe to repeat. The [`barrier`] does that in the
//! participant's own transaction.

pub mod barrier;
mod builder;
mod command;
#[cfg(feature = "ledger")]
pub mod ledger_barrier;
mod link;
mod outcome;
mod step;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use builder::{BuildError, Builder, Participant, Running};
pub use command::{HeartbeatHandle, StepCommand};
pub use outcome::Outcome;
pub use sagamesh_api::saga::v1::{Direction, Failure, Value, value::Kind};
pub use step::Step;
