"""Each step on small tables with planted truth."""

import json
import tempfile
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.curate.steps import (
    MODULES,
    AnyStep,
    agree,
    contradictions,
    decontaminate,
    duplicates,
    filter,
    markers,
    select,
)
from assay.errors import AssayError
from assay.pairs.schema import answer_text, from_rows
from assay.train.config import TrainConfig
from conftest import pair, turn
from curate.conftest import Rows, Run, judged, pooled, tagged

# duplicates

TWINS = tagged(
    ("What is red?", "a colour", "a fruit"),
    ("what is  RED?\n", "a  colour\n", "a fruit"),
    ("What is red?", "a fruit", "a colour"),
    ("What is red?", "a colour.", "a fruit"),
    ("What is blue?", "a colour", "a fruit"),
)


@pytest.mark.parametrize(("key", "groups"), [("pair", ["01", "2", "3", "4"]), ("unordered", ["012", "3", "4"]), ("prompt", ["0123", "4"])])
def test_duplicates_by_each_key(run: Run, key: str, groups: list[str]) -> None:
    found = run(TWINS, duplicates.Config(key=key))
    for group in groups:
        (stays,) = found.kept & set(group)
        assert stays == min(group, key=lambda tag: next(i for i, t in found.tags.items() if t == tag))
        for tag in set(group) - {stays}:
            assert found.twin(tag) == stays
            assert found.reason(tag).startswith(f"duplicate {key}")


@pytest.mark.parametrize(("key", "best", "reasons"), [
    ("pair", 1, {"0": "duplicate pair"}),
    ("prompt", 3, dict.fromkeys("012", "duplicate prompt")),
    ("unordered", 1, {"0": "duplicate unordered", "2": "duplicate unordered in the opposite order"}),
    ("unordered", 2, dict.fromkeys("01", "duplicate unordered in the opposite order")),
])
def test_duplicates_keep_the_best_and_say_why(run: Run, key: str, best: int, reasons: dict[str, str]) -> None:
    rows = [{**row, "score": 1.0 if i == best else 0.5} for i, row in enumerate(TWINS)]
    found = run(rows, duplicates.Config(key=key, best="score"))
    assert {tag: found.reason(tag) for tag in found.gone} == reasons
    assert {found.twin(tag) for tag in found.gone} == {str(best)}
    assert {line["score"] for line in found.gone.values()} == {0.5}


def test_the_best_is_never_a_row_without_a_value(run: Run) -> None:
    for value in (None, float("nan")):
        for with_value in range(3):
            rows = [{**row, "score": -5.0 if i == with_value else value} for i, row in enumerate(TWINS[:3])]
            found = run(rows, duplicates.Config(key="unordered", best="score"))
            assert found.kept == {str(with_value)}
            assert {line["score"] for line in found.gone.values()} == {None}


def test_duplicate_copies_of_one_id(run: Run) -> None:
    rows = [{**TWINS[0], "tag": str(i), "score": float(i % 4)} for i in range(8)]
    found = run(rows, duplicates.Config(best="score"))
    assert found.kept <= {"3", "7"}
    assert len(found.kept) == 1
    assert {line["because_of"] for line in found.gone.values()} == {line["id"] for line in found.gone.values()}


def test_duplicates_are_of_whole_prompts_and_their_roles(run: Run) -> None:
    ask, more = turn("user", "Hello there"), [turn("assistant", "hi"), turn("user", "and now?")]
    prompts = [[ask], [turn("system", "be brief"), ask], [ask, *more], [turn("system", "be brief"), ask, *more]]
    rows = [{**pair("", "yes", "no", tag=str(i)), "prompt": prompt} for i, prompt in enumerate(prompts)]
    assert run(rows, duplicates.Config(key="prompt")).gone == {}


@pytest.mark.parametrize(("config", "message"), [
    (duplicates.Config(best="scor"), r"step `duplicates`: the rows have no column `scor`\. Did you mean `score`\? Numeric columns: .*score"),
    (select.Config(by="scor"), r"step `select`: the rows have no column `scor`\. Did you mean `score`\?"),
    (duplicates.Config(best="tag"), r"step `duplicates`: the column `tag` holds String, expected numbers"),
    (filter.Config(column="tagg", values=["x"]), r"step `filter`: the rows have no column `tagg`\. Did you mean `tag`\? Columns: .*tag"),
])
def test_a_column_that_is_not_there_or_not_numbers(run: Run, config: AnyStep, message: str) -> None:
    with pytest.raises(AssayError, match=message):
        run([{**row, "score": 1.0} for row in TWINS], config)


SIGNS = [("Is 3 > 4?", "Is 3 < 4?"), ("5 + 3", "5 - 3"), ("c++", "c#"), ("Is it so?", "Is it so"), ("x_y", "x y"), ("a.b", "a,b"), ("¿si?", "si?")]


@pytest.mark.parametrize("prompts", SIGNS)
@pytest.mark.parametrize("config", [duplicates.Config(key="prompt"), duplicates.Config(key="unordered"), contradictions.Config()])
def test_signs_in_a_prompt_matter(run: Run, config: AnyStep, prompts: tuple[str, str]) -> None:
    assert run(tagged((prompts[0], "yes", "no"), (prompts[1], "no", "yes")), config).gone == {}


@pytest.mark.parametrize(("one", "other"), [("Is 3 > 4?", " is  3\n>\t4? "), ("C++", "c++"), ("STRASSE?", "straße?"), ("a\r\nb", "A\u00a0b")])
def test_spacing_and_case_of_a_prompt_do_not(run: Run, one: str, other: str) -> None:
    rows = tagged((one, "yes", "no"), (other, "no", "yes"))
    assert len(run(rows, duplicates.Config(key="prompt")).gone) == 1
    assert len(run(rows, contradictions.Config()).gone) == 2


@pytest.mark.parametrize(("answer", "same"), [("a  - b\n", True), ("a\n-\tb", True), ("A - b", False), ("a + b", False), ("a -b", False)])
def test_answers_are_the_same_up_to_spacing_only(run: Run, answer: str, same: bool) -> None:
    assert len(run(tagged(("p", "a - b", "no"), ("p", answer, "no")), duplicates.Config()).gone) == same


@pytest.mark.parametrize("config", [duplicates.Config(), duplicates.Config(key="unordered", best="score"), contradictions.Config()])
def test_own_columns_named_like_keys_do_not_matter(run: Run, config: AnyStep) -> None:
    own = ["prompt_key", "chosen_key", "rejected_key", "low_key", "high_key", "chosen_chars", "_best"]
    rows = tagged(*((f"question {i // 2}", *(("yes", "no") if i % 2 else ("no", "yes"))) for i in range(6)), score=1.0)
    plain = run(rows, config)
    for name in own:
        assert run([{**row, name: "the same"} for row in rows], config).kept == plain.kept
        assert run([{**row, name: i} for i, row in enumerate(rows)], config).kept == plain.kept


# contradictions

AGAINST = ("Is it so?", "no", "yes")
FOR = ("is  it SO?", "yes", "no ")


@pytest.mark.parametrize(("rows", "kept_by_drop", "kept_by_majority"), [
    ([FOR, AGAINST], "", ""),
    ([FOR, FOR, AGAINST, AGAINST], "", ""),
    ([FOR, FOR, FOR, AGAINST], "", "012"),
    ([AGAINST, AGAINST, FOR, AGAINST], "", "013"),
    ([FOR, FOR], "01", "01"),
    ([FOR, ("Is it?", "no", "yes")], "01", "01"),
    ([FOR, ("Is it so", "no", "yes")], "01", "01"),
    ([FOR, ("Is it so?", "no", "yes!")], "01", "01"),
])
def test_contradictions(run: Run, rows: list[tuple[str, str, str]], kept_by_drop: str, kept_by_majority: str) -> None:
    assert run(tagged(*rows), contradictions.Config()).kept == set(kept_by_drop)
    assert run(tagged(*rows), contradictions.Config(resolve="majority")).kept == set(kept_by_majority)


def test_contradictions_say_how_many_and_name_an_opponent(run: Run) -> None:
    rows = tagged(FOR, FOR, FOR, AGAINST, ("something else?", "yes", "no"))
    found = run(rows, contradictions.Config(resolve="majority"))
    assert found.reason("3") == "3 of 4 rows say the opposite"
    assert found.gone["3"]["score"] == 0.25
    assert found.twin("3") in "012"
    stays = found.verdicts()
    assert {line["reason"] for tag, line in stays.items() if tag in "012"} == {"1 of 4 rows say the opposite"}
    assert {found.tags[line["because_of"]] for tag, line in stays.items() if tag in "012"} == {"3"}
    assert "4" not in stays
    all_go = run(rows, contradictions.Config())
    assert {tag: all_go.reason(tag) for tag in "03"} == {"0": "1 of 4 rows say the opposite", "3": "3 of 4 rows say the opposite"}


# markers


def test_an_end_of_sequence_token_is_a_marker_where_a_text_ends(run: Run) -> None:
    found = run(tagged(("p", "yes</s>", "no"), ("p", "yes", "no </s>\n"), ("p", "<s>old</s> new", "no")), markers.Config())
    assert found.kept == {"2"}


@pytest.mark.parametrize("marker", [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<｜User｜>", "<｜end▁of▁sentence｜>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|user|>", "<|assistant|>",
    "<|end|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<extra_id_1>",
])  # fmt: skip
def test_markers_on_each_side(run: Run, marker: str) -> None:
    rows = tagged(("p", f"yes{marker}", "no"), ("p", "yes", f"{marker}no"), ("p", f"yes {marker}", f"no {marker}{marker}"), ("p", "yes", "no"), (f"what is {marker}", "yes", "no"))
    found = run(rows, markers.Config())
    assert found.kept == {"3", "4"}
    assert {tag: found.reason(tag) for tag in "012"} == {
        "0": f"marker {marker} in chosen",
        "1": f"marker {marker} in rejected",
        "2": f"marker {marker} in chosen and rejected",
    }
    assert {tag: line["score"] for tag, line in found.gone.items()} == {"0": 1.0, "1": 1.0, "2": 3.0}


@pytest.mark.parametrize("text", ["Sure.\n\nHuman: and then?", "Human: hi", "ok\nAssistant: yes", "### Response:\nyes", "### Response:", "###Response: yes", "### Instruction:\nsay yes", "So it is.\n\nHuman:", "User:", "Human:\r\nand then?", "Yes.\r\n\r\nHuman:\r\n", "Assistant:\tyes"])
def test_role_tags_at_the_beginning_of_a_line(run: Run, text: str) -> None:
    found = run(tagged(("p", text, "no")), markers.Config())
    assert found.kept == set()
    assert found.reason("0").endswith(": in chosen")


@pytest.mark.parametrize("text", [
    "Human rights: a short history.",
    "The rights are:\nHuman rights: all of them.\nUser experience: good.",
    "Dear Assistant: this is in the middle of a line",
    "A Response:time is measured, an Instruction: read it.",
    "the user: said so",
    "Response: 42",
    "Instruction: wait\nResponse: 42",
    "Human:rights",
    "x <|> y, a <| b |> c, [inst], <<EOF, im_start, <end>, if a<end|b>c",
    "| a | b |\n|---|---|\n| <user> | [1] |",
])  # fmt: skip
def test_ordinary_text_is_no_marker(run: Run, text: str) -> None:
    assert run(tagged(("p", text, "no"), ("p", "no", text)), markers.Config()).gone == {}


# decontaminate

LONG = "Write a short poem about the old lighthouse keeper who lost his only lamp in a winter storm"
SHORT = "Who painted the ceiling?"
HELLO = "hello there"
BENCHMARK = [{"prompt": HELLO}, {"prompt": SHORT}, {"prompt": LONG}]


@pytest.fixture
def bench(tmp_path: Path) -> str:
    """A benchmark of three prompts."""
    return benchmark(tmp_path / "bench.jsonl", BENCHMARK)


def benchmark(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asks(*prompts: str) -> Rows:
    return tagged(*((prompt, "yes", "no") for prompt in prompts))


def first_words(text: str, n: int) -> str:
    return " ".join(text.split()[:n])


def test_decontaminate_exact_short_rewrapped_and_embedded(run: Run, bench: str) -> None:
    rewrapped = LONG.upper().replace(" the ", ",\n\n  the ") + "!!"
    rows = asks(LONG, "who painted\nthe ceiling", rewrapped, f"Please do this for me now: {LONG}. Thank you very much.", "Who painted the ceiling red?", HELLO, "Write a poem")
    found = run(rows, decontaminate.Config(against={"bench": bench}))
    assert found.kept == {"4", "5", "6"}
    assert {tag: line["because_of"] for tag, line in found.gone.items()} == {"0": "bench:3", "1": "bench:2", "2": "bench:3", "3": "bench:3"}
    assert {found.reason(tag) for tag in "012"} == {"prompt is in the benchmark"}
    assert found.reason("3") == f"shares 100% of a benchmark prompt's 13-grams: \"{LONG.lower()}\", from word 6"
    assert {line["score"] for line in found.gone.values()} == {1.0}


def test_decontaminate_by_the_length_of_the_ngram(run: Run, bench: str) -> None:
    rows = asks(*(f"{first_words(LONG, n)} and so on" for n in (6, 7, 12, 13)))
    against = {"bench": bench}
    assert run(rows, decontaminate.Config(against=against, ngram=7)).kept == {"0"}
    assert run(rows, decontaminate.Config(against=against)).kept == {"0", "1", "2"}
    found = run(rows, decontaminate.Config(against=against, ngram=7))
    assert found.reason("1") == "shares 8% of a benchmark prompt's 7-grams: \"write a short poem about the old\", from word 0"


@pytest.mark.parametrize(("coverage", "kept"), [(0.0, ""), (1 / 12, ""), (0.09, "0"), (0.5, "0"), (0.51, "01"), (1.0, "01")])
def test_decontaminate_by_coverage(run: Run, bench: str, coverage: float, kept: str) -> None:
    assert len(LONG.split()) - 7 + 1 == 12
    rows = asks(f"{first_words(LONG, 7)} cat", f"{first_words(LONG, 12)} cat", f"now {LONG}")
    found = run(rows, decontaminate.Config(against={"bench": bench}, ngram=7, coverage=coverage))
    assert found.kept == set(kept)
    lines = found.verdicts()
    assert {tag: line["score"] for tag, line in lines.items()} == {"0": 1 / 12, "1": 0.5, "2": 1.0}
    assert {tag for tag, line in lines.items() if line["keep"]} == set(kept)
    assert all(line["reason"] and line["because_of"] == "bench:3" for line in lines.values())


def test_decontaminate_exact_needs_no_coverage(run: Run, bench: str) -> None:
    assert run(asks(SHORT), decontaminate.Config(against={"bench": bench}, coverage=1.0)).kept == set()


@pytest.mark.parametrize(("least", "kept"), [(1, ""), (2, ""), (3, "0"), (4, "0"), (5, "01")])
def test_decontaminate_min_words(run: Run, bench: str, least: int, kept: str) -> None:
    assert run(asks(HELLO, SHORT), decontaminate.Config(against={"bench": bench}, min_words=least)).kept == set(kept)


def test_decontaminate_looks_at_what_the_users_said(run: Run, bench: str) -> None:
    def asked(tag: str, *prompt: dict[str, str]) -> dict[str, Any]:
        return {**pair("", LONG, "no", tag=tag), "prompt": list(prompt)}

    rows = [
        asked("system", turn("system", LONG), turn("user", "go on")),
        asked("answer", turn("user", "say it"), turn("assistant", LONG), turn("user", "go on")),
        asked("beside a system turn", turn("system", "be brief"), turn("user", SHORT)),
        asked("second turn", turn("user", "hi"), turn("assistant", "hi"), turn("user", LONG)),
    ]
    found = run(rows, decontaminate.Config(against={"bench": bench}))
    assert found.kept == {"system", "answer"}
    assert found.reason("beside a system turn") == "prompt is in the benchmark"
    assert found.reason("second turn") == f"shares 100% of a benchmark prompt's 13-grams: \"{LONG.lower()}\", from word 1"


def test_decontaminate_against_several_benchmarks_of_different_forms(run: Run, tmp_path: Path) -> None:
    said = [turn("user", "Where did the seven sailors go")]
    against = {
        "question": benchmark(tmp_path / "a.jsonl", [{"question": "How many apples are left now"}]),
        "messages": benchmark(tmp_path / "b.jsonl", [{"messages": [turn("user", "Which of the two is older"), turn("assistant", "it")]}]),
        "pairs": benchmark(tmp_path / "c.jsonl", [{"chosen": [*said, turn("assistant", "a")], "rejected": [*said, turn("assistant", "b")]}]),
    }
    rows = asks("how many apples are left now?", "which of the two is older?", "where did the seven sailors go?", "what else is there to say?")
    found = run(rows, decontaminate.Config(against=against))
    assert {tag: line["because_of"] for tag, line in found.gone.items()} == {"0": "question:1", "1": "messages:1", "2": "pairs:1"}


def test_decontaminate_names_the_benchmark_prompt_with_most_in_common(run: Run, tmp_path: Path) -> None:
    rows = [{"prompt": "a few"}, {"prompt": "one two three four five six seven eight"}, {"prompt": "two three four five"}]
    against = {"bench": benchmark(tmp_path / "b.jsonl", rows)}
    found = run(asks("zero one two three four five zero"), decontaminate.Config(against=against, ngram=3))
    assert found.gone["0"]["because_of"] == "bench:3"
    assert found.reason("0") == "shares 100% of a benchmark prompt's 3-grams: \"two three four five\", from word 2"


NINE = "Name the two rivers that meet below the castle"


def wrapped(*prompts: str) -> Rows:
    return asks(*(f"Tell me, please: {prompt}? Be brief." for prompt in prompts))


@pytest.mark.parametrize(("words", "short", "found"), [
    (9, 8, True), (8, 8, True), (7, 8, False), (7, 7, True), (9, 10, False), (9, 9, True), (9, None, False), (4, 1, True), (3, 1, False),
])  # fmt: skip
def test_a_short_benchmark_prompt_is_found_inside_a_longer_one(run: Run, tmp_path: Path, words: int, short: int | None, found: bool) -> None:
    text = first_words(NINE, words)
    against = {"bench": benchmark(tmp_path / "b.jsonl", [{"prompt": LONG}, {"prompt": text}])}
    done = run(wrapped(text), decontaminate.Config(against=against, short=short))
    assert bool(done.gone) == found
    if found:
        assert done.reason("0") == f"holds a whole benchmark prompt: \"{text.lower()}\", from word 3"
        assert (done.gone["0"]["because_of"], done.gone["0"]["score"]) == ("bench:2", 1.0)


def test_short_prompts_are_found_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    against = {"bench": benchmark(tmp_path / "b.jsonl", [{"prompt": NINE}])}
    part, red = first_words(NINE, 8), NINE.replace("castle", "red castle")
    assert run(wrapped(part, red), decontaminate.Config(against=against)).gone == {}
    assert run(wrapped(NINE), decontaminate.Config(against=against, coverage=1.0)).kept == set()
    exact = run(asks(NINE.upper()), decontaminate.Config(against=against))
    assert exact.reason("0") == "prompt is in the benchmark"


@pytest.mark.parametrize("words", range(8, 13))
def test_every_length_between_short_and_the_ngram_is_found(run: Run, tmp_path: Path, words: int) -> None:
    text = first_words(LONG, words)
    against = {"bench": benchmark(tmp_path / "b.jsonl", [{"prompt": text}])}
    found = run(wrapped(text, first_words(text, words - 1)), decontaminate.Config(against=against))
    assert found.kept == {"1"}
    assert found.reason("0").startswith("holds a whole benchmark prompt: ")


def test_the_word_of_a_match_is_counted_in_what_the_users_said(run: Run, bench: str) -> None:
    rows = asks(f"so, {LONG} {LONG}", f"one two three four {LONG}")
    rows.append({**pair("", "yes", "no", tag="2"), "prompt": [turn("system", "a b c"), turn("user", "hi"), turn("assistant", "hello there"), turn("user", f"now: {LONG}")]})
    found = run(rows, decontaminate.Config(against={"bench": bench}))
    assert {tag: found.reason(tag).rsplit(", ", 1)[1] for tag in found.gone} == {"0": "from word 1", "1": "from word 4", "2": "from word 2"}


def test_what_was_looked_for_is_kept_beside_the_verdicts(run: Run, bench: str) -> None:
    found = run(asks(LONG, "else"), decontaminate.Config(against={"bench": bench}))
    (note,) = found.notes
    assert note["references"]["prompts"] == {"bench": 3}
    kept = pl.read_parquet(found.folder / "steps" / "01-decontaminate" / "references" / f"{note['references']['content']}.parquet")
    assert sorted(kept.rows()) == [("bench", 1, HELLO), ("bench", 2, SHORT), ("bench", 3, LONG)]


def test_decontaminate_against_something_without_prompts(run: Run, tmp_path: Path) -> None:
    path = benchmark(tmp_path / "b.jsonl", [{"text": "no prompt"}])
    with pytest.raises(AssayError, match="step `decontaminate`: no row of .* has a prompt"):
        run(asks(LONG), decontaminate.Config(against={"bench": path}))
    with pytest.raises(AssayError, match="no such file"):
        run(asks(LONG), decontaminate.Config(against={"bench": str(tmp_path / "nowhere.jsonl")}))
    with pytest.raises(ValidationError):
        decontaminate.Config(against={})


def test_a_changed_benchmark_runs_the_step_again(run: Run, tmp_path: Path) -> None:
    config = decontaminate.Config(against={"bench": benchmark(tmp_path / "b.jsonl", [{"prompt": SHORT}])})
    assert run(asks(LONG, SHORT), config).kept == {"0"}
    benchmark(tmp_path / "b.jsonl", [{"prompt": LONG}])
    assert run(asks(LONG, SHORT), config).kept == {"1"}


def test_rows_of_a_benchmark_folder_are_counted_over_all_its_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    benchmark(tmp_path / "bench" / "a.jsonl", [{"prompt": "How many apples are left now"}, {"prompt": "no"}])
    benchmark(tmp_path / "bench" / "b.jsonl", [{"prompt": "Which of the two is older"}, {"prompt": SHORT}])
    rows = asks("how many apples are left now?", "which of the two is older?", SHORT, "what else is there to say?")
    found = run(rows, decontaminate.Config(against={"bench": str(tmp_path / "bench")}))
    assert {tag: line["because_of"] for tag, line in found.gone.items()} == {"0": "bench:1", "1": "bench:3", "2": "bench:4"}


def test_decontaminate_chinese_and_hindi(run: Run, tmp_path: Path) -> None:
    against = {"bench": benchmark(tmp_path / "b.jsonl", [{"prompt": "今天北京的天气怎么样"}, {"prompt": "भारत की राजधानी क्या है"}, {"prompt": "你好"}])}
    rows = asks("今天北京的天气怎么样？", "请告诉我，今天北京的天气怎么样，谢谢", "भारत की राजधानी क्या है?", "भारत का राजधानी क्यों हो", "你好")
    found = run(rows, decontaminate.Config(against=against, ngram=7))
    assert {tag: line["because_of"] for tag, line in found.gone.items()} == {"0": "bench:1", "1": "bench:1", "2": "bench:2"}
    assert found.reason("1") == "shares 100% of a benchmark prompt's 7-grams: \"今 天 北 京 的 天 气 怎 么 样\", from word 4"


# select

def scored(*scores: float | None, **more: Any) -> Rows:
    return [pair(f"question {i}", "yes", "no", tag=str(i), score=score, **more) for i, score in enumerate(scores)]


SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 1.0])
SELECTED = st.lists(
    st.tuples(
        st.sampled_from(["Math", "math", "code", "chat", "Chat", "programs", "others", None]),
        st.sampled_from(["air", "pro", None]),
        st.sampled_from([None, float("nan"), -1.0, 0.25, 0.5, 0.75, 3.0]),
    ),
    min_size=1,
    max_size=25,
)


def quota(share: float, size: int) -> int:
    return int((Decimal(str(share)) * size).quantize(Decimal(1), ROUND_HALF_UP))


def twin_of_select(table: pl.DataFrame, shares: dict[str, float], others: float, pool_others: bool, offsets: dict[str, float]) -> set[str]:
    """Tags of the rows that stay."""
    ranked: dict[str, list[tuple[bool, float, str, int, str]]] = {}
    for row in table.iter_rows(named=True):
        category = row["category"] or "(no category)"
        group = category.lower() if category.lower() in shares else "others" if pool_others else f"other: {category.lower()}"
        none = row["score"] is None or row["score"] != row["score"]
        score = 0.0 if none else row["score"] + offsets.get(row["source"], 0.0)
        ranked.setdefault(group, []).append((none, -score, row["id"], row["copy"], row["tag"]))
    return {row[-1] for group, rows in ranked.items() for row in sorted(rows)[: quota(shares.get(group, others), len(rows))]}


SETTINGS = st.tuples(SHARES, SHARES, SHARES, st.booleans(), st.sampled_from([{}, {"air": -0.25}, {"air": -0.25, "pro": 1.0}]))


@settings(deadline=None, max_examples=50)
@given(SELECTED, st.lists(SETTINGS, min_size=3, max_size=3))
def test_select_agrees_with_a_slow_twin(drawn: list[tuple[str | None, str | None, float | None]], several: list[tuple[float, float, float, bool, dict[str, float]]]) -> None:
    rows = [pair(f"q {i // 2}", "yes", "no", tag=str(i), category=c, source=s, score=x) for i, (c, s, x) in enumerate(drawn)]
    with tempfile.TemporaryDirectory() as folder:
        context = pooled(rows, Path(folder))
        whole = context.texts(context.alive)
        assert whole.height == len(rows)
        for math, code, others, pool_others, offsets in several:
            groups = [select.Group(name="mathematics", categories=["MATH"], keep=math), select.Group(name="programs", categories=["Code"], keep=code)]
            config = select.Config(by="score", groups=groups, others=others, pool_others=pool_others, offsets=offsets)
            table = whole.join(select.judge(context.alive, config, context).collect(), on="row", how="left", suffix="_v")
            assert table["keep"].null_count() == 0
            assert table["reason"].null_count() == 0
            expected = twin_of_select(table, {"math": math, "code": code}, others, pool_others, offsets)
            assert set(table.filter("keep")["tag"]) == expected


@pytest.mark.parametrize(("size", "share", "stay"), [(5, 0.5, 3), (4, 0.1, 0), (5, 0.1, 1), (15, 0.1, 2), (45, 0.1, 5), (10, 0.25, 3), (10, 0.0, 0), (10, 1.0, 10), (7, 0.3, 2), (15, 0.3, 5)])
def test_select_keeps_an_exact_count(size: int, share: float, stay: int, tmp_path: Path) -> None:
    table = judged(scored(*map(float, range(size))), select.Config(by="score", others=share), tmp_path)
    assert set(table.filter("keep")["tag"]) == {str(i) for i in range(size - stay, size)}


def test_select_says_the_rank(run: Run) -> None:
    rows = [*scored(0.9, 0.1, 0.5, 0.7, category="Math"), pair("chat?", "yes", "no", tag="chat", score=0.3, category="chat")]
    found = run(rows, select.Config(by="score", groups=[select.Group(name="mathematics", categories=["math"], keep=0.5)]))
    assert found.kept == {"0", "3", "chat"}
    assert found.reason("2") == "rank 3 of 4 in group mathematics, 2 stay"
    assert found.gone["2"]["score"] == 0.5
    assert found.verdicts()["0"]["reason"] == "rank 1 of 4 in group mathematics, 2 stay"
    assert found.verdicts()["chat"]["reason"] == "rank 1 of 1 in other categories, 1 stay"


def test_select_with_an_offset(run: Run) -> None:
    rows = [{**row, "source": "air" if row["tag"] == "0" else "ultra"} for row in scored(0.9, 0.85)]
    assert run(rows, select.Config(by="score", others=0.5)).kept == {"0"}
    found = run(rows, select.Config(by="score", others=0.5, offsets={"air": -0.1, "nowhere": 5.0}))
    assert found.kept == {"1"}
    assert found.gone["0"]["score"] == pytest.approx(0.8)


def test_select_pools_the_others_or_not(run: Run) -> None:
    poems = [pair(f"poem {i}", "y", "n", tag=f"p{i}", score=float(i), category="poems") for i in (1, 0)]
    rows = [*scored(9.0, 8.0, category="chat"), *poems]
    assert run(rows, select.Config(by="score", others=0.5)).kept == {"0", "1"}
    assert run(rows, select.Config(by="score", others=0.5, pool_others=False)).kept == {"0", "p1"}


def test_select_breaks_ties_by_id_and_ranks_rows_without_a_score_last(tmp_path: Path) -> None:
    table = judged(scored(0.5, 0.5, 0.5, 0.5), select.Config(by="score", others=0.5), tmp_path / "ties")
    assert table.sort("id")["keep"].to_list() == [True, True, False, False]
    last = judged(scored(None, float("nan"), -9.0, float("-inf")), select.Config(by="score", others=0.5), tmp_path / "none")
    assert set(last.filter("keep")["tag"]) == {"2", "3"}
    assert last.filter(pl.col("tag").is_in(["0", "1"]))["score_v"].to_list() == [None, None]


def test_the_first_group_that_names_a_category_takes_it(tmp_path: Path) -> None:
    groups = [select.Group(name="one", categories=["math"], keep=1.0), select.Group(name="two", categories=["math", "code"], keep=0.0)]
    table = judged(scored(1.0, 2.0, category="math"), select.Config(by="score", groups=groups), tmp_path)
    assert table["keep"].to_list() == [True, True]


def test_select_by_itself_ignores_case(run: Run) -> None:
    rows = [{**row, "category": category} for row, category in zip(scored(3.0, 2.0, 1.0, 0.0), ["Chat", "chat", "CHAT", "chat"], strict=True)]
    found = run(rows, select.Config(by="score", others=0.5, pool_others=False))
    assert found.kept == {"0", "1"}
    assert found.reason("2") == "rank 3 of 4 in category chat, 2 stay"


@pytest.mark.parametrize(("pool", "name", "where"), [
    (False, "poems", "category poems"), (True, "poems", "other categories"), (True, "others", "other categories"), (True, "other categories", "other categories"),
])  # fmt: skip
def test_a_group_named_like_an_unlisted_category_is_another(run: Run, pool: bool, name: str, where: str) -> None:
    verse = [{**row, "category": "verse"} for row in scored(9.0, 8.0)]
    poems = [pair(f"poem {i}", "y", "n", tag=f"p{i}", score=float(i), category="poems") for i in (1, 0)]
    groups = [select.Group(name=name, categories=["verse"], keep=0.5)]
    found = run([*verse, *poems], select.Config(by="score", groups=groups, others=0.5, pool_others=pool))
    assert found.kept == {"0", "p1"}
    assert found.reason("1") == f"rank 2 of 2 in group {name}, 1 stay"
    assert found.reason("p0") == f"rank 2 of 2 in {where}, 1 stay"


# filter

@pytest.mark.parametrize(("values", "column", "kept"), [
    (["x"], ["x", "y", "X", None], "02"),
    (["X", "y"], ["x", "y", "X", None], "012"),
    ([True], [True, False, None, True], "03"),
    (["true"], [True, False, None, True], "03"),
    ([False], [True, False, None, True], "1"),
    ([1, 3], [1, 2, 3, None], "02"),
    ([0.5], [0.5, 1.5, None, 5.0], "0"),
    ([1], [1.0, 1.5, None, 2.0], "0"),
    ([1.0, 3], [1, 2, 3, None], "02"),
    ([1.0], ["1", "1.0", "x", None], "0"),
    (["nothing"], ["x", "y", "X", None], ""),
])  # fmt: skip
def test_filter(run: Run, values: list[Any], column: list[Any], kept: str) -> None:
    rows = [pair(f"question {i}", "yes", "no", tag=str(i), what=value) for i, value in enumerate(column)]
    assert run(rows, filter.Config(column="what", values=values)).kept == set(kept)


def test_filter_says_the_value(run: Run) -> None:
    rows = [pair(f"question {i}", "yes", "no", tag=str(i), flag=value) for i, value in enumerate([True, False, None])]
    found = run(rows, filter.Config(column="flag", values=[True]))
    assert {tag: found.reason(tag) for tag in found.gone} == {"1": "flag is false", "2": "flag is (none)"}
    assert found.verdicts()["0"]["reason"] == "flag is true"


@pytest.mark.parametrize("value", [["x"], {"a": "x"}])
def test_filter_refuses_a_nested_column(value: Any, tmp_path: Path) -> None:
    context = pooled(from_rows(asks("p", "q")).with_columns(what=pl.Series([value, value])), tmp_path)
    for column in ("what", "prompt"):
        with pytest.raises(AssayError, match=rf"step `filter`: the column `{column}` holds (List|Struct).*, expected texts, numbers or booleans"):
            filter.judge(context.alive, filter.Config(column=column, values=["x"]), context)


@pytest.mark.parametrize("name", ["{}", "a{b}", "{", "100%"])
def test_filter_by_a_column_with_braces(run: Run, name: str) -> None:
    rows = [pair(f"question {i}", "yes", "no", tag=str(i), **{name: value}) for i, value in enumerate("xy")]
    assert run(rows, filter.Config(column=name, values=["x"])).reason("1") == f"{name} is y"


def test_filter_says_whole_numbers_without_a_point(run: Run) -> None:
    rows = [pair(f"question {i}", "yes", "no", tag=str(i), n=value) for i, value in enumerate([1.0, 2.0, 2.5])]
    found = run(rows, filter.Config(column="n", values=[1]))
    assert {tag: found.reason(tag) for tag in found.gone} == {"1": "n is 2", "2": "n is 2.5"}


# agree

class Fit:
    """A `fit` that returns planted scores by the chosen text, and remembers what it was given."""

    def __init__(self, planted: dict[str, tuple[float, float]] | None = None) -> None:
        self.planted = planted or {}
        self.calls: list[tuple[pl.DataFrame, pl.DataFrame, TrainConfig, Path]] = []

    def __call__(self, train: pl.DataFrame, judge: pl.DataFrame, config: TrainConfig, workdir: Path) -> pl.DataFrame:
        self.calls.append((train, judge, config, workdir))
        scores = [self.planted.get(answer_text(chosen), (1.0, 0.0)) for (chosen,) in judge.select("chosen").iter_rows()]
        return pl.DataFrame(scores, schema={"chosen_score": pl.Float64, "rejected_score": pl.Float64}, orient="row")


def questions(n: int = 12, **more: Any) -> Rows:
    return [pair(f"question {i // 2}", f"good {i}", f"bad {i}", tag=str(i), **more) for i in range(n)]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_prompt_is_on_both_sides(run: Run, folds: int) -> None:
    fit = Fit()
    run(questions(40), agree.Config(folds=folds, fit=TrainConfig(model="tiny", seed=4)), fit=fit)
    assert len(fit.calls) == folds
    for train, judge, config, _ in fit.calls:
        assert not set(train["prompt_id"]) & set(judge["prompt_id"])
        assert train.height + judge.height == 40
        assert config == TrainConfig(model="tiny", seed=4)
    assert sorted(tag for _, judge, _, _ in fit.calls for tag in judge["tag"]) == sorted(str(i) for i in range(40))
    assert len({workdir for *_, workdir in fit.calls}) == folds


def test_agree_drops_what_is_ranked_wrong_and_adds_columns(run: Run) -> None:
    fit = Fit({"good 3": (0.0, 2.5), "good 4": (1.0, 1.0), "good 5": (3.0, 2.0)})
    found = run(questions(), agree.Config(fit=TrainConfig(model="tiny")), fit=fit)
    assert set(found.gone) == {"3", "4"}
    assert found.reason("3") == "a model trained on the others says margin -2.5"
    assert found.gone["3"]["score"] == -2.5
    assert found.gone["3"]["because_of"] in ("tiny (fold-1)", "tiny (fold-2)")
    row = found.rows["5"]
    assert (row["agree_chosen"], row["agree_rejected"], row["agree_mean"], row["agree_margin"]) == (3.0, 2.0, 2.5, 1.0)
    assert "flipped" not in row


@pytest.mark.parametrize(("margin", "gone"), [(0.0, ""), (0.5, "12"), (1.0, "123456789"), (-1.0, "")])
def test_agree_asks_for_a_margin(run: Run, margin: float, gone: str) -> None:
    fit = Fit({"good 0": (5.0, 1.0), "good 1": (1.0, 0.5), "good 2": (1.0, 0.75)})
    assert set(run(questions(10), agree.Config(margin=margin), fit=fit).gone) == set(gone)


def test_agree_trained_on_others(run: Run) -> None:
    others = [pair(f"other {i}", "good", "bad", tag=f"o{i}", source="others") for i in range(4)]
    shared = pair("question 1", "good", "bad", tag="shared", source="others")
    fit = Fit({"good 3": (0.0, 1.0), "good": (0.0, 1.0)})
    config = agree.Config(train_on="others", only=["judged"], fit=TrainConfig(model="tiny"))
    found = run([*questions(source="judged"), *others, shared], config, fit=fit)
    ((train, judge, _, _),) = fit.calls
    assert set(train["tag"]) == {"o0", "o1", "o2", "o3"}
    assert set(judge["tag"]) == {str(i) for i in range(12)}
    assert set(found.gone) == {"3"}
    assert found.gone["3"]["because_of"] == "tiny (others)"
    assert found.rows["o0"]["agree_mean"] is None


def test_select_by_what_agree_added(run: Run) -> None:
    fit = Fit({f"good {i}": (float(i), i - 1.0) for i in range(12)})
    found = run(questions(), agree.Config(), select.Config(by="agree_mean", others=0.25), fit=fit)
    assert found.kept == {"9", "10", "11"}
    assert found.reason("0") == "rank 12 of 12 in other categories, 3 stay"


@pytest.mark.parametrize(("config", "fit", "message"), [
    (agree.Config(), None, r'step `agree` trains a reward model: pip install "assay\[train\]"'),
    (agree.Config(train_on="others"), Fit(), "needs rows of sources that are not judged; name the judged ones in `only`"),
    (agree.Config(), Fit(), "have the same prompt fold; there is nothing to train on"),
])  # fmt: skip
def test_agree_without_what_it_needs(run: Run, config: agree.Config, fit: Fit | None, message: str) -> None:
    with pytest.raises(AssayError, match=message):
        run(questions(2), config, fit=fit)


WRONG = {"good 1": (2.0, 1.5), "good 2": (1.0, 1.25), "good 3": (1.0, 1.5), "good 4": (0.25, 2.0)}


@pytest.mark.parametrize(("margin", "below", "flipped", "gone"), [
    (0.0, 0.0, "234", ""), (0.0, 0.25, "34", "2"), (0.0, 0.5, "4", "23"), (0.0, 9.0, "", "234"), (0.75, 0.5, "4", "123"), (-0.5, 0.0, "34", ""),
])  # fmt: skip
def test_agree_flips_what_is_wrong_enough_and_drops_those_between(run: Run, margin: float, below: float, flipped: str, gone: str) -> None:
    found = run(questions(10, margin=1.0), agree.Config(action="flip", margin=margin, flip_below=below), fit=Fit(WRONG))
    assert set(found.gone) == set(gone)
    assert {tag for tag, row in found.rows.items() if row.get("flipped")} == set(flipped)
    assert {tag: row["margin"] for tag, row in found.rows.items()} == {tag: None if tag in flipped else 1.0 for tag in found.kept}
    ledger, said = found.ledger(), found.verdicts()
    assert {tag: line["step"] for tag, line in ledger.items()} == {
        tag: "01-agree" if tag in gone else "kept, flipped" if tag in flipped else "kept" for tag in "0123456789"
    }
    for tag, line in ledger.items():
        why = [line["reason"], line["score"], line["because_of"]]
        assert why == ([said[tag][c] for c in ("reason", "score", "because_of")] if tag in gone + flipped else [None] * 3)


def test_a_flipped_row_has_the_scores_of_its_answers_as_they_stand(run: Run) -> None:
    found = run(questions(), agree.Config(action="flip", flip_below=0.5), fit=Fit(WRONG))
    row = found.rows["4"]
    assert (answer_text(row["chosen"]), answer_text(row["rejected"])) == ("bad 4", "good 4")
    assert (row["agree_chosen"], row["agree_rejected"], row["agree_mean"], row["agree_margin"]) == (2.0, 0.25, 1.125, 1.75)
    line = found.verdicts()["4"]
    assert (line["keep"], line["flip"], line["score"], line["reason"]) == (True, True, -1.75, "a model trained on the others says margin -1.75")
    assert (found.gone["2"]["score"], found.reason("2")) == (-0.25, "a model trained on the others says margin -0.25")
    kept = found.rows["1"]
    assert (kept["agree_chosen"], kept["agree_rejected"], kept["agree_margin"], kept["flipped"]) == (2.0, 1.5, 0.5, False)


def test_a_second_agree_on_other_sources_keeps_the_columns_of_the_first(run: Run) -> None:
    rows = [*questions(source="a"), *({**row, "tag": f"b{row['tag']}"} for row in tagged(*((f"other {i}", f"fine {i}", "bad") for i in range(8)), source="b")), pair("p", "y", "n", tag="c", source="c")]
    fit = Fit({f"good {i}": (float(i), -1.0) for i in range(12)} | {f"fine {i}": (100.0 + i, 0.0) for i in range(8)})
    found = run(rows, agree.Config(only=["a"]), agree.Config(only=["b"]), fit=fit)
    scores = {tag: row["agree_chosen"] for tag, row in found.rows.items()}
    assert scores == {str(i): float(i) for i in range(12)} | {f"b{i}": 100.0 + i for i in range(8)} | {"c": None}


def test_a_second_agree_on_the_same_rows_has_the_last_word(run: Run) -> None:
    fit = Fit({"good 3": (1.0, 3.0), "bad 3": (7.0, 2.0)})
    found = run(questions(), agree.Config(action="flip"), agree.Config(action="flip"), fit=fit)
    row = found.rows["3"]
    assert (row["agree_chosen"], row["agree_rejected"], row["agree_margin"], row["flipped"]) == (7.0, 2.0, 5.0, True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_scores_that_are_not_finite_are_refused(run: Run, bad: float, side: int) -> None:
    scores = (bad, 0.0) if side == 0 else (0.0, bad)
    for config in (agree.Config(), agree.Config(action="flip")):
        with pytest.raises(AssayError, match=r"step `agree`: the judge gave scores that are not finite.*curate\.agree\.fit\.learning_rate"):
            run(questions(), config, fit=Fit({"good 3": scores}))
    with pytest.raises(AssayError, match="not finite"):
        run(questions(), agree.Config(), fit=Fit({"good 3": (bad, bad)}))


# all of them

def test_every_reason_is_said(run: Run, bench: str) -> None:
    rows = tagged(FOR, FOR, AGAINST, (LONG, "a", "b"), (f"so {LONG}", "a", "b"), ("p", "a<|im_end|>", "b"), ("q", "a", "b"), ("q", "a", "c"))
    configs: list[AnyStep] = [
        contradictions.Config(resolve="majority"),
        decontaminate.Config(against={"bench": bench}),
        duplicates.Config(key="unordered"),
        filter.Config(column="category", values=["x"]),
        markers.Config(),
        select.Config(by="margin", others=0.5),
    ]
    for config in configs:
        found = run(rows, config)
        assert found.gone
        assert all(line["reason"] for line in found.verdicts().values())
        assert all(line["flip"] is False and line["trim"] is None for line in found.verdicts().values())


def test_a_step_judges_only_the_sources_it_is_given(run: Run) -> None:
    rows = [pair("p", "yes<|im_end|>", "no", tag=str(i), source=source) for i, source in enumerate(["a", "b", None])]
    assert set(run(rows, markers.Config(only=["b"])).gone) == {"1"}
    assert set(run(rows, duplicates.Config(only=["a", "b"])).gone) <= {"0", "1"}
    emptied = run(rows, markers.Config(only=["a"]), duplicates.Config(only=["a"]))
    assert set(emptied.gone) == {"0"}


def test_a_source_that_no_row_has(run: Run) -> None:
    with pytest.raises(AssayError, match=r"step `markers`: no row has the source `mades`\. Did you mean `made`\? Sources: made"):
        run([pair("p", "yes", "no", source="made")], markers.Config(only=["mades"]))


def test_an_unknown_field_is_refused() -> None:
    for name, module in MODULES.items():
        with pytest.raises(ValidationError, match="nonsense"):
            module.Config(kind=name, nonsense=1)
