//! Which sagas: the filters of `saga list` and of actions on many sagas.

use clap::Args;
use sagamesh_api::saga::v1::{SagaFilter, SagaState};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::args::pair;

/// Which sagas.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Filter {
    /// Only of this definition; may be repeated
    #[arg(long = "definition", value_name = "NAME")]
    definitions: Vec<String>,
    /// Only in this state; may be repeated
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<State>,
    /// Only with this search attribute; may be repeated
    #[arg(long = "attribute", value_parser = pair, value_name = "KEY=VALUE")]
    attributes: Vec<(String, String)>,
    /// Only with a step that is parked or stalled
    #[arg(long)]
    needs_attention: bool,
    /// Only started at or after this time, for example 2026-01-31T12:00:00Z
    #[arg(long, value_parser = time, value_name = "TIME")]
    since: Option<OffsetDateTime>,
    /// Only started before this time
    #[arg(long, value_parser = time, value_name = "TIME")]
    before: Option<OffsetDateTime>,
}

/// States to choose from.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    Running,
    Compensating,
    Parked,
    Completed,
    Compensated,
    Leftovers,
}

impl Filter {
    /// As the coordinator takes it.
    pub(super) fn message(&self) -> SagaFilter {
        SagaFilter {
            definitions: self.definitions.clone(),
            states: self
                .states
                .iter()
                .map(|state| i32::from(SagaState::from(*state)))
                .collect(),
            started_after_time: self.since.map(stamp),
            started_before_time: self.before.map(stamp),
            search_attributes: self.attributes.iter().cloned().collect(),
            needs_attention: self.needs_attention,
        }
    }

    /// Whether it says anything at all.
    pub(super) fn is_empty(&self) -> bool {
        self.message() == SagaFilter::default()
    }
}

impl From<State> for SagaState {
    fn from(state: State) -> SagaState {
        match state {
            State::Running => SagaState::Running,
            State::Compensating => SagaState::Compensating,
            State::Parked => SagaState::Parked,
            State::Completed => SagaState::Completed,
            State::Compensated => SagaState::Compensated,
            State::Leftovers => SagaState::CompensatedWithLeftovers,
        }
    }
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| format!("{text} is no time such as 2026-01-31T12:00:00Z"))
}

fn stamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or(0),
    }
}
