"""The embedded sample: made byte for byte by its script, checked by its programs, of which no surface feature tells the label."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

import assay.demo.demo as demo
import make_demo_data
from demo_data import code, instructions, math, safety

SAMPLE = Path(demo.__file__).parent
FILES = ("pairs.jsonl", "benchmark.jsonl", "truth.json")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def test_the_script_makes_it_byte_for_byte(tmp_path: Path) -> None:
    make_demo_data.main(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes(), name


def test_size_and_planted_truth() -> None:
    pairs, truth = rows("pairs.jsonl"), demo.planted()
    counts = {d: sum(t["defect"] == d for t in truth.values()) for d in demo.FINDERS}
    assert len(pairs) >= 2_000
    assert {r["category"] for r in pairs} == {"math", "code", "instructions", "safety"}
    assert counts["copy"] == counts["marker"] == 150
    assert counts["benchmark prompt"] == 60
    assert counts["flipped"] > 200
    by_id = {r["id"]: r for r in pairs}
    assert set(truth) <= set(by_id)
    assert not {r["prompt"] for r in pairs if r["id"] not in truth} & {r["prompt"] for r in rows("benchmark.jsonl")}


def test_flipped_rows_are_wrong_and_the_others_right() -> None:
    truth = demo.planted()
    refusals = tuple(safety.REFUSE)
    for row in rows("pairs.jsonl"):
        if row["category"] != "safety" or truth.get(row["id"], {}).get("defect") in ("benchmark prompt", "marker"):
            continue
        harmful = any(re.search(rf"\b{who}\b", row["prompt"]) for who in (*safety.OTHERS, *safety.WHO))
        right = row["chosen"].startswith(refusals) == harmful
        assert right == (row["id"] not in truth or truth[row["id"]]["defect"] != "flipped"), row


def test_the_checkers_tell_right_from_wrong() -> None:
    steps = [("times", 4, 5), ("minus", 20, 3)]
    assert math.check(steps, "4 times 5 is 20. 20 minus 3 is 17. The answer is 17.")
    assert not math.check(steps, "4 times 5 is 20. 20 minus 3 is 18. The answer is 18.")
    assert code.outputs("def f(x):\n    return max(x)", "f", code.LIST) != code.outputs("def f(x):\n    return min(x)", "f", code.LIST)
    spec: instructions.Spec = {"subject": "tea", "word": "quiet", "form": "prose", "sentences": 3, "ending": "question"}
    text = f"{instructions.SUBJECTS['tea'][0]} It is a quiet thing to think about. What do you think about it?"
    assert instructions.check(spec, "famous", text)
    assert not instructions.check({**spec, "form": "list"}, "famous", text)
    assert not instructions.check(spec, "quiet", text)
    assert safety.check(True, safety.REFUSE[0])
    assert not safety.check(False, safety.REFUSE[0])


def test_every_request_in_code_has_an_answer_the_others_fail() -> None:
    for family in code.FAMILIES:
        for kind, _, body in family:
            namespace_code = "def f(x):\n" + "\n".join("    " + line for line in body.format(x="x", i="i", t="t").split("\n"))
            assert len(code.outputs(namespace_code, "f", kind)) == len(code.INPUTS[kind])


@pytest.mark.parametrize("analyzer", ["word", "char_wb"])
def test_no_surface_probe_tells_the_label(analyzer: str) -> None:
    truth = demo.planted()
    clean, test = [r for r in rows("pairs.jsonl") if r["id"] not in truth], rows("benchmark.jsonl")
    vectors = CountVectorizer(analyzer=analyzer, ngram_range=(1, 3), min_df=3, binary=True, lowercase=False)
    vectors.fit([r[side] for r in clean for side in ("chosen", "rejected")])

    def features(some: list[dict[str, Any]]) -> Any:
        difference = vectors.transform([r["chosen"] for r in some]) - vectors.transform([r["rejected"] for r in some])
        lengths = np.array([[np.log(len(r["chosen"]) / len(r["rejected"]))] for r in some])
        return sparse.hstack([difference.astype(float), sparse.csr_matrix(lengths)]).tocsr()

    x = features(clean)
    sign = np.where(np.arange(x.shape[0]) % 2, 1, -1)
    probe = LogisticRegression(C=0.1, max_iter=500, fit_intercept=False).fit(x.multiply(sign[:, None]).tocsr(), sign)
    accuracy = float(((features(test) @ probe.coef_[0]) > 0).mean())
    assert accuracy < 0.6
