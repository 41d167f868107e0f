//! Waiting for SQLite without letting anything else run meanwhile.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// Waits for `future` as usual; or, if `at_once`, on the spot: the whole runtime stands still until it is done. SQLite works on a thread of its own,
/// so a simulation in which others ran meanwhile would not run the same way twice. A transaction must then wait for nothing but its statements.
pub(crate) async fn at_once<F: Future>(at_once: bool, future: F) -> F::Output {
    if at_once {
        // Without a budget: a future that gave way to others would wait for them here for ever.
        tokio::task::unconstrained(Spot(pin!(future))).await
    } else {
        future.await
    }
}

struct Spot<'a, F>(Pin<&'a mut F>);

impl<F: Future> Future for Spot<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(output) = self.0.as_mut().poll(&mut context) {
                return Poll::Ready(output);
            }
            std::thread::park();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
