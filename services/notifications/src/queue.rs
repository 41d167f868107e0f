//! Which notifications are owed, and whose turn it is. Pure: the time is passed in.
//!
//! ```text
//!   add --> waiting --next--> in a place --done--> gone
//!              ^                  |
//!              |                again
//!              +-- its time -- later
//! ```
//!
//! Each is here once, whoever finds it again. Only one that is being handed over takes a place: those that failed keep nobody out,
//! however many there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chassis::Backoff;
use sagamesh_api::shop::notifications::v1::NotificationRecorded;
use tokio::time::Instant;

/// A notification that is owed.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) id: String,
    /// Its text, when that is at hand; otherwise it is read when its turn comes.
    pub(crate) recorded: Option<Box<NotificationRecorded>>,
    pub(crate) tries: Tries,
}

impl Note {
    pub(crate) fn new(id: String, recorded: Option<Box<NotificationRecorded>>) -> Self {
        Self {
            id,
            recorded,
            tries: Tries::default(),
        }
    }
}

/// How it went so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// It was handed over; that is still to be put on record.
    pub(crate) sent: bool,
    /// Refusals for good.
    pub(crate) refusals: u32,
    pub(crate) passing: Option<Backoff>,
    pub(crate) lasting: Option<Backoff>,
}

/// The notifications that this process looks after.
#[derive(Debug)]
pub(crate) struct Queue {
    known: BTreeSet<String>,
    waiting: VecDeque<Note>,
    later: BTreeMap<(Instant, String), Note>,
    free: usize,
    texts: usize,
}

impl Queue {
    /// With so many places. As many of those that wait keep their text; the others are read again, so that a backlog does not fill the memory.
    pub(crate) fn new(places: usize) -> Self {
        Self {
            known: BTreeSet::new(),
            waiting: VecDeque::new(),
            later: BTreeMap::new(),
            free: places,
            texts: places,
        }
    }

    /// A notification that is owed; nothing new if it is known.
    pub(crate) fn add(&mut self, note: Note) {
        if self.known.insert(note.id.clone()) {
            self.wait(note);
        }
    }

    /// The next one, if there is a place for it.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Note> {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let note = entry.remove();
            self.wait(note);
        }
        if self.free == 0 {
            return None;
        }
        let note = self.waiting.pop_front()?;
        self.free -= 1;
        Some(note)
    }

    /// It is not owed any more.
    pub(crate) fn done(&mut self, id: &str) {
        self.free += 1;
        self.known.remove(id);
    }

    /// It failed, and is to be tried again at this time.
    pub(crate) fn again(&mut self, mut note: Note, at: Instant) {
        self.free += 1;
        // Another replica may have handed it over meanwhile: it is read again.
        note.recorded = None;
        self.later.insert((at, note.id.clone()), note);
    }

    /// When the next of those that failed is to be tried.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }

    /// How many are owed, as far as is known here.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    fn wait(&mut self, mut note: Note) {
        if self.waiting.len() >= self.texts {
            note.recorded = None;
        }
        self.waiting.push_back(note);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn note(id: &str) -> Note {
        Note::new(id.to_owned(), Some(Box::default()))
    }

    #[test]
    fn those_that_failed_keep_nobody_out() {
        let (mut queue, start) = (Queue::new(2), Instant::now());
        for id in ["a", "b", "c"] {
            queue.add(note(id));
        }
        let (a, b) = (queue.next(start).expect("a"), queue.next(start).expect("b"));
        assert!(queue.next(start).is_none(), "both places are taken");
        let later = start + Duration::from_secs(3_600);
        queue.again(a, later);
        queue.again(b, later + Duration::from_secs(1));
        let c = queue.next(start).expect("a place is free");
        assert_eq!(c.id, "c");
        assert!(queue.next(start).is_none(), "not before their time");
        assert_eq!((queue.next_at(), queue.len()), (Some(later), 3));
        queue.done("c");
        let a = queue.next(later).expect("its time has come");
        assert_eq!((a.id.as_str(), a.recorded.is_none()), ("a", true));
        assert!(queue.next(later).is_none());
    }

    #[test]
    fn each_is_there_once() {
        let (mut queue, start) = (Queue::new(8), Instant::now());
        for _ in 0..3 {
            queue.add(note("waiting"));
        }
        let taken = queue.next(start).expect("it waits");
        queue.add(note("waiting"));
        assert!(queue.next(start).is_none(), "it is in a place");
        queue.again(taken, start + Duration::from_secs(1));
        queue.add(note("waiting"));
        assert!(queue.next(start).is_none(), "it is tried later");
        assert_eq!(queue.len(), 1);
        queue
            .next(start + Duration::from_secs(1))
            .expect("its time has come");
        queue.done("waiting");
        queue.add(note("waiting"));
        assert!(queue.next(start).is_some(), "it is owed anew");
    }

    #[test]
    fn a_backlog_is_kept_without_its_texts() {
        let (mut queue, start) = (Queue::new(1), Instant::now());
        queue.add(note("a"));
        queue.add(note("b"));
        assert!(queue.next(start).expect("a").recorded.is_some());
        queue.done("a");
        assert!(queue.next(start).expect("b").recorded.is_none());
    }
}
