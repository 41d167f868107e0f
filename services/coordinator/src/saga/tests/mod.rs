//! Tests of the saga state machine.
