"""Planted truth on real text: how much of what was planted the curation finds, and how much else it takes.

    python benchmarks/planted.py DATA -o FOLDER [--noise] [--seeds 6] [--steps 60]      DATA holds train_*/pairs.parquet and eval_*/pairs.parquet

Near duplicates (copies of real prompts with one edit in about thirty words), contradictions (pairs with their answers exchanged), benchmark prompts (verbatim, re-wrapped,
embedded, paraphrased), and with --noise a fifth of the labels flipped, MiniLM as the judge, and what training on the cleaned set is worth (an hour on two
slow cores). A row that goes without having been planted counts as wrong unless a plain twin of the step, written with sets of words, says the same of it.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from assay.curate.kernels.text import normal, prompt_text, words
from assay.curate.runner import curate
from assay.curate.selftest import rows_of, self_test
from assay.curate.steps import agree, contradictions, decontaminate, near_duplicates
from assay.evaluate.intervals import wilson
from assay.files import read_parquet, write_json
from assay.pairs.read import read
from assay.pairs.schema import conform, prompt_id, stack
from assay.train.config import TrainConfig

COLUMNS = ["source", "subset", "category", "prompt", "chosen", "rejected", "margin", "weight"]
JUDGE_STEPS = 200


def pool(data: Path) -> pl.DataFrame:
    """All training pairs, sources named by their folder."""
    files = sorted(data.glob("train_*/pairs.parquet"))
    return stack([read(f).pairs.select("id", *COLUMNS).with_columns(source=pl.lit(f.parent.name)) for f in files])


def said(prompt: Any) -> str:
    """What the users said."""
    return prompt_text(prompt)


def shingle_set(text: str) -> set[tuple[str, ...]]:
    """The shingles of the step's documentation, the plain way."""
    spoken = words(text)
    size = 3 if len(spoken) >= 20 else min(2, len(spoken))
    return set(zip(*(spoken[i:] for i in range(size)), strict=False)) if spoken else set()


def similarity(a: str, b: str) -> float:
    """True Jaccard similarity."""
    x, y = shingle_set(a), shingle_set(b)
    return len(x & y) / len(x | y) if x | y else 1.0


def edited(text: str, rng: random.Random) -> str:
    """One word in about thirty replaced, left out or said twice; case and line breaks changed."""
    spoken = text.split()
    for at in sorted(rng.sample(range(len(spoken)), max(1, len(spoken) // 30)), reverse=True):
        spoken[at : at + 1] = rng.choice([[], [spoken[at], spoken[at]], [f"{spoken[at]}x"], ["really", spoken[at]]])
    lines = [" ".join(spoken[i : i + 12]) for i in range(0, len(spoken), 12)]
    return "\n".join(line.upper() if rng.random() < 0.1 else line for line in lines)


def near(rows: pl.DataFrame, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Recall of planted near duplicates of prompts, and precision of all that goes."""
    one_a_prompt = rows.with_columns(key=pl.Series([normal(said(p)) for p in rows["prompt"].to_list()])).unique("key", keep="first").sort("id")
    long = one_a_prompt.filter(pl.col("key").str.split(" ").list.len() >= 30).drop("key")
    base, chosen = one_a_prompt.drop("key"), long.sample(min(1_000, long.height), seed=0)
    texts = [edited(said(p), rng) for p in chosen["prompt"].to_list()]
    true = [similarity(said(p), t) >= 0.8 for p, t in zip(chosen["prompt"].to_list(), texts, strict=True)]
    copies = chosen.with_columns(pl.Series("prompt", [[{"role": "user", "content": t}] for t in texts], dtype=rows.schema["prompt"]), planted=pl.lit(True), of=pl.col("id")).filter(pl.Series(true))
    done = curate(conform(pl.concat([base, copies], how="diagonal")), [near_duplicates.Config(text="prompt")], folder / "near")
    dropped, kept = read_parquet(done.folder / "dropped.parquet"), done.kept()
    ledger = read_parquet(done.folder / "ledger.parquet").filter(pl.col("step") != "kept").select("id", "copy", "because_of", "reason")
    lost = copies.filter(~pl.col("of").is_in(dropped["id"].implode()) & pl.Series([c not in set(dropped["id"]) for c in conform(copies)["id"]])).height
    text_of = {i: said(p) for t in (dropped.select("id", "prompt"), kept.select("row_id", "prompt")) for i, p in t.iter_rows()}
    natural = wrong = 0
    for row in dropped.join(ledger, on=["id", "copy"]).iter_rows(named=True):
        if not row["planted"] and row["id"] not in set(copies["of"]):
            other = row["reason"].rpartition(" with ")[2] if " with " in row["reason"] else row["because_of"]
            ok = similarity(text_of[row["id"]], text_of[other]) >= 0.8
            natural, wrong = natural + ok, wrong + (not ok)
    return {
        "planted": copies.height, "found": copies.height - lost, "recall": 1 - lost / copies.height, "recall_interval": wilson(copies.height - lost, copies.height),
        "dropped": dropped.height, "natural": natural, "wrong": wrong, "precision": 1 - wrong / max(1, dropped.height), "edits_below_the_threshold": len(true) - sum(true),
    }  # fmt: skip


def opposed(rows: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """Recall of planted contradictions."""
    sampled = rows.unique("id").sort("id").sample(1_000, seed=1)
    turned = sampled.with_columns(chosen="rejected", rejected="chosen", planted=pl.lit(True))
    both = conform(pl.concat([rows, turned], how="diagonal"))
    dropped = read_parquet(curate(both, [contradictions.Config()], folder / "contradictions").folder / "dropped.parquet")
    before = read_parquet(curate(rows, [contradictions.Config()], folder / "contradictions-before").folder / "dropped.parquet")
    gone = set(dropped["id"])
    found = sum(a in gone and b in gone for a, b in zip(sampled["id"], conform(turned)["id"], strict=True))
    expected = gone - set(before["id"]) - set(sampled["id"]) - set(conform(turned)["id"])
    return {"planted": sampled.height, "found": found, "recall": found / sampled.height, "there_before": before.height, "neither_planted_nor_there_before": len(expected)}


def noise(data: Path, folder: Path, seeds: int, steps: int) -> dict[str, Any]:
    """A fifth of the labels of TruthfulQA pairs flipped: what goes by either margin of ``agree``, and what training on the rest is worth."""
    from assay.evaluate.evaluate import evaluate
    from assay.evaluate.load import suite_of
    from assay.score.scorer import load_scorer
    from assay.train.fit import fitter
    from assay.train.train import train

    rows = read(data / "train_truthfulqa").pairs.select("id", *COLUMNS).with_columns(category=pl.lit("truthfulqa"))
    place = pl.Series([int(prompt_id(p)[:8], 16) % 10 for p in rows["prompt"].to_list()])
    fit, held = rows.filter(place != 0), rows.filter(place == 0)
    rng = random.Random(0)
    turn = pl.Series([rng.random() < 0.2 for _ in range(fit.height)])
    noisy = conform(fit.with_columns(chosen=pl.when(turn).then("rejected").otherwise("chosen"), rejected=pl.when(turn).then("chosen").otherwise("rejected"), turned=turn))
    config = TrainConfig(model="minilm", max_length=96, max_steps=JUDGE_STEPS, batch_size=32, learning_rate=1e-4, warmup=0.1, validation=0.0)
    judged = curate(noisy, [agree.Config(folds=2, fit=config, action="keep")], folder / "judged", fit=fitter())
    scored = judged.kept().rename({"agree_chosen": "better", "agree_rejected": "worse"}).drop("agree_mean", "agree_margin", "row_id", "row_copy")
    sets, flipped = {"noisy": noisy}, {}
    for name, margin in (("cleaned, margin 0", 0.0), ("cleaned, margin auto", "auto")):
        done = curate(conform(scored), [agree.Config(columns=("better", "worse"), margin=margin)], folder / name)
        sets[name], dropped = done.kept(), read_parquet(done.folder / "dropped.parquet")
        kept = float(sets[name]["turned"].mean() or 0)
        flipped[name] = {"dropped": dropped.height, "of_dropped": float(dropped["turned"].mean() or 0), "of_kept": kept, "times_as_likely": float(dropped["turned"].mean() or 0) / kept}
    suite = suite_of("held out", held.with_columns(subset=pl.lit("all")))
    accuracy: dict[str, list[float]] = {}
    arms = [(name, table, seed) for seed in range(seeds) for name, table in sets.items()]
    for name, table, seed in [*arms, ("clean labels", conform(fit), 0)]:
        checkpoint = train(table.select("id", *COLUMNS), config.model_copy(update={"seed": seed, "max_steps": steps}), folder / "train" / f"{name}, {steps} steps, seed {seed}")
        overall = evaluate(load_scorer(checkpoint), [suite])["suites"]["held out"]["overall"]
        accuracy.setdefault(name, []).append(overall["value"])
        print(f"{name}, seed {seed}: {overall['value']:.3f} {overall['low']:.3f} {overall['high']:.3f}", flush=True)
    gains = {name: np.subtract(accuracy[name], accuracy["noisy"]) for name in flipped}
    half = {name: stats.t.ppf(0.975, seeds - 1) * gain.std(ddof=1) / np.sqrt(seeds) for name, gain in gains.items()}
    return {
        "rows": noisy.height, "held_out": held.height, "flipped": flipped, "estimated": judged.manifest["accounts"][0]["notes"]["noise"], "longer_answer": overall["length"], "accuracy": accuracy,
        "gain": {name: [gain.mean() - half[name], gain.mean(), gain.mean() + half[name]] for name, gain in gains.items()},
    }  # fmt: skip


def main() -> None:
    """Run the parts and print their figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    if args.noise:
        figures = {"noise": noise(args.data, args.output, args.seeds, args.steps)}
    else:
        rows = pool(args.data)
        against = {f.parent.name: str(f) for f in sorted(args.data.glob("eval_*/pairs.parquet"))}
        tested = self_test(rows, [decontaminate.Config(against=against, cosine=0.9)], args.output / "self-test")
        figures = {"rows": rows.height, "near duplicates": near(rows, args.output, random.Random(0)), "contradictions": opposed(rows, args.output), "benchmark prompts": rows_of(tested)}
    write_json(args.output / f"{'noise' if args.noise else 'planted'}.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
