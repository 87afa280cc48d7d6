"""Fixtures: tiny models, small pair tables with a learnable rule, and the real data where it is there."""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from assay.files import MANIFEST, write_json
from assay.pairs.schema import from_rows

SHARED = Path(os.environ.get("ASSAY_TEST_DATA", Path(__file__).parents[2] / "shared")) / "data"


RAYS_OWN = [
    "ignore::ResourceWarning",
    "ignore:.*:DeprecationWarning:ray.*",
    "ignore:.*:FutureWarning:ray.*",
    "ignore:.*:UserWarning:ray.*",
    "ignore::pytest.PytestUnraisableExceptionWarning",
]
"""Warnings of Ray that no test of ours is about."""

LONGEST = ("test_docs.py", "test_demo.py", "test_more_training.py", "test_engine.py", "test_openapi.py", "test_every_path.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process works on one alone at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT backbone."""
    import tiny

    return tiny.encoder(tmp_path_factory.mktemp("tiny-encoder"))


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama backbone whose pad token is its eos."""
    import tiny

    return tiny.decoder(tmp_path_factory.mktemp("tiny-decoder"))


@pytest.fixture
def small_cache(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which ``minilm`` is a small model."""
    cache = tmp_path_factory.mktemp("cache")
    folder = Path(shutil.copytree(tiny_encoder, cache / "models" / "minilm"))
    write_json(folder / MANIFEST, {"name": "minilm", "licence": "", "origin": "made for a test", "files": {}})
    return cache


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets; a test that needs them skips, loudly, where they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"SKIPPED LOUDLY: the real data is not at {SHARED}; set ASSAY_TEST_DATA")
    return SHARED


def turn(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    """A single-turn pair as a row."""
    return {"prompt": [turn("user", prompt)], "chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)], **more}


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., pl.DataFrame]:
    """Makes n pairs of different prompts in which the better answer says yes."""

    def make(n: int, seed: int = 0, source: str = "made") -> pl.DataFrame:
        rng = random.Random(seed)
        words = ["red", "green", "blue", "old", "new", "fast", "slow", "warm", "cold", "round"]
        rows = []
        for i in range(n):
            said = " ".join(rng.choices(words, k=rng.randint(2, 12)))
            more = " ".join(rng.choices(words, k=rng.randint(0, 6)))
            rows.append(pair(f"number {seed} {i}: {said}?", f"yes {more}".strip(), f"no {more}".strip(), source=source, category=rng.choice(["a", "b"]), score=rng.random()))
        return from_rows(rows)

    return make
