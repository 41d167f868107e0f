//! The saga coordinator: definitions as data, durable execution, compensation in reverse order.

pub mod saga;
