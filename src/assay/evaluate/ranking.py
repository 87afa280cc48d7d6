"""How well a ranking puts the relevant documents first, by the conventions of four tools.

The tools agree on the formulas and differ in what is around them: who orders equal scores how, whether a judged query without a result list counts as 0 or not at all,
and how a mean is rounded. So the same run has several MRR@10, and a figure means something only beside the name of its tool.

======================  ==========================================  ==================================  =========================================
tool                    equal scores                                judged query without a result list  query without a relevant document
======================  ==========================================  ==================================  =========================================
``trec``                as float32; by document id, descending      left out                            0
``beir``                as ``trec``                                 left out                            0
``beir_own``            in input order                              0                                   0 (``recall_cap`` raises)
``ranx``                raises where their order matters            0                                   0
``ms_marco``            in input order                              0                                   0
======================  ==========================================  ==================================  =========================================

Judgements (qrels) are query -> document -> grade, a whole number; relevant is a grade of 1 or more, and a document without a judgement has grade 0. A run is query ->
list of (document, score), the higher the better, in any order; a query is ranked by its scores. All figures are fractions, 0 to 1.

Sources: the measures of trec_eval (https://github.com/usnistgov/trec_eval), as in pytrec_eval (Van Gysel and de Rijke, arXiv 1805.01597); ranx (Bassani, ECIR 2022);
BEIR (Thakur et al., arXiv 2104.08663); MS MARCO (Bajaj et al., arXiv 1611.09268). nDCG: Järvelin and Kekäläinen 2002; with gain 2^grade - 1: Burges et al. 2005.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from assay.errors import AssayError, did_you_mean

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Sequence[tuple[str, float]]]
Grades = Sequence[int]
Measure = Callable[[Grades, Grades, int | None], float]

CUTS = (1, 3, 5, 10, 100)


# one query: the grades of its documents in rank order, the grades of all its judged documents, and how many ranks are looked at (None: all)


def reciprocal_rank(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """1 / rank of the first relevant document, 0 if there is none."""
    return next((1 / rank for rank, grade in enumerate(ranked[:cut], 1) if grade > 0), 0.0)


def precision(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """Relevant documents over ranks looked at: over ``cut`` also where the list is shorter."""
    return _relevant(ranked[:cut]) / (cut or len(ranked) or 1)


def recall(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """The share of the relevant documents that is found, 0 if there are none."""
    return _relevant(ranked[:cut]) / (_relevant(judged) or 1)


def average_precision(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """The mean over all relevant documents of the precision at their ranks, one that is not found counting 0; 0 if there are none."""
    ranks = [rank for rank, grade in enumerate(ranked[:cut], 1) if grade > 0]
    return sum(found / rank for found, rank in enumerate(ranks, 1)) / (_relevant(judged) or 1)


def success(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """1 if any relevant document is found, else 0."""
    return float(_relevant(ranked[:cut]) > 0)


def ndcg(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """Normalised discounted cumulative gain with the grade as gain: sum of gain / log2(rank + 1) over that of the best order of all judged documents; 0 if nothing is relevant."""
    return _normalised([max(grade, 0) for grade in ranked], [max(grade, 0) for grade in judged], cut)


def ndcg_burges(ranked: Grades, judged: Grades, cut: int | None = None) -> float:
    """``ndcg`` with gain 2^grade - 1."""
    return _normalised([2 ** max(grade, 0) - 1 for grade in ranked], [2 ** max(grade, 0) - 1 for grade in judged], cut)


def _relevant(grades: Grades) -> int:
    return sum(grade > 0 for grade in grades)


def _normalised(ranked: Grades, judged: Grades, cut: int | None) -> float:
    best = _discounted(sorted(judged, reverse=True)[:cut])
    return _discounted(ranked[:cut]) / best if best else 0.0


def _discounted(gains: Grades) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


# the order of a list


def by_score(found: Sequence[tuple[str, float]]) -> list[str]:
    """Documents by score, the highest first; equal scores keep their order."""
    return [document for document, _ in sorted(_checked(found), key=lambda pair: -pair[1])]


def by_score_as_trec(found: Sequence[tuple[str, float]]) -> list[str]:
    """Documents by score in float32, the highest first; equal scores by document id as text, the last in the alphabet first. The input order does not matter."""
    with np.errstate(over="ignore"):
        pairs = [(float(np.float32(score)), document) for document, score in _checked(found)]
    return [document for _, document in sorted(pairs, reverse=True)]


def _checked(found: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
    seen = set()
    for document, score in found:
        if math.isnan(score):
            raise AssayError(f"ranking: document {document!r} has the score NaN, which has no place in an order; drop the document or score it again")
        if document in seen:
            raise AssayError(f"ranking: document {document!r} is listed twice for one query; keep one of its scores (usually the highest)")
        seen.add(document)
    return found


def _grades(order: Sequence[str], judged: Mapping[str, int]) -> list[int]:
    return [judged.get(document, 0) for document in order]


# pytrec_eval

TREC: dict[str, Measure] = {"recip_rank": reciprocal_rank, "map": average_precision, "ndcg": ndcg}
TREC_CUT: dict[str, Measure] = {"ndcg_cut": ndcg, "map_cut": average_precision, "recall": recall, "P": precision, "success": success}


def trec(qrels: Qrels, run: Run, measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measures by pytrec_eval's names for each query that is both judged and run, in the order of the run.

    Args:
        qrels: judgements.
        run: result lists; their order does not matter.
        measures: ``recip_rank``, ``map``, ``ndcg`` over the whole list; ``ndcg_cut_K``, ``map_cut_K``, ``recall_K``, ``P_K``, ``success_K`` over the first K. ``recip_rank`` has no
            cut-off: for MRR@10 cut the lists first, or take another tool's.

    Returns:
        query -> measure -> fraction.

    Raises:
        AssayError: a measure is not known, a score is NaN or a document is listed twice.
    """
    known = {name: _trec_measure(name) for name in measures}
    values = {}
    for query, found in run.items():
        if query in qrels:
            ranked, judged = _grades(by_score_as_trec(found), qrels[query]), list(qrels[query].values())
            values[query] = {name: measure(ranked, judged, cut) for name, (measure, cut) in known.items()}
    return values


def _trec_measure(name: str) -> tuple[Measure, int | None]:
    if name in TREC:
        return TREC[name], None
    cut = re.fullmatch(r"(\w+?)_([1-9]\d*)", name)
    if cut is None or cut[1] not in TREC_CUT:
        known = [*TREC, *(f"{family}_10" for family in TREC_CUT)]
        raise AssayError(f"ranking: there is no measure {name!r} in pytrec_eval's names.{did_you_mean(name, known)} Known, with any number: {', '.join(known)}")
    return TREC_CUT[cut[1]], int(cut[2])


def means(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plain mean of each measure over the queries that are there.

    Raises:
        AssayError: there is none.
    """
    if not per_query:
        raise AssayError("ranking: no query is both judged and run; check that both use the same query ids, as text")
    return {name: sum(values[name] for values in per_query.values()) / len(per_query) for name in next(iter(per_query.values()))}


# BEIR

BEIR_FAMILIES = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "P": "P"}
DECIMALS = 5


def beir(qrels: Qrels, run: Run, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """BEIR's ``evaluate``: NDCG@K, MAP@K, Recall@K and P@K, as ``trec`` of the run ``without_self``, the mean over its queries rounded to 5 decimals.

    Raises:
        AssayError: no query is both judged and run, a cut is not 1 or more, a score is NaN or a document is listed twice.
    """
    names = {f"{family}@{cut}": f"{theirs}_{cut}" for family, theirs in BEIR_FAMILIES.items() for cut in _cuts(cuts)}
    found = means(trec(qrels, without_self(run), list(names.values())))
    return {name: round(found[theirs], DECIMALS) for name, theirs in names.items()}


def without_self(run: Run) -> dict[str, list[tuple[str, float]]]:
    """The run without documents whose id is their query's: in some of BEIR's sets the queries are documents, too.

    BEIR's ``evaluate`` does this to the caller's run, so that whatever is measured after it in the same script lacks them as well: pass the result to ``beir_own`` for those figures.
    """
    return {query: [(document, score) for document, score in found if document != query] for query, found in run.items()}


def beir_own(metric: str, qrels: Qrels, run: Run, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """BEIR's ``evaluate_custom``: a sum over the queries of the run, over the number of **all** judged queries, rounded to 5 decimals; equal scores in input order.

    Args:
        metric: ``mrr`` (MRR@K), ``recall_cap`` (R_cap@K: the relevant found over the most that K ranks can hold), ``hole`` (Hole@K: the share of the K ranks whose document no
            query has a judgement of) or ``top_k_accuracy`` (Accuracy@K: whether any relevant one is found).
        qrels: judgements.
        run: result lists; documents with the query's id stay in.
        cuts: the Ks.

    Raises:
        AssayError: the metric is not known; but for ``hole``, a query of the run is not judged; with ``recall_cap``, a query of the run has no relevant document; no query is
            judged; a cut is not 1 or more, a score is NaN or a document is listed twice.
    """
    if metric not in BEIR_OWN:
        raise AssayError(f"ranking: there is no metric {metric!r} in BEIR.{did_you_mean(metric, BEIR_OWN)} Known: {', '.join(BEIR_OWN)}")
    label, measure = BEIR_OWN[metric]
    _some_judged(qrels)
    orders = {query: by_score(found) for query, found in run.items()}
    return {f"{label}@{cut}": round(sum(measure(query, order, qrels, cut) for query, order in orders.items()) / len(qrels), DECIMALS) for cut in _cuts(cuts)}


def _mrr(query: str, order: Sequence[str], qrels: Qrels, cut: int) -> float:
    return reciprocal_rank(_grades(order, _judged(qrels, query)), (), cut)


def _accuracy(query: str, order: Sequence[str], qrels: Qrels, cut: int) -> float:
    return success(_grades(order, _judged(qrels, query)), (), cut)


def _recall_cap(query: str, order: Sequence[str], qrels: Qrels, cut: int) -> float:
    judged = _judged(qrels, query)
    most = min(_relevant(list(judged.values())), cut)
    if not most:
        raise AssayError(f"ranking: query {query!r} has no relevant document, so that it has no capped recall; drop it from the run and the judgements")
    return _relevant(_grades(order[:cut], judged)) / most


def _hole(query: str, order: Sequence[str], qrels: Qrels, cut: int) -> float:
    return sum(all(document not in judged for judged in qrels.values()) for document in order[:cut]) / cut


BEIR_OWN: dict[str, tuple[str, Callable[[str, Sequence[str], Qrels, int], float]]] = {"mrr": ("MRR", _mrr), "recall_cap": ("R_cap", _recall_cap), "hole": ("Hole", _hole), "top_k_accuracy": ("Accuracy", _accuracy)}


def _judged(qrels: Qrels, query: str) -> Mapping[str, int]:
    if query not in qrels:
        raise AssayError(f"ranking: query {query!r} of the run is not judged; drop it from the run, or take `trec` or `beir`, which leave such queries out")
    return qrels[query]


def _some_judged(qrels: Qrels) -> None:
    if not qrels:
        raise AssayError("ranking: no query is judged; pass judgements (query -> document -> grade)")


def _cuts(cuts: Sequence[int]) -> Sequence[int]:
    if any(cut < 1 for cut in cuts):
        raise AssayError(f"ranking: the cuts are {list(cuts)}; each must be 1 or more")
    return cuts


# ranx

RANX: dict[str, Measure] = {
    "mrr": reciprocal_rank,
    "ndcg": ndcg,
    "ndcg_burges": ndcg_burges,
    "recall": recall,
    "map": average_precision,
    "precision": precision,
    "hit_rate": success,
}


def ranx(qrels: Qrels, run: Run, measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measures by ranx's names (``mrr@10``; ``mrr`` over the whole list) for each judged query, as ``evaluate(make_comparable=True)``: one without a result list has 0.

    Equal scores are in the order of ranx's internal sort, which is not the input order in longer lists. So where their order matters, this raises; ``means`` of the result is ranx's.

    Raises:
        AssayError: a measure is not known, no query is judged, documents of different gain have equal scores, a score is NaN or a document is listed twice.
    """
    known = {name: _ranx_measure(name) for name in measures}
    _some_judged(qrels)
    values = {}
    for query, judged in qrels.items():
        found = run.get(query, ())
        ranked = _grades(by_score(found), judged)
        _order_is_sure(query, found, judged)
        values[query] = {name: measure(ranked, list(judged.values()), cut) for name, (measure, cut) in known.items()}
    return values


def _ranx_measure(name: str) -> tuple[Measure, int | None]:
    parts = re.fullmatch(r"(\w+)(?:@([1-9]\d*))?", name)
    if parts is None or parts[1] not in RANX:
        raise AssayError(f"ranking: there is no measure {name!r} in ranx's names.{did_you_mean(name, RANX)} Known, each also with @K: {', '.join(RANX)}")
    return RANX[parts[1]], int(parts[2]) if parts[2] else None


def _order_is_sure(query: str, found: Sequence[tuple[str, float]], judged: Mapping[str, int]) -> None:
    gain: dict[float, int] = {}
    for document, score in found:
        grade = max(judged.get(document, 0), 0)
        if gain.setdefault(score, grade) != grade:
            raise AssayError(f"ranking: in query {query!r} documents of different grades have the score {score}, and ranx's order of them is that of its sort; break the ties, or take `trec`, whose order is defined")


# MS MARCO


def ms_marco(qrels: Qrels, run: Run) -> dict[str, float]:
    """The ranking script of MS MARCO: ``MRR @10`` over **all** judged queries, and ``QueriesRanked``, how many the run has, judged or not.

    The script reads ranks; here they come from the scores, equal ones in input order.

    Raises:
        AssayError: no query is both judged and run, a score is NaN or a document is listed twice.
    """
    ranks = {query: _grades(by_score(found), qrels.get(query, {})) for query, found in run.items()}
    if not ranks.keys() & qrels.keys():
        raise AssayError("ranking: no query is both judged and run; check that both use the same query ids, as text")
    return {"MRR @10": sum(reciprocal_rank(ranked, (), 10) for ranked in ranks.values()) / len(qrels), "QueriesRanked": len(ranks)}
