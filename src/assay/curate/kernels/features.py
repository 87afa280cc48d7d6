"""The features most steps decide on: keys of the normalised texts, and lengths; and the texts of a column of conversations."""

import polars as pl

from assay.curate.kernels.text import key, spaced
from assay.pairs.schema import answer_text

FEATURES = {
    "prompt_key": pl.UInt64,
    "chosen_key": pl.UInt64,
    "rejected_key": pl.UInt64,
    "chosen_chars": pl.UInt32,
    "rejected_chars": pl.UInt32,
}


def features(shard: pl.DataFrame) -> pl.DataFrame:
    """One row a pair:

    - prompt_key, chosen_key, rejected_key: names of the texts up to spacing (the whole prompt, with its roles, also up to case),
    - chosen_chars, rejected_chars: lengths of the answers in characters.
    """
    rows = []
    for prompt, chosen, rejected in shard.select("prompt", "chosen", "rejected").iter_rows():
        better, worse = answer_text(chosen), answer_text(rejected)
        prompt_key = key(*(f"{m['role']} {spaced(m['content']).casefold()}" for m in prompt))
        rows.append((prompt_key, key(spaced(better)), key(spaced(worse)), len(better), len(worse)))
    return pl.DataFrame(rows, schema=FEATURES, orient="row")


def asked(column: str = "prompt") -> pl.Expr:
    """What the users of a conversation said, turn after turn, as one text."""
    return _said(column, "user")


def answered(column: str) -> pl.Expr:
    """The words of an answer: its assistant turns joined by a line break."""
    return _said(column, "assistant")


def parts(text: str) -> dict[str, pl.Expr]:
    """What is compared of a row, by column: the prompt alone (``text`` is `prompt`), or prompt and both answers (`pair`)."""
    return {"prompt": asked()} if text == "prompt" else {"prompt": asked(), "chosen": answered("chosen"), "rejected": answered("rejected")}


def _said(column: str, role: str) -> pl.Expr:
    turn = pl.element().struct
    return pl.col(column).list.eval(turn["content"].filter(turn["role"] == role)).list.join("\n")
