//! The traces of requests whose sagas are not started yet, so that one order is one trace. Kept in memory only: an order that is started after a
//! crash begins a trace of its own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

/// The most that are kept: beyond it (a long outage of the coordinator) traces are not continued.
const MOST: usize = 10_000;

/// Traces by order. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Traces(Arc<Mutex<HashMap<String, String>>>);

impl Traces {
    /// Keeps the trace of the request being served for this order.
    pub(crate) fn keep(&self, order_id: &str) {
        let Some(traceparent) = chassis::trace::current() else {
            return;
        };
        let mut traces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if traces.len() < MOST {
            traces.insert(order_id.to_owned(), traceparent);
        }
    }

    /// Takes it out.
    pub(crate) fn take(&self, order_id: &str) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(order_id)
    }

    /// Runs a call within a trace.
    pub(crate) async fn within<F: Future>(trace: Option<String>, call: F) -> F::Output {
        match trace {
            Some(trace) => chassis::trace::scope(Some(&trace), call).await,
            None => call.await,
        }
    }
}
