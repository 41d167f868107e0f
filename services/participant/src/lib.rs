//! The client side of the saga stream: steps, the barrier, heartbeats and credits.
