"""Shortcuts: planted artefacts, styles and lengths are told, and what is not there is not; and the names of surface features."""

import builtins
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assay.curate import probe as probes
from assay.curate.kernels import surface
from assay.curate.kernels.surface import amounts, has, literal, presence
from assay.curate.probe import Probed, probe
from assay.curate.runner import curate
from assay.curate.steps import shortcuts
from assay.errors import MissingExtra
from assay.pairs.schema import answer_text, from_rows, pair_id
from conftest import pair, turn
from curate.conftest import Outcome, Rows, Run, hashes, pooled

Config = shortcuts.Config

pytest.importorskip("sklearn")

WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "re", "sta", "tre", "vor", "wen", "zil") for b in ("", "an", "bel", "cor", "dim", "el", "fus", "gar")]
MARKER = "<|im_start|>assistant"


def answer(rng: random.Random, least: int = 15, most: int = 30) -> str:
    """Words, a full stop here and there; the ends of two are rarely alike."""
    said = rng.choices(WORDS, k=rng.randint(least, most))
    return " ".join(said).capitalize() + rng.choice([".", "!", "?", ""])


def plain(n: int = 400, seed: int = 0, source: str | None = "made") -> Rows:
    """Pairs of which nothing tells the better."""
    rng = random.Random(seed)
    return [pair(f"question {i}", answer(rng), answer(rng), source=source, tag=str(i)) for i in range(n)]


def leaked(n: int = 400, share: float = 0.8, marker: str = MARKER, **more: Any) -> Rows:
    """As ``plain``, with a marker somewhere in the rejected side of most rows."""
    rng = random.Random(99)
    rows = plain(n, **more)
    for row in rows[: round(n * share)]:
        said = answer_text(row["rejected"]).split(" ")
        at = rng.randint(1, len(said) - 1)
        row["rejected"] = [turn("assistant", " ".join([*said[:at], marker, *said[at:]]))]
    return rows


def note(found: Outcome, source: str = "made") -> dict[str, Any]:
    return found.notes[0][source]


def probed(rows: Rows, folder: Path) -> Probed:
    context = pooled(rows, folder)
    found = probe(context.texts(context.alive))
    assert found is not None
    return found


# a leaked marker


def test_a_leaked_marker_is_found_unprompted(run: Run) -> None:
    found = run(leaked(), Config())
    assert found.gone == {}
    assert found.verdicts() == {}
    said = note(found)
    assert said["rows"] == 400
    assert said["told"] >= 0.85
    assert said["interval"][0] < said["told"] < said["interval"][1]
    (tell,) = [t for t in said["tells"] if t["name"] == "mark: <|im_start|>assistant"]
    assert (tell["side"], tell["rows"], tell["purity"]) == ("rejected", 320, 1.0)
    assert len(tell["examples"]) == 3
    for id_ in tell["examples"]:
        assert MARKER in answer_text(found.rows[found.tags[id_]]["rejected"])


def test_rows_with_the_marker_are_dropped(run: Run) -> None:
    found = run(leaked(), Config(action="drop"))
    assert found.kept == {str(i) for i in range(320, 400)}
    assert {line["because_of"] for line in found.gone.values()} == {"mark: <|im_start|>assistant"}
    assert {found.reason(tag) for tag in found.gone} == {"mark: <|im_start|>assistant stands in rejected alone, in this source nearly always"}


@pytest.mark.parametrize("marker", ["<|im_start|>", "[INST]", MARKER])
def test_the_marker_is_cut_out(marker: str, run: Run) -> None:
    """Up to the spaces about it."""
    rows, before = leaked(marker=marker), {row["tag"]: row for row in plain()}
    found = run(rows, Config(action="trim"))
    assert found.gone == {}
    ledger = found.ledger()
    for i, given_ in enumerate(rows):
        row = found.rows[str(i)]
        for side in ("chosen", "rejected"):
            assert answer_text(row[side]).split() == answer_text(before[str(i)][side]).split()
        assert row["id"] == pair_id(row["prompt"], row["chosen"], row["rejected"])
        assert row["row_id"] == pair_id(given_["prompt"], given_["chosen"], given_["rejected"])
        assert (row["id"] != row["row_id"]) == (i < 320)
        line = ledger[str(i)]
        assert (line["step"], line["reason"]) == (("kept, trimmed", f"cut out {marker}") if i < 320 else ("kept", None))


@pytest.mark.parametrize("at", ["beginning", "end"])
def test_a_marker_at_an_edge_is_cut_out_and_the_answers_are_as_before(at: str, run: Run) -> None:
    before = plain()
    rows = [{**row, "rejected": [turn("assistant", f"<|im_end|>\n{answer_text(row['rejected'])}" if at == "beginning" else f"{answer_text(row['rejected'])}\n<|im_end|>")]} for row in before]
    found = run(rows, Config(action="trim"))
    assert {tag: answer_text(row["rejected"]) for tag, row in found.rows.items()} == {row["tag"]: answer_text(row["rejected"]) for row in before}
    assert {line["step"] for line in found.ledger().values()} == {"kept, trimmed"}


def test_markers_of_both_sides_are_cut_out_together(run: Run) -> None:
    rows = leaked(marker="[INST]")
    for row in rows[:300]:
        row["chosen"] = [turn("assistant", f"{answer_text(row['chosen'])} <end>")]
    found = run(rows, Config(action="trim"))
    texts = [answer_text(row[side]) for row in found.rows.values() for side in ("chosen", "rejected")]
    assert not any("[INST]" in text or "<end>" in text for text in texts)


def test_a_row_of_which_nothing_would_be_left_goes(run: Run) -> None:
    rows = leaked(marker="<|im_end|>")
    rows[0]["rejected"] = [turn("assistant", "<|im_end|> <|im_end|>\n")]
    found = run(rows, Config(action="trim"))
    assert set(found.gone) == {"0"}
    assert found.reason("0") == "nothing is left of an answer without <|im_end|>"
    assert found.gone["0"]["because_of"] == "mark: <|im_end|>"
    assert found.gone["0"]["step"] == "01-shortcuts"


def test_after_a_trim_or_a_drop_nothing_is_found(run: Run) -> None:
    for action in ("trim", "drop"):
        found = run(leaked(700), Config(action=action), Config(action=action))
        first, second = (n["made"] for n in found.notes)
        assert any(t["name"].startswith("mark") for t in first["tells"])
        assert not any(t["name"].startswith("mark") for t in second["tells"])


@pytest.mark.parametrize(("share", "action", "gone"), [(0.8, "drop", 320), (0.1, "drop", 40), (0.04, "drop", 0), (0.8, "report", 0)])
def test_what_is_too_rare_is_no_artefact(run: Run, share: float, action: str, gone: int) -> None:
    assert len(run(leaked(share=share), Config(action=action)).gone) == gone


def test_what_stands_on_both_sides_of_a_row_tells_nothing(run: Run) -> None:
    rows = leaked()
    for row in rows:
        row["chosen"] = [turn("assistant", f"{answer_text(row['chosen'])} {MARKER}")]
        if MARKER not in answer_text(row["rejected"]):
            row["rejected"] = [turn("assistant", f"{answer_text(row['rejected'])} {MARKER}")]
    found = run(rows, Config(action="drop"))
    assert not any(t["name"].startswith("mark") for t in note(found)["tells"])


def test_an_end_that_tells_is_dropped_and_never_trimmed(run: Run) -> None:
    rows = plain()
    for row in rows[:300]:
        row["chosen"] = [turn("assistant", f"{answer_text(row['chosen'])} 'that' is \"all\"\n")]
    dropped = run(rows, Config(action="drop"))
    assert set(dropped.gone) >= {str(i) for i in range(300)}
    trimmed = run(rows, Config(action="trim"))
    assert trimmed.gone == {}
    assert {line["step"] for line in trimmed.ledger().values()} == {"kept"}


def test_a_source_is_judged_by_its_own(run: Run) -> None:
    rows = [*leaked(source="bad"), *({**row, "tag": f"g{row['tag']}"} for row in leaked(share=0.01, source="good", seed=5))]
    found = run(rows, Config(action="drop"))
    assert set(found.gone) == {str(i) for i in range(320)}
    assert set(found.notes[0]) == {"bad", "good"}
    assert not any(t["name"].startswith("mark") for t in note(found, "good")["tells"])


def test_small_sources_are_not_probed(run: Run) -> None:
    rows = [*leaked(probes.LEAST - 1, share=1.0, source="small"), *({**row, "tag": f"l{row['tag']}"} for row in leaked(probes.LEAST, share=1.0, source="enough", seed=3))]
    found = run(rows, Config(action="drop"))
    assert set(found.notes[0]) == {"enough"}
    assert found.kept == {str(i) for i in range(probes.LEAST - 1)}


@pytest.mark.parametrize("action", ["drop", "trim", "report"])
def test_rows_without_a_source_are_one(run: Run, action: str) -> None:
    found = run(leaked(source=None), Config(action=action))
    assert set(found.notes[0]) == {"(none)"}
    assert len(found.gone) == (320 if action == "drop" else 0)
    assert sum(line["step"] == "kept, trimmed" for line in found.ledger().values()) == (320 if action == "trim" else 0)


def test_nothing_to_probe(run: Run) -> None:
    found = run(plain(20), Config(action="drop"))
    assert (found.gone, found.notes) == ({}, [{}])


@pytest.mark.parametrize("action", ["drop", "trim"])
def test_what_the_sample_shows_is_looked_for_in_all_rows(run: Run, action: str) -> None:
    found = run(leaked(900), Config(action=action, sample=300))
    assert note(found)["rows"] == 300
    assert len(found.gone) == (720 if action == "drop" else 0)
    assert sum(line["step"] == "kept, trimmed" for line in found.ledger().values()) == (720 if action == "trim" else 0)


def test_order_shards_and_processes_change_nothing() -> None:
    rows = [*leaked(200, source="a"), *plain(100, source="b"), *plain(80, source=None, seed=2)]
    for config in (Config(action="trim", sample=150), Config(action="drop")):
        expected = hashes(rows, [config])
        assert hashes(rows[::-1], [config], shards=5) == expected


def test_notes_do_not_depend_on_the_order_of_rows_or_shards(tmp_path: Path) -> None:
    rows = leaked(200)
    one = curate(from_rows(rows), [Config()], tmp_path / "a").manifest["accounts"]
    assert curate(from_rows(rows[::-1]), [Config()], tmp_path / "b", shards=5).manifest["accounts"] == one


# what the probe tells


def test_a_style_is_told(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = []
    for row in plain():
        said = answer_text(row["rejected"]).split(" ")
        for polite in ("please", "thank you"):
            said.insert(rng.randint(1, len(said) - 1), polite)
        rows.append({**row, "rejected": [turn("assistant", " ".join(said))]})
    found = probed(rows, tmp_path)
    assert found.told >= 0.9
    assert found.length < 0.75
    names = {t.name: t for t in found.tells}
    for word in ("word: please", "word: thank", "words: thank you"):
        assert (names[word].side, names[word].rows, names[word].purity) == ("rejected", 400, 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_told_where_nothing_tells(seed: int, tmp_path: Path) -> None:
    found = probed(plain(seed=seed), tmp_path)
    assert found.interval[0] <= 0.5 <= found.interval[1] or abs(found.told - 0.5) < 0.06
    assert found.told < 0.6
    assert abs(found.length - 0.5) < 0.07
    assert len(found.tells) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_marker_with_shuffled_labels_tells_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    rows = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} if rng.random() < 0.5 else row for row in leaked(seed=seed)]
    found = probed(rows, tmp_path)
    assert found.told < 0.6
    assert not any(t.name.startswith("mark") for t in found.tells)


@pytest.mark.parametrize("longer", ["chosen", "rejected"])
def test_a_length_is_told(longer: str, tmp_path: Path) -> None:
    rng = random.Random(2)
    sides = {"chosen": (15, 30), "rejected": (15, 30), longer: (25, 60)}
    rows = [pair(f"question {i}", answer(rng, *sides["chosen"]), answer(rng, *sides["rejected"])) for i in range(400)]
    found = probed(rows, tmp_path)
    share = sum(len(answer_text(row[longer])) > len(answer_text(row["rejected" if longer == "chosen" else "chosen"])) for row in rows) / 400
    assert share > 0.85
    assert abs(found.length - share) < 0.01
    assert found.told > 0.8
    (tell,) = [t for t in found.tells if t.name == "more length"]
    assert tell.side == longer
    assert tell.purity == pytest.approx(share, abs=0.01)


def test_a_leak_of_one_prompt_does_not_count(tmp_path: Path) -> None:
    """Each of a few prompts has its own word in the chosen side: no fold has seen the word of another's prompts."""
    rng = random.Random(3)
    rows = [pair(f"prompt {i % 40}", f"{(a := answer(rng))} secret{i % 40}x and {a}", f"{(b := answer(rng))} other{i % 40}x and {b}") for i in range(400)]
    found = probed(rows, tmp_path)
    assert found.told < 0.6
    everywhere = [pair(f"prompt {i % 40}", answer_text(row["chosen"]).replace(f"secret{i % 40}x", "secret"), answer_text(row["rejected"])) for i, row in enumerate(rows)]
    assert probed(everywhere, tmp_path / "everywhere").told > 0.9


def test_all_rows_of_one_prompt(tmp_path: Path) -> None:
    """There is nothing to fit on: nothing is claimed."""
    rng = random.Random(4)
    found = probed([pair("the same", f"{answer(rng)} yes", f"{answer(rng)} no") for i in range(100)], tmp_path)
    assert found.interval[0] <= 0.5 <= found.interval[1]


def test_identical_and_empty_answers(tmp_path: Path) -> None:
    found = probed([pair(f"question {i}", "", "") for i in range(100)], tmp_path)
    assert found.length == 0.5
    assert found.tells == []
    assert found.interval[0] <= 0.5 <= found.interval[1]


def test_too_few_rows(tmp_path: Path) -> None:
    context = pooled(plain(probes.LEAST - 1), tmp_path)
    assert probe(context.texts(context.alive)) is None


def test_tells_are_sorted_and_at_most_so_many(tmp_path: Path) -> None:
    context = pooled(leaked(), tmp_path)
    table = context.texts(context.alive)
    found = probe(table, most=5)
    assert found is not None
    assert len(found.tells) == 5
    weights = [(2 * t.purity - 1) * t.rows for t in found.tells]
    assert weights == sorted(weights, reverse=True)
    assert found.record()["interval"] == list(found.interval)


def test_a_marker_among_many_tells_is_still_an_artefact(run: Run) -> None:
    """More than a dozen words tell as well as the marker does."""
    rows, rng = leaked(share=0.5), random.Random(5)
    for row in rows:
        said = answer_text(row["rejected"]).split(" ")
        for word in ["as", "far", "as", "anybody", "here", "could", "ever", "possibly", "know", "about", "such", "things", "today"]:
            said.insert(rng.randint(1, len(said) - 1), word)
        row["rejected"] = [turn("assistant", " ".join(said))]
    assert set(run(rows, Config(action="drop")).gone) == {str(i) for i in range(200)}


def test_scikit_learn_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def gone(asked: str, *rest: Any, **more: Any) -> Any:
        if asked.split(".")[0] == "sklearn":
            raise ImportError(asked)
        return found(asked, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", gone)
    with pytest.raises(MissingExtra, match=r'the probe for shortcuts needs the optional packages of Assay: pip install "assay\[audit\]"'):
        run(plain(80), Config())


# surface


def test_the_names_of_a_text() -> None:
    found = presence("Human: I'm sorry, <|im_end|> [INST] yes.")
    assert {n for n in found if n.startswith("mark")} == {"mark: <|im_end|>", "mark: [INST]", "mark: Human:"}
    assert {"begins: 'Human: I'", "ends: ' yes.'", "ends: 'ST] yes.'"} & found == {"begins: 'Human: I'", "ends: 'ST] yes.'"}
    assert {"ends: '.'", "first word: human", "last word: yes", "first words: human i", "last words: inst yes", "word: sorry", "words: m sorry"} <= found
    assert "opens: with a refusal" not in found
    for refusal in ("I'm sorry, but no", "Sorry, no", "I cannot do that", "I can’t", "I am unable to", "As an AI model", "Unfortunately, I"):
        assert "opens: with a refusal" in presence(refusal)
    assert "opens: with a refusal" not in presence("I can do that. I'm sorry.")
    assert presence("") == set()
    assert presence("?!") == {"begins: '?!'", "ends: '?!'", "ends: '!'"}


TEXT = st.text(st.sampled_from(list("ab \n\r\t'\"\\:.<>[]{}|\u2028\u00a0今é\U0001f600\x1f\0")) | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(TEXT)
@example("'\"\\\n: end: 'x'")
@example("begins: 'x'")
@example("\x1f\u2028\"")
def test_a_literal_is_a_text_that_the_text_has(text: str) -> None:
    found = {name: literal(name) for name in presence(text)}
    for name, exact in found.items():
        kind = name.partition(": ")[0]
        assert (exact is not None) == (kind in ("mark", "begins", "ends"))
        if exact:
            assert exact[0] == kind
            assert has(text, *exact)
    assert ("begins", text[: surface.EDGE]) in found.values()
    assert {("ends", text[-surface.EDGE :]), ("ends", text[-1])} <= set(found.values())


@pytest.mark.parametrize(("text", "kind", "piece", "there"), [
    ("abc", "begins", "ab", True), ("abc", "begins", "bc", False), ("abc", "ends", "bc", True), ("abc", "ends", "ab", False),
    ("a<b>c", "mark", "<b>", True), ("abc", "mark", "<b>", False), ("", "begins", "a", False), ("", "ends", "a", False),
])  # fmt: skip
def test_has(text: str, kind: str, piece: str, there: bool) -> None:
    assert has(text, kind, piece) is there


def test_names_of_long_texts_are_those_of_their_edges() -> None:
    found = presence("begin " + "<mid>word " * 1_000 + "<far> " + "x " * 3_000 + "end")
    assert {"first word: begin", "last word: end", "mark: <mid>"} <= found
    assert "mark: <far>" not in found


def test_amounts() -> None:
    assert set(amounts("")) == {"length", "words", "lines", "markdown", "code", "digits", "repetition", "turns"}
    assert {k for k, v in amounts("").items() if v} == {"turns"}
    some, more = amounts("# A\n- b\n- c\n```x```\n1 2 3 a a a"), amounts("a b c")
    assert all(some[k] > more[k] for k in ("length", "words", "lines", "markdown", "code", "digits", "repetition"))
    assert amounts("a", 3)["turns"] == 3.0


def test_a_trim_that_leaves_two_answers_the_same_drops_the_row(run: Run) -> None:
    rng = random.Random(0)
    words = ["oak", "elm", "ash", "fir", "yew", "bay", "fig", "box"]
    said = [" ".join(rng.choices(words, k=6)) for _ in range(240)]
    rows = [pair(f"question {i}", said[i], (said[i] if i % 3 == 0 else said[i - 1]) + " <|im_end|>", tag=str(i)) for i in range(120)]
    found = run(rows, shortcuts.Config(action="trim"))
    same = {str(i) for i in range(0, 120, 3)}
    assert set(found.gone) == same
    assert found.reason("0") == "both answers are the same without <|im_end|>"
    assert all(row["chosen"] != row["rejected"] for row in found.rows.values())
