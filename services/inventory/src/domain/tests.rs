//! Every transition, and random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A shelf in memory that applies what was decided.
#[derive(Clone, Default)]
struct Memory {
    items: BTreeMap<String, Item>,
    reservations: BTreeMap<String, Reservation>,
    no_item: Item,
    no_reservation: Reservation,
}

impl Shelf for Memory {
    fn item(&self, sku: &str) -> &Item {
        self.items.get(sku).unwrap_or(&self.no_item)
    }
    fn reservation(&self, id: &str) -> &Reservation {
        self.reservations.get(id).unwrap_or(&self.no_reservation)
    }
}

impl Memory {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let mut buffer = Vec::new();
            let type_name = change.event.encode(&mut buffer);
            let stored = Event::decode(type_name, &buffer).expect("what was written can be read");
            assert_eq!(stored, change.event);
            match &change.target {
                Target::Item(sku) => self.items.entry(sku.clone()).or_default().evolve(&stored),
                Target::Reservation(id) => self
                    .reservations
                    .entry(id.clone())
                    .or_default()
                    .evolve(&stored),
            }
        }
    }

    /// Decides, asks again with the names it was told, applies; `Ok(true)` if something changed.
    fn run(&mut self, command: &Command) -> Result<bool, Rejection> {
        let command = match (decide(self, command)?, command) {
            (
                Decided::Names(skus),
                Command::Settle {
                    reservation_id,
                    how,
                    ..
                },
            ) => Command::Settle {
                reservation_id: reservation_id.clone(),
                how: *how,
                skus,
            },
            _ => command.clone(),
        };
        match decide(self, &command)? {
            Decided::Names(_) => panic!("named all and is asked again"),
            Decided::Changes(changes) => {
                for change in &changes {
                    assert!(
                        command.targets().contains(&change.target),
                        "{change:?} was not named"
                    );
                }
                self.apply(&changes);
                Ok(!changes.is_empty())
            }
        }
    }
}

fn restock(sku: &str, quantity: u64) -> Command {
    Command::Restock(Restock {
        sku: sku.into(),
        quantity,
        name: "Thing".into(),
        price: Some((250, "EUR".into())),
    })
}

fn reserve(id: &str, lines: &[(&str, u32)]) -> Command {
    Command::Reserve {
        reservation_id: id.into(),
        lines: lines
            .iter()
            .map(|(sku, quantity)| Line {
                sku: (*sku).into(),
                quantity: *quantity,
            })
            .collect(),
        currency: Some("EUR".into()),
        expire_millis: 1_500,
    }
}

fn settle(id: &str, how: Settlement) -> Command {
    Command::Settle {
        reservation_id: id.into(),
        how,
        skus: Vec::new(),
    }
}

fn stocked() -> Memory {
    let mut shelf = Memory::default();
    shelf.run(&restock("cup", 10)).unwrap();
    shelf.run(&restock("bean", 5)).unwrap();
    shelf
}

/// A shelf on which reservation `r` of two cups has the given status.
fn with_status(status: ReservationStatus) -> Memory {
    let mut shelf = stocked();
    let settlements: &[Settlement] = match status {
        ReservationStatus::Absent => return shelf,
        ReservationStatus::Held => &[],
        ReservationStatus::Committed => &[Settlement::Commit],
        ReservationStatus::Released => &[Settlement::Release],
        ReservationStatus::Returned => &[Settlement::Commit, Settlement::Return],
    };
    shelf.run(&reserve("r", &[("cup", 2)])).unwrap();
    for how in settlements {
        shelf.run(&settle("r", *how)).unwrap();
    }
    assert_eq!(shelf.reservation("r").status, status);
    shelf
}

#[test]
fn every_settlement_of_every_status() {
    use ReservationStatus::{Absent, Committed, Held, Released, Returned};
    use Settlement::{Commit, Expire, Release, Return};
    /// How, from where, and whether it changed and to what; or the reason of the refusal.
    type Row = (
        Settlement,
        ReservationStatus,
        Result<(bool, ReservationStatus), &'static str>,
    );
    let table: &[Row] = &[
        (Release, Absent, Ok((false, Absent))),
        (Release, Held, Ok((true, Released))),
        (Release, Committed, Err("RESERVATION_COMMITTED")),
        (Release, Released, Ok((false, Released))),
        (Release, Returned, Ok((false, Returned))),
        (Expire, Absent, Ok((false, Absent))),
        (Expire, Held, Ok((true, Released))),
        (Expire, Committed, Ok((false, Committed))),
        (Expire, Released, Ok((false, Released))),
        (Expire, Returned, Ok((false, Returned))),
        (Commit, Absent, Err("RESERVATION_UNKNOWN")),
        (Commit, Held, Ok((true, Committed))),
        (Commit, Committed, Ok((false, Committed))),
        (Commit, Released, Err("RESERVATION_RELEASED")),
        (Commit, Returned, Ok((false, Returned))),
        (Return, Absent, Err("RESERVATION_UNKNOWN")),
        (Return, Held, Ok((true, Returned))),
        (Return, Committed, Ok((true, Returned))),
        (Return, Released, Ok((false, Released))),
        (Return, Returned, Ok((false, Returned))),
    ];
    assert_eq!(table.len(), 4 * 5);
    for (how, from, expected) in table {
        let mut shelf = with_status(*from);
        let before = shelf.item("cup").clone();
        let result = shelf.run(&settle("r", *how));
        let item = shelf.item("cup");
        assert_eq!(
            item.available + item.reserved + item.committed,
            10,
            "{how:?} of {from:?} loses stock"
        );
        match expected {
            Ok((changed, to)) => {
                assert_eq!(result, Ok(*changed), "{how:?} of {from:?}");
                assert_eq!(shelf.reservation("r").status, *to, "{how:?} of {from:?}");
                let (reserved, committed) = match to {
                    Held => (2, 0),
                    Committed => (0, 2),
                    Absent | Released | Returned => (0, 0),
                };
                assert_eq!(
                    (item.reserved, item.committed),
                    (reserved, committed),
                    "{how:?} of {from:?}"
                );
            }
            Err(reason) => {
                assert_eq!(result.unwrap_err().reason(), *reason, "{how:?} of {from:?}");
                assert_eq!(*item, before, "a refusal changes nothing");
            }
        }
    }
}

#[test]
fn a_reservation_takes_all_lines_or_none() {
    let mut shelf = stocked();
    let before = shelf.items.clone();
    let rejection = shelf
        .run(&reserve("r", &[("cup", 2), ("bean", 6)]))
        .unwrap_err();
    assert_eq!(
        rejection,
        Rejection::InsufficientStock {
            sku: "bean".into(),
            wanted: 6,
            available: 5
        }
    );
    assert_eq!(shelf.items, before);
    assert!(
        shelf
            .run(&reserve("r", &[("cup", 2), ("bean", 5)]))
            .unwrap()
    );
    assert_eq!(shelf.item("bean").available, 0);
    assert_eq!(shelf.item("cup").reserved, 2);
}

#[test]
fn the_same_reservation_again_changes_nothing_and_another_is_refused() {
    let mut shelf = stocked();
    assert!(shelf.run(&reserve("r", &[("cup", 2)])).unwrap());
    assert!(!shelf.run(&reserve("r", &[("cup", 2)])).unwrap());
    let rejection = shelf.run(&reserve("r", &[("cup", 3)])).unwrap_err();
    assert_eq!(rejection.reason(), "RESERVATION_EXISTS");
    shelf.run(&settle("r", Settlement::Release)).unwrap();
    let rejection = shelf.run(&reserve("r", &[("cup", 2)])).unwrap_err();
    assert_eq!(rejection.reason(), "RESERVATION_RELEASED");
}

#[test]
fn bad_lines_are_refused_with_what_is_wrong() {
    let mut shelf = stocked();
    let many: Vec<String> = (0..51).map(|index| format!("sku-{index}")).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|sku| (sku.as_str(), 1)).collect();
    let long = "x".repeat(65);
    for (lines, reason, says) in [
        (&[][..], "INVALID_LINES", "1 to 50 lines"),
        (&many[..], "INVALID_LINES", "not 51"),
        (&[("cup", 0)], "INVALID_LINES", "lines[0].quantity is 0"),
        (
            &[("cup", 1), ("bean", 10_001)],
            "INVALID_LINES",
            "lines[1].quantity is 10001",
        ),
        (
            &[("cup", 1), ("bean", 1), ("cup", 1)],
            "INVALID_LINES",
            "lines[2].sku repeats `cup`",
        ),
        (&[("", 1)], "INVALID_LINES", "lines[0].sku"),
        (&[("a/b", 1)], "INVALID_LINES", "lines[0].sku"),
        (&[(long.as_str(), 1)], "INVALID_LINES", "lines[0].sku"),
        (&[("spoon", 1)], "UNKNOWN_SKU", "`spoon`"),
        (&[("cup", 11)], "INSUFFICIENT_STOCK", "only 10 of `cup`"),
    ] {
        let rejection = shelf.run(&reserve("r", lines)).unwrap_err();
        assert_eq!(rejection.reason(), reason);
        assert!(rejection.to_string().contains(says), "{rejection}");
    }
}

#[test]
fn currencies_do_not_mix() {
    let mut shelf = stocked();
    let mut other = restock("cup", 1);
    if let Command::Restock(restock) = &mut other {
        restock.price = Some((100, "USD".into()));
    }
    assert_eq!(shelf.run(&other).unwrap_err().reason(), "CURRENCY_MISMATCH");
    let mut dollars = reserve("r", &[("cup", 1)]);
    if let Command::Reserve { currency, .. } = &mut dollars {
        *currency = Some("USD".into());
    }
    assert_eq!(
        shelf.run(&dollars).unwrap_err().reason(),
        "CURRENCY_MISMATCH"
    );
    if let Command::Reserve { currency, .. } = &mut dollars {
        *currency = None;
    }
    assert!(shelf.run(&dollars).unwrap());
}

#[test]
fn restocking_is_bounded_and_keeps_what_is_not_given() {
    let mut shelf = Memory::default();
    let bare = |quantity| {
        Command::Restock(Restock {
            sku: "cup".into(),
            quantity,
            name: String::new(),
            price: None,
        })
    };
    let rejection = shelf.run(&bare(1)).unwrap_err();
    assert_eq!(
        rejection,
        Rejection::NewItemIncomplete {
            sku: "cup".into(),
            missing: "unit_price"
        }
    );
    let nameless = Command::Restock(Restock {
        sku: "cup".into(),
        quantity: 1,
        name: String::new(),
        price: Some((1, "EUR".into())),
    });
    let rejection = shelf.run(&nameless).unwrap_err();
    assert_eq!(
        rejection,
        Rejection::NewItemIncomplete {
            sku: "cup".into(),
            missing: "name"
        }
    );

    shelf.run(&restock("cup", 1)).unwrap();
    shelf.run(&bare(MAX_STOCK - 1)).unwrap();
    assert_eq!(shelf.item("cup").available, MAX_STOCK);
    assert_eq!(shelf.item("cup").name, "Thing");
    assert_eq!(shelf.item("cup").price_minor, 250);
    assert_eq!(
        shelf.run(&bare(1)).unwrap_err().reason(),
        "STOCK_LIMIT_EXCEEDED"
    );
    assert_eq!(
        shelf.run(&bare(u64::MAX)).unwrap_err().reason(),
        "STOCK_LIMIT_EXCEEDED"
    );
}

#[test]
fn a_settlement_that_does_not_name_all_items_is_told_them() {
    let mut shelf = stocked();
    shelf
        .run(&reserve("r", &[("cup", 2), ("bean", 1)]))
        .unwrap();
    let partial = Command::Settle {
        reservation_id: "r".into(),
        how: Settlement::Commit,
        skus: vec!["cup".into()],
    };
    assert_eq!(
        decide(&shelf, &partial),
        Ok(Decided::Names(vec!["cup".into(), "bean".into()]))
    );
}

#[test]
fn unknown_and_malformed_events_are_refused() {
    let unknown = Event::decode("shop.inventory.v1.Burnt", &[]).unwrap_err();
    assert!(unknown.to_string().contains("shop.inventory.v1.Burnt"));
    let malformed = Event::decode("shop.inventory.v1.StockReserved", &[0xff]).unwrap_err();
    assert!(matches!(malformed, DecodeError::Malformed { .. }));
}

#[derive(Clone, Debug)]
enum Act {
    Restock(usize, u64),
    Reserve(usize, Vec<(usize, u32)>),
    Settle(usize, Settlement),
}

fn act() -> impl Strategy<Value = Act> {
    let settlement = prop_oneof![
        Just(Settlement::Release),
        Just(Settlement::Expire),
        Just(Settlement::Commit),
        Just(Settlement::Return),
    ];
    prop_oneof![
        1 => (0..3usize, prop_oneof![0..30u64, Just(MAX_STOCK), Just(u64::MAX)]).prop_map(|(sku, n)| Act::Restock(sku, n)),
        4 => (0..6usize, prop::collection::vec((0..3usize, 0..12u32), 0..4)).prop_map(|(id, lines)| Act::Reserve(id, lines)),
        4 => (0..6usize, settlement).prop_map(|(id, how)| Act::Settle(id, how)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is asked in whatever order: nothing is sold twice, nothing leaks, a refusal changes nothing, and the
    /// same command again changes nothing.
    #[test]
    fn stock_is_never_lost_nor_oversold(acts in prop::collection::vec(act(), 1..60)) {
        let mut shelf = Memory::default();
        let mut stocked: BTreeMap<String, u64> = BTreeMap::new();
        for act in acts {
            let command = match &act {
                Act::Restock(sku, quantity) => restock(&format!("sku-{sku}"), *quantity),
                Act::Reserve(id, lines) => {
                    let lines: Vec<(String, u32)> =
                        lines.iter().map(|(sku, n)| (format!("sku-{sku}"), *n)).collect();
                    let lines: Vec<(&str, u32)> = lines.iter().map(|(sku, n)| (sku.as_str(), *n)).collect();
                    reserve(&format!("r-{id}"), &lines)
                }
                Act::Settle(id, how) => settle(&format!("r-{id}"), *how),
            };
            let (items, reservations) = (shelf.items.clone(), shelf.reservations.clone());
            match shelf.run(&command) {
                Ok(_) => {
                    if let Act::Restock(sku, quantity) = act {
                        *stocked.entry(format!("sku-{sku}")).or_default() += quantity;
                    } else {
                        prop_assert_eq!(shelf.run(&command), Ok(false));
                    }
                }
                Err(_) => {
                    prop_assert_eq!(&shelf.items, &items);
                    prop_assert_eq!(&shelf.reservations, &reservations);
                }
            }
            for (sku, item) in &shelf.items {
                let in_status = |status| -> u64 {
                    shelf.reservations.values().filter(|reservation| reservation.status == status)
                        .flat_map(|reservation| &reservation.lines)
                        .filter(|(other, _)| other == sku)
                        .map(|(_, quantity)| u64::from(*quantity)).sum()
                };
                prop_assert_eq!(item.reserved, in_status(ReservationStatus::Held));
                prop_assert_eq!(item.committed, in_status(ReservationStatus::Committed));
                prop_assert_eq!(item.available + item.reserved + item.committed, stocked.get(sku).copied().unwrap_or(0));
            }
        }
    }
}
