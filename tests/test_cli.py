"""The command line: quick to start, no torch in it, exit codes, and no traceback for a user."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay import cli
from assay.cli import run_app
from assay.curate.steps import MODULES
from assay.evaluate.suites import RULES
from assay.recipes.recipe import shipped


def best_time(code: str) -> float:
    """The best of three timings of a fresh interpreter running ``code``, in seconds."""
    best = 9.0
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        best = min(best, time.monotonic() - start)
    return best


def test_import_is_quick_and_pulls_nothing_heavy() -> None:
    assert best_time("import assay") < 1.0
    heavy = "import sys, assay, assay.cli; assay.read, assay.curate; assert not {'torch', 'transformers', 'datasets', 'ray', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", heavy], check=True)


def test_help_is_quick() -> None:
    assert best_time("import sys; from assay.cli import run_app; sys.exit(run_app(['--help']))") < 2.0


def test_the_python_face() -> None:
    import assay

    assert set(assay.__all__) == {"AssayError", "curate", "evaluate", "load_scorer", "read", "reward_fn", "train"}
    for name in assay.__all__:
        assert callable(getattr(assay, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        assay.nothing  # noqa: B018


@pytest.mark.parametrize("topic", [*MODULES, *shipped(), "steps", "formats", "recipes", "recipe", "sources", "train", "evaluate", "scorers", "suites", *RULES, "solution-steps"])
def test_explain(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["explain", topic]) == 0
    assert len(capsys.readouterr().out) > 60


def test_explain_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    from pydantic import BaseModel

    from assay.explain import SECTIONS, field_prose

    models: list[type[BaseModel]] = [*SECTIONS.values(), *(m.Config for m in MODULES.values()), MODULES["select"].Group]
    for model in models:
        described = set().union(*(field_prose(base) for base in model.__mro__ if issubclass(base, BaseModel) and base is not BaseModel))
        assert set(model.model_fields) - {"kind"} <= described, model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "dedupe"], "nothing is called `dedupe`."),
        (["models", "pull", "minilmm"], "no model `minilmm`. Did you mean `minilm`?"),
        (["run", "skywrok"], "skywrok: no such recipe file, and not a shipped recipe. Did you mean `skywork`?"),
        (["why", "nowhere", "abc"], "nowhere: not a finished curation (no manifest.json)."),
        (["doctor", "nowhere"], "nowhere: no such folder"),
        (["evaluate", "rule:length", "--suite", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder, and not a hub id"),
        (["read", "-o", "x.parquet"], "nothing to read"),
        (["read", "a.jsonl", "-o", "x.csv"], "-o x.csv: the pairs are written as Parquet"),
        (["read", "a.jsonl", "-o", "x.parquet", "--columns", "a"], "--columns a: expected OLD=NEW"),
        (["reed"], "Unknown command"),
        (["run"], "requires an argument"),
        (["run", "demo", "--st", "a=1"], "Unknown option"),
    ],
)
def test_mistakes_exit_with_2_and_one_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("assay: ")
    assert message in error
    assert "Traceback" not in error


def test_a_bug_is_one_line_and_an_interrupt_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import assay.explain

    def broken(_: str) -> str:
        raise ZeroDivisionError("division by zero")

    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(assay.explain, "explain", broken)
    assert run_app(["explain", "steps"]) == 1
    assert "this is a bug in Assay (ZeroDivisionError: division by zero)" in capsys.readouterr().err
    monkeypatch.setattr(assay.explain, "explain", interrupted)
    assert run_app(["explain", "steps"]) == 130


@pytest.mark.parametrize(("said", "key"), [("", None), ("secret", "secret")])
def test_an_empty_key_is_no_key(said: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str | None] = []
    monkeypatch.setenv("ASSAY_API_KEY", said)
    monkeypatch.setattr("assay.serve.serve.serve", lambda specs, *, key, **_: given.append(key))
    assert run_app(["serve", "any"]) == 0
    assert given == [key]


def test_read_counts_and_keeps_what_it_sets_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n{"prompt": "q", "chosen": "a", "rejected": "a"}\n')
    out = tmp_path / "pairs.parquet"
    assert run_app(["read", str(data), "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["pairs"] == 1
    assert said["readings"][0]["reasons"] == {"identical answers": 1}
    assert json.loads((tmp_path / "pairs.aside.jsonl").read_text())["row"] == 2
    assert run_app(["read", str(data), "-o", str(out), "--strict"]) == 2
    assert "row 2: identical answers" in capsys.readouterr().err


def test_no_extra_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "assay.score.checkpoint", raising=False)
    monkeypatch.delitem(sys.modules, "assay.model.reward_model", raising=False)
    monkeypatch.delitem(sys.modules, "assay.model.checkpoint", raising=False)
    assert cli.run_app(["evaluate", "somewhere", "--suite", __file__]) == 2
    capsys.readouterr()
    from assay.errors import MissingExtra
    from assay.score.scorer import load_scorer

    with pytest.raises(MissingExtra, match=r'pip install "assay\[train\]"'):
        load_scorer("somewhere")
