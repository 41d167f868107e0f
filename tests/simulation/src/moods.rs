//! What comes over a handler.

use std::time::Duration;

use participant::{Direction, Outcome};

use crate::history::Told;
use crate::world::World;

/// How a handler takes a command.
#[derive(Clone, Debug)]
pub struct Mood {
    /// How long it takes until it does something.
    pub before: Duration,
    /// How long after that.
    pub after: Duration,
    /// What the business says.
    pub says: Outcome,
    /// It does not know what came of it.
    pub forgets: bool,
    /// The command comes again after this time.
    pub again: Option<Duration>,
}

impl Mood {
    /// A mood for a command, by chance; a good one once faults have ended.
    pub fn of(world: &World, told: &Told) -> Self {
        let dice = &world.hands;
        let good = Self {
            before: dice.millis(0, 5),
            after: Duration::ZERO,
            says: Outcome::done(),
            forgets: false,
            again: None,
        };
        if let Some(script) = &world.setup.script {
            return Self {
                before: Duration::from_millis(1),
                ..script.mood(told, good)
            };
        }
        if world.is_calm() || !world.setup.faults.participants {
            return good;
        }
        let undoing = told.direction == Direction::Compensation;
        let mut mood = good;
        match dice.below(100) {
            0..8 => mood.before = dice.millis(500, 6_000),
            8..12 => mood.after = dice.millis(500, 6_000),
            12..20 => mood.says = Outcome::transient("BUSY", "not now"),
            20..25 => mood.says = Outcome::unknown("LOST", "who knows"),
            25..30 => mood.forgets = true,
            30..42 if !undoing => mood.says = Outcome::rejected("NO", "the business says no"),
            42..45 if undoing => mood.says = Outcome::rejected("NO", "it cannot be undone"),
            _ => {}
        }
        // What hangs in one queue often waits in another as well.
        let slow = mood.before > Duration::from_millis(500);
        if dice.happens(if slow { 500 } else { 60 }) {
            mood.again = Some(dice.millis(0, if slow { 8_000 } else { 40_000 }));
        }
        mood
    }
}
