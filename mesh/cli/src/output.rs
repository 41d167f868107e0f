//! What commands print: tables for people, canonical protobuf JSON for programs.

use std::io::Write as _;
use std::sync::LazyLock;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use time::OffsetDateTime;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: protobuf's JSON, one document.
    Json,
}

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(sagamesh_api::FILE_DESCRIPTOR_SET).ok());

/// A message in protobuf's JSON. `name` is its full name.
pub(crate) fn json(name: &str, message: &impl Message) -> anyhow::Result<String> {
    let pool = POOL
        .as_ref()
        .context("the contracts in this program cannot be read")?;
    let descriptor = pool
        .get_message_by_name(name)
        .with_context(|| format!("no message {name} in the contracts"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new().skip_default_fields(true);
    let mut serializer = serde_json::Serializer::pretty(Vec::new());
    dynamic.serialize_with_options(&mut serializer, &options)?;
    Ok(String::from_utf8(serializer.into_inner())?)
}

/// A message from protobuf's JSON. `name` is its full name.
pub(crate) fn from_json<M: Message + Default>(name: &str, text: &str) -> anyhow::Result<M> {
    let pool = POOL
        .as_ref()
        .context("the contracts in this program cannot be read")?;
    let descriptor = pool
        .get_message_by_name(name)
        .with_context(|| format!("no message {name} in the contracts"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer)?;
    deserializer.end()?;
    Ok(M::decode(dynamic.encode_to_vec().as_slice())?)
}

/// One message on one line, for streams.
pub(crate) fn json_line(name: &str, message: &impl Message) -> anyhow::Result<String> {
    let value: serde_json::Value = serde_json::from_str(&json(name, message)?)?;
    Ok(value.to_string())
}

/// Prints a line to stdout. A reader that has gone away (`sagamesh saga list | head`) ends the program quietly.
pub(crate) fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// A table without frames.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A table as text without the blanks at the ends of its lines.
pub(crate) fn text(table: &Table) -> String {
    table
        .to_string()
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// An enum value without its prefix, as people write it: `SAGA_STATE_RUNNING` is `RUNNING`.
pub(crate) fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// An amount: `89.00 EUR`.
pub(crate) fn money(amount: Option<&sagamesh_api::shop::v1::Money>) -> String {
    let Some(amount) = amount else {
        return "-".into();
    };
    // Currencies with another number of digits are shown with two all the same: the shop's prices are in cents.
    let sign = if amount.minor_units < 0 { "-" } else { "" };
    let units = amount.minor_units.unsigned_abs();
    format!(
        "{sign}{}.{:02} {}",
        units / 100,
        units % 100,
        amount.currency
    )
}

/// A point in time in UTC, to the second.
pub(crate) fn time(at: Option<&prost_types::Timestamp>) -> String {
    let Some(at) = at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok()) else {
        return "-".into();
    };
    let (date, clock) = (at.date(), at.time());
    format!(
        "{date} {:02}:{:02}:{:02}",
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// A span of milliseconds for people: `84 ms`, `2.35 s`, `3 min 05 s`.
pub(crate) fn span(millis: i64) -> String {
    match millis {
        i64::MIN..1_000 => format!("{} ms", millis.max(0)),
        1_000..120_000 => format!("{}.{:02} s", millis / 1_000, millis % 1_000 / 10),
        120_000..7_200_000 => format!("{} min {:02} s", millis / 60_000, millis % 60_000 / 1_000),
        _ => format!(
            "{} h {:02} min",
            millis / 3_600_000,
            millis % 3_600_000 / 60_000
        ),
    }
}

/// Milliseconds since 1970.
pub(crate) fn millis(at: &prost_types::Timestamp) -> i64 {
    at.seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(at.nanos) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagamesh_api::saga::v1::Saga;
    use sagamesh_api::shop::v1::Money;

    #[test]
    fn json_is_protobufs_own() -> anyhow::Result<()> {
        let saga = Saga {
            saga_id: "a".into(),
            state: 4,
            version: 12,
            ..Default::default()
        };
        let value: serde_json::Value = serde_json::from_str(&json("saga.v1.Saga", &saga)?)?;
        assert_eq!(
            value,
            serde_json::json!({"sagaId": "a", "state": "SAGA_STATE_COMPLETED", "version": "12"})
        );
        Ok(())
    }

    #[test]
    fn amounts_and_spans_read_well() {
        assert_eq!(
            money(Some(&Money {
                minor_units: -105,
                currency: "EUR".into()
            })),
            "-1.05 EUR"
        );
        assert_eq!(
            [84, 2_350, 185_000, 7_260_000].map(span),
            ["84 ms", "2.35 s", "3 min 05 s", "2 h 01 min"]
        );
    }
}
