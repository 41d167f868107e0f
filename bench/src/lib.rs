//! Load generators of sagamesh.
