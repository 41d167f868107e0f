//! The saga as a pure state machine: a definition is compiled to a [`Plan`]; [`decide`] answers a [`Command`] with the
//! transitions to record; [`evolve()`] applies a recorded event; [`outstanding`] and [`effects()`] say what is owed to the
//! world. Nothing in here waits, reads a clock, or rolls dice: the time and a seed are passed in.

mod command;
mod decide;
mod definition;
mod describe;
mod effects;
mod evolve;
mod plan;
mod request;
mod state;
mod table;
mod time;
mod validate;

pub use command::{ABORT_MESSAGE_FIELD, ABORT_REASON_FIELD, build_command};
pub use decide::decide;
pub use definition::{hash, normalise};
pub use describe::{describe, describe_brief};
pub use effects::{Effect, Timer, effects, outstanding};
pub use evolve::{Fault, Plans, evolve};
pub use plan::{CallPlan, Kind, Plan, PlanStep, Retry, StepIndex, StepSet};
pub use request::{Command, Refusal, Start, result_status};
pub use state::SagaState;
pub use table::{Change, Facts, StepPhase, next};
pub use validate::{Violation, validate};

#[cfg(test)]
mod tests;
