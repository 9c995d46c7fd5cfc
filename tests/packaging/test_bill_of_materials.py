"""The bill of materials is valid, names all that runs with version, licence and hash, and is the same for the same lock."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import cyclonedx.schema
import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from deploy import sbom
from deploy.licences import LicenceUnknown, licence_of

OURS = {"holdfast", "holdfast-verify", "holdfast-sdk"}
_SCHEMAS = Path(cyclonedx.schema.__file__).parent / "_res"


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return sbom.bill()


def _locked() -> dict[str, dict[str, Any]]:
    document = tomllib.loads((sbom.ROOT / "uv.lock").read_text(encoding="utf-8"))
    return {package["name"]: package for package in document["package"]}


def _runtime() -> set[str]:
    """Returns what our distributions need, with all extras, as the lock has it: walked here, not asked of uv."""
    locked = _locked()
    found: set[str] = set()
    left = [(name, True) for name in OURS]
    while left:
        name, extras = left.pop()
        found.add(name)
        package = locked[name]
        groups = package.get("optional-dependencies", {})
        needed = [*package.get("dependencies", ()), *(one for group in groups.values() for one in group if extras)]
        left += [(one["name"], bool(one.get("extra"))) for one in needed if one["name"] not in found]
    return found


def _schema() -> Draft7Validator:
    names = {"bom-1.5": "bom-1.5.schema.json", "spdx": "spdx.schema.json", "jsf-0.82": "jsf-0.82.schema.json"}
    registry: Registry[Any] = Registry()
    for stem, name in names.items():
        contents = json.loads((_SCHEMAS / f"{stem}.SNAPSHOT.schema.json").read_text(encoding="utf-8"))
        resource = Resource.from_contents(contents, default_specification=DRAFT7)
        for address in (
            name,
            f"http://cyclonedx.org/schema/{name}",
            f"http://cyclonedx.org/schema/{stem}.SNAPSHOT.schema.json",
        ):
            registry = registry.with_resource(address, resource)
        if stem == "bom-1.5":
            main = contents
    return Draft7Validator(main, registry=registry)


def test_it_is_valid(bill: dict[str, Any]) -> None:
    assert [error.message for error in _schema().iter_errors(bill)] == []
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")


def test_a_wrong_one_is_noticed(bill: dict[str, Any]) -> None:
    wrong = json.loads(json.dumps(bill))
    wrong["components"][0]["licenses"] = [{"license": {"id": "Mine-1.0"}}]
    assert list(_schema().iter_errors(wrong))


def test_it_names_all_that_runs_and_nothing_that_is_for_development(bill: dict[str, Any]) -> None:
    named = {component["name"] for component in bill["components"]} | {bill["metadata"]["component"]["name"]}
    assert named == _runtime()
    assert not named & {"pytest", "hypothesis", "mypy", "ruff", "mkdocs"}


def test_each_has_version_licence_and_hashes_as_locked(bill: dict[str, Any]) -> None:
    locked = _locked()
    for component in bill["components"]:
        package = locked[component["name"]]
        assert component["version"] == package["version"]
        assert component["licenses"], component["name"]
        if component["name"] in OURS:
            continue
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
        expected = {file["hash"].removeprefix("sha256:") for file in files}
        given = {
            each["content"]
            for reference in component["externalReferences"]
            for each in reference["hashes"]
            if each["alg"] == "SHA-256"
        }
        assert given == expected
        assert given, component["name"]


def test_it_says_who_needs_whom(bill: dict[str, Any]) -> None:
    names = {component["bom-ref"]: component["name"] for component in bill["components"]}
    edges = {
        names.get(one["ref"], "root"): {names[ref] for ref in one.get("dependsOn", ())} for one in bill["dependencies"]
    }
    assert "starlette" in edges["fastapi"]


def test_the_same_lock_gives_the_same_bill(tmp_path: Path) -> None:
    files = [tmp_path / "one" / "a.json", tmp_path / "b.json"]
    for file in files:
        assert sbom.main(["--output", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_package_that_says_nothing_is_no_guess() -> None:
    with pytest.raises(LicenceUnknown, match=r"deploy/licences\.py"):
        licence_of("not-installed-anywhere")
