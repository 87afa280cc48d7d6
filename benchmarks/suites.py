"""Every local evaluation set by every kind of scorer: length, a surface probe, trained MiniLM and SmolLM2, perplexity. The table of docs/results.md.

    python benchmarks/suites.py DATA -o FOLDER [--most 400]        DATA holds train_*/pairs.parquet, eval_* and ratings_*

MiniLM is trained with three seeds and SmolLM2 with one, on the same pairs of permissively licensed sources, at most 300 a source, none of them with a prompt of an evaluation set. The accuracies of the
seeds are averaged, and their spread is printed beside the interval over prompts of the first. ``--most`` takes about so many items of each set (a third of it of steps and
ratings): all items of some prompts, the same for every scorer. What is done is not done again.
"""

import argparse
import zlib
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.runner import curate
from assay.curate.steps import decontaminate
from assay.evaluate.evaluate import evaluate
from assay.evaluate.load import load_suite
from assay.evaluate.suite import Suite
from assay.files import read_json
from assay.pairs.read import read
from assay.pairs.schema import stack
from assay.report.results_page import write_results_page
from assay.score.scorer import load_scorer
from assay.tables import correlation, percent
from assay.train.config import TrainConfig
from assay.train.train import train

SOURCES = ("hh_rlhf", "truthfulqa", "tarm", "llmfao_crowd", "openinstruct_human", "pandalm", "qafeedback", "oasst", "ultrafeedback", "code_refine", "lfqa", "gsm8k_solutions")
CAP, LENGTH = 300, 256
MODELS = {
    "minilm": TrainConfig(model="minilm", max_length=LENGTH, epochs=1.0, batch_size=32, learning_rate=1e-4, warmup=0.1, validation=0.05),
    "smollm2": TrainConfig(model="smollm2", max_length=LENGTH, epochs=0.5, batch_size=32, learning_rate=2e-5, warmup=0.1, validation=0.05),
}
SEEDS = {"minilm": (0, 1, 2), "smollm2": (0,)}
RULES = {"eval_rmbench": "rm-bench", "eval_mathprm": "pairs"}


def training_pairs(data: Path, folder: Path) -> pl.DataFrame:
    """At most CAP pairs of each source, without prompts of the evaluation sets."""
    parts = [read(data / f"train_{name}", name=name).pairs.sample(fraction=1.0, shuffle=True, seed=0).head(CAP) for name in SOURCES]
    against = {p.name: str(p) for p in sorted(data.glob("eval_*"))}
    return curate(stack(parts), [decontaminate.Config(against=against)], folder / "curate").kept()


def suites_of(data: Path) -> list[str]:
    """What to load: every set of pairs, RM-Bench by its own rule; the steps of PRMBench; the rated answers."""
    found = [f"{p.name}:{RULES.get(p.name, 'pairs')}={p}" for p in sorted(data.glob("eval_*"))]
    found.append(f"steps={data / 'eval_mathprm'}")
    return found + [f"{p.name}:ratings={p / 'ratings.parquet'}" for p in sorted(data.glob("ratings_*")) if (p / "ratings.parquet").is_file()]


def some(suite: Suite, most: int) -> Suite:
    """About ``most`` items, by the hashes of their prompts."""
    most = most if suite.rule in ("pairs", "rm-bench") else -(-most // 3)
    if not most or len(suite.items) <= most:
        return suite
    part = most / len(suite.items)
    return Suite(suite.name, suite.rule, [item for item in suite.items if zlib.crc32(item.cluster.encode()) / 2**32 < part], suite.aside, suite.warnings)


def main() -> None:
    """Train, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--most", type=int, default=0, help="items of each set; 0 for all")
    arguments = parser.parse_args()
    pairs = training_pairs(arguments.data, arguments.output)
    scorers = {"longer answer": "rule:length"}
    for name, config in MODELS.items():
        for seed in SEEDS[name]:
            scorers[f"{name}, seed {seed}"] = str(train(pairs, config.model_copy(update={"seed": seed}), arguments.output / f"{name}-{seed}"))
    scorers["perplexity, smollm2"] = "perplexity:smollm2"
    suites = [some(load_suite(spec), arguments.most) for spec in suites_of(arguments.data)]
    results = {}
    for name, spec in scorers.items():
        folder = arguments.output / "results" / name.replace(", ", "-").replace(" ", "-")
        if not (folder / "manifest.json").is_file():
            evaluate(load_scorer(spec), suites, folder)
            write_results_page(folder)
        results[name] = read_json(folder / "results.json")["suites"]
    print(f"{pairs.height:,} pairs to train on\n")
    print(table(results))


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row a suite: drawing lots, the probe, and every scorer with its interval."""
    seeds = [name for name in results if name.startswith("minilm")]
    others = [name for name in results if name not in seeds]
    lines = [f"| suite | items | drawing lots | surface probe | {others[0]} | minilm, {len(seeds)} seeds | {' | '.join(others[1:])} |", "|---|---:|---:|---:" + "|---:" * (len(others) + 1) + "|"]
    for name, suite in results[others[0]].items():
        show = percent if suite["share"] else correlation
        first = suite["overall"]
        values = [results[seed][name]["overall"] for seed in seeds]
        spread = f"{show(sum(v['value'] for v in values) / len(values))} ({' / '.join(show(v['value']) for v in values)}; {show(values[0]['low'])} to {show(values[0]['high'])})"
        cells = [f"{show(f['value'])} ({show(f['low'])} to {show(f['high'])})" for f in (results[o][name]["overall"] for o in others)]
        probe = "-" if first["probe"] is None else show(first["probe"])
        lines.append(f"| {name} | {first['items']:,} | {show(first['random'][0])} to {show(first['random'][1])} | {probe} | {cells[0]} | {spread} | {' | '.join(cells[1:])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
