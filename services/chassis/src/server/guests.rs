//! How many connections there may be: in all, and at a public port of one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Guests {
    total: usize,
    per_address: usize,
    open: Mutex<(usize, BTreeMap<IpAddr, usize>)>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    address: IpAddr,
    of: Arc<Guests>,
}

impl Guests {
    pub(crate) fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            per_address,
            open: Mutex::default(),
        })
    }

    /// Counts a connection, unless it is one too many.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let address = address.to_canonical();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *open;
        let own = by_address.get(&address).copied().unwrap_or(0);
        if *all >= self.total || own >= self.per_address {
            return None;
        }
        *all += 1;
        by_address.insert(address, own + 1);
        Some(Guest {
            address,
            of: Arc::clone(self),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut open = self.of.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 -= 1;
        if let Some(own) = open.1.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                open.1.remove(&self.address);
            }
        }
    }
}

/// `wanted`, but some below the process's limit of open files where the system tells it: files and connections to
/// others need theirs.
pub(crate) fn below_open_files(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    soft.map_or(wanted, |soft| wanted.min(soft - soft / 4).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let guests = Guests::new(3, 2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = guests.admit(one).expect("the first");
        let _second = guests.admit(one).expect("the second");
        assert!(guests.admit(one).is_none(), "one too many of this address");
        let _third = guests.admit(other).expect("another address");
        assert!(guests.admit(other).is_none(), "one too many in all");
        drop(first);
        assert!(guests.admit(one).is_some());
    }

    #[test]
    fn the_limit_of_open_files_is_respected() {
        assert!(below_open_files(usize::MAX) >= 1);
        assert_eq!(below_open_files(1), 1);
    }
}
