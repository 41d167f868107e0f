//! From what is on record to states.

use crate::decider::Decider;
use crate::store::{BoxFuture, EventRest, Loaded, Store};
use crate::{Error, StreamId};

/// A stream as it is now.
pub(crate) struct Restored<S> {
    pub(crate) state: S,
    pub(crate) version: u64,
    /// The version of the snapshot that it was made from; 0 if from none.
    pub(crate) snapshot: u64,
}

/// How streams are read: [`Store::load`] or [`Store::peek`].
pub(crate) type Read =
    for<'a> fn(&'a dyn Store, &'a [StreamId], bool) -> BoxFuture<'a, Result<Vec<Loaded>, Error>>;

/// The states of streams, each from its snapshot and the events after that, or why there is none.
pub(crate) async fn restore<D: Decider>(
    decider: &D,
    store: &dyn Store,
    read: Read,
    streams: &[StreamId],
) -> Result<Vec<(StreamId, Result<Restored<D::State>, Error>)>, Error> {
    let mut states = Vec::with_capacity(streams.len());
    for loaded in read(store, streams, true).await? {
        let stream = loaded.stream.clone();
        states.push((stream, one(decider, store, read, loaded).await));
    }
    Ok(states)
}

async fn one<D: Decider>(
    decider: &D,
    store: &dyn Store,
    read: Read,
    loaded: Loaded,
) -> Result<Restored<D::State>, Error> {
    let stream = loaded.stream;
    let (mut events, mut from) = (loaded.events, None);
    if let Some((version, data)) = loaded.snapshot {
        from = decider
            .restore(&stream, &data)
            .map(|state| (state, version));
        if from.is_none() {
            // Its format is not known any more: from the start.
            let whole = read(store, std::slice::from_ref(&stream), false).await?;
            events = whole.into_iter().flat_map(|whole| whole.events).collect();
        }
    }
    let (state, snapshot) = from.unwrap_or_else(|| (decider.initial(&stream), 0));
    fold(decider, store, &stream, (state, snapshot), &events)
}

fn fold<D: Decider>(
    decider: &D,
    store: &dyn Store,
    stream: &StreamId,
    (mut state, snapshot): (D::State, u64),
    events: &[EventRest],
) -> Result<Restored<D::State>, Error> {
    let mut version = snapshot;
    for (number, type_name, data) in events {
        if *number != version + 1 {
            let detail = format!("stream {stream} has event {number} after {version}");
            return Err(Error::Corrupt {
                database: store.name(),
                detail,
            });
        }
        decider.evolve(&mut state, &decider.decode(type_name, data)?);
        version = *number;
    }
    Ok(Restored {
        state,
        version,
        snapshot,
    })
}
