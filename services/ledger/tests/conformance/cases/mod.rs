//! The cases. Those that not every store can be brought into have `#[tokio::test]` themselves.

pub(crate) mod deleting;
pub(crate) mod evolving;
pub(crate) mod explain;
pub(crate) mod failing;
pub(crate) mod feeding;
pub(crate) mod files;
pub(crate) mod holding;
pub(crate) mod leasing;
pub(crate) mod projecting;
pub(crate) mod racing;
pub(crate) mod random;
pub(crate) mod requests;
pub(crate) mod writing;
