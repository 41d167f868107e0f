//! meshd, served in process, with the real policy files in a temporary folder.

mod identity;
mod policy_files;
mod proxies;
mod registrations;
mod rig;
