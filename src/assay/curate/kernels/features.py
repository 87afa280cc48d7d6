"""The features most steps decide on: keys of the normalised texts, and lengths."""

import polars as pl

from assay.curate.kernels.text import key, spaced
from assay.pairs.schema import answer_text


def features(shard: pl.DataFrame) -> pl.DataFrame:
    """One row a pair: id, copy, and

    - prompt_key, chosen_key, rejected_key: names of the texts up to spacing (the whole prompt, with its roles, also up to case),
    - chosen_chars, rejected_chars: lengths of the answers in characters.
    """
    rows = []
    for id_, copy, prompt, chosen, rejected in shard.select("id", "copy", "prompt", "chosen", "rejected").iter_rows():
        better, worse = answer_text(chosen), answer_text(rejected)
        rows.append(
            (
                id_,
                copy,
                key(*(f"{m['role']} {spaced(m['content']).casefold()}" for m in prompt)),
                key(spaced(better)),
                key(spaced(worse)),
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
