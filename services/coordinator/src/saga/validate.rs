//! Every rule that a definition must keep, each violation with the path of its field and a sentence.

mod call;
mod graph;

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::Duration;
use sagamesh_api::saga::v1::{Definition, Phase, Step, step};

use super::time::duration_millis;

/// Most bytes of an encoded definition.
const MAX_BYTES: usize = 256 * 1024;
const MAX_STEPS: usize = 64;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEARS_10: i64 = 3_650 * DAY;

/// A field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field within the definition, like `steps[2].call.compensation`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

/// Checks a definition. With `known` also that each participant is one of those.
pub fn validate(definition: &Definition, known: Option<&BTreeSet<String>>) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    let bytes = definition.encoded_len();
    if bytes > MAX_BYTES {
        found.add(
            "",
            format!("takes {bytes} bytes encoded, but at most {MAX_BYTES} are accepted"),
        );
    }
    found.name("name", &definition.name);
    if definition.description.chars().count() > 1_000 {
        found.add("description", "has more than 1,000 characters");
    }
    found.time("deadline", definition.deadline.as_ref(), 1, YEARS_10);
    found.time("retention", definition.retention.as_ref(), SECOND, YEARS_10);
    if definition.steps.is_empty() {
        found.add("steps", "is empty: a definition has 1 to 64 steps");
        return found.0;
    }
    if definition.steps.len() > MAX_STEPS {
        found.add(
            "steps",
            format!(
                "has {} steps, but a definition has at most {MAX_STEPS}",
                definition.steps.len()
            ),
        );
        return found.0;
    }
    for (at, step) in definition.steps.iter().enumerate() {
        found.step(definition, at, step, known);
    }
    graph::check(definition, &mut found);
    found.0
}

/// What was found so far.
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation {
            field: field.into(),
            description: description.into(),
        });
    }

    fn step(
        &mut self,
        definition: &Definition,
        at: usize,
        step: &Step,
        known: Option<&BTreeSet<String>>,
    ) {
        let path = format!("steps[{at}]");
        self.name(format!("{path}.name"), &step.name);
        if let Some(first) = definition.steps[..at]
            .iter()
            .position(|earlier| earlier.name == step.name)
        {
            self.add(
                format!("{path}.name"),
                format!(
                    "{:?} is the name of steps[{first}] already: names must differ",
                    step.name
                ),
            );
        }
        self.phase(&path, step);
        self.after(definition, &path, step);
        match &step.kind {
            None => self.add(
                &path,
                "has no kind: set exactly one of call, delay and signal",
            ),
            Some(step::Kind::Call(it)) => {
                call::check(self, definition, at, step.phase(), it, known)
            }
            Some(step::Kind::Delay(delay)) => {
                self.waiting_phase(&path, "delay", step);
                let field = format!("{path}.delay.duration");
                if delay.duration.is_none() {
                    self.add(
                        &field,
                        "is missing: how long to wait, from 1 ms to 10 years",
                    );
                }
                self.time(field, delay.duration.as_ref(), 1, YEARS_10);
            }
            Some(step::Kind::Signal(signal)) => {
                self.waiting_phase(&path, "signal", step);
                self.letters(
                    format!("{path}.signal.name"),
                    &signal.name,
                    63,
                    "[a-z0-9-]",
                    lower,
                );
                self.time(
                    format!("{path}.signal.timeout"),
                    signal.timeout.as_ref(),
                    1,
                    YEARS_10,
                );
            }
        }
    }

    fn phase(&mut self, path: &str, step: &Step) {
        let field = format!("{path}.phase");
        match Phase::try_from(step.phase) {
            Err(_) => self.add(
                field,
                format!("{} is not a phase that is known here", step.phase),
            ),
            Ok(Phase::Unspecified) => self.add(
                field,
                "is missing: COMPENSATABLE, READ_ONLY, PIVOT or RETRIABLE",
            ),
            Ok(_) => {}
        }
    }

    fn waiting_phase(&mut self, path: &str, kind: &str, step: &Step) {
        if matches!(step.phase(), Phase::Compensatable | Phase::Pivot) {
            self.add(
                format!("{path}.phase"),
                format!("a {kind} changes nothing and decides nothing: it must be READ_ONLY or RETRIABLE"),
            );
        }
    }

    fn after(&mut self, definition: &Definition, path: &str, step: &Step) {
        let mut seen = BTreeSet::new();
        for (place, name) in step.after.iter().enumerate() {
            let field = format!("{path}.after[{place}]");
            if !definition.steps.iter().any(|other| other.name == *name) {
                self.add(&field, format!("no step is named {name:?}"));
            }
            if !seen.insert(name) {
                self.add(&field, format!("{name:?} is listed twice"));
            }
        }
    }

    /// A name that starts with a letter.
    fn name(&mut self, field: impl Into<String>, name: &str) {
        let field = field.into();
        if self.letters(field.clone(), name, 63, "[a-z0-9-]", lower)
            && !name.starts_with(|first: char| first.is_ascii_lowercase())
        {
            self.add(field, format!("{name:?} does not start with a letter"));
        }
    }

    fn letters(
        &mut self,
        field: impl Into<String>,
        text: &str,
        most: usize,
        class: &str,
        allowed: impl Fn(char) -> bool,
    ) -> bool {
        let good = !text.is_empty() && text.len() <= most && text.chars().all(allowed);
        if text.is_empty() {
            self.add(
                field,
                format!("is missing: 1 to {most} characters of {class}"),
            );
        } else if !good {
            let shown: String = text.chars().take(most + 1).collect();
            self.add(
                field,
                format!("{shown:?} is not 1 to {most} characters of {class}"),
            );
        }
        good
    }

    /// A time, if it is set. True if it is set and good.
    fn time(
        &mut self,
        field: impl Into<String>,
        time: Option<&Duration>,
        least: i64,
        most: i64,
    ) -> bool {
        let Some(time) = time else {
            return false;
        };
        let well_formed = time.seconds >= 0 && (0..1_000_000_000).contains(&time.nanos);
        let good = well_formed && (least..=most).contains(&duration_millis(time));
        if !good {
            self.add(
                field,
                format!("must be from {} to {}", words(least), words(most)),
            );
        }
        good
    }
}

fn lower(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-'
}

fn words(millis: i64) -> String {
    let (count, unit) = match millis {
        YEARS_10 => (10, "year"),
        _ if millis % DAY == 0 => (millis / DAY, "day"),
        _ if millis % HOUR == 0 => (millis / HOUR, "hour"),
        _ if millis % MINUTE == 0 => (millis / MINUTE, "minute"),
        _ if millis % SECOND == 0 => (millis / SECOND, "second"),
        _ => return format!("{millis} ms"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
