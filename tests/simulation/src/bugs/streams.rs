//! Streams of commands with a command too many.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::participate_response::Message;
use sagamesh_api::saga::v1::{Command, Direction, ParticipateResponse};

use super::Bug;

/// What was sent on a stream before.
#[derive(Debug, Default)]
pub struct Meddler {
    actions: BTreeMap<String, Command>,
}

impl Meddler {
    /// What is sent in place of a message: the message, and perhaps one more.
    pub fn meddle(
        &mut self,
        bug: Option<Bug>,
        response: ParticipateResponse,
    ) -> Vec<ParticipateResponse> {
        let Some(Message::Command(command)) = &response.message else {
            return vec![response];
        };
        let before = self.actions.get(&command.saga_id);
        let extra = match bug {
            Some(Bug::ForwardAfterAbort) if command.direction() == Direction::Compensation => {
                before.cloned()
            }
            Some(Bug::UndoAfterPivot) if command.step == "pivot" => before
                .filter(|action| action.step.starts_with('b'))
                .map(|action| {
                    let mut undo = action.clone();
                    undo.set_direction(Direction::Compensation);
                    undo.action = "undo".to_owned();
                    undo.lease_token ^= 1;
                    undo.not_after_time = None;
                    undo
                }),
            _ => None,
        };
        if command.direction() == Direction::Action {
            self.actions
                .insert(command.saga_id.clone(), command.clone());
        }
        let extra = extra.map(|command| ParticipateResponse {
            message: Some(Message::Command(command)),
        });
        std::iter::once(response).chain(extra).collect()
    }
}
