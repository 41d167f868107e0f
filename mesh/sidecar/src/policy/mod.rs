//! Policies as the control plane sends them, checked and made fit for use by each request.

pub(crate) mod authz;
pub(crate) mod convert;
pub(crate) mod filter;
pub(crate) mod inbound;
pub(crate) mod matching;
pub(crate) mod meta;
pub(crate) mod outbound;
pub(crate) mod rate_limit;
