//! The orderly end of a system: whoever others still need ends later.

use std::time::Duration;

use tokio::time::Instant;

use crate::launcher::Running;
use crate::launcher::plan::Instance;
use crate::launcher::process::Event;
use crate::launcher::progress::Progress;
use crate::system::{Role, System};

/// When each rank is asked to end at the latest, from the beginning: the one before may take until then. The gateway
/// finishes its requests while the services behind it run, services theirs while their sidecars do, and the control plane
/// is there to the end.
const ASKED: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(3_000),
    Duration::from_millis(8_300),
    Duration::from_millis(8_700),
];
/// The longest that an orderly end takes before what still runs is killed.
const DRAIN: Duration = Duration::from_millis(9_200);

fn rank(instance: &Instance) -> usize {
    match instance.role {
        Role::Service if instance.service == "gateway" => 0,
        Role::Service => 1,
        Role::Sidecar => 2,
        Role::Control => 3,
    }
}

impl Running {
    /// Ends everything: the gateway first, then the services, their sidecars and the control plane; what is left after
    /// 9 s, or when `hurry` resolves, is killed.
    pub(crate) async fn stop(mut self, progress: &mut Progress, hurry: impl Future<Output = ()>) {
        let mut hurry = std::pin::pin!(hurry);
        self.tasks.close();
        let begun = Instant::now();
        let mut alive = self.begun.clone();
        let mut asked = 0;
        loop {
            while asked < ASKED.len()
                && (!self.waits(&alive, asked) || begun.elapsed() >= ASKED[asked])
            {
                self.ask(asked);
                asked += 1;
            }
            let next = begun + ASKED.get(asked).copied().unwrap_or(DRAIN);
            tokio::select! {
                // Everybody's end is told before all are gone.
                biased;
                event = self.events.recv() => match event {
                    Some((index, Event::Ended)) => {
                        alive[index] = false;
                        if self.instances[index].role != Role::Sidecar {
                            progress.ended(&self.instances[index].label);
                        }
                    }
                    Some(_) => {}
                    None => break,
                },
                () = self.tasks.wait() => break,
                () = tokio::time::sleep_until(next) => {
                    if begun.elapsed() >= DRAIN {
                        break;
                    }
                }
                () = &mut hurry => break,
            }
        }
        for (instance, (levers, alive)) in self.instances.iter().zip(self.levers.iter().zip(alive))
        {
            if alive && !self.tasks.is_empty() {
                progress.say(&format!("{} is killed", instance.label));
            }
            levers.kill.cancel();
        }
        self.balancer.kill.cancel();
        self.tasks.wait().await;
        System::forget(&self.system.data_dir);
    }

    /// Whether anybody of a lower rank still runs.
    fn waits(&self, alive: &[bool], asked: usize) -> bool {
        let mut left = self.instances.iter().zip(alive);
        left.any(|(instance, alive)| *alive && rank(instance) < asked)
    }

    /// Asks everybody of a rank to end.
    fn ask(&self, asked: usize) {
        // From the beginning: whoever comes now would find gateways that end.
        self.balancer.drain.cancel();
        for (instance, levers) in self.instances.iter().zip(&self.levers) {
            if rank(instance) == asked {
                levers.drain.cancel();
            }
        }
    }
}
