"""Does curation help, and which step? The claim of Skywork-Reward (arXiv 2410.18451) in small, on real data, with seeds.

    python benchmarks/curation_arms.py DATA -o FOLDER      DATA holds train_*/pairs.parquet and eval_*/pairs.parquet

Four kinds of arms, all trained for the same number of steps from the same backbone: everything, a random sample of the curated size, the curated
set, and the curated set without each of its steps. Each with three seeds, on the pool as it is and with a quarter of its labels flipped. Measured on
held-out prompts of the training sources and on the evaluation sets. Runs that are done are not run again.
"""

import argparse
import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay.curate.runner import curate
from assay.curate.steps import agree, contradictions, decontaminate, duplicates, markers, select
from assay.files import fingerprint, read_parquet, write_json, write_parquet
from assay.pairs.read import read
from assay.pairs.schema import conform, prompt_id, stack
from assay.train.config import TrainConfig

NON_COMMERCIAL = {"train_alpacaeval_judge"}
CAPS = {"train_truthfulqa": 2_500, "train_tarm": 800, "train_prmbench": 800, "train_gsm8k_solutions": 400}
TEST_CAPS = {"train_truthfulqa": 800}
CAP, TEST_CAP, EVAL_CAP = 300, 50, 40
SEEDS = (0, 1, 2)
NOISE = (0.0, 0.25)
JUDGE = TrainConfig(model="minilm", max_length=192, max_steps=80, batch_size=32, tokens_per_batch=16_384, learning_rate=1e-4, warmup=0.1, validation=0.0)
CONFIG = JUDGE.model_copy(update={"max_length": 128, "max_steps": 60, "tokens_per_batch": 4_096})
SAME = 5
"""Arms that differ from the curated set in fewer rows than this are not trained again."""
KEEP = 0.7


def prepare(data: Path, folder: Path) -> None:
    """Write pool.parquet, pool-flipped.parquet, held_out.parquet and out_of_distribution.parquet."""
    pools, tests = [], []
    for path in sorted(data.glob("train_*/pairs.parquet")):
        name = path.parent.name
        if name in NON_COMMERCIAL:
            continue
        pairs = read(path).pairs.select("id", "source", "subset", "category", "prompt", "chosen", "rejected", "margin", "weight").with_columns(source=pl.lit(name), category=pl.lit(name))
        place = pl.Series([int(prompt_id(p)[:8], 16) % 10 for (p,) in pairs.select("prompt").iter_rows()])
        tests.append(sample(pairs.filter(place == 0), TEST_CAPS.get(name, TEST_CAP)))
        pools.append(sample(pairs.filter(place != 0), CAPS.get(name, CAP)))
    evals = []
    for path in sorted(data.glob("eval_*/pairs.parquet")):
        pairs = read(path).pairs.select("id", "source", "subset", "category", "prompt", "chosen", "rejected", "margin", "weight")
        evals.append(sample(pairs, EVAL_CAP).with_columns(source=pl.lit(path.parent.name), subset=pl.lit(path.parent.name)))
    pool = stack(pools)
    write_parquet(folder / "pool-0.0.parquet", pool)
    write_parquet(folder / "pool-0.25.parquet", flip(pool, 0.25))
    write_parquet(folder / "held_out.parquet", stack(tests).with_columns(subset=pl.col("source")))
    write_parquet(folder / "out_of_distribution.parquet", stack(evals))


def sample(pairs: pl.DataFrame, n: int) -> pl.DataFrame:
    """At most ``n`` rows, drawn by their content."""
    return pairs.sort("id").sample(min(n, pairs.height), seed=0, shuffle=True).sort("id")


def flip(pool: pl.DataFrame, share: float) -> pl.DataFrame:
    """``pool`` with the labels of ``share`` of its rows turned round, drawn with a fixed seed."""
    rng = random.Random(0)
    turned = pl.Series([rng.random() < share for _ in range(pool.height)])
    return conform(pool.with_columns(chosen=pl.when(turned).then("rejected").otherwise("chosen"), rejected=pl.when(turned).then("chosen").otherwise("rejected")))


def steps(data: Path) -> dict[str, Any]:
    """The curation, a step by its name. ``agree`` comes first so that leaving out another step leaves its verdicts as they are."""
    against = {p.parent.name: str(p) for p in sorted(data.glob("eval_*/pairs.parquet"))}
    return {
        "agree": agree.Config(fit=JUDGE),
        "select": select.Config(by="agree_mean", others=KEEP, pool_others=False),
        "contradictions": contradictions.Config(),
        "duplicates": duplicates.Config(key="unordered", best="agree_margin"),
        "markers": markers.Config(),
        "decontaminate": decontaminate.Config(against=against, ngram=13),
    }


def curated_sets(data: Path, folder: Path, noise: float) -> dict[str, pl.DataFrame]:
    """The curated set and the ones without each step, for a pool."""
    from assay.train.fit import fitter

    def shared(train: pl.DataFrame, judge: pl.DataFrame, config: TrainConfig, workdir: Path) -> pl.DataFrame:
        return fitter()(train, judge, config, folder / "folds" / fingerprint(train["id"].to_list(), judge["id"].to_list(), config.model_dump()))

    pool, every = read_parquet(folder / f"pool-{noise}.parquet"), steps(data)
    sets = {}
    for left_out in (None, *every):
        chain = {name: step for name, step in every.items() if name != left_out}
        if left_out == "agree":  # selection ranks by what agree adds: keep its scores, drop nothing by them
            chain = {"agree": agree.Config(fit=JUDGE, margin=-1e9), **chain}
        name = "curated" if left_out is None else f"curated without {left_out}"
        done = curate(pool, list(chain.values()), folder / "curated" / f"{noise}-{name.replace(' ', '-')}", fit=shared)
        sets[name] = done.kept()
        print(noise, name, done.manifest["kept"], {a["step"]: a["dropped"] for a in done.manifest["accounts"]}, flush=True)
    return sets


def jobs(data: Path, folder: Path) -> Iterator[tuple[float, str, int, Path]]:
    """(noise, arm, seed, training pairs) of every run."""
    for noise in NOISE:
        pool = read_parquet(folder / f"pool-{noise}.parquet")
        sets: dict[str, Any] = {"everything": pool, **curated_sets(data, folder, noise)}
        for name, pairs in sets.items():
            if name.startswith("curated without") and differing(pairs, sets["curated"]) < SAME:
                pairs = sets[name] = sets["curated"]
            write_parquet(folder / "arms" / f"{noise}-{name.replace(' ', '-')}.parquet", pairs)
        size = sets["curated"].height
        for seed in SEEDS:
            drawn = folder / "arms" / f"{noise}-random-{seed}.parquet"
            write_parquet(drawn, pool.sort("id").sample(size, seed=seed, shuffle=True))
            yield noise, "random sample", seed, drawn
            for name in sets:
                yield noise, name, seed, folder / "arms" / f"{noise}-{name.replace(' ', '-')}.parquet"


def differing(a: pl.DataFrame, b: pl.DataFrame) -> int:
    """How many rows one set has and the other has not."""
    return len(set(a["id"]) ^ set(b["id"]))


def one_run(seed: int, pairs: Path, folder: Path) -> dict[str, Any]:
    """Train on one set of pairs and measure."""
    from assay.evaluate.evaluate import evaluate
    from assay.evaluate.load import suite_of
    from assay.score.scorer import load_scorer
    from assay.train.train import train

    out = folder / "runs" / same_run(seed, pairs)
    result = out / "result.json"
    if result.is_file():
        done: dict[str, Any] = json.loads(result.read_text())
        return done
    rows = read_parquet(pairs)
    checkpoint = train(rows, CONFIG.model_copy(update={"seed": seed}), out)
    suites = [suite_of(n, read_parquet(folder / f"{n}.parquet")) for n in ("held_out", "out_of_distribution")]
    measured = evaluate(load_scorer(checkpoint), suites)["suites"]
    accuracy = {name: {s: f["value"] for s, f in suite["subsets"].items()} for name, suite in measured.items()}
    length = {name: {s: f["length"] for s, f in suite["subsets"].items()} for name, suite in measured.items()}
    found = {"pairs": rows.height, "accuracy": accuracy, "length": length}
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    write_json(result, found)
    return found


def same_run(seed: int, pairs: Path) -> str:
    """A name for a run: arms whose step changed no row are the same run, and are run once."""
    return fingerprint(seed, read_parquet(pairs)["id"].to_list())


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: for each pool and arm, mean accuracy over sources with a 95% t interval over the seeds."""
    lines = []
    for noise in NOISE:
        lines += [f"\n**{noise:.0%} of the labels flipped**\n", "| arm | pairs | TruthfulQA, held out | all sources, held out | evaluation sets |", "|---|---:|---:|---:|---:|"]
        arms = list(dict.fromkeys(r["arm"] for r in results if r["noise"] == noise))
        for arm in sorted(arms, key=lambda a: ("everything", "random sample", "curated").index(a) if not a.startswith("curated without") else 9):
            mine = [r for r in results if r["noise"] == noise and r["arm"] == arm]
            cells = [interval([r["accuracy"]["held_out"]["train_truthfulqa"] for r in mine])]
            cells += [interval([float(np.mean(list(r["accuracy"][s].values()))) for r in mine]) for s in ("held_out", "out_of_distribution")]
            lines.append(f"| {arm} | {mine[0]['pairs']:,} | {' | '.join(cells)} |")
    by_length = results[0]["length"]
    rule = [by_length["held_out"]["train_truthfulqa"], float(np.mean(list(by_length["held_out"].values()))), float(np.mean(list(by_length["out_of_distribution"].values())))]
    lines += ["", f"The longer answer (no model): {rule[0]:.1%} | {rule[1]:.1%} | {rule[2]:.1%}; a coin: 50%."]
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Mean and half width of the 95% t interval."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.0)
    half = t * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * float(np.mean(values)):.1f} ± {100 * half:.1f}"


def main() -> None:
    """Run every arm and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    if not (given.output / "out_of_distribution.parquet").is_file():
        prepare(given.data, given.output)
    todo = list(jobs(given.data, given.output))
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // given.processes))
    names = [same_run(seed, pairs) for _, _, seed, pairs in todo]
    measured: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(given.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(one_run, seed, pairs, given.output): name for name, (_, _, seed, pairs) in dict(zip(names, todo, strict=True)).items()}
        for future in as_completed(futures):
            measured[futures[future]] = future.result()
            print(len(measured), "of", len(futures), flush=True)
    results = [{"noise": noise, "arm": arm, "seed": seed, **measured[name]} for name, (noise, arm, seed, _) in zip(names, todo, strict=True)]
    write_json(given.output / "results.json", results)
    print(table(results))


if __name__ == "__main__":
    main()
