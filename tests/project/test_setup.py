"""One source of versions: pyproject.toml, uv.lock and environment.yml agree; the Makefile does what
README promises."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tomli
import yaml
from conftest import Files

import gluonlm

ROOT = Path(__file__).resolve().parents[2]
PUBLIC_INDEX = {"pypi.org", "files.pythonhosted.org"}
PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)(;.*)?")


def read_toml(name: str) -> dict:
    return tomli.loads((ROOT / name).read_text())


def pins(requirements: list[str]) -> dict[str, str]:
    """{name: version}; fails on a requirement that is not pinned exactly; our own extras are left
    out."""
    matches = {r: PIN.fullmatch(r) for r in requirements if not r.startswith("gluonlm[")}
    assert all(matches.values()), f"not pinned: {[r for r, m in matches.items() if not m]}"
    return {m["name"]: m["version"] for m in matches.values()}


@pytest.fixture(scope="module")
def project() -> dict:
    return read_toml("pyproject.toml")


@pytest.fixture(scope="module")
def locked() -> dict[str, set[str]]:
    """{name: every version that uv.lock holds of it}."""
    versions = {}
    for package in read_toml("uv.lock")["package"]:
        versions.setdefault(package["name"], set()).add(package["version"])
    return versions


@pytest.fixture(scope="module")
def conda_pins() -> dict[str, str]:
    """The pip section of environment.yml."""
    pip_section = (ROOT / "environment.yml").read_text().split("- pip:\n")[1]
    return pins(re.findall(r"^      - (?!-e)(.*\S)$", pip_section, flags=re.MULTILINE))


def test_every_direct_dependency_is_pinned_to_the_locked_version(project, locked):
    extras = project["project"]["optional-dependencies"]
    groups = [*project["dependency-groups"].values(), *extras.values()]
    direct = pins(project["project"]["dependencies"] + [r for group in groups for r in group])
    assert {"numpy", "mxnet", "mxnet-cu112", "pytest", "sphinx"} <= direct.keys()
    assert {name: {version} for name, version in direct.items()} == {
        name: locked[name] for name in direct
    }


def test_the_conda_environment_has_the_gpu_pins_of_the_lock(project, locked, conda_pins):
    assert {name: {version} for name, version in conda_pins.items()} == {
        n: locked[n] for n in conda_pins
    }
    groups, extras = project["dependency-groups"], project["project"]["optional-dependencies"]
    wanted = pins(
        project["project"]["dependencies"]
        + [*groups["cu112"], *groups["dev"], *extras["onnx"], *extras["tensorboard"]]
    )
    assert conda_pins == wanted


def test_the_lock_names_no_host_but_the_public_index():
    hosts = {
        urlsplit(url).hostname
        for url in re.findall(r'"(\w+://[^"]*)"', (ROOT / "uv.lock").read_text())
    }
    assert hosts == PUBLIC_INDEX
    sources = {tuple(package["source"]) for package in read_toml("uv.lock")["package"]}
    assert sources == {("registry",), ("editable",)}


def test_cpu_and_gpu_builds_exclude_each_other_and_cpu_is_the_default(project):
    settings = project["tool"]["uv"]
    assert [{"group": "cpu"}, {"group": "cu112"}] in settings["conflicts"]
    assert "cpu" in settings["default-groups"]
    assert "cu112" not in settings["default-groups"]


def test_the_site_has_an_environment_of_its_own_and_changes_no_other(project, locked):
    assert [{"group": "dev"}, {"group": "docs"}] in project["tool"]["uv"]["conflicts"]
    assert "docs" not in project["tool"]["uv"]["default-groups"]
    assert {version.split(".")[0] for version in locked["markdown-it-py"]} == {"3", "4"}


def test_the_extras_are_the_groups_of_the_same_name(project):
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    assert {name: groups[name] for name in extras} == {n: [f"gluonlm[{n}]"] for n in extras}
    assert pins(extras["cpu"]).keys() == {"mxnet"}


def test_the_version_is_the_same_everywhere(project):
    version = project["project"]["version"]
    assert version == gluonlm.__version__
    assert f"## {version} - " in (ROOT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version


def test_the_wheel_has_all_that_the_package_needs(project, tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("gluonlm-*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    kept = {p for p in (ROOT / "gluonlm").rglob("*") if p.suffix in (".py", ".c", ".h", ".typed")}
    assert {path.relative_to(ROOT).as_posix() for path in kept} <= files
    assert {"gluonlm/py.typed", "gluonlm/model/fo_pool.c"} <= files
    outside = {file for file in files if not file.startswith(("gluonlm/", "gluonlm-"))}
    assert outside == set()
    information = f"gluonlm-{project['project']['version']}.dist-info"
    metadata = zipfile.ZipFile(wheel).read(f"{information}/METADATA").decode()
    assert set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE)) == {
        "cpu",
        "onnx",
        "tensorboard",
    }
    scripts = zipfile.ZipFile(wheel).read(f"{information}/entry_points.txt").decode()
    assert "gluonlm = gluonlm.__main__:main" in scripts


def test_python_is_3_10_everywhere(project):
    assert (ROOT / ".python-version").read_text().strip() == "3.10"
    assert project["project"]["requires-python"] == "==3.10.*"
    assert "- python=3.10\n" in (ROOT / "environment.yml").read_text()
    assert read_toml("uv.lock")["requires-python"] == "==3.10.*"


def test_the_targets_that_the_readme_names_exist():
    targets = set(
        re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    )
    named = set(
        re.findall(
            r"(?:^|`)make ([a-z][\w-]*)", (ROOT / "README.md").read_text(), flags=re.MULTILINE
        )
    )
    assert {"train", "test", "lab"} <= named
    assert named <= targets


def test_ci_builds_the_site_and_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^make docs\nmake test$", script.read_text(), flags=re.MULTILINE)


def test_a_worker_keeps_the_tests_of_a_file_or_a_notebook():
    """Or each would make anew what they share, such as an executed notebook."""
    share = partial(Files._split_scope, None)
    lessons = "tests/course/test_notebooks.py"
    for name in ("test_runs", "test_stored"):
        assert share(f"{lessons}::{name}[06_awd_lstm]") == "06_awd_lstm"
    assert share(f"{lessons}::test_there_are_notebooks") == lessons
    assert share("tests/text/test_austen.py::test_a[x::y]") == "tests/text/test_austen.py"


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def make(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """Run make as typed by hand: without what an outer make passes down."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MXNET", "ARGS"}
    environment = {k: v for k, v in os.environ.items() if k not in outer} | variables
    return subprocess.run(
        [shutil.which("make"), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train", "ARGS=--epochs 3"], "-m gluonlm.train --preset austen --epochs 3"),
        (["test"], "-m ruff check ."),
        (["test"], "-m ruff format --check ."),
        (["test"], "--cov-fail-under=90"),
        (["test", "ARGS=-n 0"], "--cov-fail-under=90 -n 0"),
        (["test", "ARGS=-k a"], "pytest --numprocesses auto --no-loadscope-reorder -rfEs -k a"),
        (["quick"], "-m ruff format --check ."),
        (["quick"], '--quiet -m "not long"'),
        (["size"], "benchmarks/size.py"),
        (["lab"], "-m jupyterlab notebooks/01_language_model.ipynb"),
        (["docs"], "-m sphinx -q -W --keep-going"),
        (
            ["-B", "docs"],
            "sync --locked $managed --no-default-groups --group docs --group onnx --group cpu",
        ),
        (
            ["horovod"],
            "uv pip install --python .venv/bin/python --no-build-isolation horovod==0.28.1",
        ),
        (
            ["-B", "env"],
            "sync --locked $managed --no-default-groups --group dev --group onnx "
            "--group tensorboard --group cpu",
        ),
        (
            ["-B", "env", "MXNET=cu112"],
            "--no-default-groups --group dev --group onnx --group tensorboard --group cu112",
        ),
    ],
)
def test_targets_run_what_they_say(arguments, command, tmp_path):
    for name in ("Makefile", "pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy(ROOT / name, tmp_path)
    shown = make("-n", *arguments, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert command in shown.stdout


SPHINX = """#!/bin/sh
ls docs/_build 2>/dev/null | tr '\\n' ' ' >> built
mkdir -p docs/_build/doctrees docs/_build/html
exit $(cat code)
"""


def test_what_a_broken_build_of_the_site_left_is_made_anew(tmp_path):
    """Before, sphinx warned of what it found after one that was ended, and failed."""
    for name in ("Makefile", "pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / ".venv-docs/bin").mkdir(parents=True)
    python = tmp_path / ".venv-docs/bin/python"
    python.write_text(SPHINX)
    python.chmod(0o755)
    (tmp_path / ".venv-docs/.synced").touch()
    for code in (1, 0, 0):
        (tmp_path / "code").write_text(str(code))
        assert (make("docs", cwd=tmp_path).returncode != 0) == code
    found = (tmp_path / "built").read_text().split()
    assert found == ["doctrees", "html"]  # by the last only


@pytest.fixture
def bare_machine(tmp_path) -> Path:
    """A copy of the set-up files and bin/, the only folder on PATH: a shell, a compiler, no Python
    yet."""
    for name in ("Makefile", "pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "awk", "grep", "rm", "touch", "cat", "mkdir", "chmod"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    add_program(tmp_path, "cc", "exit 0")
    return tmp_path


def add_program(machine: Path, name: str, script: str) -> None:
    (machine / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (machine / "bin" / name).chmod(0o755)


FAKE_UV = """echo "uv $*" >> calls
case "$1" in
  --version) echo "uv VERSION";;
  python) exit 1;;
  sync) mkdir -p "$UV_PROJECT_ENVIRONMENT";;
esac"""
# Debian's python3: no ensurepip, so that the import of it fails; pip puts the fake uv in place.
FAKE_PYTHON = """case "$*" in
  *ensurepip*) exit 1;;
  *"pip install"*) echo "$*" >> calls
    mkdir -p .uv/bin; cat fake-uv > .uv/bin/uv; chmod +x .uv/bin/uv;;
esac"""


def test_a_new_enough_uv_on_path_is_used_and_the_environment_is_built_once(bare_machine):
    add_program(bare_machine, "uv", FAKE_UV.replace("VERSION", "0.8.0"))
    path = str(bare_machine / "bin")
    assert make("env", cwd=bare_machine, PATH=path).returncode == 0
    calls = bare_machine / "calls"
    assert "uv sync --locked" in calls.read_text()
    calls.unlink()
    assert make("env", cwd=bare_machine, PATH=path).returncode == 0
    assert "sync" not in calls.read_text()
    (bare_machine / "uv.lock").touch()
    assert make("env", cwd=bare_machine, PATH=path).returncode == 0
    assert "sync" in calls.read_text()


@pytest.mark.parametrize("code", [0, 1])
def test_building_the_environment_names_no_package_but_every_error(bare_machine, code):
    says = "echo 'Downloading mxnet'; echo ' + mxnet==1.9.1' >&2; echo 'error: no space' >&2"
    failing = FAKE_UV.replace("sync)", f"sync) {says}; [ {code} = 0 ] || exit {code};")
    add_program(bare_machine, "uv", failing.replace("VERSION", "0.8.0"))
    result = make("env", cwd=bare_machine, PATH=str(bare_machine / "bin"))
    assert result.returncode == 2 * code
    assert result.stderr.startswith("Downloading mxnet\nerror: no space\n")
    assert "mxnet==1.9.1" not in result.stdout + result.stderr
    assert (bare_machine / ".venv" / ".synced-cpu").exists() == (code == 0)


def test_the_environment_of_the_site_leaves_the_other_alone(bare_machine):
    add_program(bare_machine, "uv", FAKE_UV.replace("VERSION", "0.8.0"))
    result = make(".venv-docs/.synced", cwd=bare_machine, PATH=str(bare_machine / "bin"))
    assert result.returncode == 0, result.stderr
    assert (bare_machine / ".venv-docs" / ".synced").exists()
    assert not (bare_machine / ".venv").exists()


@pytest.mark.parametrize("old_uv", [True, False])
def test_uv_is_fetched_where_there_is_none_or_an_old_one(bare_machine, old_uv):
    add_program(bare_machine, "python3", FAKE_PYTHON)
    if old_uv:
        add_program(bare_machine, "uv", FAKE_UV.replace("VERSION", "0.7.22"))
    (bare_machine / "fake-uv").write_text("#!/bin/sh\n" + FAKE_UV)
    result = make("env", cwd=bare_machine, PATH=str(bare_machine / "bin"))
    assert result.returncode == 0, result.stderr
    calls = (bare_machine / "calls").read_text()
    assert re.search(
        r"^-m pip install --quiet --target \.uv uv==[\d.]+$", calls, flags=re.MULTILINE
    )
    assert "uv sync --locked --managed-python" in calls


@pytest.mark.parametrize("python", [None, "exit 1"])
def test_says_what_to_install_where_uv_cannot_be_fetched(bare_machine, python):
    if python:
        add_program(bare_machine, "python3", python)
    result = make("env", cwd=bare_machine, PATH=str(bare_machine / "bin"))
    assert result.returncode == 2
    assert result.stderr.startswith(
        "error: no python3 (3.8 or newer) with venv or pip found: install one"
    )


def test_says_that_a_compiler_is_missing(bare_machine):
    add_program(bare_machine, "uv", FAKE_UV.replace("VERSION", "1.0.0"))
    (bare_machine / "bin" / "cc").unlink()
    result = make("env", cwd=bare_machine, PATH=str(bare_machine / "bin"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: no C compiler found: install one")
