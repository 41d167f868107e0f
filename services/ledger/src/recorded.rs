//! An event as it is on record.

use std::borrow::Cow;
use std::sync::Arc;

use crate::{Error, StreamId};

/// One committed event, undecoded. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Place in the log: dense and in commit order, from 1.
    pub position: u64,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Place within the stream, from 1.
    pub version: u64,
    /// Full name of the protobuf message in `data`.
    pub type_name: Cow<'static, str>,
    /// The encoded message.
    pub data: Arc<[u8]>,
    /// When it was decided, Unix milliseconds.
    pub commit_millis: i64,
}

impl Recorded {
    /// Decodes the event as one message type.
    pub fn message<M: prost::Message + Default>(&self) -> Result<M, Error> {
        M::decode(&*self.data).map_err(|error| Error::decode(&self.type_name, error))
    }
}
