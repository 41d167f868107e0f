"""What the binaries take, read from their sources."""

import re
from functools import cache
from typing import NamedTuple

from conftest import ROOT

CHASSIS = ROOT / "services/chassis/src/config.rs"
LEDGER = ROOT / "services/ledger/src/config.rs"


class Variable(NamedTuple):
    """A variable that a binary reads, and its default."""

    name: str
    default: str | None


def attributes(text):
    """The bodies of `#[arg(...)]`, by counting parentheses."""
    for start in (match.end() for match in re.finditer(r"#\[arg\(", text)):
        depth, at = 1, start
        while depth:
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        yield text[start : at - 1]


def variables_of(path):
    found = {}
    for body in attributes(path.read_text()):
        name = re.search(r'\benv = "(\w+)"', body)
        default = re.search(r'\bdefault_value(?:_t)? = (?:"([^"]*)"|([\w:]+))', body)
        if name:
            found[name[1]] = Variable(name[1], default and (default[1] if default[1] is not None else default[2]))
    return found


def own_source(service):
    """The file with the service's `Config`."""
    folder = ROOT / "services" / service / "src"
    found = [path for path in (folder / "config.rs", folder / "lib.rs") if path.exists() and "clap::Parser" in path.read_text()]
    assert len(found) == 1, f"where is the configuration of {service}? {found}"
    return found[0]


@cache
def variables(service):
    """Name to variable: the chassis's, those of its log if it has one, its own."""
    own = own_source(service)
    has_log = "StoreConfig" in own.read_text()
    return variables_of(CHASSIS) | (variables_of(LEDGER) if has_log else {}) | variables_of(own)


def seconds(text):
    """The binaries' times: 250ms, 5s, 2m."""
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


@cache
def metrics():
    """Name to type of what the services and, by its own list, the mesh's proxy show."""
    found = {}
    for path in sorted((ROOT / "services").glob("*/src/**/*.rs")):
        text = path.read_text()
        for kind, name in re.findall(r'\b(counter|gauge|histogram)!\(\s*"(\w+)"', text):
            found[name] = kind
        for kind, prefix, suffix in re.findall(r'\b(counter|gauge|histogram)!\(\s*format!\("(\w+_)\{side\}(_\w+)"', text):
            found |= {f"{prefix}{side}{suffix}": kind for side in ("server", "client")}
        # `let gauge = |name| metrics::gauge!(name, ...)`, and its uses.
        for kind in re.findall(r"\b(counter|gauge|histogram)!\(name,", text):
            found |= {name: kind for name in re.findall(rf'\b{kind}\("(\w+)"\)', text)}
        for name, kind in re.findall(r'"(process_\w+)",\s*"(gauge|counter)"', text):
            found[name] = kind
    for line in (ROOT / "mesh/sidecar/tests/mesh/metrics.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            found[line.split()[0]] = line.split()[1]
    return found


def constant(path, name):
    """A number that a source defines."""
    return int(re.search(rf"const {name}: u32 = (\d+);", (ROOT / path).read_text())[1])
