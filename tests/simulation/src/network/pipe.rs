//! One direction of a connection, and the two ends that a connection has.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Network;

/// More than this is not taken before the other side has read some.
const ROOM: usize = 256 * 1024;

/// What is under way in one direction. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Pipe(Arc<Mutex<Flow>>);

#[derive(Default)]
struct Flow {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    closed: bool,
    fate: Fate,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What became of the connection.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Whole,
    /// Both sides know that it is broken.
    Broken,
    /// The sender is gone, and the reader does not know it.
    Silent,
}

impl Fate {
    /// What a sender of so many bytes is told if they cannot arrive.
    fn answer(self, length: usize) -> Option<Poll<io::Result<usize>>> {
        match self {
            Self::Whole => None,
            Self::Broken => Some(Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))),
            // Nobody is there any more; a sender learns that when its keep-alive is not answered.
            Self::Silent => Some(Poll::Ready(Ok(length))),
        }
    }
}

impl Pipe {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is gone, with what is under way.
    pub(super) fn vanish(&self, silently: bool) {
        let mut flow = self.flow();
        flow.chunks.clear();
        flow.bytes = 0;
        flow.fate = if silently { Fate::Silent } else { Fate::Broken };
        flow.wake();
    }

    /// Something has changed: both sides look again.
    pub(super) fn wake(&self) {
        self.flow().wake();
    }
}

impl Flow {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

/// One end of a connection.
pub(super) struct End {
    network: Network,
    host: String,
    peer: String,
    /// The connection, and whether this is the end of the one who made it.
    id: (u64, bool),
    send: Pipe,
    receive: Pipe,
    /// When the next chunk is here.
    until: Pin<Box<Sleep>>,
    last: Instant,
}

impl End {
    pub(super) fn new(
        network: Network,
        (host, peer): (&str, &str),
        id: (u64, bool),
        (send, receive): (Pipe, Pipe),
    ) -> Self {
        Self {
            network,
            host: host.to_owned(),
            peer: peer.to_owned(),
            id,
            send,
            receive,
            until: Box::pin(tokio::time::sleep_until(Instant::now())),
            last: Instant::now(),
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let cut = this.network.is_cut(&this.peer, &this.host);
            let mut flow = this.receive.flow();
            flow.reader = Some(context.waker().clone());
            if flow.fate == Fate::Broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let Some((due, chunk)) = flow.chunks.front_mut() else {
                let over = flow.closed && flow.fate == Fate::Whole && !cut;
                return if over {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            };
            if cut {
                return Poll::Pending;
            }
            if *due > Instant::now() {
                let due = *due;
                drop(flow);
                this.until.as_mut().reset(due);
                ready!(this.until.as_mut().poll(context));
                continue;
            }
            let length = chunk.len().min(buffer.remaining());
            buffer.put_slice(&chunk[..length]);
            chunk.advance(length);
            let empty = chunk.is_empty();
            flow.bytes -= length;
            if empty {
                flow.chunks.pop_front();
            }
            let writer = flow.writer.take();
            drop(flow);
            if empty {
                let (connection, forth) = this.id;
                this.network.0.history.delivered(connection, forth);
            }
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // What a machine that lost power still tries to send is nothing, and moves no dice.
        if let Some(nothing) = this.send.flow().fate.answer(bytes.len()) {
            return nothing;
        }
        if let Some(call) = this.network.0.on_send.get() {
            call(&this.host);
        }
        let due = (Instant::now() + this.network.delay(&this.host)).max(this.last);
        let mut flow = this.send.flow();
        if let Some(nothing) = flow.fate.answer(bytes.len()) {
            return nothing;
        }
        if flow.bytes >= ROOM {
            flow.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(ROOM - flow.bytes);
        flow.bytes += taken;
        flow.chunks
            .push_back((due, Bytes::copy_from_slice(&bytes[..taken])));
        let reader = flow.reader.take();
        drop(flow);
        this.last = due;
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut flow = self.send.flow();
        flow.closed = true;
        flow.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut flow = self.send.flow();
        flow.closed = true;
        flow.wake();
        drop(flow);
        let mut flow = self.receive.flow();
        if flow.fate == Fate::Whole {
            flow.fate = Fate::Broken;
        }
        flow.wake();
    }
}
