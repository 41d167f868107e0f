//! One connected instance of a participant: its credits and what waits to be written to it.

use std::collections::VecDeque;
use std::task::Waker;

use sagamesh_api::saga::v1::participate_response::Message;
use sagamesh_api::saga::v1::{self as pb, ParticipateResponse};
use tonic::Status;

/// Names a stream. Never used again.
pub type SessionId = u64;

/// A stream.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) participant: usize,
    pub(crate) instance: String,
    pub(crate) actions: Vec<String>,
    pub(crate) credits: u32,
    pub(crate) in_flight: u32,
    /// Results that came and are not acknowledged.
    pub(crate) unacknowledged: u32,
    /// Acknowledgements in the outbox.
    pub(crate) acks: usize,
    pub(crate) connected: i64,
    pub(crate) draining: bool,
    pub(crate) outbox: VecDeque<ParticipateResponse>,
    pub(crate) waker: Option<Waker>,
    pub(crate) end: Option<End>,
}

/// How the outbound half of a stream ends, once its outbox is empty.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Finished,
    Refused(Status),
}

/// Most messages that are handed to the transport at one time.
const HANDED_OVER: usize = 64;

fn is_ack(response: &ParticipateResponse) -> bool {
    matches!(response.message, Some(Message::ResultAck(_)))
}

fn is_command(response: &ParticipateResponse) -> bool {
    matches!(response.message, Some(Message::Command(_)))
}

impl Session {
    pub(crate) fn new(participant: usize, mut hello: pb::Hello, now: i64) -> Self {
        hello.actions.sort_unstable();
        hello.actions.dedup();
        Self {
            participant,
            instance: hello.instance,
            actions: hello.actions,
            credits: hello.credits,
            in_flight: 0,
            unacknowledged: 0,
            acks: 0,
            connected: now,
            draining: false,
            outbox: VecDeque::new(),
            waker: None,
            end: None,
        }
    }

    /// It can take a command now.
    pub(crate) fn is_open(&self) -> bool {
        self.credits > 0 && self.takes_commands()
    }

    /// It handles this action or compensation.
    pub(crate) fn handles(&self, action: &str) -> bool {
        self.actions
            .binary_search_by(|handled| handled.as_str().cmp(action))
            .is_ok()
    }

    /// It can take commands once it has credits.
    pub(crate) fn takes_commands(&self) -> bool {
        !self.draining && self.end.is_none()
    }

    /// Queues a message; the caller wakes the stream afterwards.
    pub(crate) fn push(&mut self, message: Message) {
        self.outbox.push_back(ParticipateResponse {
            message: Some(message),
        });
    }

    /// Takes the next message, and moves what follows it up to the next command into `into`: a command is only taken when it is
    /// written at once, so that one that was not written can go elsewhere; and only if commands may be released at all. Until then the others pass it.
    pub(crate) fn hand_over(
        &mut self,
        into: &mut VecDeque<ParticipateResponse>,
        may_release: bool,
    ) -> Option<ParticipateResponse> {
        let first = match may_release {
            true => self.outbox.pop_front()?,
            false => self
                .outbox
                .remove(self.outbox.iter().position(|next| !is_command(next))?)?,
        };
        self.acks -= usize::from(is_ack(&first));
        if is_command(&first) {
            return Some(first);
        }
        for _ in 1..HANDED_OVER {
            match self.outbox.front() {
                Some(next) if !is_command(next) => {
                    self.acks -= usize::from(is_ack(next));
                    into.extend(self.outbox.pop_front());
                }
                _ => break,
            }
        }
        Some(first)
    }

    /// Whether anything is written soon, whatever becomes of commands.
    pub(crate) fn has_news(&self) -> bool {
        !self.outbox.iter().all(is_command)
    }

    /// Takes a command back that was not handed to the transport yet.
    pub(crate) fn take_back(&mut self, token: u64) -> Option<pb::Command> {
        let is_it = |response: &ParticipateResponse| matches!(&response.message, Some(Message::Command(command)) if command.lease_token == token);
        let at = self.outbox.iter().position(is_it)?;
        match self.outbox.remove(at)?.message {
            Some(Message::Command(command)) => Some(command),
            _ => None,
        }
    }

    /// Every command that was not handed to the transport yet, oldest first.
    pub(crate) fn take_unsent(&mut self) -> Vec<pb::Command> {
        let mut unsent = Vec::new();
        self.outbox = std::mem::take(&mut self.outbox)
            .into_iter()
            .filter_map(|response| match response.message {
                Some(Message::Command(command)) => {
                    unsent.push(command);
                    None
                }
                message => Some(ParticipateResponse { message }),
            })
            .collect();
        unsent
    }
}
