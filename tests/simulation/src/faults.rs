//! Faults, one after the other, until the world calms down.

use std::sync::Arc;
use std::time::Duration;

use crate::dice::Dice;
use crate::world::{DATABASE, World};

/// Injects faults.
pub async fn inject(world: Arc<World>) {
    let dice = Dice::named(world.seed, "faults");
    let machines = world.names();
    loop {
        tokio::time::sleep(dice.millis(50, 3_000)).await;
        if world.is_calm() {
            return;
        }
        let Some(machine) = dice.pick(&machines).cloned() else {
            return;
        };
        let faults = world.setup.faults;
        if world.setup.replicas > 1 && faults.network && dice.happens(200) {
            replica(&world, &dice);
            continue;
        }
        match dice.below(11) {
            10 if faults.crashes => {
                world.fault(format!("{machine} is told to stop"));
                world.drain(&machine);
            }
            0..3 if faults.crashes => crash(&world, &dice, &machine),
            3..6 if faults.network => network(&world, &dice, &machine),
            6 if faults.network => {
                let other = other(&world, &dice, &machine);
                world.fault(format!("connections of {machine} and {other} break"));
                world.network.reset(&machine, &other);
            }
            7 if faults.disk => disk(&world, &dice, &machine),
            8 if faults.clocks => {
                let by = i64::try_from(dice.below(60_000)).unwrap_or(0) - 30_000;
                world.fault(format!("the clock of {machine} is wrong by {by} ms"));
                if let Some(clock) = world.clock(&machine) {
                    clock.set_wrong_by(by);
                }
            }
            _ => {}
        }
    }
}

fn other(world: &World, dice: &Dice, machine: &str) -> String {
    let coordinators = world.setup.coordinators();
    let mut hosts = match coordinators.iter().any(|name| name == machine) {
        true => world.names(),
        // Everybody talks to the coordinator.
        false => return dice.pick(&coordinators).cloned().unwrap_or_default(),
    };
    hosts.push("clients".to_owned());
    hosts.retain(|host| host != machine);
    dice.pick(&hosts).cloned().unwrap_or_default()
}

/// What happens to a replica of the coordinator alone, often for longer than a lease lasts.
fn replica(world: &Arc<World>, dice: &Dice) {
    let Some(machine) = dice.pick(&world.setup.coordinators()).cloned() else {
        return;
    };
    let time = dice.millis(20, if dice.happens(500) { 14_000 } else { 3_000 });
    let network = world.network.clone();
    match dice.below(3) {
        0 => {
            world.fault(format!("{machine} stands still for {time:?}"));
            network.freeze(&machine);
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                network.thaw(&machine);
            });
        }
        1 => {
            world.fault(format!("{machine} is told to stop, to be started again"));
            world.drain(&machine);
        }
        _ => {
            let (there, back) = [(true, true), (true, false), (false, true)]
                [usize::try_from(dice.below(3)).unwrap_or(0)];
            world.fault(format!(
                "{machine} cannot reach the database for {time:?} (there: {there}, back: {back})"
            ));
            if there {
                network.cut(&machine, DATABASE);
            }
            if back {
                network.cut(DATABASE, &machine);
            }
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                network.heal(&machine, DATABASE);
                network.heal(DATABASE, &machine);
            });
        }
    }
}

/// At once, or after so many points: between a write and its answer, between an answer and the message that tells of it.
fn crash(world: &Arc<World>, dice: &Dice, machine: &str) {
    let back = dice.millis(0, if dice.happens(200) { 15_000 } else { 800 });
    if dice.happens(700) {
        world.set_trap(machine, dice.within(1, 40), back);
        return;
    }
    let silently = dice.happens(300);
    let how = if silently { " silently" } else { "" };
    world.fault(format!("{machine} loses power{how} for {back:?}"));
    world.crash(machine, silently);
    world.restart_after(machine, back);
}

fn network(world: &Arc<World>, dice: &Dice, machine: &str) {
    let other = other(world, dice, machine);
    let time = dice.millis(20, if dice.happens(200) { 25_000 } else { 3_000 });
    if dice.happens(250) {
        let by = dice.millis(20, 1_500);
        world.fault(format!("{machine} is slow by {by:?}"));
        world.network.slow(machine, by);
        return;
    }
    let both = dice.happens(500);
    world.fault(format!(
        "{machine} -> {other} is cut for {time:?} (both ways: {both})"
    ));
    world.network.cut(machine, &other);
    if both {
        world.network.cut(&other, machine);
    }
    let (network, machine) = (world.network.clone(), machine.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        network.heal(&machine, &other);
        network.heal(&other, &machine);
        network.slow(&machine, Duration::ZERO);
    });
}

fn disk(world: &Arc<World>, dice: &Dice, machine: &str) {
    // What replicas write is on the disk of the database.
    let shared =
        world.setup.replicas > 1 && world.setup.coordinators().contains(&machine.to_owned());
    let machine = if shared { DATABASE } else { machine };
    let Some(disk) = world.disk(machine) else {
        return;
    };
    let time = dice.millis(20, 4_000);
    let full = dice.happens(500);
    let what = if full { "is full" } else { "does not sync" };
    world.fault(format!("the disk of {machine} {what} for {time:?}"));
    if full {
        disk.set_full(true);
    } else {
        disk.hold_syncs();
    }
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        disk.set_full(false);
        disk.release_syncs();
    });
}
