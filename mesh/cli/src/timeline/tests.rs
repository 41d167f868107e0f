use super::*;
use sagamesh_api::saga::v1::{
    AbortCause, Aborted, Dispatched, Ended, Failure, Rejected, SagaState, Started, StepStatus,
    Succeeded,
};

fn stamp(millis: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: millis / 1_000,
        nanos: i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000,
    })
}

fn event(at: i64, kinds: Vec<Kind>) -> SagaEvent {
    let transitions = kinds
        .into_iter()
        .map(|kind| Transition { kind: Some(kind) })
        .collect();
    SagaEvent {
        version: 0,
        event_time: stamp(at),
        transitions,
    }
}

fn dispatched(step: &str, direction: Direction, attempt: u32) -> Kind {
    Kind::Dispatched(Dispatched {
        step: step.into(),
        direction: direction.into(),
        attempt,
        lease_token: 1,
    })
}

fn succeeded(step: &str, direction: Direction) -> Kind {
    Kind::Succeeded(Succeeded {
        step: step.into(),
        direction: direction.into(),
        output: None,
    })
}

#[test]
fn an_undone_saga_shows_both_directions() {
    let no = Failure {
        reason: "CARD_DECLINED".into(),
        message: "the card was declined".into(),
        retry_after: None,
    };
    let aborted = Aborted {
        cause: AbortCause::Rejected.into(),
        step: "pay".into(),
        failure: Some(no.clone()),
    };
    let events = [
        event(
            1_000,
            vec![
                Kind::Started(Started {
                    definition: "buy".into(),
                    definition_hash: "0123456789".into(),
                    ..Default::default()
                }),
                dispatched("reserve", Direction::Action, 1),
            ],
        ),
        event(
            1_022,
            vec![
                succeeded("reserve", Direction::Action),
                dispatched("pay", Direction::Action, 1),
            ],
        ),
        event(
            1_043,
            vec![
                Kind::Rejected(Rejected {
                    step: "pay".into(),
                    direction: Direction::Action.into(),
                    failure: Some(no),
                }),
                Kind::Aborted(aborted.clone()),
                dispatched("reserve", Direction::Compensation, 1),
            ],
        ),
        event(
            1_086,
            vec![
                succeeded("reserve", Direction::Compensation),
                Kind::Ended(Ended {
                    state: SagaState::Compensated.into(),
                    leftovers: vec![],
                }),
            ],
        ),
    ];
    let step = |name: &str, state: StepState| StepStatus {
        name: name.into(),
        state: state.into(),
        ..Default::default()
    };
    let saga = Saga {
        saga_id: "order-1".into(),
        definition: "buy".into(),
        state: SagaState::Compensated.into(),
        steps: vec![
            step("reserve", StepState::Compensated),
            step("pay", StepState::Rejected),
        ],
        aborted: Some(aborted),
        end_time: stamp(1_086),
        ..Default::default()
    };
    let expected = "\
saga order-1  buy  COMPENSATED after 86 ms
undone because a participant said no at pay: the card was declined (CARD_DECLINED)

  step     0                                      86 ms
  reserve  ████████████·········░░░░░░░░░░░░░░░░░░░░░░░  compensated
  pay      ···········██████████✖······················  rejected
           █ doing  ░ undoing  ✖ refused  ! failed  ? unknown outcome

       +0 ms                     started (buy, version 01234567)
       +0 ms  reserve            doing, attempt 1
      +22 ms  reserve            done
      +22 ms  pay                doing, attempt 1
      +43 ms  pay                refused: the card was declined (CARD_DECLINED)
      +43 ms                     is undone from here: a participant said no
      +43 ms  reserve            undoing, attempt 1
      +86 ms  reserve            undone
      +86 ms                     ended COMPENSATED";
    assert_eq!(draw(&saga, &events), expected, "\n{}", draw(&saga, &events));
}

#[test]
fn a_saga_without_events_is_drawn_too() {
    let saga = Saga {
        saga_id: "x".into(),
        definition: "buy".into(),
        state: SagaState::Running.into(),
        ..Default::default()
    };
    assert!(draw(&saga, &[]).starts_with("saga x  buy  RUNNING, still open"));
}
