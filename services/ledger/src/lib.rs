//! The event store of sagamesh: streams with expected versions, group commit, inbox, projections and the feed.
