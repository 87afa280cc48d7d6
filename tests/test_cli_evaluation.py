"""The verbs evaluate, compare, results and best-of-n on the command line: exit codes, what is printed and written, and the messages of mistakes."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assay.cli import run_app
from assay.evaluate.saved import load_results
from assay.pairs.schema import Message
from assay.score import scorer as scorers
from assay.score.scorer import Scores

Run = Callable[..., tuple[int, str, str]]


class Counting:
    """The length of an answer, and how many conversations were scored with it."""

    spec = "counting"
    attributes: tuple[str, ...] = ("reward",)
    fingerprint = "0123456789abcdef"
    scored = 0

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        self.scored += len(conversations)
        values = np.array([len(c[-1]["content"]) for c in conversations], dtype=np.float32)
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool))


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASSAY_DEBUG", raising=False)
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line: its exit code, stdout and stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = run_app([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """What every spec loads."""
    one = Counting()
    monkeypatch.setattr(scorers, "load_scorer", lambda spec, **_: one)
    return one


def write(name: str, rows: Sequence[dict[str, Any]]) -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(name: str = "mine.jsonl", n: int = 30, longer: int = 20) -> Path:
    """n pairs, of which the first ``longer`` have the longer answer for the better one."""
    return write(name, [{"prompt": f"question {i}", "chosen": "x" * (9 if i < longer else 2), "rejected": "y" * 5, "subset": "ab"[i % 2]} for i in range(n)])


def ratings() -> Path:
    return write("rated.jsonl", [{"prompt": f"q{i}", "response": "x" * (1 + i * 7 % 20), "helpfulness": i * 7 % 20 % 5} for i in range(30)])


def groups(name: str = "groups.jsonl", prompts: int = 12, column: str = "is_correct", **more: Any) -> Path:
    return write(name, [{"prompt": f"q{i}", "response": "x" * (1 + (i + 3 * j) % 7), column: (i + 3 * j) % 7 > 3, **more} for i in range(prompts) for j in range(6)])


def evaluated(run: Run, folder: str, *suites: Any, scorer: str = "rule:length") -> Path:
    code, _, error = run("evaluate", scorer, *(x for s in suites for x in ("--suite", s)), "-o", folder)
    assert (code, "assay:" in error) == (0, False), error
    return Path(folder)


def refused(found: tuple[int, str, str]) -> str:
    """The message of a mistake, and that it is one line."""
    code, out, error = found
    assert code == 2, (out, error)
    lines = [line for line in error.splitlines() if line.startswith("assay: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0].removeprefix("assay: ")


# evaluate


def test_evaluate_prints_and_writes(run: Run) -> None:
    code, out, _ = run("evaluate", "rule:length", "--suite", pairs(), "--suite", f"rated:ratings={ratings()}", "-o", "out")
    assert code == 0
    assert "mine: rule:length" in out
    assert "rated: rule:length" in out
    assert "66.7%" in out
    assert out.splitlines()[-1] == "results: out/results.html, out/results.json; every item: out/items.parquet"
    assert sorted(p.name for p in Path("out").iterdir()) == ["items.parquet", "manifest.json", "results.html", "results.json"]
    results = json.loads(Path("out/results.json").read_text())
    assert results["suites"]["mine"]["overall"]["value"] == pytest.approx(2 / 3)
    assert results["suites"]["rated"]["rule"] == "ratings"
    assert pl.read_parquet("out/items.parquet")["suite"].unique(maintain_order=True).to_list() == ["mine", "rated"]


def test_evaluate_as_json_is_what_is_written(run: Run) -> None:
    code, out, _ = run("evaluate", "rule:length", "--suite", pairs(), "-o", "out", "--json")
    assert code == 0
    assert json.loads(out) == json.loads(Path("out/results.json").read_text())


def test_evaluate_writes_nothing_unasked(run: Run) -> None:
    data = pairs()
    code, out, _ = run("evaluate", "rule:length", "--suite", data)
    assert code == 0
    assert "results:" not in out
    assert [p.name for p in Path().iterdir()] == [data.name]


def test_progress_goes_to_stderr(run: Run) -> None:
    _, out, _ = run("evaluate", "rule:length", "--suite", pairs(), "--json")
    assert json.loads(out)["scorer"] == "rule:length"


@pytest.mark.parametrize(
    ("spec", "name", "rule"),
    [("mine.jsonl", "mine", "pairs"), ("other=mine.jsonl", "other", "pairs"), ("best-of-n=groups.jsonl", "best-of-n", "best-of-n"), ("g:best-of-n=groups.jsonl", "g", "best-of-n"), ("x:pairs=mine.jsonl", "x", "pairs"), ("mine.yaml", "described", "pairs")],
)
def test_what_a_suite_is_called(spec: str, name: str, rule: str, run: Run) -> None:
    pairs(), groups()
    Path("mine.yaml").write_text("name: described\ndata: mine.jsonl\n")
    code, out, _ = run("evaluate", "rule:length", "--suite", spec, "--json")
    assert code == 0
    assert {n: s["rule"] for n, s in json.loads(out)["suites"].items()} == {name: rule}


def test_rows_that_cannot_be_read_are_counted(run: Run) -> None:
    write("mine.jsonl", [{"prompt": "q", "chosen": "aa", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "a"}])
    code, out, _ = run("evaluate", "rule:length", "--suite", "mine.jsonl", "--json")
    assert code == 0
    suite = json.loads(out)["suites"]["mine"]
    assert (suite["items"], suite["rows_aside"], suite["reasons_aside"]) == (1, 1, {"identical answers": 1})


def test_a_data_root_is_where_hub_data_is_looked_for(run: Run) -> None:
    folder = Path("root/allenai/reward-bench/data")
    folder.mkdir(parents=True)
    rows = [{"id": i, "prompt": f"q{i}", "chosen": "xxx", "rejected": "y", "subset": "alpacaeval-easy", "chosen_model": "m", "rejected_model": "n"} for i in range(5)]
    pl.DataFrame(rows).write_parquet(folder / "filtered-00000-of-00001.parquet")
    code, out, error = run("evaluate", "rule:length", "--suite", "rewardbench", "--data-root", "root", "--json")
    assert code == 0, error
    assert json.loads(out)["suites"]["rewardbench"]["sections"]["Chat"]["value"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "rewardbnch"], "rewardbnch: no such file, and not a published suite. Did you mean `rewardbench`? Published: rewardbench, rewardbench2, rm-bench, judgebench, ppe-preference, ppe-correctness"),
        (["--suite", "x:paris=mine.jsonl"], "x:paris=mine.jsonl: there is no rule `paris`. Did you mean `pairs`? Rules: pairs, best-of-n, rewardbench, rewardbench2, rm-bench, judgebench, ppe-preference, ppe-correctness, rmb, steps, ratings"),
        (["--suite", "rmb"], "rmb: RMB is published in its repository, not on the hub; give the folder with its files, rmb=PATH"),
        (["--suite", "mine.jsonl", "--suite", "mine.jsonl"], "two suites have the same name (mine, mine); give them names with NAME=PATH"),
        (["--suite", "none.yaml"], "none.yaml: no such file"),
        (["--suite", "ratings=mine.jsonl"], "ratings: no item could be read; the first: has no rating: no column attr_NAME holds a number. What the rule `ratings` reads: `assay explain ratings`"),
        (["--suite", "same.jsonl"], "same.jsonl: no row could be read, of 1; most often: identical answers"),
        (["--suite", "empty.jsonl"], "empty.jsonl: the file is empty"),
        (["--suite", "mine.jsonl", "--precision", "fp8"], "precision is `fp8`, expected auto, fp32 or bf16"),
    ],
)
def test_mistakes_of_evaluate(arguments: list[str], message: str, run: Run) -> None:
    pairs()
    write("same.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "a"}])
    Path("empty.jsonl").touch()
    said = refused(run("evaluate", "rule:length", *arguments, "-o", "out"))
    assert said == message
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("rule:lenght", "unknown rule `rule:lenght`. Did you mean `rule:length`? Known: rule:length"),
        ("nowhere", "nowhere: no such folder, and not a hub id or a rule"),
        ("judge:m", "judge:m: expected MODEL@URL, for example judge:my-model@http://localhost:8000/v1"),
        ("mean()", "mean(): expected mean(A,B), min(A,B), mean-0.5(A,B) or weighted(0.7*A,0.3*B) with scorers in the brackets"),
        ("implicit:a", "implicit:a: expected implicit:POLICY,REFERENCE, two causal language models"),
    ],
)
def test_a_scorer_that_is_none(scorer: str, message: str, run: Run) -> None:
    assert refused(run("evaluate", scorer, "--suite", pairs())) == message
    assert refused(run("best-of-n", scorer, groups())) == message


def test_evaluate_needs_a_suite(run: Run) -> None:
    assert "--suite" in refused(run("evaluate", "rule:length"))


def test_a_rule_that_needs_other_subsets_says_so(run: Run) -> None:
    assert "none of the subsets a, b is a RewardBench subset" in refused(run("evaluate", "rule:length", "--suite", f"rewardbench={pairs()}"))


def test_what_cannot_be_measured_is_told_before_the_scoring(run: Run, counting: Counting) -> None:
    ties = write("ties.jsonl", [{"id": "ref:0", "prompt": "q", "subset": "Ties", "chosen": ["xxx"], "rejected": ["y"]}])
    right = write("right.jsonl", [{"prompt": "q", "completions": ["a", "b"], "labels": [True, True]}])
    for spec, message in (
        (f"rewardbench={pairs()}", "none of the subsets a, b is a RewardBench subset"),
        (f"rewardbench2={ties}", "nothing to measure by the rule `rewardbench2`: RewardBench 2 has no item of Factuality, Precise IF, Math, Safety, Focus;"),
        (f"steps={right}", "steps: nothing to measure by the rule `steps`: no item has a right and a wrong answer"),
    ):
        assert message in refused(run("evaluate", "x", "--suite", f"mine={pairs()}", "--suite", spec))
    assert counting.scored == 0


def test_an_output_that_is_a_file(run: Run) -> None:
    Path("out").write_text("in the way")
    refused(run("evaluate", "rule:length", "--suite", pairs(), "-o", "out"))
    assert Path("out").read_text() == "in the way"


def no_figure(name: str) -> Path:
    """Rows of a suite that has figures, and one that it cannot have."""
    if name == "rewardbench2":
        ties = [{"id": "ref:0", "chosen": ["xxx"], "rejected": ["y"]}, {"id": "tied:1", "chosen": ["xxx", "xx"], "rejected": ["y"]}]
        return write(f"{name}.jsonl", [{"id": "1", "prompt": "q", "subset": "Math", "chosen": ["xxx"], "rejected": ["y"]}, *({"prompt": "q", "subset": "Ties", **row} for row in ties)])
    answers = {"prompt": "q", "response_1": "xxx", "response_2": "y"}
    return write(f"{name}.jsonl", [{**answers, "benchmark": "MATH", "scores": [1, 0], "sampled_conflict_pairs": [[0, 1]]}, {**answers, "benchmark": "GPQA", "scores": [1, 1], "sampled_conflict_pairs": []}])


@pytest.mark.parametrize(
    ("rule", "kind", "name", "why"),
    [
        ("rewardbench2", "sections", "Ties", "no prompt of Ties is there in both forms (ref:N and tied:N), so Ties has no figure and does not count in the figure for all"),
        ("ppe-correctness", "subsets", "GPQA, ROC area", "GPQA: no prompt has right and wrong answers, so the set has no ROC area"),
        ("ppe-correctness", "subsets", "GPQA, pairs", "GPQA: no prompt has a published pair of a right and a wrong answer, so the set has no pair accuracy and does not count in the figure for all"),
    ],
)
def test_a_figure_that_there_is_not_is_a_dash_and_a_reason(rule: str, kind: str, name: str, why: str, run: Run) -> None:
    spec = f"{rule}={no_figure(rule)}"
    code, out, error = run("evaluate", "rule:length", "--suite", spec, "-o", "out")
    assert code == 0, error
    assert "nan" not in out
    assert f"NOTE: {why}" in out
    page = Path("out/results.html").read_text()
    assert not re.search(r"\bnan\b|nan%", page)
    assert why in page
    saved = load_results(Path("out")).results["suites"][rule]
    assert np.isnan([saved[kind][name][key] for key in ("value", "low", "high", "length")] + saved[kind][name]["random"]).all()
    assert saved["overall"]["value"] == 1
    _, out, _ = run("evaluate", "rule:length", "--suite", spec, "--json")
    shown = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert shown["suites"][rule][kind][name]["value"] is None


# The cache


def test_scores_are_kept_and_taken(run: Run, counting: Counting) -> None:
    data = pairs()
    assert run("evaluate", "x", "--suite", data)[0] == 0
    assert counting.scored == 60
    assert run("evaluate", "x", "--suite", data)[0] == 0
    assert counting.scored == 60
    pairs("more.jsonl", 32)
    first, second = (json.loads(run("evaluate", "x", "--suite", "mine=more.jsonl", "--json", *more)[1]) for more in ([], ["--no-cache"]))
    assert counting.scored == 60 + 4 + 64
    assert first == second
    assert list(Path("cache/scores/0123456789abcdef").glob("*.parquet"))


def test_without_the_cache_nothing_is_kept(run: Run, counting: Counting) -> None:
    data, several = pairs(), groups()
    for _ in range(2):
        assert run("evaluate", "x", "--suite", data, "--no-cache")[0] == 0
        assert run("best-of-n", "x", several, "--no-cache")[0] == 0
    assert counting.scored == 2 * (60 + 72)
    assert not Path("cache").exists()


def test_best_of_n_takes_what_was_kept(run: Run, counting: Counting) -> None:
    several = groups()
    assert run("best-of-n", "x", several)[0] == 0
    assert run("best-of-n", "x", several)[0] == 0
    assert run("evaluate", "x", "--suite", f"best-of-n={several}")[0] == 0
    assert counting.scored == 72


def test_a_damaged_cache_says_which_folder(run: Run, counting: Counting) -> None:
    data = pairs()
    run("evaluate", "x", "--suite", data)
    for file in Path("cache/scores/0123456789abcdef").glob("*.parquet"):
        file.write_bytes(b"PAR1")
    said = refused(run("evaluate", "x", "--suite", data))
    assert re.search(r"cache/scores/0123456789abcdef: the kept scores cannot be read .*; delete the folder$", said)


# compare


def test_compare_prints_and_writes(run: Run) -> None:
    data = pairs()
    first, second = evaluated(run, "a", data), evaluated(run, "b", data, scorer="weighted(-1*rule:length)")
    code, out, _ = run("compare", first, second, "-o", "out")
    assert code == 0
    assert "mine: 30 items" in out
    assert "-33.3" in out
    assert out.splitlines()[-1] == "comparison: out/comparison.html, with the items that changed"
    assert sorted(p.name for p in Path("out").iterdir()) == ["comparison.html", "comparison.json"]
    code, shown, _ = run("compare", first, second, "--json")
    assert code == 0
    assert json.loads(shown) == json.loads(Path("out/comparison.json").read_text())
    test = json.loads(shown)["suites"]["mine"]["against_first"]["weighted(-1*rule:length)"]["tests"]["overall"]
    assert (test["gained"], test["lost"]) == (10, 20)


def test_compare_says_what_it_leaves_out(run: Run) -> None:
    data, rated = pairs(), f"rated:ratings={ratings()}"
    first, second = evaluated(run, "a", data, rated), evaluated(run, "b", data)
    code, out, _ = run("compare", first, second)
    assert code == 0
    assert "not in all results, so left out: rated" in out


def test_compare_the_same_scorer_twice_names_the_folders(run: Run) -> None:
    data = pairs()
    first, second = evaluated(run, "a", data), evaluated(run, "b", data)
    assert json.loads(run("compare", first, second, "--json")[1])["names"] == ["a", "b"]


def test_mistakes_of_compare(run: Run) -> None:
    data = pairs()
    first, other = evaluated(run, "a", data), evaluated(run, "other", f"else={data}")
    assert refused(run("compare")) == "nothing to compare: give two or more folders of results"
    assert refused(run("compare", first)) == "nothing to compare: give two or more folders of results"
    assert refused(run("compare", first, "nowhere")) == "nowhere: no results.json; give a folder that `assay evaluate -o` wrote"
    assert refused(run("compare", first, other)) == "no suite is in all results; there are mine; else"
    groups("mine2.jsonl")
    turned = evaluated(run, "turned", "mine:best-of-n=mine2.jsonl")
    assert refused(run("compare", first, turned, "-o", "out")) == "mine: measured by the rule pairs in a and by best-of-n in turned"
    assert not Path("out").exists()
    (first / "items.parquet").write_bytes(b"PAR1")
    assert refused(run("compare", first, other)).startswith("a/items.parquet: not a readable Parquet file")


# results


@pytest.mark.parametrize(("form", "names"), [("lm-eval", ["results_T.json", "samples_mine_T.jsonl"]), ("reward-bench", ["mine.json", "mine.jsonl"]), ("model-index", ["model-index.yml"]), ("markdown", ["results.md"]), ("latex", ["results.tex"])])
def test_results_in_every_form(form: str, names: list[str], run: Run) -> None:
    folder = evaluated(run, "a", pairs())
    code, out, _ = run("results", folder, "--as", form, "-o", "out")
    assert code == 0
    written = sorted(Path("out").iterdir())
    assert sorted(out.splitlines()) == [str(p) for p in written]
    assert [re.sub(r"\d{4}-[\dT-]+\d", "T", p.name) for p in written] == names
    assert run("results", folder, "--as", form)[0] == 0
    assert len(list(folder.iterdir())) == 4 + len(names)


def test_mistakes_of_results(run: Run) -> None:
    folder = evaluated(run, "a", pairs())
    assert refused(run("results", folder, "--as", "markdwn")) == "no form `markdwn`. Did you mean `markdown`? Forms: lm-eval, reward-bench, model-index, markdown, latex"
    assert refused(run("results", "nowhere", "--as", "latex")) == "nowhere: no results.json; give a folder that `assay evaluate -o` wrote"
    assert "--as" in refused(run("results", folder))
    several = evaluated(run, "g", f"best-of-n={groups()}")
    assert refused(run("results", several, "--as", "reward-bench")) == "reward-bench's files are of pairs; best-of-n have items with another number of answers"


# best-of-n


def test_best_of_n_prints_and_writes(run: Run) -> None:
    code, out, _ = run("best-of-n", "rule:length", groups(), "-o", "out")
    assert code == 0
    assert "groups: rule:length, 12 prompts" in out
    assert sorted(p.name for p in Path("out").iterdir()) == ["best_of_n.html", "best_of_n.json"]
    code, shown, _ = run("best-of-n", "rule:length", "groups.jsonl", "--json")
    assert code == 0
    found = json.loads(shown)
    assert found == json.loads(Path("out/best_of_n.json").read_text())
    assert (found["scorer"], found["suite"], found["n"], found["answers"]) == ("rule:length", "groups", [1, 2, 3, 4, 6], 72)
    assert found["curves"]["scorer"][-1]["value"] == 1


def test_the_column_of_gold_values(run: Run) -> None:
    data = groups(column="worth", score=0.0)
    assert json.loads(run("best-of-n", "rule:length", data, "--json")[1])["curves"]["oracle"][-1]["value"] == 0
    assert json.loads(run("best-of-n", "rule:length", data, "--gold", "worth", "--json")[1])["curves"]["oracle"][-1]["value"] == 1


def test_a_column_of_gold_values_that_is_not_there(run: Run) -> None:
    """It must not be silently another one."""
    said = refused(run("best-of-n", "rule:length", groups(), "--gold", "wroth"))
    assert "wroth" in said


def test_mistakes_of_best_of_n(run: Run) -> None:
    assert refused(run("best-of-n", "rule:length", "nowhere.jsonl")).startswith("nowhere.jsonl: no such file or folder")
    assert refused(run("best-of-n", "rule:length", groups("none.jsonl", column="other"))).startswith("none: no item could be read; the first: has no gold value")
    alone = write("alone.jsonl", [{"prompt": f"q{i}", "response": "x", "gold": 1} for i in range(3)])
    assert refused(run("best-of-n", "rule:length", alone, "-o", "out")) == "alone: no prompt has two answers; rows of the same prompt are one group"
    assert not Path("out").exists()


@pytest.mark.parametrize("verb", ["evaluate", "compare", "results", "best-of-n"])
def test_help(verb: str, run: Run) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "--output" in out


def test_the_verbs_in_python_give_what_the_command_line_gives(run: Run) -> None:
    import assay
    from assay.evaluate.load import load_suite

    data = pairs()
    shown = json.loads(run("evaluate", "rule:length", "--suite", data, "--json")[1])
    given = assay.evaluate(assay.load_scorer("rule:length"), [load_suite(str(data))])
    assert json.loads(json.dumps(given)) == shown
