//! A history, sorted by what the checks ask.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::{
    Definition, DefinitionRegistered, Direction, OperatorAction, Phase, SagaEvent, SagaState, Step,
    step::Kind as StepKind, transition::Kind,
};

use crate::history::{Entry, What};
use crate::nodes::effects::{DONE, UNDONE, step_of};
use crate::setup::Setup;
use crate::truth::saga_event;

/// See the module's documentation. Moments are indices into the history.
pub(super) struct Facts<'a> {
    pub(super) setup: &'a Setup,
    pub(super) history: &'a [Entry],
    pub(super) sagas: BTreeMap<String, Saga>,
    pub(super) effects: BTreeMap<(String, String), Vec<(usize, Direction)>>,
    /// Moments at which processes learned of positions.
    known: Vec<(usize, &'a str, u64)>,
}

/// A saga as it is on record.
pub(super) struct Saga {
    pub(super) definition: Definition,
    /// The shard that it belongs to.
    pub(super) shard: i64,
    pub(super) records: Vec<Record>,
    pub(super) ended: Option<SagaState>,
}

/// One event of a saga.
pub(super) struct Record {
    /// When it became durable.
    pub(super) at: usize,
    pub(super) position: u64,
    pub(super) event: SagaEvent,
}

impl<'a> Facts<'a> {
    pub(super) fn of(setup: &'a Setup, history: &'a [Entry]) -> Self {
        let mut facts = Self {
            setup,
            history,
            sagas: BTreeMap::new(),
            effects: BTreeMap::new(),
            known: Vec::new(),
        };
        let mut definitions: BTreeMap<String, Definition> = BTreeMap::new();
        for (at, entry) in history.iter().enumerate() {
            match &entry.what {
                What::Known { by, position } => facts.known.push((at, by, *position)),
                What::Durable { events, .. } => {
                    for recorded in events {
                        if recorded.type_name == "saga.v1.DefinitionRegistered"
                            && let Ok(it) = recorded.message::<DefinitionRegistered>()
                            && let Some(definition) = it.definition
                        {
                            definitions.insert(it.hash, definition);
                        }
                        if let Some((saga, event)) = saga_event(recorded) {
                            let record = Record {
                                at,
                                position: recorded.position,
                                event,
                            };
                            facts.saga(saga, record, &definitions);
                        }
                        let direction = match &*recorded.type_name {
                            DONE => Direction::Action,
                            UNDONE => Direction::Compensation,
                            _ => continue,
                        };
                        if let Some((saga, step)) = step_of(&recorded.stream) {
                            let key = (saga.to_owned(), step.to_owned());
                            facts.effects.entry(key).or_default().push((at, direction));
                        }
                    }
                }
                _ => {}
            }
        }
        facts
    }

    fn saga(&mut self, id: &str, record: Record, definitions: &BTreeMap<String, Definition>) {
        let saga = self.sagas.entry(id.to_owned()).or_insert_with(|| Saga {
            definition: Definition::default(),
            shard: 0,
            records: Vec::new(),
            ended: None,
        });
        for transition in &record.event.transitions {
            match &transition.kind {
                Some(Kind::Started(started)) => {
                    saga.shard = started.shard;
                    if let Some(definition) = definitions.get(&started.definition_hash) {
                        saga.definition = definition.clone();
                    }
                }
                Some(Kind::Ended(ended)) => saga.ended = Some(ended.state()),
                _ => {}
            }
        }
        saga.records.push(record);
    }

    /// When a process knew that a position was durable; none if it never did.
    pub(super) fn known_at(&self, by: &str, position: u64, from: usize) -> Option<usize> {
        self.known
            .iter()
            .find(|(at, who, known)| *at >= from && *known >= position && *who == by)
            .map(|(at, ..)| *at)
    }

    /// Whether a step is done by a participant whose effects and answers are seen.
    pub(super) fn is_seen(&self, step: &Step) -> bool {
        match &step.kind {
            Some(StepKind::Call(call)) => self.setup.participants.contains(&call.participant),
            _ => false,
        }
    }

    /// Effects of a step, in order.
    pub(super) fn effects_of(&self, saga: &str, step: &str) -> &[(usize, Direction)] {
        self.effects
            .get(&(saga.to_owned(), step.to_owned()))
            .map_or(&[], Vec::as_slice)
    }
}

impl Saga {
    /// Every transition, with its record.
    pub(super) fn transitions(&self) -> impl Iterator<Item = (&Record, &Kind)> {
        self.records.iter().flat_map(|record| {
            let kinds = record.event.transitions.iter();
            kinds.filter_map(move |transition| Some((record, transition.kind.as_ref()?)))
        })
    }

    /// The steps that depend on a step, directly or not.
    pub(super) fn dependants(&self, name: &str) -> Vec<&Step> {
        let mut found: Vec<&Step> = Vec::new();
        let mut names = vec![name.to_owned()];
        while let Some(name) = names.pop() {
            for step in &self.definition.steps {
                let new = !found.iter().any(|known| known.name == step.name);
                if step.after.contains(&name) && new {
                    found.push(step);
                    names.push(step.name.clone());
                }
            }
        }
        found
    }

    /// The pivot's name.
    pub(super) fn pivot(&self) -> Option<&str> {
        let mut steps = self.definition.steps.iter();
        let pivot = steps.find(|step| step.phase() == Phase::Pivot)?;
        Some(&pivot.name)
    }

    /// Whether an operator skipped or resolved a step.
    pub(super) fn ruled_on(&self, step: &str) -> bool {
        self.transitions().any(|(_, kind)| match kind {
            Kind::OperatorActed(acted) => {
                acted.step == step && acted.action() != OperatorAction::Retry
            }
            _ => false,
        })
    }
}
