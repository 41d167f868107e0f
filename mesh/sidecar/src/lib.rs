//! The data plane of the mesh on one machine.
