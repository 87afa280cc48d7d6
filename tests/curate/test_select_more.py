"""Selection beyond shares of categories: counts, every source by itself, the lowest, and semantic clusters."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from assay.curate.embeddings import clusters
from assay.curate.runner import curate
from assay.curate.step import Context
from assay.curate.steps import select
from assay.pairs.schema import from_rows
from conftest import pair

from .conftest import Outcome, Rows, pooled


def planted(n: int = 40) -> Rows:
    return [pair(f"question {i}", "yes", "no", tag=str(i), source="ab"[i % 2], category="xyz"[i % 3], score=None if i == 7 else float(i * 37 % 101)) for i in range(n)]


def done(rows: Rows, config: select.Config, folder: Path, **more: Any) -> Outcome:
    return Outcome(curate(from_rows(rows), [config], folder, **more))


def best(rows: Rows, n: int, *, lowest: bool = False) -> set[str]:
    """The tags of the n best rows; those without a score come last."""
    return {r["tag"] for r in sorted(rows, key=lambda r: (r["score"] is None, (r["score"] or 0) * (1 if lowest else -1)))[:n]}


def group(categories: str, **more: Any) -> select.Group:
    return select.Group(name=categories, categories=list(categories), **more)


@pytest.mark.parametrize("count", [0, 1, 5, 500])
def test_a_group_may_have_a_count(count: int, tmp_path: Path) -> None:
    rows = planted()
    outcome = done(rows, select.Config(by="score", groups=[group("x", count=count), group("y", keep=0.5)], others=0.25), tmp_path / "c")
    x, y, z = ([r for r in rows if r["category"] == c] for c in "xyz")
    assert outcome.kept == best(x, count) | best(y, 7) | best(z, 3)
    if count == 5:
        gone = next(t for t in outcome.gone if rows[int(t)]["category"] == "x")
        assert outcome.reason(gone).endswith(" of 14 in group x, 5 stay")


def test_every_source_by_itself(tmp_path: Path) -> None:
    rows = planted()
    outcome = done(rows, select.Config(by="score", groups=[group("xy", count=3)], others=0.5, per_source=True), tmp_path / "c")
    want: set[str] = set()
    for source in "ab":
        mine = [r for r in rows if r["source"] == source]
        z = [r for r in mine if r["category"] == "z"]
        want |= best([r for r in mine if r["category"] != "z"], 3) | best(z, int(len(z) / 2 + 0.5))
    assert outcome.kept == want
    assert any(" in group xy of a, 3 stay" in outcome.reason(t) for t in outcome.gone)


def test_the_lowest_first_and_rows_without_a_value_last(tmp_path: Path) -> None:
    rows = planted()
    outcome = done(rows, select.Config(by="score", lowest=True, others=0.3), tmp_path / "c")
    assert outcome.kept == best(rows, 12, lowest=True)
    assert "7" not in outcome.kept


def test_offsets_count_with_the_lowest_too(tmp_path: Path) -> None:
    rows = planted()
    outcome = done(rows, select.Config(by="score", lowest=True, others=0.475, offsets={"a": 1_000.0}), tmp_path / "c")
    assert {rows[int(t)]["source"] for t in outcome.kept} == {"b"}


TOPICS = ["how do I bake a sourdough bread loaf with {} flour", "prove that the square root of {} is irrational in mathematics", "which football team won the championship game number {}"]


def topical(n: int = 30) -> Rows:
    """Rows of three topics; the first topic has all the high scores."""
    pytest.importorskip("wordllama")
    return [pair(TOPICS[i % 3].format(i), "yes", "no", tag=str(i), source="s", category="x", score=float(100 * (i % 3 == 0) + i * 17 % 31)) for i in range(n)]


def test_the_best_of_every_cluster_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = topical()

    def by_topic(alive: pl.DataFrame, k: int, model: str, context: Context) -> pl.DataFrame:
        return context.columns(alive, "tag", step="select").select("row", cluster=pl.col("tag").cast(pl.UInt32) % k)

    monkeypatch.setattr(select, "clusters", by_topic)
    for count in (3, 6, 9):
        outcome = done(rows, select.Config(by="score", groups=[group("x", count=count)], clusters=3), tmp_path / f"c{count}")
        of = Counter(int(t) % 3 for t in outcome.kept)
        assert of == {0: count // 3, 1: count // 3, 2: count // 3}
        for topic in range(3):
            assert {t for t in outcome.kept if int(t) % 3 == topic} == best([r for r in rows if int(r["tag"]) % 3 == topic], count // 3)
    assert {int(t) % 3 for t in done(rows, select.Config(by="score", groups=[group("x", count=9)]), tmp_path / "plain").kept} == {0}


def test_choices_over_clusters_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    rows = topical(31)
    context = pooled(rows, tmp_path)
    table = context.texts(context.alive).join(clusters(context.alive, 4, "static", context), on="row")
    waiting = {c: sorted(table.filter(pl.col("cluster") == c).select("score", "row", "tag").iter_rows(), key=lambda r: (-r[0], r[1])) for c in range(4)}
    chosen: list[str] = []
    while any(waiting.values()):
        turn = sorted((w.pop(0) for w in waiting.values() if w), key=lambda r: (-r[0], r[1]))
        chosen += [tag for _, _, tag in turn]
    for count in (1, 5, 13, 30, 31):
        outcome = done(rows, select.Config(by="score", groups=[group("x", count=count)], clusters=4), tmp_path / f"c{count}")
        assert outcome.kept == set(chosen[:count])


def test_clusters_do_not_depend_on_order_or_shards(tmp_path: Path) -> None:
    rows = topical()
    config = select.Config(by="score", others=0.4, clusters=3)
    assert done(rows, config, tmp_path / "a").kept == done(rows[::-1], config, tmp_path / "b", shards=5).kept


@pytest.mark.parametrize("given", [{"keep": 0.5, "count": 3}, {}])
def test_a_share_and_a_count_exclude_each_other(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"give either `keep` \(a share\) or `count` \(a number of rows\)"):
        group("x", **given)


def test_two_groups_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two groups are called `g`"):
        select.Config(by="score", groups=[select.Group(name="g", categories=["x"], keep=1.0), select.Group(name="g", categories=["y"], count=0)])


def test_names_that_no_row_has_are_told(tmp_path: Path) -> None:
    rows = [pair(f"q{i}", "yes", "no", source="web", category="Math", score=float(i)) for i in range(4)]
    config = select.Config(by="score", groups=[select.Group(name="g", categories=["Maths", "math"], keep=1.0)], offsets={"wep": 1.0})
    notes = curate(from_rows(rows), [config], tmp_path / "c").manifest["accounts"][0]["notes"]
    assert notes["names nobody has"] == ["offsets: no row has the source `wep`. Did you mean `web`?", "groups: no row has the category `Maths`. Did you mean `Math`?"]
