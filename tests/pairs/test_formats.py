"""Every format Assay reads: how it is recognised and which pairs come out of a small, realistic file of it."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from assay.errors import AssayError
from assay.pairs.formats import FORMATS
from assay.pairs.read import Reading, read
from assay.pairs.schema import COLUMNS, pair_id
from assay.pipeline import read_stage
from assay.recipes.recipe import Source

Row = dict[str, Any]
Turns = list[dict[str, str]]


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_DATA", raising=False)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def bot(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def jsonl(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def datasets_folder(folder: Path, rows: list[Row]) -> Path:
    """What `Dataset.save_to_disk` leaves: an Arrow stream beside two JSON files that describe it."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"prompt": {"dtype": "string", "_type": "Value"}}}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def got(tmp_path: Path, rows: list[Row], expect: str, **options: Any) -> Reading:
    """Read ``rows`` from a file, see that the format is the expected one and that every row is accounted for."""
    path = jsonl(tmp_path / "set.jsonl", rows)
    reading = read(path, **options)
    assert reading.formats == {str(path): expect}
    return counted(reading, len(rows))


def written(tmp_path: Path, name: str, source: Path | None = None) -> Path:
    """What a run writes of ``source`` (by default the rows that ``got`` was given) to the folder ``name``: the path of its pairs."""
    return read_stage([Source(path=str(source or tmp_path / "set.jsonl"), name="set")], tmp_path, tmp_path / name)


def counted(reading: Reading, rows: int) -> Reading:
    assert reading.rows_read == rows
    assert reading.rows_read == reading.rows_used + len(reading.aside)
    assert list(reading.pairs.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert {name: reading.pairs.schema[name] for name in COLUMNS} == COLUMNS
    return reading


def turns(reading: Reading, index: int = 0) -> tuple[Turns, Turns, Turns]:
    row = reading.pairs.row(index, named=True)
    assert row["id"] == pair_id(row["prompt"], row["chosen"], row["rejected"])
    return row["prompt"], row["chosen"], row["rejected"]


def by_prompt(reading: Reading) -> dict[str, Row]:
    return {row["prompt"][-1]["content"]: row for row in reading.pairs.iter_rows(named=True)}


def reasons(reading: Reading) -> list[tuple[int, str]]:
    return sorted((row["row"], row["reason"]) for row in reading.aside)


YES_NO = ([user("Hi?")], [bot("yes")], [bot("no")])

MINIMAL: dict[str, list[Row]] = {
    "nemo-rl": [
        {"context": [user("Hi?")], "completions": [{"rank": 0, "completion": [bot("yes")]}, {"rank": 1, "completion": [bot("no")]}]}
    ],
    "ultrafeedback": [
        {
            "instruction": "Hi?",
            "models": ["alpaca-7b", "gpt-4"],
            "completions": [{"model": "alpaca-7b", "response": "no", "overall_score": 3.0}, {"model": "gpt-4", "response": "yes", "overall_score": 8.5}],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
    ],
    "rewardbench-2": [{"id": "1", "prompt": "Hi?", "chosen": ["yes"], "rejected": ["no"], "models": ["a", "b"], "subset": "Factuality"}],
    "magpie": [
        {
            "uuid": "u-1",
            "instruction": "Hi?",
            "responses": ["yes", "no"],
            "rewards_armorm": [{"score": 0.2, "score_dist": [0.1]}, {"score": 0.1, "score_dist": [0.1]}],
        }
    ],
    "magpie-ultra": [{"instruction": "Hi?", "response": "yes", "response_base": "no"}],
    "preference-strength": [{"prompt": "Hi?", "response_1": "no", "response_2": "yes", "preference_strength": 2}],
    "two-outputs": [{"instruction": "Hi?", "input": "", "output_1": "no", "output_2": "yes", "label": 2}],
    "safety-labels": [
        {"prompt": "Hi?", "response": "yes", "response_refusal_label": "compliance", "prompt_harm_label": "unharmful"},
        {"prompt": "Hi?", "response": "no", "response_refusal_label": "refusal", "prompt_harm_label": "unharmful"},
    ],
    "ms-swift": [{"messages": [user("Hi?"), bot("yes")], "rejected_response": "no"}],
    "llamafactory-sharegpt": [
        {
            "conversations": [{"from": "human", "value": "Hi?"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        }
    ],
    "llamafactory-alpaca": [{"instruction": "Hi?", "input": "", "chosen": "yes", "rejected": "no"}],
    "hh-rlhf": [{"chosen": "\n\nHuman: Hi?\n\nAssistant: yes", "rejected": "\n\nHuman: Hi?\n\nAssistant: no"}],
    "explicit prompt": [{"prompt": "Hi?", "chosen": "yes", "rejected": "no"}],
    "implicit prompt": [{"chosen": [user("Hi?"), bot("yes")], "rejected": [user("Hi?"), bot("no")]}],
    "ratings": [{"prompt": "Hi?", "response": "yes", "helpfulness": 4}, {"prompt": "Hi?", "response": "no", "helpfulness": 1}],
}


def test_every_format_has_a_minimal_file() -> None:
    assert list(MINIMAL) == [f.name for f in FORMATS if f.name != "answers"]  # those need a scorer, see test_pairing.py


@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_file(name: str, tmp_path: Path) -> None:
    reading = got(tmp_path, MINIMAL[name], name)
    assert turns(reading) == YES_NO
    assert reading.pairs["source"].to_list() == ["set"]
    assert reading.rows_used == len(MINIMAL[name])
    assert reading.aside == []


@pytest.mark.parametrize("name", MINIMAL)
def test_format_given_by_name(name: str, tmp_path: Path) -> None:
    assert turns(got(tmp_path, MINIMAL[name], name, strict=True)) == turns(read(tmp_path / "set.jsonl", format=name)) == YES_NO


@pytest.mark.parametrize("kind", ["parquet", "json", "json object", "jsonl.gz", "ndjson", "arrow", "feather", "bom"])
@pytest.mark.parametrize("name", MINIMAL)
def test_every_file_type_gives_the_same_id(name: str, kind: str, tmp_path: Path) -> None:
    rows = MINIMAL[name]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / f"set.{kind}"
    if kind == "parquet":
        parquet(path, rows)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "json object":
        path = tmp_path / "set.json"
        path.write_text(json.dumps({"version": "1.0", "data": rows}))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "arrow":
        path = datasets_folder(tmp_path / "set", rows)
    elif kind == "feather":
        table = pa.Table.from_pylist(rows)
        with ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif kind == "bom":
        path = tmp_path / "set.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    else:
        path.write_text(text)
    reading = counted(read(path), len(rows))
    assert turns(reading) == YES_NO
    assert list(reading.formats.values()) == [name]
    assert reading.pairs["source"].to_list() == ["set"]
    assert reading.pairs["id"].to_list() == [pair_id(*YES_NO)]


def test_id_is_that_of_the_content(tmp_path: Path) -> None:
    ids = {read(jsonl(tmp_path / f"{i}.jsonl", rows)).pairs["id"][0] for i, rows in enumerate(MINIMAL.values())}
    assert ids == {"fc6c6418a4768830e7149922442f0f36"}


# Explicit and implicit prompts.


def test_explicit_prompt_as_messages(tmp_path: Path) -> None:
    prompt = [system("Be short."), user("One?"), bot("1"), user("Two?")]
    reading = got(tmp_path, [{"prompt": prompt, "chosen": [bot("2")], "rejected": "3"}], "explicit prompt")
    assert turns(reading) == (prompt, [bot("2")], [bot("3")])


def test_explicit_prompt_with_whole_conversations(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi?", "prompt_id": "p", "chosen": [user("Hi?"), bot("yes")], "rejected": [user("Hi?"), bot("no")], "score_chosen": 7.5}]
    reading = got(tmp_path, rows, "explicit prompt")
    assert turns(reading) == YES_NO
    assert reading.pairs["score_chosen"].to_list() == [7.5]


def test_explicit_prompt_keeps_what_else_the_row_says(tmp_path: Path) -> None:
    row = {"id": 7, "source": "web", "category": "chat", "subset": "easy", "prompt": "Hi?", "chosen": "yes", "rejected": "no", "margin": "1.5", "topic": "greeting"}
    reading = got(tmp_path, [row], "explicit prompt")
    out = reading.pairs.row(0, named=True)
    wanted = {"source": "web", "category": "chat", "subset": "easy", "margin": 1.5, "topic": "greeting", "source_id": "7", "weight": None}
    assert {key: out[key] for key in wanted} == wanted
    assert out["id"] == pair_id(*YES_NO)


def test_content_in_parts_is_joined(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}]}]
    assert turns(got(tmp_path, [{"prompt": prompt, "chosen": "yes", "rejected": "no"}], "explicit prompt")) == YES_NO


def test_answers_with_a_tool_call(tmp_path: Path) -> None:
    chosen = [bot("let me see"), {"role": "tool", "content": "4"}, bot("four")]
    reading = got(tmp_path, [{"prompt": "2 + 2?", "chosen": chosen, "rejected": "five"}], "explicit prompt")
    assert turns(reading) == ([user("2 + 2?")], chosen, [bot("five")])


def test_implicit_prompt_of_several_turns(tmp_path: Path) -> None:
    start = [user("One?"), bot("1"), user("Two?")]
    rows = [
        {"chosen": [*start, bot("2")], "rejected": [*start, bot("3")], "source": "magpie_ultra"},
        {"chosen": [user("Hi?"), bot("yes")], "rejected": [user("Hi?"), bot("no")], "source": "wildguard"},
    ]
    reading = got(tmp_path, rows, "implicit prompt")
    assert turns(reading, 0) == (start, [bot("2")], [bot("3")])
    assert turns(reading, 1) == YES_NO
    assert reading.pairs["source"].to_list() == ["magpie_ultra", "wildguard"]


def test_implicit_prompt_with_system(tmp_path: Path) -> None:
    start = [system("Be short."), user("Hi?")]
    reading = got(tmp_path, [{"chosen": [*start, bot("yes")], "rejected": [*start, bot("no")]}], "implicit prompt")
    assert turns(reading) == (start, [bot("yes")], [bot("no")])


def test_hh_of_several_turns(tmp_path: Path) -> None:
    start = "\n\nHuman: One?\n\nAssistant: 1\n\nwith a break\n\nHuman: Two?\n\nAssistant: "
    reading = got(tmp_path, [{"chosen": start + "2", "rejected": start + "3"}], "hh-rlhf")
    assert turns(reading) == ([user("One?"), bot("1\n\nwith a break"), user("Two?")], [bot("2")], [bot("3")])


# One rated answer a row.


def helpsteer(prompt: str, response: str, helpfulness: float, **more: Any) -> Row:
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1, **more}


def test_helpsteer2(tmp_path: Path) -> None:
    rows = [
        helpsteer("Better first", "a", 4),
        helpsteer("Better first", "b", 1),
        helpsteer("Better last", "a", 0),
        helpsteer("Better last", "b", 3),
        helpsteer("Tie", "a", 2),
        helpsteer("Tie", "b", 2),
        helpsteer("Alone", "a", 4),
    ]
    reading = got(tmp_path, rows, "ratings", name="helpsteer2")
    found = by_prompt(reading)
    assert list(found) == ["Better first", "Better last"]
    assert [(r["chosen"], r["rejected"], r["margin"]) for r in found.values()] == [([bot("a")], [bot("b")], 3.0), ([bot("b")], [bot("a")], 3.0)]
    assert reading.pairs["source"].to_list() == ["helpsteer2"] * 2
    assert reasons(reading) == [(5, "answers are rated equal"), (6, "answers are rated equal"), (7, "only one answer to its prompt")]
    assert reading.reasons() == {"answers are rated equal": 2, "only one answer to its prompt": 1}


def test_rated_answers_need_not_stand_together(tmp_path: Path) -> None:
    rows = [helpsteer("A", "a", 1), helpsteer("B", "a", 1), helpsteer("A", "b", 2), helpsteer("B", "b", 0), helpsteer("A", "c", 1.5)]
    reading = got(tmp_path, rows, "ratings")
    assert {p: (r["chosen"], r["rejected"]) for p, r in by_prompt(reading).items()} == {"A": ([bot("b")], [bot("a")]), "B": ([bot("a")], [bot("b")])}
    assert reasons(reading) == [(5, "neither the best nor the worst answer to its prompt")]


def test_rated_answers_of_a_prompt_may_lie_in_two_files(tmp_path: Path) -> None:
    jsonl(tmp_path / "set" / "a.jsonl", [helpsteer("A", "a", 1), helpsteer("B", "a", 1)])
    jsonl(tmp_path / "set" / "b.jsonl", [helpsteer("B", "b", 0), helpsteer("A", "b", 2), helpsteer("A", "c", 1.5)])
    reading = counted(read(tmp_path / "set"), 5)
    found = {p: (r["chosen"], r["rejected"], r["margin"], r["source"]) for p, r in by_prompt(reading).items()}
    assert found == {"A": ([bot("b")], [bot("a")], 1.0, "set"), "B": ([bot("a")], [bot("b")], 1.0, "set")}
    assert [(a["file"], a["row"], a["reason"]) for a in reading.aside] == [
        (str(tmp_path / "set" / "b.jsonl"), 3, "neither the best nor the worst answer to its prompt")
    ]


def test_rated_answers_pair_up_beside_files_of_pairs(tmp_path: Path) -> None:
    jsonl(tmp_path / "set" / "a.jsonl", [helpsteer("A", "a", 1)])
    jsonl(tmp_path / "set" / "b.jsonl", MINIMAL["explicit prompt"])
    jsonl(tmp_path / "set" / "c.jsonl", [helpsteer("A", "b", 2)])
    assert set(by_prompt(counted(read(tmp_path / "set"), 3))) == {"A", "Hi?"}


def test_an_unusable_answer_leaves_the_others_of_its_prompt(tmp_path: Path) -> None:
    rows = [helpsteer("A", "", 4), helpsteer("A", "a", 3), helpsteer("A", "b", 1), helpsteer("A", "c", float("nan"))]
    reading = got(tmp_path, rows, "ratings")
    assert turns(reading) == ([user("A")], [bot("a")], [bot("b")])
    assert reasons(reading) == [(1, "response is empty"), (4, "helpfulness is not finite")]


def test_helpsteer_prompt_of_several_turns(tmp_path: Path) -> None:
    prompt = "One?\n<extra_id_1>Assistant\n1\n<extra_id_1>User\nTwo?"
    reading = got(tmp_path, [helpsteer(prompt, "2", 4), helpsteer(prompt, "3", 0)], "ratings")
    assert turns(reading) == ([user("One?"), bot("1"), user("Two?")], [bot("2")], [bot("3")])


def test_helpsteer_prompt_that_ends_with_an_open_turn(tmp_path: Path) -> None:
    prompt = "<extra_id_0>System\nBe short.\n<extra_id_1>User\nHi?\n<extra_id_1>Assistant\n"
    reading = got(tmp_path, [helpsteer(prompt, "yes", 4), helpsteer(prompt, "no", 0)], "ratings")
    assert turns(reading) == ([system("Be short."), user("Hi?")], [bot("yes")], [bot("no")])


@pytest.mark.parametrize("key", ["quality", "attr_quality"])
def test_ratings_by_another_attribute(key: str, tmp_path: Path) -> None:
    rows = [helpsteer("Hi?", "yes", 0, **{key: 5}), helpsteer("Hi?", "no", 4, **{key: "2"})]
    reading = got(tmp_path, rows, "ratings", attribute="quality")
    assert turns(reading) == YES_NO
    assert reading.pairs["margin"].to_list() == [3.0]


def wildguard(prompt: str, response: str | None, harm: str | None, refusal: str | None) -> Row:
    labels = {"response_refusal_label": refusal, "response_harm_label": None, "prompt_harm_label": harm}
    return {"prompt": prompt, "adversarial": True, "response": response, **labels, "subcategory": "cyberattack"}


def test_wildguard(tmp_path: Path) -> None:
    rows = [
        wildguard("Harmful", "Sure!", "harmful", "compliance"),
        wildguard("Harmful", "I can't.", "harmful", "refusal"),
        wildguard("Harmless", "Sure!", "unharmful", "compliance"),
        wildguard("Harmless", "I can't.", "unharmful", "refusal"),
        wildguard("No response", None, "harmful", None),
        wildguard("No label", "Sure!", "harmful", None),
        wildguard("Both comply", "Sure!", "harmful", "compliance"),
        wildguard("Both comply", "Gladly!", "harmful", "compliance"),
    ]
    reading = got(tmp_path, rows, "safety-labels")
    found = by_prompt(reading)
    assert {p: (r["chosen"], r["rejected"]) for p, r in found.items()} == {
        "Harmful": ([bot("I can't.")], [bot("Sure!")]),
        "Harmless": ([bot("Sure!")], [bot("I can't.")]),
    }
    assert all((r["category"], r["adversarial"], r["subcategory"], r["margin"]) == ("safety", True, "cyberattack", 1.0) for r in found.values())
    assert [r["prompt_harm_label"] for r in found.values()] == ["harmful", "unharmful"]
    assert reasons(reading) == [
        (5, "a prompt without a response"),
        (6, "the prompt or the response has no harm or refusal label"),
        (7, "answers are rated equal"),
        (8, "answers are rated equal"),
    ]


# Several answers a row.


def completion(response: str, **score: Any) -> Row:
    return {"model": "m", "response": response, **score}


def test_ultrafeedback_of_four(tmp_path: Path) -> None:
    scores = {"mid": 5.0, "best": 8.5, "also best": 8.5, "worst": 2.0}
    row = {"source": "sharegpt", "instruction": "Hi?", "models": ["m"] * 4, "completions": [completion(r, overall_score=s) for r, s in scores.items()]}
    reading = got(tmp_path, [row], "ultrafeedback")
    assert turns(reading) == ([user("Hi?")], [bot("best")], [bot("worst")])
    assert reading.pairs.select("margin", "source").row(0) == (6.5, "sharegpt")
    assert "models" not in reading.pairs.columns


def test_ultrafeedback_ties_and_single_answers_go_aside(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Tie?", "completions": [completion("a", overall_score=5), completion("b", overall_score=5)]},
        {"instruction": "Alone?", "completions": [completion("a", overall_score=5)]},
        {"instruction": "Hi?", "completions": [completion("no", overall_score=4), completion("yes", overall_score="5")]},
    ]
    reading = got(tmp_path, rows, "ultrafeedback")
    assert turns(reading) == YES_NO
    assert reasons(reading) == [(1, "answers are rated equal"), (2, "only one answer to its prompt")]


@pytest.mark.parametrize("key", ["overall_score", "fine-grained_score", "score", "rating"])
def test_ultrafeedback_score_names(key: str, tmp_path: Path) -> None:
    rows = [{"prompt": "Hi?", "completions": [completion("no", **{key: 1}), completion("yes", **{key: 2.5})]}]
    reading = got(tmp_path, rows, "ultrafeedback")
    assert turns(reading) == YES_NO
    assert reading.pairs["margin"].to_list() == [1.5]


@pytest.mark.parametrize(("ranks", "chosen", "rejected"), [((0, 1), "a", "b"), ((1, 0), "b", "a"), ((2, 1, 3), "b", "c")])
def test_nemo_rl_lower_rank_is_better(ranks: tuple[int, ...], chosen: str, rejected: str, tmp_path: Path) -> None:
    context = [system("Be short."), user("One?"), bot("1"), user("Two?")]
    row = {"context": context, "completions": [{"rank": r, "completion": [bot(a)]} for r, a in zip(ranks, "abc", strict=False)]}
    reading = got(tmp_path, [row], "nemo-rl")
    assert turns(reading) == (context, [bot(chosen)], [bot(rejected)])
    assert reading.pairs["margin"].to_list() == [max(ranks) - min(ranks)]


def magpie(prompt: str, scores: list[float]) -> Row:
    return {
        "uuid": "u",
        "instruction": prompt,
        "responses": [f"answer {i}" for i in range(len(scores))],
        "gen_input_configs": {"temperature": 0.8},
        "task_category": "Math",
        "difficulty": "easy",
        "rewards_armorm": [{"model": "armorm", "score": s, "score_dist": [s]} for s in scores],
        "chosen": "something else",
        "rejected": "that is not looked at",
    }


def test_magpie_scores(tmp_path: Path) -> None:
    reading = got(tmp_path, [magpie("Hi?", [0.25, 0.125, 0.5, 0.25, 0.375]), magpie("Tie?", [0.5, 0.5])], "magpie", name="magpie_air")
    assert turns(reading) == ([user("Hi?")], [bot("answer 2")], [bot("answer 1")])
    row = reading.pairs.row(0, named=True)
    wanted = {"score": 0.3, "score_of_pair": 0.3125, "margin": 0.375, "category": "Math", "source": "magpie_air", "difficulty": "easy", "uuid": "u"}
    assert {key: row[key] for key in wanted} == wanted
    assert "gen_input_configs" not in row
    assert reasons(reading) == [(2, "answers are rated equal")]


def test_magpie_plain_scores(tmp_path: Path) -> None:
    row = {"instruction": "Hi?", "responses": ["no", "yes"], "rewards_armorm": [0.25, 0.75]}
    assert turns(got(tmp_path, [row], "magpie")) == YES_NO


def test_magpie_ultra(tmp_path: Path) -> None:
    row = {"instruction": "Hi?", "response": "yes", "response_base": "no", "score": 0.5, "score_base": 0.25, "primary_tag": "Coding", "quality": "good", "embedding": [0.1]}
    reading = got(tmp_path, [row, {**row, "score_base": None}], "magpie-ultra")
    assert turns(reading) == YES_NO
    assert reading.pairs.select("category", "score", "quality", "margin").rows() == [("Coding", 0.375, "good", None), ("Coding", None, "good", None)]
    assert "embedding" not in reading.pairs.columns


@pytest.mark.parametrize(("key", "label", "chosen"), [("label", 1, "one"), ("label", 2, "two"), ("label", "2", "two"), ("preference", 1, "one")])
def test_two_outputs(key: str, label: Any, chosen: str, tmp_path: Path) -> None:
    rows = [{"instruction": "Do this.", "input": "on that", "output_1": "one", "output_2": "two", key: label}]
    prompt, better, worse = turns(got(tmp_path, rows, "two-outputs"))
    assert prompt == [user("Do this.\n\non that")]
    assert (better, {m["content"] for m in better + worse}) == ([bot(chosen)], {"one", "two"})


# Trainers' own formats.


def test_ms_swift_both_ways(tmp_path: Path) -> None:
    start = [system("Be short."), user("One?"), bot("1"), user("Two?")]
    rows = [
        {"messages": [*start, bot("2")], "rejected_response": "3", "rejected_messages": None},
        {"messages": [*start, bot("2")], "rejected_response": None, "rejected_messages": [*start, bot("3")]},
    ]
    reading = got(tmp_path, rows, "ms-swift")
    assert turns(reading, 0) == turns(reading, 1) == (start, [bot("2")], [bot("3")])
    assert reading.pairs["id"].n_unique() == 1


def test_llamafactory_alpaca_with_history_and_system(tmp_path: Path) -> None:
    row = {"instruction": "Two?", "input": "in digits", "system": "Be short.", "history": [["One?", "1"]], "chosen": "2", "rejected": "3"}
    reading = got(tmp_path, [row], "llamafactory-alpaca")
    assert turns(reading) == ([system("Be short."), user("One?"), bot("1"), user("Two?\nin digits")], [bot("2")], [bot("3")])


def test_llamafactory_sharegpt_of_several_turns(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}, {"from": "human", "value": "Two?"}]
    row = {"conversations": said, "system": "Be short.", "chosen": {"from": "gpt", "value": "2"}, "rejected": {"from": "gpt", "value": "3"}}
    reading = got(tmp_path, [row], "llamafactory-sharegpt")
    assert turns(reading) == ([system("Be short."), user("One?"), bot("1"), user("Two?")], [bot("2")], [bot("3")])


# Benchmarks.


def test_rewardbench_1(tmp_path: Path) -> None:
    row = {"prompt": "Hi?", "chosen": "yes", "chosen_model": "a", "rejected": "no", "rejected_model": "b", "subset": "alpacaeval-easy", "id": 3}
    reading = got(tmp_path, [row], "explicit prompt")
    assert turns(reading) == YES_NO
    assert reading.pairs.select("subset", "source_id", "chosen_model").row(0) == ("alpacaeval-easy", "3", "a")


def test_rewardbench_2(tmp_path: Path) -> None:
    row = {"id": "9", "prompt": "Hi?", "chosen": ["yes"], "rejected": ["no", "nay", "nope"], "num_correct": 1, "models": ["m"] * 4, "subset": "Math"}
    reading = got(tmp_path, [row], "rewardbench-2")
    assert [turns(reading, i) for i in range(3)] == [([user("Hi?")], [bot("yes")], [bot(wrong)]) for wrong in ("no", "nay", "nope")]
    assert reading.pairs["subset"].to_list() == ["Math"] * 3
    assert reading.pairs["id"].n_unique() == 3
    assert (reading.rows_used, reading.pairs.height) == (1, 3)


def test_rewardbench_2_of_several_right_answers(tmp_path: Path) -> None:
    reading = got(tmp_path, [{"prompt": "Hi?", "chosen": ["a", "b"], "rejected": ["c", "d"]}], "rewardbench-2")
    assert [(c[0]["content"], r[0]["content"]) for _, c, r in (turns(reading, i) for i in range(4))] == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]


# Options.


def test_columns_are_renamed_first(tmp_path: Path) -> None:
    rows = [{"question": "Hi?", "good": "yes", "bad": "no", "kind": "chat"}]
    reading = got(tmp_path, rows, "explicit prompt", columns={"question": "prompt", "good": "chosen", "bad": "rejected", "kind": "category"})
    assert turns(reading) == YES_NO
    assert reading.pairs["category"].to_list() == ["chat"]


def test_a_renamed_column_takes_the_place_of_one_of_that_name(tmp_path: Path) -> None:
    for row in ({"question": "Hi?", "prompt": "old"}, {"prompt": "old", "question": "Hi?"}):
        assert turns(got(tmp_path, [{**row, "chosen": "yes", "rejected": "no"}], "explicit prompt", columns={"question": "prompt"})) == YES_NO


def test_columns_can_change_places(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi?", "chosen": "no", "rejected": "yes"}]
    assert turns(got(tmp_path, rows, "explicit prompt", columns={"chosen": "rejected", "rejected": "chosen"})) == YES_NO


def test_a_column_to_be_renamed_may_be_missing_in_some_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi?", "chosen": "yes", "rejected": "no"}, {"question": "Ho?", "chosen": "yes", "rejected": "no"}]
    assert list(by_prompt(got(tmp_path, rows, "explicit prompt", columns={"question": "prompt"}))) == ["Hi?", "Ho?"]


def test_limit(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(5)]
    reading = counted(read(jsonl(tmp_path / "set.jsonl", rows), limit=3), 3)
    assert list(by_prompt(reading)) == ["0?", "1?", "2?"]


def test_limit_spans_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        jsonl(tmp_path / "set" / f"{name}.jsonl", [{"prompt": f"{name}{i}?", "chosen": "yes", "rejected": "no"} for i in range(2)])
    assert list(by_prompt(counted(read(tmp_path / "set", limit=3), 3))) == ["a0?", "a1?", "b0?"]


def test_a_folder_may_hold_files_of_different_formats(tmp_path: Path) -> None:
    for i, rows in enumerate(MINIMAL.values()):
        jsonl(tmp_path / "set" / f"{i:02}.jsonl", rows)
    reading = counted(read(tmp_path / "set"), sum(map(len, MINIMAL.values())))
    assert list(reading.formats.values()) == list(MINIMAL)
    assert reading.pairs["id"].unique().to_list() == [pair_id(*YES_NO)]
    assert set(reading.pairs["source"]) == {"set"}


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_hub_id_in_the_data_root(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets_folder(tmp_path / "root" / "owner" / "name" / "train", MINIMAL["explicit prompt"])
    if way == "environment":
        monkeypatch.setenv("ASSAY_DATA", str(tmp_path / "root"))
    reading = counted(read("owner/name", data_root=tmp_path / "root" if way == "argument" else None), 1)
    assert turns(reading) == YES_NO
    assert reading.pairs["source"].to_list() == ["name"]


COPIES: dict[str, list[str]] = {
    "beside each other": ["train.jsonl", "validation.jsonl"],
    "as the hub names them": ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/validation-00000-of-00001.jsonl"],
    "in folders": ["train/0.jsonl", "validation/0.jsonl"],
    "of several configurations": ["a/train.jsonl", "a/validation.jsonl", "b/train.jsonl", "b/validation.jsonl"],
}


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("name", COPIES)
def test_only_the_split_of_a_copy_is_read(name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in COPIES[name]:
        jsonl(tmp_path / "root" / "owner" / "name" / file, [{"prompt": file, "chosen": "yes", "rejected": "no"}])
    wanted = [file for file in COPIES[name] if split in file]
    reading = counted(read("owner/name", data_root=tmp_path / "root", split=split), len(wanted))
    assert list(by_prompt(reading)) == wanted


def test_split_does_not_matter_where_no_file_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("harmless", "helpful"):
        jsonl(tmp_path / "root" / "owner" / "name" / f"{file}.jsonl", [{"prompt": file, "chosen": "yes", "rejected": "no"}])
    assert list(by_prompt(read("owner/name", data_root=tmp_path / "root", split="test"))) == ["harmless", "helpful"]


def test_split_does_not_matter_in_a_plain_folder(tmp_path: Path) -> None:
    for file in ("train", "test"):
        jsonl(tmp_path / "set" / f"{file}.jsonl", [{"prompt": file, "chosen": "yes", "rejected": "no"}])
    assert list(by_prompt(read(tmp_path / "set"))) == ["test", "train"]


def test_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, config: str | None, split: str) -> list[Row]:
        asked.append((source, config, split))
        return MINIMAL["implicit prompt"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    reading = counted(read("owner/name", split="test", config="small"), 1)
    assert turns(reading) == YES_NO
    assert asked == [("owner/name", "small", "test")]
    assert reading.formats == {"hub:owner/name/test": "implicit prompt"}
    assert reading.pairs["source"].to_list() == ["name"]


def test_tick_counts_rows(tmp_path: Path) -> None:
    seen: list[int] = []
    read(jsonl(tmp_path / "set.jsonl", MINIMAL["explicit prompt"] * 1_001), tick=seen.append)
    assert seen == [500, 1_000]


def test_written_pairs_read_back_the_same(tmp_path: Path) -> None:
    first = got(tmp_path, [magpie("Hi?", [0.25, 0.5]), magpie("Ho?", [0.5, 0.125])], "magpie")
    again = read(written(tmp_path, "out"))
    names = [name for name in first.pairs.columns if name != "source_id"]
    assert again.pairs.select(names).equals(first.pairs.select(names))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == {"rows_read": 2, "rows_used": 2, "rows_aside": 0, "pairs": 2, "reasons": {}, "formats": first.formats, "fingerprint": manifest["fingerprint"]}


@pytest.mark.parametrize("name", MINIMAL)
def test_reading_back_changes_nothing(name: str, tmp_path: Path) -> None:
    extras = {"id": 7, "category": "chat", "topic": {"a": [1]}, "score_of": 1, "margin": 2}
    first = got(tmp_path, [{**row, **extras} for row in MINIMAL[name]], name)
    second = counted(read(written(tmp_path, "one"), strict=True), first.pairs.height)
    assert second.formats == {str(tmp_path / "one" / "pairs.parquet"): "explicit prompt"}
    assert second.pairs.schema == first.pairs.schema
    assert second.pairs.equals(first.pairs)
    assert written(tmp_path, "two", tmp_path / "one" / "pairs.parquet").read_bytes() == (tmp_path / "one" / "pairs.parquet").read_bytes()


@pytest.mark.parametrize("name", MINIMAL)
def test_a_folder_that_was_written_reads_back(name: str, tmp_path: Path) -> None:
    first = got(tmp_path, [*MINIMAL[name], {"prompt": "Hi?"}], name)
    assert len(first.aside) == 1
    written(tmp_path, "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".started", "aside.jsonl", "manifest.json", "pairs.parquet"]
    again = counted(read(tmp_path / "out", strict=True), first.pairs.height)
    assert list(again.formats) == [str(tmp_path / "out" / "pairs.parquet")]
    assert ("source_id" in again.pairs.columns) == ("id" in MINIMAL[name][0])
    assert again.pairs.equals(first.pairs)


@pytest.mark.parametrize("describing", ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json", "set.aside.jsonl", ".cache/old.jsonl"])
@pytest.mark.parametrize("text", ['{"train": 1}', "[]", "not JSON"])
def test_files_that_describe_a_folder_are_not_data(describing: str, text: str, tmp_path: Path) -> None:
    jsonl(tmp_path / "set" / "part.jsonl", MINIMAL["explicit prompt"])
    path = tmp_path / "set" / describing
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert turns(counted(read(tmp_path / "set"), 1)) == YES_NO


def test_huge_integers_in_other_columns_are_set_aside(tmp_path: Path) -> None:
    rows = [{"id": 10**400, "prompt": "Hi?", "chosen": "yes", "rejected": "no", "seed": seed} for seed in (1, 2**63, 10**400)]
    reading = got(tmp_path, rows, "explicit prompt")
    assert reading.pairs["source_id"].to_list() == [str(10**400)]
    assert reading.pairs["seed"].to_list() == [1]
    assert reading.reasons() == {"seed is too large a number": 2}


def test_aside_is_written_with_file_row_reason_and_raw(tmp_path: Path) -> None:
    rows = [*MINIMAL["explicit prompt"], {"prompt": "Hi?", "chosen": "yes", "rejected": "yes"}]
    reading = got(tmp_path, rows, "explicit prompt")
    assert len(reading.aside) == 1
    written(tmp_path, "out")
    (line,) = (tmp_path / "out" / "aside.jsonl").read_text().splitlines()
    assert json.loads(line) == {"file": str(tmp_path / "set.jsonl"), "row": 2, "reason": "identical answers", "raw": json.dumps(rows[1])}


def test_strict_reads_a_good_file(tmp_path: Path) -> None:
    assert turns(got(tmp_path, MINIMAL["explicit prompt"], "explicit prompt", strict=True)) == YES_NO


def test_strict_stops_at_a_tie(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "set.jsonl", [helpsteer("Hi?", "a", 1), helpsteer("Hi?", "b", 1)])
    with pytest.raises(AssayError) as caught:
        read(path, strict=True)
    assert str(caught.value) == f"{path}, row 1: answers are rated equal"
