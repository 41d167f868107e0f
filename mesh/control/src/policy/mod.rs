//! The policy files, read and understood. Pure: text in, [`Policy`] or [`Fault`]s out.
//!
//! ```text
//!   files -> documents -> manifests (serde, nothing unknown) -> checked values, references resolved -> Policy
//! ```
//! What is not understood is a fault that names file, line and field, never ignored: a policy that says more than the
//! proxies are told would be a hole.

mod access;
mod annotation;
mod authentication;
mod build;
mod condition;
mod document;
pub mod explain;
mod fault;
mod manifest;
mod model;
mod route;
mod rules;
mod value;

pub use build::read;
pub use fault::Fault;
pub use model::*;

/// The text of a policy file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    /// Its path, relative to the folder.
    pub file: String,
    /// What it says.
    pub text: String,
}
