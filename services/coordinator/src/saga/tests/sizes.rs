//! What a saga keeps is bounded, and so is every command.

use prost::Message as _;
use sagamesh_api::saga::v1::{ResultStatus, Step, step};

use super::harness::*;
use crate::saga::{Command, Refusal, build_command, result_status};

const MIB: usize = 1 << 20;

fn big() -> String {
    "x".repeat(MIB - 64)
}

/// It is told everything that came before it.
fn with_everything(mut step: Step, outputs_of: &[&str]) -> Step {
    if let Some(step::Kind::Call(call)) = &mut step.kind {
        call.outputs_of = outputs_of.iter().map(|name| (*name).to_owned()).collect();
    }
    step
}

#[test]
fn outputs_beyond_the_limit_are_invalid_and_commands_stay_small() {
    let names = ["a", "b", "c", "d"];
    let steps = names.iter().enumerate().map(|(at, name)| {
        let after: Vec<&str> = names[..at].iter().rev().take(1).copied().collect();
        with_everything(call(name, Compensatable, &after), &names[..at])
    });
    let mut world = World::started(&plan(steps.collect()));
    for name in &names[..3] {
        let result = world.result(name, Action, success(&big()));
        world.ok(result);
    }
    let result = world.result("d", Action, success(&big()));
    let refusal = world.refused(result);
    assert!(
        matches!(refusal, Refusal::TooLarge { kept, .. } if kept > 2 * MIB),
        "{refusal}"
    );
    assert_eq!(result_status(&Err(refusal)), ResultStatus::Invalid);
    let command = build_command("saga", &world.state, world.index("d"), Action, world.now)
        .expect("it is still under way");
    assert_eq!(command.outputs.len(), 3);
    assert!(command.encoded_len() < 4 * MIB, "{}", command.encoded_len());
    world.succeed("d");
}

#[test]
fn signals_beyond_the_limit_are_refused() {
    let mut world = World::started(&plan(vec![
        call("a", Compensatable, &[]),
        signal("w", ReadOnly, &["a"], "go", None),
    ]));
    let send = |id: &str| Command::Signal {
        name: "go".into(),
        signal_id: id.into(),
        payload: Some(text(&big())),
    };
    for id in ["1", "2", "3"] {
        world.ok(send(id));
    }
    assert!(matches!(world.refused(send("4")), Refusal::TooLarge { .. }));
    world.nothing(send("3"));
    world.ok(send_signal("go", "5"));
}
