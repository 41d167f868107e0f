//! Every crash point of small sagas: stopped before and after every write and before every message, each comes to its promised end.

use std::sync::Mutex;

use sagamesh_simulation::points::{Points, cases, every_point};

fn everywhere(steps: usize) -> Points {
    let (cases, all) = cases(steps);
    let total = Mutex::new(Points::default());
    std::thread::scope(|scope| {
        for half in cases.chunks(cases.len().div_ceil(2)) {
            let total = &total;
            scope.spawn(move || {
                let mut seen = Points::default();
                half.iter().for_each(|case| every_point(case, &mut seen));
                total.lock().expect("not poisoned").add(seen);
            });
        }
    });
    let total = total.into_inner().expect("not poisoned");
    println!(
        "{steps} steps: {} of {all} cases, {} points reached, {} missed",
        total.cases, total.reached, total.missed
    );
    total
}

#[test]
fn every_point_of_every_saga_of_one_step_and_of_two() {
    for (steps, least) in [(1, 100), (2, 500)] {
        let seen = everywhere(steps);
        assert_eq!(seen.wrong, Vec::<String>::new());
        assert_eq!(seen.missed, 0);
        assert!(seen.reached > least);
    }
}
