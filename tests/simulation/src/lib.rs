//! The simulation: the real coordinator, participants and shop in one thread, where only the network, the clocks and the disks are simulated.
//!
//! ```text
//!   seed -> Dice -> faults, moods of handlers, delays, random definitions
//!             |
//!   World: machines (disk, clock, a process that can lose power at any point) -- Network -- clients, operators
//!             |
//!   history: every durable event, released command, answer ... -> promises, one per file -> violations
//! ```
//! One seed is one history: run twice, it is the same to the last message. Time passes only when nobody has anything to do, so a
//! minute takes a fraction of a second. A machine that loses power keeps nothing but its disk: its process cannot reach disk or network any
//! more, and what it still computes is seen by nobody. [`bugs`] are planted to show that the [`promises`] can see.

pub mod audit;
pub mod bugs;
pub mod clients;
pub mod clock;
pub mod customers;
pub mod database;
pub mod dice;
pub mod disk;
pub mod faults;
pub mod graphs;
pub mod history;
pub mod moods;
pub mod network;
pub mod nodes;
pub mod people;
pub mod points;
pub mod promises;
#[cfg(feature = "clock")]
mod run;
pub mod setup;
pub mod truth;
pub mod world;

#[cfg(feature = "clock")]
pub use run::{Report, run};
pub use setup::{Faults, Setup, Stop};
