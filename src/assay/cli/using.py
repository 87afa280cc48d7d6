"""Scores for a file or over HTTP, and whether they are the right ones."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli.app import CORES, USING, AllowDrift, EngineName, Json, Precision, app, complain, print_json
from assay.errors import AssayError
from assay.remote import with_output


@app.command(group=USING)
@with_output
def score(
    scorer: str,
    data: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the scores: .parquet, .jsonl or .csv.")],
    precision: Precision = "auto",
    allow_drift: AllowDrift = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "train",
    workers: Annotated[int, Parameter(help="Processes that score, each with a model of its own; the scores do not depend on it.")] = 1,
    engine: EngineName = "local",
) -> int:
    """Scores for every row of a file: pairs, conversations, or prompts with a response. After an interruption or an outage the same command goes on where it was; exits with 1 while rows are without a score because nobody answered.

    Parameters
    ----------
    scorer
        Anything that scores, see `assay explain scorers`.
    data
        A file, a folder or a hub id.
    """
    import shutil
    from functools import partial

    from assay.engine import start
    from assay.score.bulk import check_output, loaded, score_file, write_scores
    from assay.screen import Terminal
    from assay.tables import used

    check_output(output)
    parts = output.with_name(f".{output.name}.parts")
    with start(engine, workers, models=True) as running, Terminal().bar("scoring", None) as tick:
        here = loaded(scorer, precision, allow_drift)
        load = None if engine == "local" and workers == 1 else partial(loaded, scorer, precision, allow_drift, max(1, CORES // workers))
        scored = score_file(here, data, split=split, parts=parts, engine=running, load=load, tick=tick)
    table = scored.table
    write_scores(table, output)
    failed = table["reason"].is_not_null().sum() if "reason" in table.columns else 0
    print(f"{table.height - failed:,} rows scored, {f'{failed:,} without a score (column reason), ' if failed else ''}{scored.aside:,} set aside, {int(table['truncated'].sum()):,} longer than the model reads: {output}")
    if scored.usage:
        print(used(scored.usage))
    if scored.unanswered:
        complain(f"{scored.unanswered:,} rows have no score because nobody answered; run the same command again to ask for these alone")
        return 1
    shutil.rmtree(parts)
    return 0


@app.command(group=USING)
def serve(
    *checkpoints: str,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8000,
    api_key: Annotated[str | None, Parameter(env_var="ASSAY_API_KEY", help="What requests must send as `Authorization: Bearer KEY`; needed to listen beyond this machine.")] = None,
    precision: Precision = "auto",
    allow_drift: AllowDrift = None,
    max_body_mb: Annotated[int, Parameter(help="Largest body of a request.")] = 8,
    max_items: Annotated[int, Parameter(help="Most conversations in a request.")] = 1_024,
    max_waiting_tokens: Annotated[int, Parameter(help="Tokens that may wait; beyond it requests get 429 and when to come back.")] = 262_144,
) -> int:
    """Serve checkpoints over HTTP: Assay's own format and those of vLLM, SGLang, OpenRLHF and LlamaFactory, on one port.

    Parameters
    ----------
    checkpoints
        Checkpoint folders or hub ids; NAME=CHECKPOINT names one. A request that names no model gets the first.
    """
    from assay.errors import MissingExtra

    try:
        from assay.serve.app import Limits
        from assay.serve.serve import serve as listen
    except ImportError:
        raise MissingExtra("the server", "serve") from None
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise AssayError(f"--host {host} lets others reach the server: set an API key (--api-key or ASSAY_API_KEY)")
    complain(f"listening on http://{host}:{port} as soon as the models are loaded; /docs describes the endpoints")
    listen(checkpoints, host=host, port=port, key=api_key or None, precision=precision, limits=Limits(body_bytes=max_body_mb << 20, items=max_items, waiting_tokens=max_waiting_tokens), allow_drift=allow_drift)
    return 0


@app.command(group=USING)
def doctor(
    checkpoint: Path,
    *,
    against: Annotated[str | None, Parameter(help="A server (assay:URL, vllm:URL, openrlhf:URL#CHECKPOINT) or another checkpoint that should give the same scores.")] = None,
    as_json: Json = False,
) -> int:
    """Check a checkpoint against its scoring contract; every mismatch by name, with the fix. Exits with 1 if there is one.

    Parameters
    ----------
    checkpoint
        A checkpoint folder or a hub id.
    """
    import math
    import warnings

    from assay.errors import MissingExtra
    from assay.tables import show_findings

    try:
        from assay.model.doctor import examine
        from assay.score.checkpoint import folder_of
    except ImportError:
        raise MissingExtra("the doctor loads the model, and", "train") from None
    from assay.score.scorer import load_scorer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the doctor itself says what a server does differently
        other = load_scorer(against, precision="fp32", allow_drift=math.inf if against.startswith(("openrlhf:", "vllm:")) else None) if against else None

    def elsewhere(conversations: list[list[dict[str, str]]]) -> list[float]:
        assert other is not None
        scores = other.score(conversations)
        if scores.reasons:
            raise AssayError(f"--against {against}: {next(iter(scores.reasons.values()))}")
        return [float(x) for x in scores.values[:, 0]]

    findings = examine(folder_of(str(checkpoint)), elsewhere if other else None)
    if as_json:
        print_json([{"check": f.check, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings])
    else:
        show_findings(findings)
    return 0 if all(f.ok for f in findings) else 1
