//! The launcher and the operator's tool of sagamesh.
