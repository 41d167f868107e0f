//! Random bytes, and good inputs that were tampered with, at every place that takes what strangers send. The same functions
//! are called by the fuzzers of `fuzz/`, which look longer and begin with the same inputs.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Fewer than proptest's own 256 where a case is a whole connection.
const CONNECTIONS: u32 = 64;
const TEXTS: u32 = 512;

/// The inputs that a fuzzer begins with.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder);
    let mut paths: Vec<_> = entries
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.map(|entry| entry.path()).expect("an entry"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("a file"))
        .collect()
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, usize),
    Cut(prop::sample::Index),
}

impl Change {
    fn of(&self, input: &mut Vec<u8>) {
        let part = |at: &prop::sample::Index, length: usize, input: &[u8]| {
            let at = at.index(input.len() + 1);
            at..(at + length).min(input.len())
        };
        match self {
            Self::Set(at, byte) => {
                if !input.is_empty() {
                    let at = at.index(input.len());
                    input[at] = *byte;
                }
            }
            Self::Insert(at, bytes) => {
                let at = part(at, 0, input).start;
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(at, length) => drop(input.drain(part(at, *length, input))),
            Self::Repeat(at, length, times) => {
                let range = part(at, *length, input);
                let (end, repeated) = (range.end, input[range].repeat(*times));
                input.splice(end..end, repeated);
            }
            Self::Cut(at) => input.truncate(at.index(input.len() + 1)),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    use any as a;
    type At = prop::sample::Index;
    // Bytes that mean something somewhere: lengths, ends, quotes, brackets.
    let byte = prop_oneof![
        a::<u8>(),
        prop::sample::select(b"\0\x01\x7f\x80\xff\n\r \t\"'{}[]:,.-0&*!|>%#".to_vec()),
    ];
    let bytes = prop::collection::vec(byte.clone(), 0..8);
    prop_oneof![
        (a::<At>(), byte).prop_map(|(at, byte)| Change::Set(at, byte)),
        (a::<At>(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (a::<At>(), 0..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (a::<At>(), 1..40_usize, 1..40_usize)
            .prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        a::<At>().prop_map(Change::Cut),
    ]
}

/// Every input of the corpus as it is, then random bytes and tampered inputs.
fn attack(target: &str, cases: u32, check: impl Fn(&[u8])) {
    let corpus = corpus(target);
    for input in &corpus {
        check(input);
    }
    let tampered = (
        prop::sample::select(corpus),
        prop::collection::vec(change(), 1..8),
    );
    let tampered = tampered.prop_map(|(mut input, changes)| {
        changes.iter().for_each(|change| change.of(&mut input));
        input
    });
    let random = prop::collection::vec(any::<u8>(), 0..200);
    let strategy = prop_oneof![1 => random, 4 => tampered];
    let config = Config {
        cases,
        // Inputs that once failed belong into the corpus, where the fuzzers begin as well.
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |input| {
        check(&input);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{target}: {error}");
    }
}

#[test]
fn a_participant_may_send_anything() {
    attack(
        "participant_stream",
        CONNECTIONS,
        coordinator::testing::participant_stream,
    );
}

#[test]
fn a_definition_may_be_anything() {
    attack("definition", TEXTS, coordinator::testing::definition);
}

#[test]
fn a_policy_file_may_hold_anything() {
    attack("policy_file", TEXTS, |bytes| {
        let told = mesh_control::testing::policy_file(bytes);
        mesh_sidecar::testing::hostile::policies(told.inbound, told.outbound);
    });
}

#[test]
fn a_peer_may_begin_with_anything() {
    attack(
        "transport_header",
        TEXTS,
        mesh_sidecar::testing::hostile::transport_header,
    );
}

#[test]
fn a_connection_may_carry_anything() {
    attack("http", CONNECTIONS, mesh_sidecar::testing::hostile::http);
}

#[test]
fn a_token_may_be_anything() {
    attack("token", TEXTS, gateway::testing::token);
}

#[test]
fn a_body_may_be_anything() {
    attack("rest", TEXTS, gateway::testing::rest);
}
