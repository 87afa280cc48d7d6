"""A made-up pool with the shape of the 378,273 pairs that Skywork-Reward (arXiv 2410.18451) was curated from, of any size, with known answers.

    python benchmarks/skywork_pool.py OUT [--scale 1.0] [--seed 0] [--defects]     write OUT/<owner>/<name>/data/*.parquet and OUT/expected.json
    python benchmarks/skywork_pool.py OUT --check                                  recompute the arithmetic of the recipe from the files

The seven sources stand under their hub names and in their own columns, so that ``assay curate skywork --data-root OUT`` reads them unchanged, and
beside them a stand-in for RewardBench. All words are invented. Counts are those of the paper times ``--scale``. What is planted:

- Scores by which the recipe's ``select`` keeps the published number of rows of every source and category: for each a row is first decided on, then
  given a score on that side of its group's threshold. The stated shares of 344,000 rows keep 94 rows more than were published; they are Magpie-Pro
  (Llama 3.1) rows on information seeking.
- The scores a judge gave to the WildGuard answers, which rank the published number of adversarial pairs right. The layout of WildGuardMix has no
  room for them once it is read, so the same pairs also stand in OUT/judged/wildguardmix, as pairs with further columns.
- Prompts of Magpie-Ultra that share 7 words in a row with a prompt of the benchmark, all among the rows that are kept.
- With ``--defects``: near duplicates, leaked chat markers, and pairs that contradict each other. They take the place of rows that are not kept or
  change only answers, so that the counts of the recipe stay as they are.
"""

import argparse
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ULTRA, PRO31, PRO, AIR = "magpie_ultra", "magpie_pro_llama3.1", "magpie_pro", "magpie_air"
MAGPIE = (ULTRA, PRO31, PRO, AIR)
HUB = {
    "helpsteer2": "nvidia/HelpSteer2",
    "offsetbias": "NCSOFT/offsetbias",
    "wildguard": "allenai/wildguardmix",
    ULTRA: "argilla/magpie-ultra-v0.1",
    PRO31: "Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1",
    PRO: "Magpie-Align/Magpie-Pro-DPO-100K-v0.1",
    AIR: "Magpie-Align/Magpie-Air-DPO-100K-v0.1",
}
JUDGED, BENCHMARK = "judged/wildguardmix", "allenai/reward-bench"

POOL = {PRO31: 98_000, PRO: 98_000, AIR: 98_000, ULTRA: 50_000, "wildguard": 18_548, "offsetbias": 8_504, "helpsteer2": 7_221}
KEPT = {PRO31: 29_682, ULTRA: 27_785, PRO: 2_030, AIR: 42}
TIED = 3_460
ADVERSARIAL, AGREED = 9_800, 6_709
CONTAMINATED, VERBATIM = 4_957, 1 / 5
TOKENS = {  # mean tokens of a prompt and of an answer
    "helpsteer2": (21.3, 690.0), "offsetbias": (69.1, 222.1), "wildguard": (164.3, 349.9), ULTRA: (76.7, 670.0),
    PRO31: (118.8, 584.3), PRO: (34.2, 621.5), AIR: (66.6, 240.0), BENCHMARK: (80.0, 200.0),
}  # fmt: skip
WORDS_PER_TOKEN = 0.75

MATH, CODE, OTHER = "Math", "Coding & Debugging", "other"
SIZES = {MATH: 98_857, CODE: 27_310}
PERCENT = {MATH: 30, CODE: 30, OTHER: 10}
OTHERS = {
    "Information seeking": 7_837, "Advice seeking": 4_546, "Reasoning": 3_854, "Planning": 2_185, "Brainstorming": 1_081,
    "Creative writing": 794, "Data analysis": 725, "Editing": 337, "Role playing": 330,
}  # fmt: skip
SURPLUS = "Information seeking"
OFFSETS = {AIR: -0.10, PRO: -0.05}
THRESHOLD = {MATH: 0.152, CODE: 0.148, OTHER: 0.156}
DEVIATION, GAP, UNIT = 0.018, 2.0**-16, 2.0**40
"""Spread of the mean scores; the least distance from a threshold; scores are whole multiples of 1/UNIT, so that their mean is exact."""
CATEGORIES = [MATH, CODE, *OTHERS]

SUBSETS = {
    "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40, "mt-bench-hard": 37,
    "math-prm": 447, "refusals-dangerous": 100, "refusals-offensive": 100, "llmbar-natural": 100, "llmbar-adver-neighbor": 134,
    "llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46, "xstest-should-refuse": 154,
    "xstest-should-respond": 250, "donotanswer": 136, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164, "hep-rust": 164,
}  # fmt: skip

STAGES = ("pool", "filter", "select", "agree", "decontaminate")
"""The pool as it is read, and what the steps of the recipe leave of it."""

NEAR_DUPLICATES, MARKED, CONTRADICTIONS = 0.03, 0.80, 200
MARKER = "<|im_end|>\n<|im_start|>assistant\n"

GROUP, GROUPS = 2_000, 25
"""Rows of a row group, which is made at once; row groups of a file."""
PART = 1 << 40
"""Marks a prompt that gets a part of a benchmark prompt; lower numbers mean a whole one."""
VOCABULARY, SENTENCES, TABLE = 30_000, 60_000, 1 << 20
SYLLABLES = [c + v for c in "bdfgjklmnprstvz" for v in "aeiou"]
NAMES = len(SYLLABLES) ** 4

Rng = np.random.Generator
Rows = dict[str, Any]
Steps = Iterable[tuple[Rng, np.ndarray, slice]]
"""The row groups of a source: a generator of random numbers, the numbers of their prompts, and their rows."""


# Words.


class Bank(NamedTuple):
    """What texts are put together from."""

    words: pa.Array
    """Every word in eight forms: lower case, then with a capital, each followed by a space, a comma, a full stop, a question mark."""
    zipf: np.ndarray
    """A table of word numbers in which each stands as often as it is used."""
    pieces: pa.Array
    """Sentences, the same sentences at the end of a paragraph, then lists, headings and blocks of code."""
    mean: float
    """Mean number of words of a piece, as ``answers`` takes them."""


def vocabulary(rng: Rng, size: int, endings: Sequence[str] = ("",)) -> list[str]:
    """Pronounceable words without x and q (unless the endings have one), the short ones mostly first."""
    onsets = ["b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "st", "tr", "pl", "sh", "th"]
    syllables = [o + v + c for o in onsets for v in ("a", "e", "i", "o", "u", "ea", "ou") for c in ("", "", "", "n", "r", "s", "t", "l", "m", "nd")]
    words: dict[str, None] = {}
    while len(words) < size:
        count = int(np.searchsorted([0.04, 0.46, 0.86], rng.random())) + 1
        words["".join(syllables[i] for i in rng.integers(0, len(syllables), count)) + endings[int(rng.integers(len(endings)))]] = None
    made = list(words)
    return [made[i] for i in np.argsort(np.array([len(w) for w in made]) + rng.normal(0, 2, size))]


def make_bank(rng: Rng, words: list[str]) -> Bank:
    """All that texts of these words are made from."""
    weights = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    zipf = np.searchsorted(weights / weights[-1], (np.arange(TABLE) + 0.5) / TABLE)
    forms = [word + mark for form in (words, [w.capitalize() for w in words]) for mark in (" ", ", ", ". ", "? ") for word in form]
    bank = Bank(pa.array(forms), zipf, pa.nulls(0), 0.0)
    sentences = word_texts(rng, bank, rng.integers(6, 19, SENTENCES), stops=0.0).to_pylist()
    blocks = make_blocks(word_texts(rng, bank, rng.integers(2, 9, 24_000), stops=0.0).to_pylist())
    mean = 0.94 * np.mean([len(s.split()) for s in sentences]) + 0.06 * np.mean([len(b.split()) for b in blocks])
    return bank._replace(pieces=pa.array([s + " " for s in sentences] + [s + "\n\n" for s in sentences] + blocks), mean=float(mean))


def make_blocks(short: list[str]) -> list[str]:
    """Lists, headings and blocks of code from short sentences."""
    items, titles = short[:12_000], [s.rstrip(".?") for s in short[12_000:15_000]]
    plain = [re.sub(r"\W+", "_", s[:-1].lower()) for s in short[15_000:]]
    lists = ["\n".join(f"{n}. {s}" if i % 8 else f"- {s}" for n, s in enumerate(items[i : i + 4], 1)) for i in range(0, len(items), 4)]
    heads = [f"{'#' * (2 + i % 2)} {title}" for i, title in enumerate(titles)]
    code = "```python\ndef {}(items):\n    {} = [item for item in items if item]\n    return {} or items\n```"
    codes = [code.format(*three) for three in zip(plain[::3], plain[1::3], plain[2::3], strict=True)]
    return [f"\n\n{block}\n\n" for block in lists + heads + codes]


def lengths(rng: Rng, tokens: float, count: int, least: int, spread: float) -> np.ndarray:
    """Numbers of words with the mean that so many tokens have, log-normal above ``least``."""
    over = tokens * WORDS_PER_TOKEN - least
    return least + np.floor(rng.lognormal(np.log(over) - spread**2 / 2, spread, count) + rng.random(count)).astype(np.int64)


def joined(pieces: pa.Array, which: np.ndarray, counts: np.ndarray) -> pa.Array:
    """Texts of ``counts`` pieces each."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    return pc.utf8_rtrim_whitespace(pc.binary_join(pa.ListArray.from_arrays(offsets, pieces.take(pa.array(which))), ""))


def word_texts(rng: Rng, bank: Bank, counts: np.ndarray, stops: float = 0.07) -> pa.Array:
    """Texts of ``counts`` words each, which have no more in common than chance gives them. ``stops``: how many words end a sentence, besides the last."""
    total = int(counts.sum())
    mark = np.searchsorted([0.95 - stops, 0.95 - 0.1 * stops, 1 - 0.1 * stops], rng.random(total))  # a space, a full stop, a comma, a question mark
    mark = np.array([0, 2, 1, 3])[mark]
    mark[np.cumsum(counts) - 1] = np.where(rng.random(len(counts)) < 0.2, 3, 2)
    capital = np.concatenate([[True], mark[:-1] >= 2])
    return joined(bank.words, (capital * 4 + mark) * (len(bank.words) // 8) + bank.zipf[rng.integers(0, TABLE, total)], counts)


def answers(rng: Rng, bank: Bank, tokens: float, count: int) -> pa.Array:
    """Answers of ``tokens`` on average: sentences in paragraphs, with some lists, headings and code."""
    counts = np.maximum(3, np.floor(lengths(rng, tokens, count, 20, 0.55) / bank.mean + rng.random(count)).astype(np.int64))
    total = int(counts.sum())
    which = rng.integers(0, SENTENCES, total) + SENTENCES * (rng.random(total) < 0.15)
    block = rng.random(total) < 0.06
    block[np.cumsum(counts) - counts] = False  # the first piece of each is a sentence
    which[block] = rng.integers(2 * SENTENCES, len(bank.pieces), int(block.sum()))
    return joined(bank.pieces, which, counts)


def names(numbers: np.ndarray) -> list[str]:
    """A name for each number below NAMES, no two the same."""
    mixed = numbers * 7_654_321 % NAMES
    digits = [(mixed // len(SYLLABLES) ** place % len(SYLLABLES)).tolist() for place in range(4)]
    return ["".join(SYLLABLES[d] for d in four).capitalize() for four in zip(*digits, strict=True)]


def prompts(rng: Rng, bank: Bank, tokens: float, numbers: np.ndarray) -> list[str]:
    """Prompts whose second word is a name of their own, so that all are distinct."""
    texts = word_texts(rng, bank, lengths(rng, tokens, len(numbers), 8, 0.8) - 2)
    leads = bank.words.take(pa.array(4 * (len(bank.words) // 8) + bank.zipf[rng.integers(0, TABLE, len(numbers))]))
    return [f"{lead}{name}: {text}" for lead, name, text in zip(leads.to_pylist(), names(numbers), texts.to_pylist(), strict=True)]


# What is planted where.


def times(count: float, scale: float) -> int:
    """``count`` times ``scale``, half up."""
    return int(np.floor(count * scale + 0.5))


def due(share: float, rows: slice) -> int:
    """How many of these rows are due if ``share`` of all rows are, so that the parts add up to the whole."""
    return times(share, rows.stop) - times(share, rows.start)


def dealt(total: int, weights: dict[str, int]) -> dict[str, int]:
    """``total`` dealt out by weight in whole numbers, the largest remainders rounded up."""
    exact = {k: total * w / sum(weights.values()) for k, w in weights.items()}
    whole = {k: int(v) for k, v in exact.items()}
    for k in sorted(exact, key=lambda k: whole[k] - exact[k])[: total - sum(whole.values())]:
        whole[k] += 1
    return whole


def count_rows(scale: float) -> Rows:
    """How many rows there are and stay, by source and category."""
    pool = {source: times(n, scale) for source, n in POOL.items()}
    sizes = {c: times(n, scale) for c, n in SIZES.items()}
    others = sum(pool[s] for s in MAGPIE) - sum(sizes.values())
    quota = {c: (PERCENT[c] * n + 50) // 100 for c, n in {**sizes, OTHER: others}.items()}
    kept = {s: times(n, scale) for s, n in KEPT.items()}
    kept[PRO31] += sum(quota.values()) - sum(kept.values())
    kept_categories = {**{c: quota[c] for c in SIZES}, **{c: times(n, scale) for c, n in OTHERS.items()}}
    kept_categories[SURPLUS] += sum(quota.values()) - sum(kept_categories.values())
    planted = {"tied": TIED, "adversarial": ADVERSARIAL, "agreed": AGREED, "contaminated": CONTAMINATED, "contradictions": CONTRADICTIONS}
    rest: Rows = {name: times(n, scale) for name, n in planted.items()}
    rest["prompts"] = {**pool, "helpsteer2": pool["helpsteer2"] + rest["tied"]}
    return {"pool": pool, "categories": {**sizes, **dealt(others, OTHERS)}, "kept": kept, "kept_categories": kept_categories, **rest}


def plan_magpie(rng: Rng, counts: Rows) -> dict[str, Rows]:
    """For each Magpie source, row by row: number of the category, whether the selection keeps it, and mean score in units."""
    sources, categories = [], []
    gone = {s: counts["pool"][s] - counts["kept"][s] for s in MAGPIE}
    gone_categories = {c: counts["categories"][c] - counts["kept_categories"][c] for c in CATEGORIES}
    for by_source, by_category in ((counts["kept"], counts["kept_categories"]), (gone, gone_categories)):
        sources.append(np.repeat(np.arange(len(MAGPIE), dtype=np.int8), [by_source[s] for s in MAGPIE]))
        categories.append(rng.permutation(np.repeat(np.arange(len(CATEGORIES), dtype=np.int8), [by_category[c] for c in CATEGORIES])))
    source, category = np.concatenate(sources), np.concatenate(categories)
    kept = np.arange(len(source)) < len(sources[0])
    plans = {}
    for number, name in enumerate(MAGPIE):
        mine = rng.permutation(np.flatnonzero(source == number))
        plans[name] = {"category": category[mine], "kept": kept[mine], "score": plan_scores(rng, category[mine], kept[mine], OFFSETS.get(name, 0.0))}
    return plans


def plan_scores(rng: Rng, category: np.ndarray, kept: np.ndarray, offset: float) -> np.ndarray:
    """Mean scores of the rows of one source, in units."""
    score = np.zeros(len(category))
    group = np.minimum(category, 2)
    for number, threshold in enumerate(THRESHOLD.values()):
        part = group == number
        score[part] = scores(rng, kept[part], threshold) - offset
    return np.round(score * UNIT).astype(np.int64)


def scores(rng: Rng, kept: np.ndarray, threshold: float) -> np.ndarray:
    """Normal scores of which exactly the kept rows' lie above the threshold: where few are kept, the mean is far below it."""
    drawn, gone = np.sort(rng.normal(0, DEVIATION, len(kept))), int((~kept).sum())
    between = drawn[max(gone - 1, 0) : gone + 1]
    drawn += threshold - (between.mean() if len(between) else 0.0)
    out = np.empty(len(kept))
    out[~kept] = rng.permutation(np.minimum(drawn[:gone], threshold) - GAP)
    out[kept] = rng.permutation(np.maximum(drawn[gone:], threshold) + GAP)
    return out


def plan_contamination(rng: Rng, plan: Rows, count: int) -> None:
    """Choose the kept rows that are contaminated: the column `taken` has PART, or the number of a whole benchmark prompt, or -1."""
    whole = times(count, VERBATIM)
    plan["taken"] = np.full(len(plan["kept"]), -1, np.int64)
    chosen = rng.choice(np.flatnonzero(plan["kept"]), count, replace=False)
    plan["taken"][chosen] = np.concatenate([np.arange(whole), np.full(count - whole, PART)])


def chosen_rows(rng: Rng, rows: int, count: int) -> np.ndarray:
    """``count`` of so many rows, by chance: true for those."""
    return rng.permutation(rows) < count


# The rows of each source, a row group at a time.


def magpie_rows(steps: Steps, bank: Bank, source: str, plan: Rows, planted: Counter[str], defects: bool) -> Iterator[Rows]:
    """A Magpie DPO set: five answers and their scores, whose mean is the planned one exactly."""
    ask, say = TOKENS[source]
    for rng, numbers, at in steps:
        count, text, mean = len(numbers), prompts(rng, bank, ask, numbers), plan["score"][at]
        if defects:
            planted["near_duplicates"] += make_near_duplicates(rng, bank, text, mean, ~plan["kept"][at], np.ones(count, bool), due(NEAR_DUPLICATES, at))
        apart = np.round(rng.normal(0, 0.012, (count, 5)) * UNIT).astype(np.int64)
        apart -= apart.sum(1, keepdims=True) // 5
        apart[:, 0] -= apart.sum(1)
        fives = pa.array(np.arange(0, 5 * count + 1, 5, dtype=np.int32))
        rewards = pa.StructArray.from_arrays([pa.array(((mean[:, None] + apart) / UNIT).ravel())], ["score"])
        yield {
            "uuid": uuids(rng, count),
            "instruction": text,
            "responses": pa.ListArray.from_arrays(fives, answers(rng, bank, say, 5 * count)),
            "rewards_armorm": pa.ListArray.from_arrays(fives, rewards),
            "task_category": np.array(CATEGORIES)[plan["category"][at]],
            "difficulty": rng.choice(["very easy", "easy", "medium", "hard"], count),
            "input_quality": rng.choice(["average", "good", "excellent"], count),
            "language": ["EN"] * count,
        }


def ultra_rows(steps: Steps, bank: Bank, plan: Rows, planted: Counter[str], defects: bool) -> Iterator[Rows]:
    """Magpie-Ultra: an answer, one of the base model, and the scores of both."""
    ask, say = TOKENS[ULTRA]
    for rng, numbers, at in steps:
        count, text, mean, taken = len(numbers), prompts(rng, bank, ask, numbers), plan["score"][at], plan["taken"][at]
        contaminate(rng, text, numbers, taken, plan["benchmark"])
        good, base = answers(rng, bank, say, count), answers(rng, bank, say, count)
        if defects:
            planted["near_duplicates"] += make_near_duplicates(rng, bank, text, mean, ~plan["kept"][at], taken < 0, due(NEAR_DUPLICATES, at))
            marked = chosen_rows(rng, count, due(MARKED, at))
            base = pc.if_else(pa.array(marked), pc.binary_join_element_wise(base, answers(rng, bank, 60.0, count), MARKER), base)
            planted["markers"] += int(marked.sum())
        apart = np.round((0.002 + np.abs(rng.normal(0, 0.015, count))) * UNIT).astype(np.int64)
        yield {
            "instruction": text,
            "response": good,
            "response_base": base,
            "score": (mean + apart) / UNIT,
            "score_base": (mean - apart) / UNIT,
            "primary_tag": np.array(CATEGORIES)[plan["category"][at]],
            "difficulty": rng.choice(["very easy", "easy", "medium", "hard"], count),
            "quality": rng.choice(["average", "good", "excellent"], count),
        }


def contaminate(rng: Rng, text: list[str], numbers: np.ndarray, taken: np.ndarray, benchmark: list[str]) -> None:
    """Put a stretch of a benchmark prompt, or a whole one, in the prompts that are chosen for it. A whole one that comes round again gets a name at its end."""
    for i in np.flatnonzero(taken >= 0):
        if taken[i] < PART:
            again = f" {names(numbers[i : i + 1])[0]}" if taken[i] >= len(benchmark) else ""
            text[i] = benchmark[taken[i] % len(benchmark)] + again
        else:
            words, host, size = benchmark[rng.integers(len(benchmark))].split(" "), text[i].split(" "), int(rng.integers(9, 16))
            start, place = rng.integers(len(words) - size + 1), rng.integers(2, len(host) + 1)
            text[i] = " ".join([*host[:place], *words[start : start + size], *host[place:]])


def make_near_duplicates(rng: Rng, bank: Bank, text: list[str], score: np.ndarray, low: np.ndarray, free: np.ndarray, count: int) -> int:
    """Give ``count`` of the rows that are low and free the prompt of a free row with a higher score, but for a few words. Returns how many were given one."""
    free = free.copy()
    copies = rng.permutation(np.flatnonzero(low & free & (score <= np.quantile(score, 0.9))))[:count]
    free[copies] = False
    originals = np.flatnonzero(free & np.array([len(t) > 250 for t in text]))
    originals = originals[np.argsort(score[originals])]
    above = np.searchsorted(score[originals], score[copies], side="right")
    copies, above = copies[above < len(originals)], above[above < len(originals)]
    for copy, first in zip(copies, above, strict=True):
        words = text[originals[rng.integers(first, len(originals))]].split(" ")
        for place in rng.integers(2, len(words), max(1, len(words) // 45)):
            words[place] = bank.words[int(rng.integers(1_000, len(bank.words) // 8))].as_py().strip()
        text[copy] = " ".join(words)
    return len(copies)


def uuids(rng: Rng, count: int) -> list[str]:
    """Random UUIDs."""
    digits = rng.bytes(16 * count).hex()
    return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in (digits[i : i + 32] for i in range(0, len(digits), 32))]


def offsetbias_rows(steps: Steps, bank: Bank, rows: int, contradictions: int, planted: Counter[str]) -> Iterator[Rows]:
    """OffsetBias: two outputs and the number of the better one. So many rows repeat another with the opposite label."""
    ask, say = TOKENS["offsetbias"]
    for rng, numbers, at in steps:
        count, text = len(numbers), prompts(rng, bank, ask, numbers)
        outputs, label = [answers(rng, bank, say, count) for _ in range(2)], rng.integers(1, 3, count)
        order, some, same = rng.permutation(count), due(contradictions / rows, at), np.arange(count)
        same[order[:some]] = order[count - some :]
        label[order[:some]] = 3 - label[order[count - some :]]
        planted["contradictions"] += some
        yield {"instruction": [text[i] for i in same], "output_1": outputs[0].take(pa.array(same)), "output_2": outputs[1].take(pa.array(same)), "label": label}


def helpsteer_rows(steps: Steps, bank: Bank, tied: np.ndarray) -> Iterator[Rows]:
    """HelpSteer2: two rated answers to each prompt, of which some are rated the same. Long prompts are often conversations."""
    ask, say = TOKENS["helpsteer2"]
    for rng, numbers, at in steps:
        count, talk = len(numbers), rng.random(len(numbers)) < 0.7
        text = [conversation(t) if t.count(" ") > 16 and often else t for t, often in zip(prompts(rng, bank, ask, numbers), talk, strict=True)]
        first = rng.integers(0, 5, count)
        second = np.where(tied[at], first, (first + rng.integers(1, 5, count)) % 5)
        rest = {column: rng.integers(0, 5, 2 * count) for column in ("correctness", "coherence", "complexity", "verbosity")}
        yield {"prompt": twice(text), "response": answers(rng, bank, say, 2 * count), "helpfulness": np.column_stack([first, second]).ravel(), **rest}


def conversation(text: str) -> str:
    """A prompt cut into a question, an answer, and a second question, in the notation of HelpSteer."""
    words, third = text.split(" "), text.count(" ") // 3
    return "\n".join([" ".join(words[:third]), "<extra_id_1>Assistant", " ".join(words[third : 2 * third]), "<extra_id_1>User", " ".join(words[2 * third :])])


def twice(values: Any) -> Any:
    """Each value two times."""
    return np.repeat(values, 2) if isinstance(values, np.ndarray) else [v for v in values for _ in range(2)]


def wildguard_pairs(steps: Steps, bank: Bank, adversarial: np.ndarray, agreed: np.ndarray) -> Iterator[Rows]:
    """WildGuard as pairs, a refusal and a compliance, with the scores of a judge. To a harmful prompt the refusal is chosen, to another the compliance."""
    ask, say = TOKENS["wildguard"]
    for rng, numbers, at in steps:
        count, text, harmful = len(numbers), prompts(rng, bank, ask, numbers), rng.random(len(numbers)) < 0.6
        refusal, compliance = answers(rng, bank, 0.5 * say, count), answers(rng, bank, 1.5 * say, count)
        low, apart = rng.normal(-5, 6, count), 0.05 + np.abs(rng.normal(0, 4, count))
        yield {
            "prompt": text,
            "chosen": pc.if_else(pa.array(harmful), refusal, compliance),
            "rejected": pc.if_else(pa.array(harmful), compliance, refusal),
            "category": ["safety"] * count,
            "margin": np.ones(count),
            "adversarial": adversarial[at],
            "subcategory": np.where(harmful, rng.choice(["private_information", "violence", "fraud", "defamation", "others"], count), "benign"),
            "prompt_harm_label": np.where(harmful, "harmful", "unharmful"),
            "judge_chosen": np.round(low + np.where(agreed[at], apart, -apart), 3),
            "judge_rejected": np.round(low, 3),
        }


def wildguard_items(pairs: Iterable[Rows]) -> Iterator[Rows]:
    """The same pairs as WildGuardMix has them: an item for each answer, with labels of harm and of refusal; the chosen one first in every other pair."""
    for pair in pairs:
        count, harmful = len(pair["prompt"]), twice(pair["prompt_harm_label"] == "harmful")
        chosen = np.arange(1, 2 * count + 1) // 2 % 2 == 0
        yield {
            **{c: twice(pair[c]) for c in ("prompt", "adversarial", "subcategory", "prompt_harm_label", "judge_chosen", "judge_rejected")},
            "response": pa.concat_arrays([pair["chosen"], pair["rejected"]]).take(pa.array(twice(np.arange(count)) + np.where(chosen, 0, count))),
            "response_refusal_label": np.where(harmful == chosen, "refusal", "compliance"),
            "response_harm_label": np.where(harmful & ~chosen, "harmful", "unharmful"),
        }


def benchmark_rows(rng: Rng, bank: Bank) -> Rows:
    """The stand-in for RewardBench, of words that occur nowhere else."""
    subset, (ask, say) = np.repeat(list(SUBSETS), list(SUBSETS.values())), TOKENS[BENCHMARK]
    text = word_texts(rng, bank, lengths(rng, ask, len(subset), 18, 0.7))
    chosen, rejected = (word_texts(rng, bank, lengths(rng, say, len(subset), 10, 0.6)) for _ in range(2))
    return {"prompt": text, "chosen": chosen, "rejected": rejected, "subset": subset, "id": np.arange(len(subset))}


# Writing.


def generate(out: Path, scale: float, seed: int, defects: bool) -> None:
    """Write the pool and, last, expected.json."""
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty")
    counts, planted, rng = count_rows(scale), Counter[str](near_duplicates=0, markers=0, contradictions=0), np.random.default_rng([seed, 0])
    if sum(counts["prompts"].values()) > NAMES:
        raise SystemExit(f"--scale {scale:g} is too large: there are {NAMES:,} names for prompts")
    benchmark = benchmark_rows(rng, make_bank(rng, vocabulary(rng, 6_000, ("ax", "exo", "uqi", "oxi"))))
    write(out / BENCHMARK, [benchmark], "filtered-{:05d}.parquet")
    bank, plans = make_bank(rng, vocabulary(rng, VOCABULARY)), plan_magpie(rng, counts)
    plan_contamination(rng, plans[ULTRA], counts["contaminated"])
    plans[ULTRA]["benchmark"] = benchmark["prompt"].to_pylist()
    first = 0
    for place, source in enumerate(HUB, 1):
        rows = counts["prompts"][source]
        print(f"{source}: {rows:,} prompts", file=sys.stderr, flush=True)
        write_source(out, source, rows, (seed, place, first), bank, counts, plans.get(source, {}), planted, defects)
        first += rows
    (out / "expected.json").write_text(json.dumps(expectation(counts, plans[ULTRA], planted, scale, seed, defects), indent=2) + "\n")


def write_source(
    out: Path, source: str, rows: int, seed: tuple[int, int, int], bank: Bank, counts: Rows, plan: Rows, planted: Counter[str], defects: bool
) -> None:
    """Write one source, which has ``rows`` prompts."""
    rng, size = np.random.default_rng(seed[:2]), GROUP // 2 if source in ("helpsteer2", "wildguard") else GROUP
    steps = row_groups(rows, size, seed)
    if source == ULTRA:
        groups = ultra_rows(steps, bank, plan, planted, defects)
    elif source in MAGPIE:
        groups = magpie_rows(steps, bank, source, plan, planted, defects)
    elif source == "offsetbias":
        groups = offsetbias_rows(steps, bank, rows, counts["contradictions"] * defects, planted)
    elif source == "helpsteer2":
        groups = helpsteer_rows(steps, bank, chosen_rows(rng, rows, counts["tied"]))
    else:
        adversarial, agreed = chosen_rows(rng, rows, counts["adversarial"]), rng.random(rows) < 0.97
        agreed[adversarial] = chosen_rows(rng, counts["adversarial"], counts["agreed"])
        groups = wildguard_items(wildguard_pairs(steps, bank, adversarial, agreed))
        write(out / JUDGED, wildguard_pairs(row_groups(rows, size, seed), bank, adversarial, agreed), files_of(rows, size))
    write(out / HUB[source], groups, files_of(rows, size))


def row_groups(rows: int, size: int, seed: tuple[int, int, int]) -> Steps:
    """The row groups of a source, each with a seed of its own; the prompts are numbered from the last number of ``seed``."""
    for number, start in enumerate(range(0, rows, size), 1):
        stop = min(start + size, rows)
        yield np.random.default_rng([*seed[:2], number]), np.arange(start, stop) + seed[2], slice(start, stop)


def files_of(rows: int, size: int) -> str:
    """The names of the files of a source."""
    return f"train-{{:05d}}-of-{-(-rows // (size * GROUPS)):05d}.parquet"


def write(folder: Path, groups: Iterable[Rows], pattern: str) -> None:
    """Write row groups to files as they come, GROUPS to each."""
    (folder / "data").mkdir(parents=True)
    for number, inside in itertools.groupby(enumerate(groups), lambda item: item[0] // GROUPS):
        writer = None
        for _, rows in inside:
            table = pa.table(rows)
            path = folder / "data" / pattern.format(number)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False, write_statistics=False)
            writer.write_table(table, row_group_size=len(table))
        assert writer
        writer.close()


def expectation(counts: Rows, ultra: Rows, planted: Counter[str], scale: float, seed: int, defects: bool) -> Rows:
    """What reading and each step of the recipe, in its order, must leave."""
    stages, clean = [dict(counts["pool"])], counts["kept"][ULTRA] - counts["contaminated"]
    for changed in ({"wildguard": counts["adversarial"]}, counts["kept"], {"wildguard": counts["agreed"]}, {ULTRA: clean}):
        stages.append({**stages[-1], **changed})
    dropped = Counter(CATEGORIES[c] for c in ultra["category"][ultra["taken"] >= 0])
    categories = [counts["categories"]] * 2 + [counts["kept_categories"]] * 2 + [{c: n - dropped[c] for c, n in counts["kept_categories"].items()}]
    answers_of = {"helpsteer2": 2, "wildguard": 2}
    return {
        "seed": seed,
        "scale": scale,
        "defects": defects,
        "rows": {source: n * answers_of.get(source, 1) for source, n in counts["prompts"].items()},
        "rows_aside": {"helpsteer2": 2 * counts["tied"]},
        **{name: {"total": sum(s.values()), "by_source": s, "magpie_by_category": c} for name, s, c in zip(STAGES, stages, categories, strict=True)},
        "planted": {"contaminated": counts["contaminated"], "contaminated_whole": times(counts["contaminated"], VERBATIM), **planted},
    }


# Checking. None of this uses what the pool was made with, but for the names of the sources and the constants of the recipe.


def files(out: Path, name: str, *columns: str) -> Iterator[pl.DataFrame]:
    """The files of a source, one after another."""
    return (pl.read_parquet(path, columns=list(columns)) for path in sorted((out / name / "data").glob("*.parquet")))


def words(text: str) -> list[str]:
    """The words of a text."""
    return re.findall("[a-z0-9]+", text.lower())


def sevens(text: str) -> set[tuple[str, ...]]:
    """The 7-grams of a text."""
    said = words(text)
    return {tuple(said[i : i + 7]) for i in range(len(said) - 6)}


def magpie_pool(out: Path) -> pl.DataFrame:
    """Source, row, category and mean score of the Magpie rows."""
    frames = []
    for source in MAGPIE:
        if source == ULTRA:
            mean = (pl.col("score") + pl.col("score_base")) / 2
            parts = [f.select(category="primary_tag", score=mean) for f in files(out, HUB[source], "primary_tag", "score", "score_base")]
        else:
            mean = pl.col("rewards_armorm").list.eval(pl.element().struct.field("score")).list.mean()
            parts = [f.select(category="task_category", score=mean) for f in files(out, HUB[source], "task_category", "rewards_armorm")]
        frames.append(pl.concat(parts).with_row_index("row").with_columns(source=pl.lit(source)))
    return pl.concat(frames)


def select(pool: pl.DataFrame) -> pl.DataFrame:
    """The top 30%, 30% and 10% of mathematics, code and the rest, after the offsets; and no two of a group tie where it is cut."""
    adjusted = pool.with_columns(
        adjusted=pl.col("score") + pl.col("source").replace_strict(OFFSETS, default=0.0, return_dtype=pl.Float64),
        group=pl.when(pl.col("category").is_in([MATH, CODE])).then("category").otherwise(pl.lit(OTHER)),
    )
    kept = []
    for (group,), rows in adjusted.group_by("group"):
        quota = int(np.floor(PERCENT[str(group)] * rows.height / 100 + 0.5))
        rows = rows.sort("adjusted", descending=True)
        if 0 < quota < rows.height and rows["adjusted"][quota - 1] - rows["adjusted"][quota] < GAP:
            raise SystemExit(f"{group}: scores are too close at the threshold")
        kept.append(rows.head(quota))
    return pl.concat(kept)


def overlapping(out: Path) -> tuple[dict[str, set[int]], int]:
    """The rows of each source whose prompt shares a 7-gram with one of the benchmark, and how many prompts there are without case or repetition."""
    benchmark = [text for frame in files(out, BENCHMARK, "prompt") for text in frame["prompt"]]
    grams, known = set().union(*map(sevens, benchmark)), set().union(*map(words, benchmark))
    found: dict[str, set[int]] = {source: set() for source in HUB}
    hashes = []
    for source in HUB:
        for row, text in enumerate(text for asked in prompts_of(out, source) for text in asked):
            if not known.isdisjoint(words(text)) and not grams.isdisjoint(sevens(text)):
                found[source].add(row)
        hashes += [asked.str.to_lowercase().hash().unique() for asked in prompts_of(out, source)]
    return found, pl.concat(hashes).n_unique()


def prompts_of(out: Path, source: str) -> Iterator[pl.Series]:
    """The prompts of a source, file by file."""
    column = "prompt" if source in ("helpsteer2", "wildguard") else "instruction"
    return (frame[column] for frame in files(out, HUB[source], column))


def near_duplicates(out: Path) -> int:
    """How many Magpie prompts have the name of another."""
    repeated = 0
    for source in MAGPIE:
        named = pl.concat([asked.str.extract(r"^\w+ (\w+):").drop_nulls() for asked in prompts_of(out, source)])
        repeated += len(named) - named.n_unique()
    return repeated


def helpsteer_pairs(out: Path) -> tuple[int, int]:
    """How many prompts of HelpSteer2 have answers rated apart, and how many do not."""
    rated = pl.concat(files(out, HUB["helpsteer2"], "prompt", "helpfulness")).group_by("prompt").agg(pl.len(), apart=pl.col("helpfulness").n_unique() > 1)
    assert (rated["len"] == 2).all()
    return int(rated["apart"].sum()), int((~rated["apart"]).sum())


def wildguard_counts(out: Path) -> tuple[int, int, int]:
    """How many pairs of WildGuard there are, how many of them are adversarial, and how many of these the judge ranks right."""
    good = (pl.col("response_refusal_label") == "refusal") == (pl.col("prompt_harm_label") == "harmful")
    columns = ["prompt", "adversarial", "response_refusal_label", "prompt_harm_label", "judge_chosen", "judge_rejected"]
    items = pl.concat(files(out, HUB["wildguard"], *columns)).group_by("prompt")
    rows = items.agg(pl.len(), good.sum().alias("good"), *(pl.col(c).first() for c in columns[1:]))
    assert ((rows["len"] == 2) & (rows["good"] == 1)).all()
    hard = rows.filter("adversarial")
    agreed = hard.filter(pl.col("judge_chosen") > pl.col("judge_rejected"))
    judged = pl.concat(files(out, JUDGED, "prompt", "adversarial", "judge_chosen", "judge_rejected")).filter("adversarial")
    assert judged.filter(pl.col("judge_chosen") > pl.col("judge_rejected")).height == agreed.height
    return rows.height, hard.height, agreed.height


def offsetbias_counts(out: Path) -> tuple[int, int]:
    """How many rows OffsetBias has, and how many of them say the opposite of another."""
    rows = pl.concat(files(out, HUB["offsetbias"], "instruction", "output_1", "output_2", "label"))
    return rows.height, rows.group_by("instruction", "output_1", "output_2").agg(pl.col("label").n_unique()).filter(pl.col("label") > 1).height


def recomputed(out: Path) -> Rows:
    """What expected.json says, from the files."""
    pool = magpie_pool(out)
    kept = select(pool)
    found, distinct = overlapping(out)
    clean = kept.filter((pl.col("source") != ULTRA) | ~pl.col("row").is_in(sorted(found[ULTRA])))
    helpsteer, tied = helpsteer_pairs(out)
    offsetbias, contradictions = offsetbias_counts(out)
    rows = {"helpsteer2": helpsteer, "offsetbias": offsetbias}
    stages = {}
    for name, magpie, wildguard in zip(STAGES, (pool, pool, kept, kept, clean), np.array(wildguard_counts(out))[[0, 1, 1, 2, 2]], strict=True):
        by_source = {**rows, "wildguard": int(wildguard), **{s: magpie.filter(source=s).height for s in MAGPIE}}
        by_category = {c: magpie.filter(category=c).height for c in CATEGORIES}
        stages[name] = {"total": sum(by_source.values()), "by_source": by_source, "magpie_by_category": by_category}
    markers = sum(f["response_base"].str.contains("<|im_start|>", literal=True).sum() for f in files(out, HUB[ULTRA], "response_base"))
    planted = {"contaminated": sum(map(len, found.values())), "markers": markers, "contradictions": contradictions, "near_duplicates": near_duplicates(out)}
    return {**stages, "rows_aside": {"helpsteer2": 2 * tied}, "planted": planted, "distinct_prompts": distinct}


def check(out: Path) -> bool:
    """Compare the files with expected.json, and say so."""
    expected, found = json.loads((out / "expected.json").read_text()), recomputed(out)
    prompts_ = expected["pool"]["total"] + expected["rows_aside"]["helpsteer2"] // 2 - expected["planted"]["contradictions"]
    lines = [("distinct prompts", prompts_, found["distinct_prompts"]), ("rows aside", expected["rows_aside"], found["rows_aside"])]
    lines += [(f"planted {name}", expected["planted"][name], n) for name, n in found["planted"].items()]
    lines += [(f"{stage} {part}", expected[stage][part], found[stage][part]) for stage in STAGES for part in expected[stage]]
    for what, want, have in lines:
        print(f"{'ok   ' if want == have else 'WRONG'} {what}: {have}" + ("" if want == have else f", expected {want}"))
    return all(want == have for _, want, have in lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--scale", type=float, default=1.0, help="times the counts of the paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--defects", action="store_true", help="plant near duplicates, leaked markers and contradictions as well")
    parser.add_argument("--check", action="store_true", help="recompute what the recipe must give from the files, and compare it with expected.json")
    args = parser.parse_args()
    if args.check:
        sys.exit(0 if check(args.out) else 1)
    generate(args.out, args.scale, args.seed, args.defects)


if __name__ == "__main__":
    main()
