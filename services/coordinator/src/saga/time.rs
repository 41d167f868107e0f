//! Between protobuf's times and milliseconds.

use prost_types::{Duration, Timestamp};

/// A timestamp from milliseconds since 1970.
pub(super) fn timestamp(millis: i64) -> Timestamp {
    Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(millis.rem_euclid(1_000)).unwrap_or(0) * 1_000_000,
    }
}

/// Milliseconds since 1970.
pub(super) fn millis(timestamp: &Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(timestamp.nanos / 1_000_000))
}

/// A duration from milliseconds.
pub(super) fn duration(millis: i64) -> Duration {
    Duration {
        seconds: millis / 1_000,
        nanos: i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000,
    }
}

/// Whole milliseconds of a duration; what is below one is cut off.
pub(super) fn duration_millis(duration: &Duration) -> i64 {
    duration
        .seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(duration.nanos / 1_000_000))
}
