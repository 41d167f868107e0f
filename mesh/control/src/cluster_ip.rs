//! The address that stands for a Service, stable as long as the data folder is kept. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::policy::Key;

/// The block is 10.96.0.0/16, as in most clusters.
const BLOCK: [u8; 2] = [10, 96];
/// Addresses below are left to people.
const FIRST: u32 = 256;
/// Beyond the last.
const END: u32 = 65_535;

/// Addresses by Service, those of Services that are gone included: one that comes back has its own again.
pub type ClusterIps = BTreeMap<Key, Ipv4Addr>;

/// Adds an address for every Service that has none. A new one takes the place that its name hashes to, or the next free
/// one, so that a lost record is mostly made again as it was.
pub fn assign<'a>(known: &ClusterIps, services: impl Iterator<Item = &'a Key>) -> ClusterIps {
    let mut assigned = known.clone();
    let mut taken: BTreeSet<Ipv4Addr> = known.values().copied().collect();
    for service in services {
        if assigned.contains_key(service) {
            continue;
        }
        let start = hash(&service.to_string());
        let free = (0..END - FIRST)
            .map(|step| address(start.wrapping_add(step)))
            .find(|candidate| !taken.contains(candidate));
        if let Some(free) = free {
            taken.insert(free);
            assigned.insert(service.clone(), free);
        }
    }
    assigned
}

fn address(place: u32) -> Ipv4Addr {
    let within = FIRST + place % (END - FIRST);
    let [_, _, third, fourth] = within.to_be_bytes();
    Ipv4Addr::new(BLOCK[0], BLOCK[1], third, fourth)
}

/// FNV-1a: the same on every machine.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_and_differ() {
        let names: Vec<Key> = (0..2000)
            .map(|n| Key::new("sagamesh", format!("s{n}")))
            .collect();
        let first = assign(&ClusterIps::new(), names.iter().take(1000));
        let all = assign(&first, names.iter());
        assert!(first.iter().all(|(key, ip)| all[key] == *ip));
        let different: BTreeSet<_> = all.values().collect();
        assert_eq!(different.len(), 2000);
        assert!(all.values().all(|ip| ip.octets()[..2] == BLOCK));
        assert_eq!(assign(&all, [].iter()), all, "nothing is forgotten");
    }
}
