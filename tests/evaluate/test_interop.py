"""Results in other tools' forms: each is written, can be parsed, and says what results.json says."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from assay.errors import AssayError
from assay.evaluate.evaluate import evaluate
from assay.evaluate.interop import FORMS, write_as
from assay.evaluate.saved import Saved, load_results
from assay.evaluate.suite import Item, Suite
from assay.pairs.schema import Message, answer_text
from assay.score.scorer import Scores
from conftest import turn

NASTY = ("a_b & 50% {x} #1", "c$d^e~f \\g", "h|i\nj")


class Numbers:
    """Scores an answer by the number it begins with."""

    spec = "runs/50%_a&b/checkpoint"
    attributes: tuple[str, ...] = ("reward",)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([float(answer_text(c[-1:]).split()[0]) for c in conversations], dtype=np.float32)
        reasons = {int(i): "no number" for i in np.flatnonzero(np.isnan(values))}
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool), reasons)


def item(name: str, subset: str, scores: Sequence[float], gold: Sequence[float], about: dict[str, Any] | None = None) -> Item:
    return Item(name, subset, [turn("user", f"prompt {name}")], [[turn("assistant", f"{s} {j}")] for j, s in enumerate(scores)], tuple(gold), name, about or {})


def pairs(n: int = 60, ties: bool = False, missing: bool = False, subsets: Sequence[str] = ("easy", "hard")) -> Suite:
    rng = np.random.default_rng(0)
    items = []
    for i in range(n):
        good, bad = rng.normal(size=2) + np.array([0.5, 0])
        if ties and i % 6 == 0:
            bad = good
        if missing and i % 10 == 1:
            bad = float("nan")
        items.append(item(f"p{i}", subsets[i % len(subsets)], [good, bad], [1, 0]))
    return Suite("my_pairs", "pairs", items)


def fours() -> Suite:
    rng = np.random.default_rng(1)
    return Suite("fours", "best-of-n", [item(f"f{i}", "all", rng.normal(size=4), [1, 0, 0, 0]) for i in range(20)])


def rated() -> Suite:
    rng = np.random.default_rng(2)
    return Suite("rated", "ratings", [item(f"r{i}", "all", [rng.normal()], [float("nan")], {"ratings": {"good": float(rng.integers(5)), "long": float(rng.integers(5))}}) for i in range(40)])


def results(folder: Path, *suites: Suite) -> Saved:
    evaluate(Numbers(), suites, folder)
    return load_results(folder)


def strict(text: str) -> Any:
    """JSON as other languages read it: no NaN, no Infinity."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def lines_of(path: Path) -> list[Any]:
    return [strict(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(saved: Saved, form: str, folder: Path) -> list[Path]:
    """What was written, and that it is all that was written."""
    paths = write_as(saved, form, folder)
    assert sorted(paths) == sorted(folder.iterdir())
    return paths


# lm-eval


def test_lm_eval_says_what_the_results_say(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(), fours(), rated())
    record, *samples = written(saved, "lm-eval", tmp_path / "out")
    found = strict(record.read_text())
    assert re.fullmatch(r"results_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.json", record.name)
    assert [re.sub(r"_\d{4}-.*", "", p.name) for p in samples] == ["samples_my_pairs", "samples_fours", "samples_rated"]
    for name, suite in saved.results["suites"].items():
        key = "acc" if suite["share"] else "spearman"
        assert found["results"][name][f"{key},none"] == suite["overall"]["value"]
        assert found["results"][name][f"{key}_stderr,none"] == pytest.approx((suite["overall"]["high"] - suite["overall"]["low"]) / 3.92, rel=1e-4)
        assert found["n-samples"][name] == {"original": suite["items"], "effective": suite["items"]}
        assert found["higher_is_better"][name] == {key: True}
    assert found["results"]["my_pairs_hard"]["acc,none"] == saved.results["suites"]["my_pairs"]["subsets"]["hard"]["value"]
    assert found["results"]["rated_good"]["spearman,none"] == saved.results["suites"]["rated"]["subsets"]["good"]["value"]
    assert found["group_subtasks"] == {"my_pairs": ["my_pairs_easy", "my_pairs_hard"], "fours": [], "rated": ["rated_good", "rated_long"]}
    assert set(found["groups"]) == {"my_pairs", "rated"}
    assert set(found["configs"]) == set(found["versions"]) == set(found["n-shot"]) == set(found["results"])
    assert found["model_name"] == Numbers.spec


def accuracy(saved: Saved, name: str, folder: Path) -> tuple[int, float]:
    samples = lines_of(next(p for p in written(saved, "lm-eval", folder) if p.name.startswith(f"samples_{name}_")))
    assert [s["doc_id"] for s in samples] == list(range(len(samples)))
    return len(samples), float(np.mean([s["acc"] for s in samples]))


def test_the_samples_of_pairs_add_up(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs())
    assert accuracy(saved, "my_pairs", tmp_path / "out") == (60, pytest.approx(saved.results["suites"]["my_pairs"]["overall"]["value"]))


def test_the_samples_of_pairs_with_ties_add_up(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(ties=True))
    assert saved.results["suites"]["my_pairs"]["ties"] == 10
    assert accuracy(saved, "my_pairs", tmp_path / "out") == (60, pytest.approx(saved.results["suites"]["my_pairs"]["overall"]["value"]))


def test_the_samples_of_pairs_without_some_scores_add_up(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(missing=True))
    assert saved.results["suites"]["my_pairs"]["without_score"] == 6
    assert accuracy(saved, "my_pairs", tmp_path / "out") == (60, pytest.approx(saved.results["suites"]["my_pairs"]["overall"]["value"]))


def test_the_samples_of_groups_add_up(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", fours())
    assert accuracy(saved, "fours", tmp_path / "out") == (20, pytest.approx(saved.results["suites"]["fours"]["overall"]["value"]))


def test_a_sample_has_what_its_rule_makes_of_it(tmp_path: Path) -> None:
    """RM-Bench gives parts of a credit; groups without a wrong answer have none; a correlation is of no item."""
    rng = np.random.default_rng(3)
    rm = Suite("rm", "rm-bench", [item(f"m{i}", "chat", rng.normal(size=6), [1, 1, 1, 0, 0, 0]) for i in range(20)])
    some = Suite("some", "best-of-n", [item("a", "all", [1.0, 0.0], [1, 0]), item("b", "all", [1.0, 0.0], [1, 1])])
    saved = results(tmp_path / "run", rm, some, rated())
    assert 0 < saved.results["suites"]["rm"]["overall"]["value"] < 1
    assert accuracy(saved, "rm", tmp_path / "out") == (20, pytest.approx(saved.results["suites"]["rm"]["overall"]["value"]))
    told = {name: [line["acc"] for line in lines_of(next((tmp_path / "out").glob(f"samples_{name}_*")))] for name in ("some", "rated")}
    assert told == {"some": [1.0, None], "rated": [None] * 40}


def test_suites_and_subsets_whose_names_differ_in_signs_are_kept_apart(tmp_path: Path) -> None:
    one, two = Suite("a/b", "pairs", pairs(20, subsets=("x/y", "x_y")).items), Suite("a_b", "pairs", pairs(12).items)
    saved = results(tmp_path / "run", one, two)
    record, *samples = written(saved, "lm-eval", tmp_path / "lm-eval")
    assert [len(lines_of(path)) for path in samples] == [20, 12]
    assert set(strict(record.read_text())["results"]) == {"a/b", "a/b_x_y", "a/b_x_y-2", "a_b", "a_b_easy", "a_b_hard"}
    assert [path.name for path in written(saved, "reward-bench", tmp_path / "reward-bench")] == ["a_b.json", "a_b.jsonl", "a_b-2.json", "a_b-2.jsonl"]


def test_a_sample_holds_its_item(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(missing=True))
    first, second = lines_of(written(saved, "lm-eval", tmp_path / "out")[1])[:2]
    one = saved.suites["my_pairs"].items[0]
    assert first["doc"] == {"id": one.id, "subset": one.subset, "prompt": one.prompt, "answers": one.answers}
    assert first["target"] == [1.0, 0.0]
    assert first["filtered_resps"] == saved.rewards["my_pairs"][0].tolist()
    assert first["resps"] == [[s] for s in first["filtered_resps"]]
    assert second["filtered_resps"][1] is None


# reward-bench


def test_reward_bench_says_what_the_results_say(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(ties=True), fours())
    record, rows = written(saved, "reward-bench", tmp_path / "out")
    assert (record.name, rows.name) == ("my_pairs.json", "my_pairs.jsonl")
    found, lines, suite = strict(record.read_text()), lines_of(rows), saved.results["suites"]["my_pairs"]
    assert found["accuracy"] == pytest.approx(suite["overall"]["value"])
    assert found["num_prompts"] == len(lines) == 60
    assert found["extra_results"] == {"easy": suite["subsets"]["easy"]["value"], "hard": suite["subsets"]["hard"]["value"]}
    assert found["model"] == Numbers.spec
    assert np.mean([line["results"] for line in lines]) == pytest.approx(found["accuracy"])
    for i, line in enumerate(lines):
        assert [line["scores_chosen"], line["scores_rejected"]] == saved.rewards["my_pairs"][i].tolist()
        assert [line["text_chosen"], line["text_rejected"]] == [answer_text(a) for a in saved.suites["my_pairs"].items[i].answers]
        assert line["prompt"] == f"prompt p{i}"


def test_reward_bench_puts_the_better_answer_first(tmp_path: Path) -> None:
    suite = Suite("turned", "judgebench", [item(f"t{i}", "all", [0.0, 1.0], [0, 1]) for i in range(5)])
    record, rows = written(results(tmp_path / "run", suite), "reward-bench", tmp_path / "out")
    assert strict(record.read_text())["accuracy"] == 1
    assert {(line["scores_chosen"], line["scores_rejected"], line["text_chosen"]) for line in lines_of(rows)} == {(1.0, 0.0, "1.0 1")}


def test_reward_bench_of_answers_without_a_score_is_json(tmp_path: Path) -> None:
    _, rows = written(results(tmp_path / "run", pairs(missing=True)), "reward-bench", tmp_path / "out")
    lines = lines_of(rows)
    assert lines[1]["scores_rejected"] is None
    assert lines[1]["results"] == 0


def test_reward_bench_refuses_items_of_more_answers(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", fours(), rated())
    with pytest.raises(AssayError) as caught:
        write_as(saved, "reward-bench", tmp_path / "out")
    assert str(caught.value) == "reward-bench's files are of pairs; fours, rated have items with another number of answers"
    assert not (tmp_path / "out").exists()


# The hub's card, Markdown, LaTeX


def test_the_model_index_says_what_the_results_say(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(), rated())
    (path,) = written(saved, "model-index", tmp_path / "out")
    (card,) = yaml.safe_load(path.read_text(encoding="utf-8"))["model-index"]
    assert card["name"] == "50%_a&b"
    told = {(r["dataset"]["name"], r["metrics"][0]["name"].split(" (95%")[0]): r["metrics"][0] for r in card["results"]}
    suites = saved.results["suites"]
    assert set(told) == {("my_pairs", "overall"), ("my_pairs", "easy"), ("my_pairs", "hard"), ("rated", "overall"), ("rated", "good"), ("rated", "long")}
    assert told["my_pairs", "hard"]["value"] == round(suites["my_pairs"]["subsets"]["hard"]["value"], 4)
    assert (told["my_pairs", "overall"]["type"], told["rated", "overall"]["type"]) == ("accuracy", "spearmanr")
    overall = suites["my_pairs"]["overall"]
    assert f"{overall['low']:.3f} to {overall['high']:.3f}" in told["my_pairs", "overall"]["name"]


def of_the_hub(suite: Suite, hub: list[tuple[str, str]], folder: Path) -> Any:
    """What the model index says the data set is."""
    suite.hub = hub
    (path,) = written(results(folder / "run", suite), "model-index", folder / "out")
    (card,) = yaml.safe_load(path.read_text())["model-index"]
    return card["results"][0]["dataset"]


def chats() -> Suite:
    return Suite("mine", "rewardbench", [item(f"a{i}", "alpacaeval-easy", [1.0, 0.0], [1, 0]) for i in range(6)])


def test_the_model_index_names_published_data(tmp_path: Path) -> None:
    one, two = ("allenai/reward-bench", "filtered"), ("allenai/reward-bench", "raw")
    assert of_the_hub(chats(), [one], tmp_path / "1") == {"name": "mine", "type": "allenai/reward-bench", "split": "filtered"}
    assert of_the_hub(chats(), [one, two], tmp_path / "2") == {"name": "mine", "type": "allenai/reward-bench"}
    assert of_the_hub(chats(), [one, ("allenai/other", "raw")], tmp_path / "3") == {"name": "mine", "type": "mine"}


def test_the_model_index_does_not_take_a_local_file_for_published_data(tmp_path: Path) -> None:
    assert of_the_hub(chats(), [], tmp_path) == {"name": "mine", "type": "mine"}


def test_a_figure_of_nothing_is_null_or_left_out(tmp_path: Path) -> None:
    steps = Suite("solved", "steps", [item(f"s{i}", f"{'ab'[i % 2]}", [float(i), 1.0], [1, 1 - i % 2 * 1.0]) for i in range(12)])
    saved = results(tmp_path / "run", steps)
    saved.results["suites"]["solved"]["subsets"]["empty"] = dict.fromkeys(("value", "low", "high")) | {"items": 0}
    record, *_ = written(saved, "lm-eval", tmp_path / "lm-eval")
    assert strict(record.read_text())["results"]["solved_empty"] == {"alias": " - solved_empty", "acc,none": None, "acc_stderr,none": None}
    (path,) = written(saved, "model-index", tmp_path / "index")
    assert "empty" not in path.read_text()
    assert "first error found" in path.read_text()


def test_markdown_has_a_row_for_every_figure(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(ties=True), rated())
    (path,) = written(saved, "markdown", tmp_path / "out")
    text = path.read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {8}
    assert [row[0] for row in rows] == ["", "---", "overall", "easy", "hard", "", "---", "overall", "good", "long"]
    overall = saved.results["suites"]["my_pairs"]["overall"]
    assert rows[2][1:3] == [f"{100 * overall['value']:.1f}%", f"{100 * overall['low']:.1f}% - {100 * overall['high']:.1f}%"]
    assert rows[2][-2:] == ["60", "10"]
    assert "- in 10 of 60 items a better and a worse answer got the same score" in text.splitlines()


def test_markdown_keeps_its_columns_whatever_a_subset_is_called(tmp_path: Path) -> None:
    (path,) = written(results(tmp_path / "run", pairs(subsets=NASTY)), "markdown", tmp_path / "out")
    rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def tex(folder: Path, suite: Suite) -> str:
    (path,) = written(results(folder / "run", suite), "latex", folder / "out")
    return path.read_text()


def bare(text: str, character: str) -> list[str]:
    """Rows in which a character stands unescaped, comments aside."""
    return [line for line in text.splitlines() if not line.startswith("% ") and re.search(rf"(?<!\\){re.escape(character)}", line)]


@pytest.mark.parametrize("suite", [pairs(), rated(), fours()], ids=lambda suite: suite.name)
def test_latex_is_balanced_and_its_rows_are_whole(suite: Suite, tmp_path: Path) -> None:
    text = tex(tmp_path, suite)
    assert text.count(r"\begin{tabular}{lrrrrrrr}") == text.count(r"\end{tabular}") == 1
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7}
    assert not bare(text, "%")
    without_braces = text.replace(r"\{", "").replace(r"\}", "")
    assert without_braces.count("{") == without_braces.count("}")


def test_latex_says_what_the_results_say(tmp_path: Path) -> None:
    text = tex(tmp_path, pairs())
    overall = json.loads((tmp_path / "run" / "results.json").read_text())["suites"]["my_pairs"]["overall"]
    row = next(line for line in text.splitlines() if line.startswith("overall"))
    assert row.split(" & ")[1:3] == [rf"{100 * overall['value']:.1f}\%", rf"{100 * overall['low']:.1f}\%--{100 * overall['high']:.1f}\%"]


def test_latex_escapes_what_means_something_to_it(tmp_path: Path) -> None:
    text = tex(tmp_path, pairs(subsets=NASTY[:1] * 2 + ("plain",)))
    assert r"a\_b \& 50\% \{x\} \#1" in text
    for character in "%_#$":
        assert not bare(text, character), character


def test_latex_escapes_the_rest_too(tmp_path: Path) -> None:
    r"""``^``, ``~`` and ``\`` in the name of a subset, which TeX would take for an accent, a space or a command."""
    text = tex(tmp_path, pairs(subsets=(NASTY[1], "plain")))
    row = next(line for line in text.splitlines() if line.startswith(r"c\$d"))
    assert not re.search(r"(?<!\\)[~^]", row)
    assert r"\g" not in row


def test_latex_of_a_name_in_lines_stays_a_table(tmp_path: Path) -> None:
    """A new line in the comment that names the suite would end the comment."""
    suite = Suite("two\nlines", "pairs", pairs().items)
    assert all(line.startswith(("\\", "%", "overall", "easy", "hard", " & ")) or not line for line in tex(tmp_path, suite).splitlines())


# Forms


def test_an_unknown_form(tmp_path: Path) -> None:
    saved = results(tmp_path / "run", pairs(10))
    with pytest.raises(AssayError) as caught:
        write_as(saved, "lm_eval", tmp_path)
    assert str(caught.value) == "no form `lm_eval`. Did you mean `lm-eval`? Forms: lm-eval, reward-bench, model-index, markdown, latex"


@pytest.mark.parametrize("form", FORMS)
def test_names_of_suites_stay_in_the_folder(form: str, tmp_path: Path) -> None:
    suite = Suite("../o/é b", "pairs", pairs(12).items)
    for path in written(results(tmp_path / "run", suite), form, tmp_path / "out"):
        assert path.parent == tmp_path / "out"
        assert path.is_file()
