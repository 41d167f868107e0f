//! New ids: UUIDv7 from the environment's clock and randomness, so that simulations repeat them.

use chassis::Env;
use uuid::Builder;

/// A new time-ordered id.
pub(crate) fn new(env: &Env) -> String {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&env.entropy.next_u64().to_be_bytes());
    random[8..].copy_from_slice(&env.entropy.next_u64().to_be_bytes()[..2]);
    let millis = u64::try_from(env.clock.now_millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .to_string()
}
