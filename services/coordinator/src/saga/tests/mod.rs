//! Tests of the saga state machine.

mod definitions;
mod explore;
mod graphs;
mod harness;
mod history;
mod operators;
mod phases;
mod pivot;
mod plans;
mod random;
mod running;
mod samples;
mod sizes;
mod table;
mod undoing;
mod waits;
