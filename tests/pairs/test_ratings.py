"""Rated answers as HelpSteer2 has them, with every row that cannot be read named; and pairs that say by how much an answer is better."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.errors import AssayError
from assay.pairs.formats import recognise
from assay.pairs.ratings import read_ratings
from assay.pairs.read import read
from assay.pairs.schema import MESSAGES, prompt_id

NAMES = ["helpfulness", "verbosity"]


def written(tmp_path: Path, rows: Sequence[dict[str, Any] | str], name: str = "rows.jsonl") -> Path:
    """Rows as a file of JSON lines; a text stands as it is."""
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def rated(prompt: Any = "q", response: Any = "a", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "helpfulness": 3, "verbosity": 1, **more}


def reasons(aside: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(row["row"], row["reason"]) for row in aside]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_a_helpsteer_file_becomes_a_table(tmp_path: Path) -> None:
    turns = "Hello.\n\n<extra_id_1>Assistant\nHi! How can I help?\n\n<extra_id_1>User\nWhat is 2 + 2?"
    rows = [{"prompt": "What is 1 + 1?", "response": "Two.", "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 0}, {"prompt": turns, "response": "Four.\n", "helpfulness": 2.5, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}]
    table, aside = read_ratings(written(tmp_path, rows), ["helpfulness", "correctness", "coherence", "complexity", "verbosity"])
    assert aside == []
    assert table.columns == ["id", "prompt_id", "source", "prompt", "response", "weight", "attr_helpfulness", "attr_correctness", "attr_coherence", "attr_complexity", "attr_verbosity"]
    assert table["prompt"].to_list() == [[turn("user", "What is 1 + 1?")], [turn("user", "Hello."), turn("assistant", "Hi! How can I help?"), turn("user", "What is 2 + 2?")]]
    assert table["response"].to_list() == [[turn("assistant", "Two.")], [turn("assistant", "Four.\n")]]
    assert table["attr_helpfulness"].to_list() == [4.0, 2.5]
    assert table["attr_verbosity"].to_list() == [0.0, 2.0]
    assert table["source"].to_list() == ["rows", "rows"]
    assert table["weight"].to_list() == [None, None]
    assert table["prompt_id"].to_list() == [prompt_id(p) for p in table["prompt"]]
    assert table.schema["prompt"] == table.schema["response"] == MESSAGES
    assert table.schema["weight"] == pl.Float32
    assert table.schema["attr_helpfulness"] == pl.Float64


def test_ratings_may_be_called_attr(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": "a", "attr_helpfulness": 1, "attr_verbosity": "2.5"}, {"prompt": "q", "response": "b", "helpfulness": 3, "attr_helpfulness": 0, "attr_verbosity": None, "verbosity": None}]
    table, aside = read_ratings(written(tmp_path, rows), NAMES)
    assert table.select("attr_helpfulness", "attr_verbosity").rows() == [(1.0, 2.5), (3.0, None)]
    assert aside == []


def test_a_missing_rating_is_null_and_a_row_with_none_is_set_aside(tmp_path: Path) -> None:
    rows = [rated(verbosity=None), {"prompt": "q", "response": "b", "verbosity": 4}, '{"prompt": "q", "response": "c", "helpfulness": NaN, "verbosity": 2}', rated(response="d", helpfulness=None, verbosity=None), {"prompt": "q", "response": "e"}]
    table, aside = read_ratings(written(tmp_path, rows), NAMES)
    assert table.select("attr_helpfulness", "attr_verbosity").rows() == [(3.0, None), (None, 4.0), (None, 2.0)]
    assert reasons(aside) == [(4, "not rated: helpfulness, verbosity"), (5, "not rated: helpfulness, verbosity")]


def test_what_cannot_be_read_is_set_aside_with_its_reason(tmp_path: Path) -> None:
    rows: list[tuple[dict[str, Any] | str, str]] = [
        ({"prompt": "q", "helpfulness": 3}, "response is null, expected text"),
        (rated(response=""), "response is empty"),
        (rated(prompt=None), "prompt is null, expected text"),
        (rated(prompt=" "), "the prompt is empty"),
        (rated(prompt="a<extra_id_1>Assistant\nb"), "broken roles: the last turn of the prompt is the assistant's"),
        (rated(prompt=[turn("user", "a"), turn("user", "b")]), "broken roles: two user turns in a row at position 2 of the prompt"),
        (rated(helpfulness="good"), "helpfulness is not a number"),
        (rated(helpfulness=True), "helpfulness is not a number"),
        (rated(helpfulness=[1]), "helpfulness is not a number"),
        ('{"prompt": "q", "response": "a", "helpfulness": Infinity}', "helpfulness is not finite"),
        (rated(weight="much"), "weight is not a number"),
        (rated(response=[turn("user", "a")]), "broken roles: response contains a turn of the user"),
        ("not json", "not JSON (Expecting value, column 1)"),
        ("[1]", "not an object but a list"),
    ]
    path = written(tmp_path, [rated(), *(row for row, _ in rows), rated(response="b")])
    table, aside = read_ratings(path, NAMES)
    assert table.height == 2
    assert reasons(aside) == [(i, reason) for i, (_, reason) in enumerate(rows, start=2)]
    assert {row["file"] for row in aside} == {str(path)}
    assert aside[12]["raw"] == "not json"


def test_an_unknown_attribute_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, [{"prompt": "q", "response": "a", "helpfulness": 3, "attr_verbosity": 1}])
    with pytest.raises(AssayError, match=r"rows\.jsonl: no row has a rating `helpfullness`\. Did you mean `helpfulness`\? Columns: prompt, response, helpfulness, attr_verbosity$"):
        read_ratings(path, ["helpfulness", "helpfullness"])
    with pytest.raises(AssayError, match=r"no row has a rating `verbosty`\. Did you mean `verbosity`\?"):
        read_ratings(path, ["verbosty"])
    with pytest.raises(AssayError, match=r"no row has a rating `xyz`\. Columns: prompt"):
        read_ratings(path, ["xyz"])


def test_a_column_that_is_there_but_nowhere_filled_is_read(tmp_path: Path) -> None:
    table, _ = read_ratings(written(tmp_path, [rated(coherence=None)]), [*NAMES, "coherence"])
    assert table["attr_coherence"].to_list() == [None]
    assert table.schema["attr_coherence"] == pl.Float64


def test_a_file_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no row could be read, of 2; the first: not rated: helpfulness"):
        read_ratings(written(tmp_path, [{"prompt": "q", "response": "a", "helpfulness": None}] * 2), ["helpfulness"])
    with pytest.raises(AssayError, match="no row has a rating `helpfulness`"):
        read_ratings(written(tmp_path, ["[]", "x"]), ["helpfulness"])
    with pytest.raises(AssayError, match="no such file"):
        read_ratings(tmp_path / "nowhere.jsonl", ["helpfulness"])


def test_columns_are_renamed_before_anything_else(tmp_path: Path) -> None:
    rows = [{"question": "q", "reply": "a", "stars": 5}]
    table, _ = read_ratings(written(tmp_path, rows), ["helpfulness"], columns={"question": "prompt", "reply": "response", "stars": "helpfulness"}, name="shop")
    assert table.select("source", "attr_helpfulness").rows() == [("shop", 5.0)]
    assert table["prompt"].to_list() == [[turn("user", "q")]]


def test_the_limit_counts_rows_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, [rated(), "broken", rated(response="b"), rated(response="c")])
    table, aside = read_ratings(path, NAMES, limit=3)
    assert (table.height, len(aside)) == (2, 1)


def test_parquet_messages_weights_and_the_rows_own_source(tmp_path: Path) -> None:
    rows = [rated([turn("system", "s"), turn("user", "q")], [turn("assistant", "a")], weight=0.5, source="forum"), rated([turn("user", "q")], [turn("assistant", "b")], weight=None, source=None)]
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    table, aside = read_ratings(tmp_path / "rows.parquet", NAMES)
    assert aside == []
    assert table["prompt"].to_list()[0] == [turn("system", "s"), turn("user", "q")]
    assert table["weight"].to_list() == [0.5, None]
    assert table["source"].to_list() == ["forum", "rows"]


def test_the_same_answer_has_the_same_id_in_every_file(tmp_path: Path) -> None:
    one, _ = read_ratings(written(tmp_path, [rated(), rated(response="b")]), NAMES)
    two, _ = read_ratings(written(tmp_path, [rated(response="b", helpfulness=0)], "other.jsonl"), ["helpfulness"], name="other")
    assert one["id"].n_unique() == 2
    assert two["id"].to_list() == one["id"].to_list()[1:]


def strength(value: Any, **more: Any) -> dict[str, Any]:
    """A row of HelpSteer2-Preference."""
    return {"prompt": "q", "response_1": "first", "response_2": "second", "preference_strength": value, "preference_statement": "because", **more}


@pytest.mark.parametrize(("value", "better", "margin"), [(-3, "first", 3.0), (-1, "first", 1.0), (1, "second", 1.0), (3, "second", 3.0), ("-2", "first", 2.0), (0.5, "second", 0.5)])
def test_the_sign_of_a_strength_says_which_and_its_size_by_how_much(tmp_path: Path, value: Any, better: str, margin: float) -> None:
    reading = read(written(tmp_path, [strength(value)]))
    assert list(reading.formats.values()) == ["preference-strength"]
    (row,) = reading.pairs.to_dicts()
    worse = {"first": "second", "second": "first"}[better]
    assert (row["chosen"], row["rejected"]) == ([turn("assistant", better)], [turn("assistant", worse)])
    assert row["margin"] == margin
    assert row["preference_statement"] == "because"
    assert "preference_strength" not in row


def test_a_strength_of_zero_and_strengths_that_are_none_are_set_aside(tmp_path: Path) -> None:
    rows = [strength(2), strength(0), strength(None), strength("very"), strength(True), strength(1, response_2="first"), strength(1, response_1=None), strength(1, prompt=None)]
    reading = read(written(tmp_path, rows))
    assert reading.pairs.height == 1
    assert [row["reason"] for row in reading.aside] == ["neither answer is preferred", "no `preference_strength`", "preference_strength is not a number", "preference_strength is not a number", "identical answers", "no `response_1`", "no `prompt`"]


def test_turns_inside_the_prompt_of_a_strength_row(tmp_path: Path) -> None:
    (row,) = read(written(tmp_path, [strength(-2, prompt="a\n\n<extra_id_1>Assistant\nb\n\n<extra_id_1>User\nc")])).pairs.to_dicts()
    assert row["prompt"] == [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]


def helpsteer3(value: Any) -> dict[str, Any]:
    return {"domain": "code", "language": "python", "context": [turn("user", "a"), turn("assistant", "b"), turn("user", "c")], "response1": "first", "response2": "second", "overall_preference": value, "individual_preference": [{"score": value, "reasoning": "x", "feedback1": "y"}]}


def test_helpsteer3_is_recognised(tmp_path: Path) -> None:
    reading = read(written(tmp_path, [helpsteer3(-3), helpsteer3(0), helpsteer3(1)]))
    assert list(reading.formats.values()) == ["preference-strength"]
    assert [row["reason"] for row in reading.aside] == ["neither answer is preferred"]
    first, second = reading.pairs.to_dicts()
    assert first["prompt"] == [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    assert (first["chosen"][0]["content"], first["margin"]) == ("first", 3.0)
    assert (second["chosen"][0]["content"], second["margin"]) == ("second", 1.0)
    assert first["domain"] == "code"


def test_strengths_are_recognised_beside_other_formats() -> None:
    for row in (strength(1), helpsteer3(1)):
        found = recognise([row])
        assert found is not None
        assert found.name == "preference-strength"
    found = recognise([{"prompt": "q", "response_1": "a", "response_2": "b", "response": "c"}])
    assert found is not None
    assert found.name == "ratings"
