"""What the tests of curation share: planted tables, outcomes by tag, contexts for single steps, and doubles of steps.

The folder is a package, so that ``conftest`` still means the one above.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay import engine as engines
from assay.curate.pool import ingest
from assay.curate.runner import OUTPUTS, Curated, curate
from assay.curate.step import VERDICT, Context, verdicts
from assay.curate.steps import MODULES, AnyStep, contradictions, duplicates, filter, markers, select
from assay.files import write_parquet
from assay.pairs.schema import from_rows
from conftest import pair

Rows = list[dict[str, Any]]
Judge = Callable[[pl.DataFrame, AnyStep, Context], pl.LazyFrame]

STEPS: list[AnyStep] = [
    markers.Config(),
    contradictions.Config(resolve="majority"),
    duplicates.Config(key="unordered", best="score", only=["a"]),
    filter.Config(column="category", values=["x", "y"]),
    select.Config(by="score", groups=[select.Group(name="exes", categories=["X"], keep=0.5)], others=0.75, offsets={"a": -0.25}),
]
KINDS = [step.kind for step in STEPS]
NAMES = [f"{i:02d}-{kind}" for i, kind in enumerate(KINDS, 1)]


@pytest.fixture(autouse=True, scope="package")
def _no_fsync() -> Iterator[None]:
    """These tests write thousands of small files, and none of them pulls a plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assay.files.os.fsync", lambda handle: None)
        yield


def planted(n: int = 60) -> Rows:
    """A table in which every step of STEPS drops something."""
    answers = [("yes", "no"), ("no", "yes"), ("yes", "no"), ("well", "bad"), ("fine<|im_end|>", "bad")]
    return [
        pair(f"question {i // 4}", *answers[i % 5], source="ab"[i % 3 == 0], category="xyz"[i % 7 % 3], score=float(i * 7 % 11), note=f"n{i % 2}")
        for i in range(n)
    ]


def tagged(*rows: tuple[str, str, str], **more: Any) -> Rows:
    """Rows of prompt, chosen and rejected, tagged "0", "1", ..."""
    return [pair(*row, tag=str(i), **more) for i, row in enumerate(rows)]


def hashes(rows: Rows | pl.DataFrame | Path, steps: Sequence[AnyStep] = STEPS, **more: Any) -> dict[str, str]:
    """SHA-256 of each output of a curation in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        given = from_rows(rows) if isinstance(rows, list) else rows
        found: dict[str, str] = curate(given, steps, Path(folder) / "c", **more).manifest["sha256"]
    assert sorted(found) == sorted(OUTPUTS)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The outputs of a curation, byte by byte."""
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def files_of(folder: Path) -> dict[Path, bytes]:
    """All that lies in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# a step by itself


def pooled(rows: Rows | pl.DataFrame, folder: Path, *, shards: int | None = None, **more: Any) -> Context:
    """The rows as a pool on disk, and a context in which all of them are in."""
    write_parquet(folder / "pairs.parquet", from_rows(rows) if isinstance(rows, list) else rows)
    with engines.start("local", 1) as engine:
        pool = ingest(folder / "pairs.parquet", folder / "pool", engine, shards=shards)
    return Context(pool, pool.column("source", "category"), engine, folder / "step" / "work", **more)


def judged(rows: Rows | pl.DataFrame, config: AnyStep, folder: Path, **more: Any) -> pl.DataFrame:
    """The rows, in their canonical order, and the verdict of each."""
    context = pooled(rows, folder, **more)
    said = MODULES[config.kind].judge(context.alive, config, context).collect()
    assert dict(said.schema) == VERDICT
    assert said["row"].n_unique() == said.height
    return context.texts(context.alive).join(said, on="row", how="left", suffix="_v", maintain_order="left")


# whole curations, by tag


class Outcome:
    """What became of rows that are named by their column `tag`."""

    def __init__(self, curated: Curated) -> None:
        self.folder = curated.folder
        self.notes = [account["notes"] for account in curated.manifest["accounts"]]
        self.rows = {row["tag"]: row for row in curated.kept().iter_rows(named=True)}
        self.kept = set(self.rows)
        dropped = pl.read_parquet(curated.folder / "dropped.parquet")
        ledger = pl.read_parquet(curated.folder / "ledger.parquet")
        self.gone = {row["tag"]: row for row in dropped.select("id", "copy", "tag").join(ledger, on=["id", "copy"]).iter_rows(named=True)}
        tags = {row["row_id"]: row["tag"] for row in curated.kept().iter_rows(named=True)}
        self.tags = tags | {row["id"]: row["tag"] for row in dropped.iter_rows(named=True)}

    def reason(self, tag: str) -> str:
        return self.gone[tag]["reason"]

    def twin(self, tag: str) -> str:
        return self.tags[self.gone[tag]["because_of"]]

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The verdicts of the first step, those on rows that stay included."""
        (file,) = self.folder.glob("steps/01-*/verdicts.parquet")
        return {self.tags[line["id"]]: line for line in pl.read_parquet(file).iter_rows(named=True)}

    def ledger(self) -> dict[str, dict[str, Any]]:
        return {self.tags[line["id"]]: line for line in pl.read_parquet(self.folder / "ledger.parquet").iter_rows(named=True)}


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs steps over rows."""

    def go(rows: Rows, *steps: AnyStep, **more: Any) -> Outcome:
        return Outcome(curate(from_rows(rows), steps, tmp_path / "curated", **more))

    return go


# doubles of steps


def flip_where(tag: str, column: str = "note") -> Judge:
    """A judge that flips the rows whose note is ``tag``."""

    def judge(rows: pl.DataFrame, config: AnyStep, context: Context) -> pl.LazyFrame:
        noted = context.columns(rows, column, step=config.kind)
        return verdicts(noted, keep=pl.lit(True), reason="turned round", score=pl.lit(0.5), because_of=pl.lit("a double"), flip=pl.col(column) == tag)

    return judge


def trim_where(tag: str, piece: str, column: str = "note") -> Judge:
    """A judge that cuts ``piece`` out of the rows whose note is ``tag``."""

    def judge(rows: pl.DataFrame, config: AnyStep, context: Context) -> pl.LazyFrame:
        noted = context.columns(rows, column, step=config.kind).filter(pl.col(column) == tag)
        return verdicts(noted, keep=pl.lit(True), reason=f"cut out {piece}", because_of=pl.lit("a double"), trim=pl.lit(piece))

    return judge


class Calls(list[str]):
    """The kinds of the steps whose judge was called; one of them may fail once."""

    fails: str | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Counts the calls of every step's judge."""
    called = Calls()

    def counted(kind: str, judge: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
        def go(*arguments: Any) -> pl.DataFrame:
            called.append(kind)
            if called.fails == kind:
                called.fails = None
                raise KeyboardInterrupt
            return judge(*arguments)

        return go

    for kind, module in MODULES.items():
        monkeypatch.setattr(module, "judge", counted(kind, module.judge))
    return called
