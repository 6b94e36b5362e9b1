"""A verb runs at its workspace's root, wherever the user is; what the user typed is relative to the user."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serm.cli.standing import reads, writes
from serm.errors import UserError


def app_of(stands: object) -> typer.Typer:
    app = typer.Typer()

    def verb(given: Path = Path("default"), many: list[Path] = typer.Option([])) -> None:  # noqa: B008
        print(Path.cwd(), given, *many, sep="\n")

    app.command()(stands(verb))
    return app


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name in (".dvc", "deep/er"):
        (tmp_path / "shop" / name).mkdir(parents=True)
    (tmp_path / "shop" / "params.yaml").write_text("cycle: {}\n")
    return tmp_path / "shop"


@pytest.mark.parametrize("stands", [reads, writes])
def test_defaults_are_of_the_root_and_given_paths_of_where_the_user_is(
    stands: object, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shop / "deep" / "er"
    monkeypatch.chdir(here)
    done = CliRunner().invoke(app_of(stands), ["--many", "a", "--many", "/b"], catch_exceptions=False)
    assert done.output.split() == [str(shop), "default", str(here / "a"), "/b"]
    assert Path.cwd() == here


def test_the_option_names_another_workspace(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app_of(reads), ["--workspace", "shop", "--given", "x"], catch_exceptions=False)
    assert done.output.split() == [str(shop), str(tmp_path / "x")]
    with pytest.raises(UserError, match="--workspace nowhere: no such directory"):
        CliRunner().invoke(app_of(reads), ["--workspace", "nowhere"], catch_exceptions=False)


def test_outside_a_workspace_a_verb_runs_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app_of(writes), [], catch_exceptions=False).output.split() == [str(tmp_path), "default"]


def test_only_a_verb_that_writes_waits_for_no_other_writer(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serm.workspace.lock import writing

    monkeypatch.chdir(shop)
    app = typer.Typer()

    @app.command()
    @writes
    def verb() -> None:
        assert CliRunner().invoke(app_of(reads), [], catch_exceptions=False).exit_code == 0

    assert CliRunner().invoke(app, [], catch_exceptions=False).exit_code == 0
    with writing(shop, "another"):
        pass  # it let go of the lock
