//! Files into documents, documents into manifests, with the line of every field at hand.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Source;
use super::fault::{Fault, Path, Segment, at};
use super::manifest::Manifest;

/// Most documents in a file.
const MAX_DOCUMENTS: usize = 256;
/// Most events of the parser in a document, and most that aliases may repeat: a short text must not become a long one.
const MAX_EVENTS: usize = 50_000;
const MAX_REPLAYED: usize = 5_000;
/// How deep a document may go. Each level takes up to 40 KiB of a stack of 2 MiB, and a stack that overflows ends the process;
/// the kinds that are understood need ten.
const MAX_DEPTH: usize = 24;

/// A document that was understood as far as its shape goes.
#[derive(Debug)]
pub(super) struct Document {
    file: String,
    lines: Lines,
    pub(super) manifest: Manifest,
}

impl Document {
    /// A fault at this field, or as near to it as the text goes.
    pub(super) fn fault(&self, path: &Path, message: impl Into<String>) -> Fault {
        Fault {
            file: self.file.clone(),
            line: self.lines.of(path),
            field: path.to_string(),
            message: message.into(),
        }
    }
}

/// Every document of a file; what is wrong is added to `faults`.
pub(super) fn documents(source: &Source, faults: &mut Vec<Fault>) -> Vec<Document> {
    let mut read = Vec::new();
    let parts = split(&source.text);
    if parts.len() > MAX_DOCUMENTS {
        faults.push(Fault::of_file(
            &source.file,
            format!("has more than {MAX_DOCUMENTS} documents: split it"),
        ));
        return read;
    }
    for (offset, text) in parts {
        let empty = text
            .strip_prefix("---")
            .unwrap_or(&text)
            .lines()
            .all(|line| {
                let line = line.trim();
                line.is_empty() || line.starts_with('#')
            });
        if empty {
            continue;
        }
        match document(&source.file, offset, &text) {
            Ok(document) => read.push(document),
            Err(fault) => faults.push(fault),
        }
    }
    read
}

/// The documents of a YAML stream and the number of lines before each. `---` at the start of a line always divides.
fn split(text: &str) -> Vec<(u32, String)> {
    let mut parts = vec![(0, String::new())];
    for (number, line) in (0_u32..).zip(text.split_inclusive('\n')) {
        let divides = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if divides {
            parts.push((number, String::new()));
        }
        if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
        }
    }
    parts
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
}

fn document(file: &str, offset: u32, text: &str) -> Result<Document, Fault> {
    let failed = |path: Path, line: u32, message: String| Fault {
        file: file.to_owned(),
        line,
        field: path.to_string(),
        message,
    };
    let root: Spanned<Node> = typed(text)
        .map_err(|(path, line, message)| failed(path, line.saturating_add(offset), message))?;
    let lines = Lines { offset, root };
    let head: Head = typed(text)
        .map_err(|(path, line, message)| failed(path, line.saturating_add(offset), message))?;
    let (Some(api_version), Some(kind)) = (head.api_version, head.kind) else {
        let message = "has no apiVersion and kind: every document must say what it is".to_owned();
        return Err(failed(Path::default(), lines.of(&Path::default()), message));
    };
    let Some(read) = Manifest::reader(&api_version, &kind) else {
        let path = at("kind");
        let message = format!(
            "{api_version} {kind} is not understood here: {}",
            Manifest::KINDS
        );
        return Err(failed(path.clone(), lines.of(&path), message));
    };
    let manifest = read(text).map_err(|(path, line, message)| {
        // The place that the parser names is behind the value; the field's own line says it better.
        let known = lines.of(&path);
        let line = if known > 0 {
            known
        } else {
            line.saturating_add(offset)
        };
        failed(path, line, message)
    })?;
    Ok(Document {
        file: file.to_owned(),
        lines,
        manifest,
    })
}

/// Where and why a document is not of a type.
pub(super) type Misfit = (Path, u32, String);

/// Reads a document as a `T`.
pub(super) fn typed<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Misfit> {
    let mut path = Path::default();
    let read = serde_saphyr::with_deserializer_from_str_with_options(
        text,
        serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! { max_events: MAX_EVENTS, max_nodes: MAX_EVENTS, max_depth: MAX_DEPTH },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED }
        },
        |deserializer| {
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                path = Path::from(error.path());
                error.into_inner()
            })
        },
    );
    read.map_err(|error| {
        let line = error
            .location()
            .and_then(|location| u32::try_from(location.line()).ok())
            .unwrap_or(0);
        (path, line, plain(&error.without_snippet().to_string()))
    })
}

/// The parser's sentence without the place, which is told apart.
fn plain(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].trim_end_matches([',', ':']).to_owned()
}

/// The line of every node of a document.
#[derive(Debug)]
struct Lines {
    offset: u32,
    root: Spanned<Node>,
}

impl Lines {
    /// The line of the field, or of the nearest one around it.
    fn of(&self, path: &Path) -> u32 {
        let mut line = line_of(&self.root);
        let mut node = &self.root.value;
        for segment in path.segments() {
            let next = match (segment, node) {
                (Segment::Key(key), Node::Map(entries)) => entries
                    .iter()
                    .find(|(known, _)| known.value == *key)
                    .map(|(known, value)| (line_of(known), &value.value)),
                (Segment::Index(index), Node::Seq(items)) => {
                    items.get(*index).map(|item| (line_of(item), &item.value))
                }
                _ => None,
            };
            let Some((found, inner)) = next else { break };
            (line, node) = (found, inner);
        }
        line.saturating_add(self.offset)
    }
}

fn line_of<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line()).unwrap_or(0)
}

/// The shape of a document, for its lines alone.
#[derive(Debug)]
enum Node {
    Leaf,
    Seq(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_divided_at_their_marks() {
        let parts = split("a: 1\n---\nb: |\n  --- no\n  text\n--- # third\nc: 1");
        let starts: Vec<u32> = parts.iter().map(|(start, _)| *start).collect();
        assert_eq!(starts, [0, 1, 5]);
    }

    #[test]
    fn lines_of_fields() {
        let text = "a: 1\nb:\n  - c: x\n    d.e/f: y\n  - g\n";
        let root: Spanned<Node> = typed(text).expect("yaml");
        let lines = Lines { offset: 10, root };
        assert_eq!(lines.of(&at("a")), 11);
        assert_eq!(lines.of(&at("b")), 12);
        assert_eq!(lines.of(&at("b").index(0).key("d.e/f")), 14);
        assert_eq!(lines.of(&at("b").index(1)), 15);
        assert_eq!(lines.of(&at("b").index(0).key("missing")), 13);
    }
}
