"""Texts as vectors, for steps that look at meaning.

By default static embeddings that come with the package ``wordllama`` (MIT; 32,000 tokens, 256 dimensions): no hub, no network, thousands of texts a
second and core. ``sentence-transformers:NAME`` takes a model of that library instead, ``static:FOLDER`` a static one saved by model2vec.
"""

from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.curate.kernels.features import parts
from assay.errors import AssayError, MissingExtra
from assay.files import first_line

if TYPE_CHECKING:
    from assay.curate.step import Context

STATIC = "static"
"""The embeddings that come with a package."""
CHARS = 2_000
"""Characters of a text that are looked at."""

Vectors = NDArray[np.float32]


def embed(texts: list[str], model: str = STATIC) -> Vectors:
    """Unit vectors of texts, [texts, dimensions]; of an empty text zeros.

    Raises:
        AssayError: there is no such model.
        MissingExtra: what it needs is not installed.
    """
    encode = _encoder(model)
    vectors = np.asarray(encode([text[:CHARS] for text in texts]), np.float32).reshape(len(texts), -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


@lru_cache(maxsize=2)
def _encoder(model: str) -> Any:
    kind, _, name = model.partition(":")
    if kind == "sentence-transformers" and name:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtra(f"embedding with {model}", "embed") from None
        return SentenceTransformer(name).encode
    if kind != STATIC:
        raise AssayError(f"unknown embedding `{model}`. Known: static, static:FOLDER, sentence-transformers:NAME")
    try:
        from model2vec import StaticModel
    except ImportError:
        raise MissingExtra("looking at meaning", "audit") from None
    if name:
        if not Path(name).is_dir():
            raise AssayError(f"{model}: no such folder; expected one that model2vec saved")
        try:
            return StaticModel.from_pretrained(name).encode
        except Exception as error:
            raise AssayError(f"{model}: not a model that model2vec saved ({first_line(error)})") from None
    return _packaged(StaticModel).encode


def _packaged(static_model: Any) -> Any:
    """The model in the files of the package ``wordllama``, whose own loader asks the hub for its tokenizer."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    try:
        files = metadata.files("wordllama") or []
    except metadata.PackageNotFoundError:
        raise MissingExtra("looking at meaning", "audit") from None
    weights, tokenizer = (next((f.locate() for f in files if f.name == name), None) for name in ("l2_supercat_256.safetensors", "l2_supercat_tokenizer_config.json"))
    if weights is None or tokenizer is None:
        raise AssayError(f"the package wordllama {metadata.version('wordllama')} lacks its weights; install wordllama==0.4.0.post1")
    (table,) = load_file(str(weights)).values()
    return static_model(vectors=table.astype(np.float32), tokenizer=Tokenizer.from_file(str(tokenizer)))


def embedded(shard: pl.DataFrame, model: str, text: str) -> pl.DataFrame:
    """A kernel: ``row`` and ``vector`` of the prompt, or of the prompt and both answers (``text`` is `pair`)."""
    whole = parts(text).values()
    texts = shard.select(pl.concat_str([c.str.slice(0, CHARS // len(whole)) for c in whole], separator="\n").alias("t"))["t"].to_list()
    vectors = embed(texts, model)
    return shard.select("row").with_columns(pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])))


def vectors_of(rows: pl.DataFrame, model: str, text: str, context: "Context") -> Vectors:
    """Unit vectors of ``rows`` in their order, [rows, dimensions]."""
    _encoder(model)  # a missing package is reported before any work, and by this process
    return context.map(partial(embedded, model=model, text=text), rows, list(parts(text)), f"vectors-{text}")["vector"].to_numpy()


def clusters(rows: pl.DataFrame, k: int, model: str, context: "Context", rounds: int = 10) -> pl.DataFrame:
    """Semantic clusters of prompts by spherical k-means: ``row`` and ``cluster`` (0 to k - 1).

    Begins at rows spread evenly over the order of ids, so the result depends on the rows alone.
    """
    vectors = vectors_of(rows, model, "prompt", context)
    k = min(k, len(vectors))
    centres = vectors[np.linspace(0, len(vectors) - 1, k).astype(int)]
    nearest = _nearest(vectors, centres)
    for _ in range(rounds):
        sums = np.zeros_like(centres, dtype=np.float64)
        np.add.at(sums, nearest, vectors)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(length > 0, sums / np.where(length > 0, length, 1), centres).astype(np.float32)
        nearest, before = _nearest(vectors, centres), nearest
        if (nearest == before).all():
            break
    return rows.sort("row").select("row").with_columns(cluster=pl.Series(nearest, dtype=pl.UInt32))


def _nearest(vectors: Vectors, centres: Vectors, block: int = 16_384) -> NDArray[np.int64]:
    return np.concatenate([(vectors[i : i + block] @ centres.T).argmax(axis=1) for i in range(0, len(vectors), block)])
