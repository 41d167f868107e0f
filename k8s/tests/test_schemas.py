"""Every resource against the schemas of Kubernetes 1.28 to the newest, where unknown fields are errors."""

from functools import cache

import kubernetes_validate
import pytest
from conftest import OVERLAYS, POLICY_GROUPS, load
from kubernetes_validate import utils
from packaging.version import Version

OLDEST = "1.28"
VERSIONS = [".".join(one.split(".")[:2]) for one in utils.all_versions()]
VERSIONS = sorted({one for one in VERSIONS if Version(one) >= Version(OLDEST)}, key=Version)

# It reads the same files for every resource: a minute becomes some seconds.
utils.schema_contents = cache(utils.schema_contents)


@pytest.fixture(scope="module")
def resources():
    """What any overlay has, each once."""
    found = []
    for overlay in OVERLAYS:
        for one in load(overlay).all:
            if not one["apiVersion"].startswith(POLICY_GROUPS) and one not in found:
                found.append(one)
    return found


def test_versions_reach_far_enough():
    assert VERSIONS[0] == OLDEST and len(VERSIONS) >= 10, VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_resources_fit_the_schemas(version, resources):
    for one in resources:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            where = ".".join(str(part) for part in getattr(error, "path", []))
            pytest.fail(f"{one['kind']} {one['metadata']['name']} under Kubernetes {version}: {where}: {error.message}")


def test_a_misspelt_field_is_noticed(resources):
    service = next(one for one in resources if one["kind"] == "Service")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service | {"spec": service["spec"] | {"selectr": {}}}, VERSIONS[-1], strict=True)
