//! The control plane of the mesh on one machine: it speaks the API of the Linkerd proxy.
