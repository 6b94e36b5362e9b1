"""What a package of an extra that is not installed means: one sentence with the command, and what doctor says of it."""

import ast
import importlib.metadata
import sys
from functools import cache
from pathlib import Path

import pytest

from serm import cli
from serm.cli import extras


@pytest.fixture(scope="module", autouse=True)
def _metadata_read_once():
    with pytest.MonkeyPatch.context() as patched:
        for name in ("packages_distributions", "requires"):
            patched.setattr(importlib.metadata, name, cache(getattr(importlib.metadata, name)))
        yield


def third_party_modules():
    """The top-level modules that SERM imports and Python does not bring."""
    found = set()
    for file in Path(cli.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found |= {name.partition(".")[0] for name in names}
    return found - set(sys.stdlib_module_names) - {"serm", "components", "pipelines"}


def missing(monkeypatch, capsys, module):
    """What the command line says when ``module`` is not installed: nothing but SERM's metadata knows of it."""

    def run():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "app", run)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("extra", sorted(extras.requirements().keys() - {"", "dev"}))
def test_a_missing_package_of_any_extra_is_one_sentence(monkeypatch, capsys, extra):
    distributions = importlib.metadata.packages_distributions()
    brought = extras.requirements()[extra]
    assert brought
    assert "serm" not in brought
    for package in brought:
        modules = [module for module, names in distributions.items() if package in names] or [package]
        monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
        said = [missing(monkeypatch, capsys, module) for module in modules if extras.extra_of(module)]
        assert said, package
        for sentence in said:
            assert sentence.count("\n") == 1
            assert sentence.startswith("Error: ")
            named = sentence.partition("is not installed; run pip install 'serm")[2].removesuffix("'.\n")
            assert package in extras.requirements()[named.strip("[]")]
        monkeypatch.undo()


def test_every_module_that_serm_imports_is_told_when_it_is_missing(monkeypatch, capsys):
    modules = third_party_modules()
    assert {"torch", "yaml", "sklearn", "dvc_data"} < modules
    for module in sorted(modules - {"duckdb", "ibis"}):  # without which nothing starts; pip brings them in any case
        assert f"{module} is not installed; run pip install 'serm" in missing(monkeypatch, capsys, module)


def test_an_extra_brings_what_the_extras_that_it_names_bring():
    brought = extras.requirements()
    assert set(brought["train"]) < set(brought["judge"])
    assert set(brought["pipelines"]) < set(brought["all"])
    assert "torch" not in brought["data"]


def test_doctor_misses_nothing_that_all_does_not_bring(monkeypatch):
    """Its exit code is 0 after ``pip install 'serm[all]'``, without S3's plugin."""
    from importlib import metadata

    from serm.cli import doctor

    brought, version = extras.requirements(), metadata.version

    def found(package):
        if package not in {*brought[""], *brought["all"]}:
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", found)
    assert {check["part"] for check in doctor._packages() if check["state"] == "missing"} == set()


def test_doctor_cuts_no_name_short_in_a_narrow_terminal(monkeypatch, capsys):
    from serm.cli import doctor

    monkeypatch.setenv("COLUMNS", "50")
    fix = "pip install 'serm[serve]'"
    name = "opentelemetry-exporter-otlp-proto-http"
    doctor._show([{"part": name, "for": "serve", "found": "", "state": "missing", "fix": fix}])
    shown = capsys.readouterr().out
    assert "".join(row.split("│")[1].strip() for row in shown.splitlines() if row.startswith("│")) == name
    assert "…" not in shown


def test_doctor_says_how_to_install_what_is_missing(monkeypatch, capsys):
    from serm.cli import doctor

    monkeypatch.setattr(doctor, "requirements", lambda: {"train": ["no-such-package"]})
    (check,) = doctor._packages()
    assert check["state"] == "missing"
    assert check["fix"] == "pip install 'serm[train]'"
    doctor._show([check])
    assert "'serm[train]'" in " ".join(capsys.readouterr().out.split())
