use super::*;

fn fail(breaker: &Breaker, now: i64) {
    breaker.try_acquire(now).expect("closed").failure();
}

#[test]
fn opens_after_consecutive_failures_only() {
    let breaker = Breaker::new(3, Duration::from_secs(60));
    fail(&breaker, 0);
    fail(&breaker, 0);
    breaker.try_acquire(0).expect("closed").success();
    fail(&breaker, 0);
    fail(&breaker, 0);
    assert_eq!(breaker.state(), State::Closed { failures: 2 });
    drop(breaker.try_acquire(0).expect("closed"));
    assert!(
        matches!(breaker.state(), State::Open { .. }),
        "a dropped permit is a failure"
    );
}

#[test]
fn one_probe_decides() {
    let breaker = Breaker::new(1, Duration::from_secs(60));
    fail(&breaker, 1_000);
    let RetryAfter(left) = breaker.try_acquire(31_000).expect_err("open");
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(29));
    let probe = breaker.try_acquire(62_000).expect("the probe");
    assert!(probe.is_probe());
    // It may be decided in a moment: whoever is refused meanwhile does not wait for a whole recovery.
    let RetryAfter(soon) = breaker.try_acquire(62_000).expect_err("only one probe");
    assert_eq!(soon, Duration::from_secs(1));
    probe.failure();
    assert!(
        breaker.try_acquire(63_000).is_err(),
        "open for another minute"
    );
    breaker
        .try_acquire(123_000)
        .expect("the second probe")
        .success();
    assert_eq!(breaker.state(), State::Closed { failures: 0 });
}

#[test]
fn callers_are_told_different_times() {
    let env = Env::system();
    let told: Vec<_> = (0..50)
        .map(|_| RetryAfter(Duration::from_secs(60)).hint(&env))
        .collect();
    let (earliest, latest) = (Duration::from_secs(60), Duration::from_secs(75));
    assert!(told.iter().all(|hint| (earliest..=latest).contains(hint)));
    assert!(told.iter().any(|hint| *hint != told[0]), "{told:?}");
}

#[test]
fn a_call_that_was_never_made_teaches_nothing() {
    let breaker = Breaker::new(2, Duration::from_secs(60));
    fail(&breaker, 0);
    breaker.try_acquire(0).expect("closed").release();
    assert_eq!(breaker.state(), State::Closed { failures: 1 });
    fail(&breaker, 0);
    breaker.try_acquire(61_000).expect("the probe").release();
    assert!(matches!(breaker.state(), State::Open { .. }));
    let next = breaker
        .try_acquire(61_000)
        .expect("the probe is free again");
    assert!(next.is_probe());
    next.success();
    assert_eq!(breaker.state(), State::Closed { failures: 0 });
}

#[test]
fn late_answers_from_before_it_opened_change_nothing() {
    let breaker = Breaker::new(1, Duration::from_secs(60));
    let late_success = breaker.try_acquire(0).expect("closed");
    let late_failure = breaker.try_acquire(0).expect("closed");
    fail(&breaker, 0);
    late_success.success();
    assert!(matches!(breaker.state(), State::Open { .. }));
    let probe = breaker.try_acquire(61_000).expect("the probe");
    late_failure.failure();
    assert!(matches!(breaker.state(), State::Probing { .. }));
    probe.success();
    assert_eq!(breaker.state(), State::Closed { failures: 0 });
}

#[test]
fn a_clock_set_back_does_not_keep_it_open() {
    let breaker = Breaker::new(1, Duration::from_secs(60));
    fail(&breaker, 1_000_000);
    assert!(breaker.try_acquire(10).is_ok());
}

#[test]
fn two_runtimes_count_in_one_place() {
    const CALLS: u32 = 5_000;
    let breaker = Breaker::new(2 * CALLS, Duration::from_secs(60));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    for _ in 0..CALLS {
                        fail(&breaker, 0);
                        tokio::task::yield_now().await;
                    }
                });
            });
        }
    });
    assert!(
        matches!(breaker.state(), State::Open { .. }),
        "no failure was lost"
    );
}

#[test]
fn two_threads_get_one_probe() {
    for _ in 0..200 {
        let breaker = Breaker::new(1, Duration::from_millis(10));
        fail(&breaker, 0);
        let probes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| breaker.try_acquire(1_000).ok()))
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert_eq!(probes.len(), 1);
    }
}
