//! Conversions between Unix milliseconds and protobuf's time types.

use std::time::Duration;

/// A protobuf timestamp from milliseconds since the Unix epoch.
pub fn from_millis(millis: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp {
        seconds: millis.div_euclid(1000),
        nanos,
    }
}

/// Milliseconds since the Unix epoch; beyond the range of `i64` it saturates.
pub fn to_millis(timestamp: &prost_types::Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(timestamp.nanos / 1_000_000))
}

/// A protobuf duration.
pub fn from_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A protobuf duration from milliseconds.
pub fn duration_from_millis(millis: i64) -> prost_types::Duration {
    let nanos = i32::try_from((millis % 1000) * 1_000_000).unwrap_or(0);
    prost_types::Duration {
        seconds: millis / 1000,
        nanos,
    }
}

/// Milliseconds of a protobuf duration; saturates, and keeps the sign.
pub fn duration_to_millis(duration: &prost_types::Duration) -> i64 {
    duration
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(duration.nanos / 1_000_000))
}

/// The standard library's duration; `None` if it is negative.
pub fn to_duration(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for millis in [0, 1, 999, 1000, 1_700_000_000_123, -1, -1500] {
            assert_eq!(to_millis(&from_millis(millis)), millis);
            assert!(from_millis(millis).nanos >= 0);
            assert_eq!(duration_to_millis(&duration_from_millis(millis)), millis);
        }
        assert_eq!(
            to_duration(&from_duration(Duration::from_millis(2500))),
            Some(Duration::from_millis(2500))
        );
        assert_eq!(to_duration(&duration_from_millis(-1)), None);
        assert_eq!(
            to_millis(&prost_types::Timestamp {
                seconds: i64::MAX,
                nanos: 0
            }),
            i64::MAX
        );
    }
}
