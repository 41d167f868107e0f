//! The coordinator over real streams and a real database in a temporary folder.

mod damage;
mod definitions;
mod evolving;
mod forward;
mod held_back;
mod operators;
mod queries;
mod replicas;
mod restart;
mod shapes;
mod starts;
mod streams;
mod support;
mod table;
mod undo;
mod waits;
