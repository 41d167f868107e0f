//! What people and programs outside ask for.

use sagamesh_api::saga::v1::{
    AbortCause, CancelRequested, SignalReceived, Value, transition::Kind as T,
};

use super::{Draft, MAX_SIGNALS, Refusal, clip, failure, has_room};
use crate::saga::plan::Kind;
use crate::saga::state::Run;
use crate::saga::table::StepPhase;

impl<'a> Draft<'a> {
    pub(super) fn signal(
        &mut self,
        run: &'a Run,
        name: &str,
        id: &str,
        payload: Option<&Value>,
    ) -> Result<(), Refusal> {
        if run.signals.iter().any(|kept| kept.id == id) {
            return Ok(());
        }
        if self.core.ended.is_some() {
            return Err(Refusal::Ended);
        }
        if self.core.aborting {
            return Err(Refusal::Aborting);
        }
        if !self.plan.waits_for_signal(name) {
            return Err(Refusal::UnknownSignal(name.to_owned()));
        }
        if run.signals.len() >= MAX_SIGNALS {
            return Err(Refusal::TooManySignals(MAX_SIGNALS));
        }
        has_room(run, payload)?;
        self.emit(T::SignalReceived(SignalReceived {
            name: name.to_owned(),
            signal_id: id.to_owned(),
            payload: payload.cloned(),
        }))?;
        let plan = self.plan;
        let waiting = plan.indices().find(|step| {
            self.cell(*step).phase == StepPhase::Waiting && matches!(&plan.step(*step).kind, Kind::Signal { name: wanted, .. } if wanted == name)
        });
        if let Some(step) = waiting {
            self.wait_over(step)?;
            self.advance()?;
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, requester: &str, reason: &str) -> Result<(), Refusal> {
        if self.core.aborting && (self.core.cancelled || self.core.ended.is_none()) {
            return Ok(());
        }
        if self.core.ended.is_some() {
            return Err(Refusal::Ended);
        }
        if self.core.pivot_dispatched {
            return Err(Refusal::PivotDispatched);
        }
        self.emit(T::CancelRequested(CancelRequested {
            requester: clip(requester, 128),
            reason: clip(reason, 1_000),
        }))?;
        self.abort(AbortCause::Cancelled, None, failure("CANCELLED", reason))?;
        self.advance()
    }
}
