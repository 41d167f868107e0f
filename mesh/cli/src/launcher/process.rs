//! One process of the system: started, watched, started again when it crashes, and ended.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::launcher::plan::{self, Instance, Program};
use crate::launcher::ready;

/// First wait before a crashed process is started again; it doubles with every crash.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest wait.
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A process that ran this long has earned a short wait again.
const SETTLED: Duration = Duration::from_secs(30);

/// What happened to a process.
#[derive(Debug)]
pub(crate) enum Event {
    /// It was started.
    Started { pid: Option<u32> },
    /// It answers that it is ready.
    Ready { after: Duration },
    /// It ended although nobody asked it to; it is started again after `again_in`.
    Crashed {
        status: ExitStatus,
        again_in: Duration,
    },
    /// It ended by itself before it was ever ready, or could not be started at all.
    Hopeless { reason: String },
    /// Something else that is worth a line.
    Noted(String),
    /// It ended because it was asked to.
    Ended,
}

/// The levers of one process.
#[derive(Clone, Debug)]
pub(crate) struct Levers {
    /// Ends it in an orderly way: its stdin is closed.
    pub(crate) drain: CancellationToken,
    /// Ends it at once.
    pub(crate) kill: CancellationToken,
    /// Each change kills the process as it runs now, like `kill -9`; it is started again.
    pub(crate) crash: Arc<watch::Sender<u64>>,
    /// Whether it is ready, as far as it said.
    pub(crate) ready: Arc<watch::Sender<bool>>,
}

impl Levers {
    pub(crate) fn new() -> Levers {
        Levers {
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            crash: Arc::new(watch::Sender::new(0)),
            ready: Arc::new(watch::Sender::new(false)),
        }
    }
}

/// Runs one process until it is asked to end.
pub(crate) async fn supervise(
    index: usize,
    instance: Instance,
    binary: PathBuf,
    levers: Levers,
    events: mpsc::UnboundedSender<(usize, Event)>,
) {
    let tell = |event| {
        // Nobody listens any more only when the launcher itself ends.
        let _ = events.send((index, event));
    };
    let mut crash = levers.crash.subscribe();
    let mut backoff = FIRST_BACKOFF;
    let mut was_ready = false;
    loop {
        let begun = Instant::now();
        let mut child = match start(&instance, &binary) {
            Ok(child) => child,
            // It worked before: the machine may be short of something, or the binary is being replaced.
            Err(error) if was_ready => {
                tell(Event::Noted(format!(
                    "{error:#}; tried again in {backoff:?}"
                )));
                if !pause(&levers, &mut backoff).await {
                    break;
                }
                continue;
            }
            Err(error) => {
                tell(Event::Hopeless {
                    reason: format!("{error:#}"),
                });
                break;
            }
        };
        tell(Event::Started { pid: child.id() });
        let ending = run(&instance, &mut child, &levers, &mut crash, begun, |after| {
            was_ready = true;
            levers.ready.send_replace(true);
            tell(Event::Ready { after });
        })
        .await;
        levers.ready.send_replace(false);
        let status = match ending {
            Ending::Asked => break,
            Ending::ByItself(status) => status,
        };
        if !was_ready && status.code().is_some() {
            tell(Event::Hopeless {
                reason: format!("it ended with {status} before it was ready"),
            });
            break;
        }
        if begun.elapsed() > SETTLED {
            backoff = FIRST_BACKOFF;
        }
        tell(Event::Crashed {
            status,
            again_in: backoff,
        });
        if !pause(&levers, &mut backoff).await {
            break;
        }
    }
    tell(Event::Ended);
}

/// Waits before the next start, the next time for longer. False if the process is not to be started any more.
async fn pause(levers: &Levers, backoff: &mut Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(*backoff) => {}
        () = levers.drain.cancelled() => return false,
        () = levers.kill.cancelled() => return false,
    }
    *backoff = (*backoff * 2).min(LAST_BACKOFF);
    true
}

enum Ending {
    Asked,
    ByItself(ExitStatus),
}

/// Waits for the child's end, whoever brings it about.
async fn run(
    instance: &Instance,
    child: &mut Child,
    levers: &Levers,
    crash: &mut watch::Receiver<u64>,
    begun: Instant,
    mut on_ready: impl FnMut(Duration),
) -> Ending {
    crash.mark_unchanged();
    // While it is open the child lives; the system closes it when this process dies, however it dies.
    let mut stdin = child.stdin.take();
    let admin = instance.admin.to_string();
    let mut ready = std::pin::pin!(ready::until_ready(&admin));
    let mut is_ready = false;
    let mut asked = false;
    loop {
        tokio::select! {
            status = child.wait() => match status {
                Ok(status) if !asked => return Ending::ByItself(status),
                _ => return Ending::Asked,
            },
            () = &mut ready, if !is_ready => {
                is_ready = true;
                on_ready(begun.elapsed());
            }
            () = levers.drain.cancelled(), if stdin.is_some() => {
                asked = true;
                stdin = None;
                if matches!(instance.program, Program::Proxy(_)) {
                    // Whoever used it has ended.
                    let _ = child.start_kill();
                }
            }
            () = levers.kill.cancelled() => {
                let _ = child.kill().await;
                return Ending::Asked;
            }
            Ok(()) = crash.changed() => {
                // It may have ended by itself just now, which is as good.
                let _ = child.start_kill();
            }
        }
    }
}

fn start(instance: &Instance, binary: &PathBuf) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&instance.log)
        .with_context(|| format!("cannot open the log {}", instance.log.display()))?;
    let mut command = match instance.program {
        Program::Own(_) => Command::new(binary),
        // It does not look at its stdin: the kernel ends it with this process.
        Program::Proxy(_) => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
            command
        }
    };
    for name in plan::OWN_VARIABLES {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(plan::SIDECAR_VARIABLES.as_bytes()) {
            command.env_remove(name);
        }
    }
    command
        .envs(&instance.environment)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .kill_on_drop(true);
    // Its own group: a Ctrl-C in the terminal reaches the launcher alone, which ends the others in order.
    #[cfg(unix)]
    command.process_group(0);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))
}
