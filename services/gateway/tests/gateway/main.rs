//! The gateway as its callers see it: tokens, limits, composition, streams, errors.
#![expect(clippy::expect_used, unreachable_pub, reason = "tests")]

mod callers;
mod doors;
mod requests;
mod rig;
mod secrets;

type Outcome = Result<(), Box<dyn std::error::Error>>;
