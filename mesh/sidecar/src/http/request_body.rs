//! The body of a request: streamed from the connection it came on, never gathered but for replay.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::stream_queue::{Place, StreamQueue};
use crate::error::BoxError;
use crate::metrics::Histogram;
use crate::outbound::replay::ReplayBody;

/// The body of a request.
#[derive(Debug)]
pub(crate) struct RequestBody {
    source: Source,
    progress: Option<Arc<Progress>>,
    /// Until its request has a stream.
    place: Option<Place>,
    frames: Option<Histogram>,
}

#[derive(Debug)]
enum Source {
    #[cfg(test)]
    Empty,
    #[cfg(test)]
    Full(Option<Bytes>),
    Incoming(Incoming),
    Replay(ReplayBody),
}

impl RequestBody {
    /// No body.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Source::Empty.into()
    }

    /// A body in one piece.
    #[cfg(test)]
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Source::Full(Some(bytes.into())).into()
    }

    /// A body that can be sent again.
    pub(crate) fn replay(body: ReplayBody) -> Self {
        Source::Replay(body).into()
    }

    /// Reports each frame to `progress`.
    pub(crate) fn watch(&mut self, progress: Arc<Progress>) {
        if self.is_end_stream() {
            progress.end();
        }
        self.progress = Some(progress);
    }

    /// Counts the frames by their size.
    pub(crate) fn count_frames(&mut self, frames: &Histogram) {
        self.frames = Some(frames.clone());
    }

    /// Takes a place among the requests that wait for a stream of a connection. Gives its ticket.
    pub(super) fn enter(&mut self, queue: &Arc<StreamQueue>) -> u64 {
        let (ticket, place) = queue.enter();
        self.place = Some(place);
        ticket
    }

    /// Waits for a stream no more.
    pub(super) fn leave(&mut self) {
        self.place = None;
    }

    /// What it is watched by.
    pub(crate) fn progress(&self) -> Option<&Arc<Progress>> {
        self.progress.as_ref()
    }

    /// Takes the watcher off, for the body that replaces this one.
    pub(crate) fn take_progress(&mut self) -> Option<Arc<Progress>> {
        self.progress.take()
    }
}

impl From<Source> for RequestBody {
    fn from(source: Source) -> Self {
        Self {
            source,
            progress: None,
            place: None,
            frames: None,
        }
    }
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Source::Incoming(body).into()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // Whoever asks for the body has a stream to send it on.
        this.place = None;
        let polled = match &mut this.source {
            #[cfg(test)]
            Source::Empty => Poll::Ready(None),
            #[cfg(test)]
            Source::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Replay(body) => Pin::new(body).poll_frame(cx),
        };
        if let (Some(frames), Poll::Ready(Some(Ok(frame)))) = (&this.frames, &polled)
            && let Some(data) = frame.data_ref()
        {
            frames.record(data.len() as f64);
        }
        if let (Some(progress), Poll::Ready(frame)) = (&this.progress, &polled) {
            match frame {
                Some(Ok(frame)) if frame.is_data() => progress.touch(),
                _ => progress.end(),
            }
            if this.is_end_stream() {
                progress.end();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            #[cfg(test)]
            Source::Empty => true,
            #[cfg(test)]
            Source::Full(bytes) => bytes.is_none(),
            Source::Incoming(body) => body.is_end_stream(),
            Source::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            #[cfg(test)]
            Source::Empty => SizeHint::with_exact(0),
            #[cfg(test)]
            Source::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Incoming(body) => body.size_hint(),
            Source::Replay(body) => body.size_hint(),
        }
    }
}

/// How far a request and its response have come, for timeouts that depend on it.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    last_micros: AtomicU64,
    ended: AtomicBool,
    timed_out: AtomicBool,
    waker: AtomicWaker,
}

impl Progress {
    /// Starts now.
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            last_micros: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// A frame went by.
    pub(crate) fn touch(&self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_micros.store(micros, Ordering::Relaxed);
    }

    /// The request is sent.
    pub(crate) fn end(&self) {
        if !self.ended.load(Ordering::Relaxed) {
            self.touch();
            self.ended.store(true, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Its time is over (or a new try begins): whoever still follows the request when it is dropped learns why.
    pub(crate) fn set_timed_out(&self, timed_out: bool) {
        self.timed_out.store(timed_out, Ordering::Release);
    }

    /// Whether a timeout ended it, and not its caller.
    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Acquire)
    }

    /// When the last frame went by.
    pub(crate) fn last(&self) -> Instant {
        self.start + std::time::Duration::from_micros(self.last_micros.load(Ordering::Relaxed))
    }

    /// Whether the request is sent; `cx` is woken when it is.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> bool {
        if self.ended.load(Ordering::Acquire) {
            return true;
        }
        self.waker.register(cx.waker());
        self.ended.load(Ordering::Acquire)
    }
}
