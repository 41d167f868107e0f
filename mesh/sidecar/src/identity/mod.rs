//! Who this workload is: a key that never leaves the process, and a short-lived certificate for it.

mod certify;
mod tls;

pub(crate) use certify::run as run_certify;
pub use tls::IdentityError;
pub(crate) use tls::{Identity, peer_name};
