//! Whole-system tests of sagamesh.
