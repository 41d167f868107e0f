//! What the services share: the ledger, the hub, the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chassis::{Env, Problem, Tasks};
use ledger::{ExecuteError, Ledger, StreamId};
use sagamesh_api::saga::v1 as pb;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use tokio::sync::{mpsc, oneshot};

use crate::config::Options;
use crate::decider::{Command, Coordinator, Rejection, Reply, State, saga_stream};
use crate::dispatch::{Dispatch, Owed};
use crate::forward::{self, Hops, Peers};
use crate::hub::Hub;
use crate::ownership::Ownership;
use crate::problems::{overloaded, problem, read_failed, refused, storage};
use crate::recovery;
use crate::registry::Registry;
use crate::saga::{self, Refusal, Timer};

/// The running coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// The log.
    pub ledger: Ledger<Coordinator>,
    /// Queues, streams, timers.
    pub dispatch: Dispatch,
    /// Definitions.
    pub registry: Arc<Registry>,
    /// What this process owns.
    pub ownership: Ownership,
    pub(crate) peers: Peers,
    /// Clock and randomness.
    pub env: Env,
    /// Owned tasks.
    pub tasks: Tasks,
    /// Settings.
    pub options: Arc<Options>,
    starting: Arc<Starting>,
}

/// Starts that wait to be recorded.
#[derive(Debug, Default)]
struct Starting {
    sagas: AtomicUsize,
    bytes: AtomicUsize,
}

/// Why a command was not carried out here.
#[derive(Debug)]
pub enum Unanswered {
    /// Another replica owns this shard.
    Elsewhere(i64),
    /// It was refused, or it failed.
    Problem(Problem),
}

impl From<Problem> for Unanswered {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ExecuteError<Rejection>> for Unanswered {
    fn from(error: ExecuteError<Rejection>) -> Self {
        match error {
            ExecuteError::Rejected(Rejection::Elsewhere(shard)) => Self::Elsewhere(shard),
            error => Self::Problem(problem(error)),
        }
    }
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Elsewhere(_) => forward::moving(),
            Unanswered::Problem(problem) => problem,
        }
    }
}

/// A start that was admitted; counts until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    starting: Arc<Starting>,
    bytes: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.starting.sagas.fetch_sub(1, Ordering::Relaxed);
        self.starting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Engine {
    /// Puts the parts together.
    pub fn new(
        ledger: Ledger<Coordinator>,
        dispatch: Dispatch,
        registry: Arc<Registry>,
        ownership: Ownership,
        env: Env,
        tasks: Tasks,
        options: Options,
    ) -> Self {
        Self {
            ledger,
            dispatch,
            registry,
            ownership,
            peers: Peers::new(&env),
            env,
            tasks,
            options: Arc::new(options),
            starting: Arc::default(),
        }
    }

    /// A command for a saga, with fresh randomness.
    pub fn command(&self, stream: StreamId, command: saga::Command, describe: bool) -> Command {
        Command::Saga {
            stream,
            command,
            seed: self.env.entropy.next_u64(),
            describe,
        }
    }

    /// Asks something of a saga; answers once it is durable.
    pub async fn ask(
        &self,
        stream: StreamId,
        command: saga::Command,
        describe: bool,
    ) -> Result<Reply, Unanswered> {
        let again = self
            .ownership
            .has_peers()
            .then(|| (stream.clone(), command.clone()));
        let command = self.command(stream, command, describe);
        let executed = match (self.ledger.execute(command).await, again) {
            (Err(ExecuteError::Rejected(Rejection::Unprepared)), Some((stream, command))) => {
                self.load_definitions().await?;
                let command = self.command(stream, command, describe);
                self.ledger.execute(command).await
            }
            (executed, _) => executed,
        };
        Ok(executed?.reply)
    }

    /// Returns once everything that was asked before is durable and seen. It is never shed.
    pub(crate) async fn flush(&self) {
        let (flushed, done) = oneshot::channel();
        self.ledger.post_with(Command::Flush, move |outcome| {
            // Nobody waits when the process stops.
            let _ = flushed.send(matches!(outcome, Err(ExecuteError::Unavailable)));
        });
        let stopping = done.await.unwrap_or(true);
        if stopping {
            // It takes nothing any more; what it has taken it still writes.
            self.ledger.finished().await;
        }
    }

    /// Definitions as they are on record now, whichever replica wrote them.
    pub(crate) async fn load_definitions(&self) -> Result<(), Problem> {
        recovery::load_definitions(self).await.map_err(|error| {
            tracing::error!(%error, "definitions could not be read");
            storage()
        })
    }

    /// Changes a definition or a participant.
    pub async fn change(&self, command: Command) -> Result<(), Problem> {
        self.ledger
            .execute(command)
            .await
            .map(drop)
            .map_err(problem)
    }

    /// Whether a saga is known and has not ended. Asks memory alone.
    pub fn is_open(&self, stream: &StreamId) -> bool {
        self.dispatch.look(|hub: &Hub, _| hub.is_open(stream))
    }

    /// A saga's state, read from storage.
    async fn load(&self, stream: &StreamId) -> Result<saga::SagaState, Problem> {
        for known in [!self.ownership.is_shared(), true] {
            let loaded = self.ledger.load(stream).await;
            match loaded.map_err(|error| read_failed(&error))? {
                // Its definition may have been registered on another replica a moment ago.
                (State::Saga(state), _) if state.is_unreadable() && !known => {
                    self.load_definitions().await?
                }
                (State::Saga(state), _) if state.exists() => return Ok(state),
                _ => break,
            }
        }
        Err(refused(&Refusal::NotStarted))
    }

    /// The shard of a saga that is open and that another replica owns.
    pub(crate) async fn elsewhere(&self, stream: &StreamId) -> Result<Option<i64>, Problem> {
        if !self.ownership.is_shared() || self.is_open(stream) {
            return Ok(None);
        }
        let state = self.load(stream).await?;
        let foreign = |shard: &i64| !state.has_ended() && self.ownership.fence(*shard).is_none();
        Ok(state.shard().filter(foreign))
    }

    /// A saga as it is, durably, with what its steps wait for; that is known where it runs. While it changes hands it is shown without that.
    pub(crate) async fn show(&self, saga_id: &str, hops: Hops) -> Result<pb::Saga, Problem> {
        let stream = saga_stream(saga_id);
        if let Some(shard) = self.elsewhere(&stream).await?
            && let Ok(owner) = self.owner(shard, hops).await
        {
            let request = pb::GetSagaRequest {
                saga_id: saga_id.to_owned(),
            };
            let mut client =
                SagaServiceClient::new(owner).max_decoding_message_size(forward::MOST_BYTES);
            let mut request = forward::onward(request, hops);
            request.set_timeout(SHOW);
            let call = client.get_saga(request);
            let answer = self.forwarded(shard, call).await;
            if let Ok(Some(saga)) = answer.map(|response| response.into_inner().saga) {
                return Ok(saga);
            }
        }
        self.read(&stream).await
    }

    /// A saga as it is, durably, with what its steps wait for as far as it runs here.
    pub async fn read(&self, stream: &StreamId) -> Result<pb::Saga, Problem> {
        let mut saga = if self.is_open(stream) {
            match self
                .ledger
                .execute(Command::Read(stream.clone()))
                .await
                .map_err(problem)?
                .reply
            {
                Reply::Saga {
                    saga: Some(saga), ..
                } => *saga,
                _ => return Err(refused(&Refusal::NotStarted)),
            }
        } else {
            saga::describe(stream.key(), &self.load(stream).await?)
        };
        self.explain(stream, &mut saga);
        Ok(saga)
    }

    /// Fills in what an open saga's steps wait for.
    pub fn explain(&self, stream: &StreamId, saga: &mut pb::Saga) {
        if saga.end_time.is_none() {
            self.dispatch.look(|hub, _| hub.explain(stream, saga));
        }
    }

    /// Whether this replica does what one of them has to do. Two that both think so do no harm, only work for nothing.
    pub(crate) fn leads(&self) -> bool {
        let standing = self.ownership.standing();
        let first = standing.members.first();
        !self.ownership.is_shared()
            || first.is_some_and(|(member, _)| member.name == self.options.replica)
    }

    /// Room for one more saga with so many bytes of input.
    pub fn admit(&self, bytes: usize) -> Result<Admitted, Problem> {
        let Starting {
            sagas,
            bytes: waiting,
        } = &*self.starting;
        let options = &self.options;
        if sagas.load(Ordering::Relaxed) >= options.max_waiting_starts {
            return Err(overloaded("too many sagas are being started"));
        }
        let active = self.dispatch.look(|hub, _| hub.active());
        if active.sagas >= options.max_active_sagas {
            return Err(overloaded(&format!(
                "{} sagas are under way, the most that this coordinator takes",
                active.sagas
            )));
        }
        let kept = active.bytes + waiting.load(Ordering::Relaxed);
        if kept.saturating_add(bytes) > options.max_active_bytes {
            return Err(overloaded(&format!(
                "the sagas under way keep {kept} bytes of inputs and outputs, and this coordinator takes {}",
                options.max_active_bytes
            )));
        }
        sagas.fetch_add(1, Ordering::Relaxed);
        waiting.fetch_add(bytes, Ordering::Relaxed);
        Ok(Admitted {
            starting: Arc::clone(&self.starting),
            bytes,
        })
    }

    /// Gives the ledger the coordinator's own commands, and those again that storage failed on.
    pub async fn run_owed(self, mut owed: mpsc::UnboundedReceiver<Owed>) {
        let token = self.tasks.token();
        let (failed, mut again) = mpsc::unbounded_channel::<Owed>();
        let mut batch = Vec::new();
        let mut later = Vec::new();
        let retry = tokio::time::sleep(RETRY_AFTER);
        tokio::pin!(retry);
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = &mut retry, if !later.is_empty() => batch.append(&mut later),
                Some(next) = again.recv() => {
                    if later.is_empty() {
                        retry.as_mut().reset(tokio::time::Instant::now() + RETRY_AFTER);
                    }
                    later.push(next);
                }
                taken = owed.recv_many(&mut batch, 256) => if taken == 0 { return },
            }
            for (stream, command) in batch.drain(..) {
                self.post(stream, command, &failed);
            }
        }
    }

    fn post(&self, stream: StreamId, command: saga::Command, failed: &mpsc::UnboundedSender<Owed>) {
        let (dispatch, failed) = (self.dispatch.clone(), failed.clone());
        let owed = (stream.clone(), command.clone());
        self.ledger.post_with(self.command(stream, command, false), move |outcome| match outcome {
            Ok(_) | Err(ExecuteError::Unavailable) => {}
            Err(ExecuteError::Rejected(Rejection::Saga(Refusal::TooEarly { due }))) => {
                if let Some(timer) = timer_of(&owed.1) {
                    dispatch.with(|hub, _| hub.ask_again(&owed.0, timer, due));
                }
            }
            Err(ExecuteError::Rejected(rejection)) => {
                tracing::debug!(saga = owed.0.key(), %rejection, "nothing waits for this any more");
            }
            Err(ExecuteError::Storage(error)) if !error.0.is_transient() => {
                tracing::error!(saga = owed.0.key(), %error, "the saga cannot go on: its record cannot be read");
            }
            Err(ExecuteError::Overloaded | ExecuteError::Storage(_)) => drop(failed.send(owed)),
        });
    }

    /// Fires timers as they become due.
    pub async fn run_timers(self) {
        const AT_ONCE: usize = 512;
        let token = self.tasks.token();
        loop {
            let more = self.dispatch.with(|hub, now| hub.fire(now, AT_ONCE));
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let now = self.dispatch.now();
            let next = self.dispatch.look(|hub, _| hub.next_timer());
            // Never for long: the clock may be set.
            let wait = next.map_or(LONGEST_SLEEP, |at| {
                Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or(0))
                    .min(LONGEST_SLEEP)
            });
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = self.dispatch.earlier() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// How long another replica may take to show a saga before it is shown without what its steps wait for.
const SHOW: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_millis(100);
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// The timer that a command came from.
fn timer_of(command: &saga::Command) -> Option<Timer> {
    Some(match command {
        saga::Command::RetryDue { step, direction } => Timer::Retry {
            step: *step,
            direction: *direction,
        },
        saga::Command::DelayDue { step } => Timer::Delay { step: *step },
        saga::Command::SignalTimeout { step } => Timer::Signal { step: *step },
        saga::Command::DeadlineReached => Timer::Deadline,
        saga::Command::StallCheck { step } => Timer::Stall { step: *step },
        _ => return None,
    })
}
