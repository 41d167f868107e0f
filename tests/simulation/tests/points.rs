//! Every crash point of small sagas: stopped before and after every write and before every message, each comes to its promised end.

use sagamesh_simulation::points::{Points, cases, every_point};

#[test]
fn every_point_of_every_saga_of_one_step() {
    let mut seen = Points::default();
    for script in cases(1) {
        every_point(&script, &mut seen);
    }
    println!(
        "{} cases, {} points reached, {} missed",
        seen.cases, seen.reached, seen.missed
    );
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert_eq!(seen.missed, 0);
    assert!(seen.reached > 100);
}
