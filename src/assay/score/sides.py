"""Scores of both sides of pairs by any scorer: what curation steps that judge with one are given."""

import polars as pl

from assay.score.scorer import load_scorer


def sides(spec: str, pairs: pl.DataFrame) -> pl.DataFrame:
    """``chosen_score`` and ``rejected_score`` of ``pairs``, in their order, by the first attribute of the scorer ``spec``.

    Raises:
        AssayError: there is no such scorer.
    """
    rows = list(pairs.select("prompt", "chosen", "rejected").iter_rows())
    scores = load_scorer(spec).score([p + c for p, c, _ in rows] + [p + r for p, _, r in rows]).values[:, 0].astype(float)
    return pl.DataFrame({"chosen_score": scores[: len(rows)], "rejected_score": scores[len(rows) :]})
