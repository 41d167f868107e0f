"""Alerts and dashboards ask for metrics that somebody shows."""

import json
import re

import promql_parser
import pytest
import yaml
from conftest import ROOT
from sources import metrics

FOLDER = ROOT / "k8s/components/observability"
ALERTS = yaml.safe_load((FOLDER / "config/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
# What Prometheus adds itself.
OWN = {"up": "gauge"}


def expressions():
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}, {panel['title']}", target["expr"]


def names(expression):
    """The metrics of a PromQL expression: words that are no function, keyword or label."""
    text = promql_parser.parse(expression).prettify()
    text = re.sub(r'"[^"]*"', '""', text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", text)
    words = re.findall(r"\b[a-z]\w*\b(?!\s*\()", text)
    return {word for word in words if word not in ("or", "and", "unless", "by", "bool", "sum", "max", "min", "count")}


def known(name):
    shown = metrics() | OWN
    if name in shown:
        return shown[name] != "histogram"
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return shown.get(base) == "histogram" and base != name


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_metrics_exist(where, expression):
    found = names(expression)
    assert found, f"{where}: no metric in {expression}"
    unknown = {name for name in found if not known(name)}
    assert not unknown, f"{where}: nobody shows {', '.join(unknown)}"


def test_unknown_metrics_are_noticed():
    assert names('sum by (app) (rate(nobody_total{x="y"}[5m])) > 0 or up == 1') == {"nobody_total", "up"}
    assert not known("nobody_total") and not known("ledger_commit_seconds") and known("ledger_commit_seconds_bucket")


def test_alerts_say_what_to_do():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]


def test_values_of_labels_exist():
    source = (ROOT / "services/coordinator/src/meters.rs").read_text()
    for rule in next(group["rules"] for group in ALERTS["groups"] if group["name"] == "sagas"):
        for value in re.findall(r'\b(?:alarm|state)="(\w+)"', rule["expr"]):
            assert f'"{value}"' in source, f"{rule['alert']}: {value}"
