"""The features most steps decide on: keys of the normalised texts, and lengths."""

import polars as pl

from assay.curate.kernels.text import key, normal
from assay.pairs.schema import answer_text


def features(shard: pl.DataFrame) -> pl.DataFrame:
    """One row a pair: id, copy, and

    - prompt_key, chosen_key, rejected_key: names of the normalised texts (the whole prompt, with its roles),
    - chosen_chars, rejected_chars: lengths of the answers in characters.
    """
    rows = []
    for id_, copy, prompt, chosen, rejected in shard.select("id", "copy", "prompt", "chosen", "rejected").iter_rows():
        better, worse = answer_text(chosen), answer_text(rejected)
        rows.append(
            (
                id_,
                copy,
                key(*(f"{m['role']} {normal(m['content'])}" for m in prompt)),
                _answer_key(better),
                _answer_key(worse),
                len(better),
                len(worse),
            )
        )
    return pl.DataFrame(rows, schema=FEATURES, orient="row")


FEATURES = {
    "id": pl.String,
    "copy": pl.Int32,
    "prompt_key": pl.String,
    "chosen_key": pl.String,
    "rejected_key": pl.String,
    "chosen_chars": pl.Int64,
    "rejected_chars": pl.Int64,
}


def _answer_key(text: str) -> str:
    """Answers that differ only in spacing are the same; in code and in arithmetic a punctuation mark is an answer."""
    return key(" ".join(text.split()))
