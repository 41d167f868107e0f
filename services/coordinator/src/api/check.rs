//! Checks of request fields: the same words for the same mistake everywhere.

use std::collections::BTreeMap;

use chassis::{Violations, timestamp};
use sagamesh_api::saga::v1::{SagaFilter, SagaState, Value, value};

const YEARS_10_MILLIS: i64 = 3_650 * 24 * 3_600 * 1_000;
const MAX_FIELDS: usize = 64;
const MAX_ATTRIBUTES: usize = 16;
const MAX_WANTED: usize = 64;

/// Whether `text` has 1 to `most` characters, all of them accepted.
pub(super) fn is_name(text: &str, most: usize, accepts: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(accepts)
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// 1 to 128 characters of [A-Za-z0-9._:-].
pub(super) fn is_saga_id(id: &str) -> bool {
    is_name(id, 128, |byte| {
        byte.is_ascii_alphanumeric() || b"._:-".contains(&byte)
    })
}

/// What an id of a saga must be.
pub(super) const SAGA_ID: &str = "must have 1 to 128 characters of [A-Za-z0-9._:-]";

/// See [`SAGA_ID`].
pub(super) fn saga_id(found: &mut Violations, field: &str, id: &str) {
    if !is_saga_id(id) {
        found.add(field, SAGA_ID);
    }
}

/// 1 to 63 characters of [a-z0-9-].
pub(super) fn name(found: &mut Violations, field: &str, name: &str) {
    if !is_name(name, 63, |byte| lower(byte) || byte == b'-') {
        found.add(field, "must have 1 to 63 characters of [a-z0-9-]");
    }
}

/// A text with a length.
pub(super) fn text(found: &mut Violations, field: &str, text: &str, least: usize, most: usize) {
    let length = text.chars().count();
    if length < least || length > most {
        let wanted = if least == 0 {
            format!("at most {most}")
        } else {
            format!("{least} to {most}")
        };
        found.add(
            field,
            format!("has {length} characters; it must have {wanted}"),
        );
    }
}

/// A duration in milliseconds, if it is set.
pub(super) fn millis(
    found: &mut Violations,
    field: &str,
    duration: Option<&prost_types::Duration>,
    most: Option<i64>,
) -> Option<i64> {
    let millis = timestamp::duration_to_millis(duration?);
    let most = most.unwrap_or(YEARS_10_MILLIS);
    if millis < 1 || millis > most {
        found.add(field, format!("must be from 1 ms to {} s", most / 1000));
    }
    Some(millis)
}

/// Bytes of a value.
pub(super) fn size(value: &Value) -> usize {
    match &value.kind {
        Some(value::Kind::Text(text)) => text.len(),
        Some(value::Kind::Binary(bytes)) => bytes.len(),
        None => 0,
    }
}

/// The input of a saga.
pub(super) fn input(found: &mut Violations, input: &BTreeMap<String, Value>, max_bytes: usize) {
    if input.len() > MAX_FIELDS {
        found.add(
            "input",
            format!(
                "has {} fields; at most {MAX_FIELDS} are accepted",
                input.len()
            ),
        );
    }
    let mut bytes = 0;
    for (field, value) in input {
        if !is_name(field, 63, |byte| lower(byte) || byte == b'_') {
            found.add(
                format!("input[{field:.80?}]"),
                "a field name must have 1 to 63 characters of [a-z0-9_]",
            );
        }
        if value.kind.is_none() {
            found.add(
                format!("input[{field:.80?}]"),
                "is empty: set text or binary",
            );
        }
        bytes += field.len() + size(value);
    }
    if bytes > max_bytes {
        found.add("input", format!("takes {bytes} bytes; at most {max_bytes} are accepted: keep large data elsewhere and pass a reference"));
    }
}

/// Search attributes.
pub(super) fn attributes(
    found: &mut Violations,
    field: &str,
    attributes: &BTreeMap<String, String>,
) {
    if attributes.len() > MAX_ATTRIBUTES {
        found.add(
            field,
            format!(
                "has {} entries; at most {MAX_ATTRIBUTES} are accepted",
                attributes.len()
            ),
        );
    }
    for (key, value) in attributes {
        if !is_name(key, 63, |byte| lower(byte) || byte == b'_') {
            found.add(
                format!("{field}[{key:.80?}]"),
                "a key must have 1 to 63 characters of [a-z0-9_]",
            );
        }
        if value.chars().count() > 256 {
            found.add(
                format!("{field}[{key:.80?}]"),
                "a value must have at most 256 characters",
            );
        }
        if value.chars().any(char::is_control) {
            found.add(
                format!("{field}[{key:.80?}]"),
                "a value must have no control characters",
            );
        }
    }
}

/// A filter of sagas; `required` refuses the empty one.
pub(super) fn filter(found: &mut Violations, filter: &SagaFilter, required: bool) {
    for (field, entries) in [
        ("filter.definitions", filter.definitions.len()),
        ("filter.states", filter.states.len()),
    ] {
        if entries > MAX_WANTED {
            let message = format!("has {entries} entries; at most {MAX_WANTED} are accepted");
            return found.add(field, message);
        }
    }
    for (at, wanted) in filter.definitions.iter().enumerate() {
        name(found, &format!("filter.definitions[{at}]"), wanted);
    }
    for (at, state) in filter.states.iter().enumerate() {
        match SagaState::try_from(*state) {
            Ok(SagaState::Unspecified) | Err(_) => {
                found.add(format!("filter.states[{at}]"), "is not a state of a saga")
            }
            Ok(_) => {}
        }
    }
    attributes(found, "filter.search_attributes", &filter.search_attributes);
    if required && *filter == SagaFilter::default() {
        found.add(
            "filter",
            "is empty: set at least one field, so that not every saga is meant by accident",
        );
    }
}
