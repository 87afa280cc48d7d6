"""The pages of an evaluation in a real browser: phone and desk, light and dark, nothing loaded from elsewhere, texts stay texts. The browser part skips, loudly, without Chromium."""

import contextlib
import html
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assay.errors import AssayError
from assay.evaluate.best_of_n import best_of_n
from assay.evaluate.compare import compare
from assay.evaluate.evaluate import evaluate
from assay.evaluate.saved import load_results
from assay.evaluate.scoring import score_suites
from assay.evaluate.suite import Item, Suite
from assay.evaluate.suites import RULES
from assay.pairs.schema import Message, answer_text
from assay.report.results_page import EXCERPT, WORST, write_best_of_n_page, write_comparison_page, write_results_page
from assay.score.rules import Length
from assay.score.scorer import Scores
from assay.tables import show_comparison
from conftest import turn

LONG = "pneumonoultramicroscopicsilicovolcanoconiosis" * 4
EVIL = "<script>window.alerted='alerted'</script><img src=https://x.invalid/i.png onerror=\"window.alerted='alerted'\"> & \"quotes\" {{ 7 * 7 }}"
PLOTS = ["Scores", "Is the margin a probability?", "Accuracy by size of the margin", "Accuracy against length"]


class Hashed:
    """A score from the hash of the answer, a little more for the better answers, which say so."""

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str = "runs/hashed <i>&/checkpoint", without: str = "~~", scale: float = 0.001) -> None:
        self.spec, self.without, self.scale = spec, without, scale

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        texts = [answer_text(c[-1:]) for c in conversations]
        values = np.array([zlib.crc32((self.spec + t).encode()) % 1000 * self.scale + 0.2 * t.startswith("good") for t in texts], dtype=np.float32)
        reasons = {i: f"{EVIL}: no score" for i, t in enumerate(texts) if self.without in t}
        values[list(reasons)] = np.nan
        return Scores(values.reshape(-1, 1), np.array([len(t) > 200 for t in texts]), reasons)


def item(name: str, subset: str, prompt: str, answers: Sequence[str], gold: Sequence[float], about: dict[str, Any] | None = None) -> Item:
    return Item(name, subset, [turn("user", prompt)], [[turn("assistant", a)] for a in answers], tuple(gold), prompt, about or {})


def suites() -> list[Suite]:
    """Every kind of page: many figures, texts that are markup, none to compare, steps, all the same."""
    rng = np.random.default_rng(0)

    def words() -> str:
        return "x" * int(rng.integers(1, 40))

    pairs = [item(f"p{i}", ("plain", EVIL, LONG)[i % 3], f"{EVIL} {LONG} {i}", [f"good {words()} {i} {EVIL}", f"bad {words()} {i} {LONG}"], [1, 0]) for i in range(90)]
    domains = ["chat", "math", "code", "safety-refuse"]
    rm_bench = [item(f"m{i}", domains[i % 4].split("-")[0], f"m{i}", [f"{'good' if j < 3 else 'bad'} {i} {j} {words()}" for j in range(6)], [1, 1, 1, 0, 0, 0]) for i in range(24)]
    ratings = [item(f"r{i}", "all", f"r{i}", [f"{words()} {i}"], [float("nan")], {"ratings": {"helpfulness": float(rng.integers(5)), EVIL[:20]: float(rng.integers(5))}}) for i in range(50)]
    steps = [item(f"s{i}", "all", f"s{i}", [f"{words()} {i} " + "step\n" * j for j in range(1, 5)], [1, 1, 0, 0]) for i in range(20)]
    flat = [item(f"f{i}", "all", f"f{i}", ["~~same", "same~~"] if i % 3 == 0 else ["same!!", "!!same"], [1, 0]) for i in range(45)]
    found = [Suite("pairs <b>&", "pairs", pairs), Suite("rm-bench", "rm-bench", rm_bench), Suite("rated", "ratings", ratings), Suite("solutions", "steps", steps), Suite("flat", "pairs", flat)]
    for suite in found:
        suite.warnings += RULES[suite.rule].warnings(suite)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The evaluations of two scorers with their pages, their comparison, and best of n."""
    folder = tmp_path_factory.mktemp("pages")
    every = suites()
    evaluate(Length(), every, folder / "length")
    evaluate(Hashed(), every, folder / "hashed")
    evaluate(Hashed(without="nothing"), every, folder / "other")
    pages = {name: write_results_page(folder / name) for name in ("length", "hashed")}
    compared = compare([load_results(folder / name) for name in ("length", "other")])
    pages["comparison"] = write_comparison_page(compared, folder / "comparison.html")
    rng = np.random.default_rng(1)
    groups = [item(f"g{i}", "all", f"{EVIL} {i}", [f"{'good' if good else 'bad'} {i} {j} {'x' * int(rng.integers(1, 30))}" for j, good in enumerate(row)], row.astype(float), {"rows": [{"prediction": str(j % 3)} for j in range(16)]}) for i, row in enumerate(rng.random((40, 16)) < 0.4)]
    suite = Suite(f"groups <b>{LONG}", "best-of-n", groups)
    scorer = Hashed()
    pages["best of n"] = write_best_of_n_page(best_of_n(suite, score_suites(scorer, [suite])[0].rewards), scorer.spec, folder / "best_of_n.html")
    return pages


PAGES = ("length", "hashed", "comparison", "best of n")


# In a browser.


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("SKIPPED LOUDLY: the page is not looked at, no Chromium is installed (apt-get install chromium)")
    return found


LOOK = """
const d = f.contentDocument, w = f.contentWindow, root = d.documentElement;
const closed = root.scrollWidth - root.clientWidth;
d.querySelectorAll("details").forEach(x => x.open = true);
const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = text => { const [r, g, b] = text.match(/[0-9.]+/g).map(Number); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const paper = light(w.getComputedStyle(d.body).backgroundColor);
const card = d.querySelector(".card") ? light(w.getComputedStyle(d.querySelector(".card")).backgroundColor) : paper;
const svgs = [...d.querySelectorAll("svg")];
const texts = svgs.flatMap(s => [...s.querySelectorAll("text")]).map(t => contrast(light(w.getComputedStyle(t).fill), card));
const beyond = svgs.flatMap(s => { const box = s.getBoundingClientRect(); return [...s.querySelectorAll("text")].filter(t => { const b = t.getBoundingClientRect(); return b.left < box.left - 2 || b.right > box.right + 2; }).map(t => s.getAttribute("aria-label") + ": " + t.textContent.trim()); });
const said = {
  closed, open: root.scrollWidth - root.clientWidth, paper,
  wide: [...new Set([...d.querySelectorAll("body *")].filter(x => !x.closest("svg, .wide") && x.getBoundingClientRect().right > root.clientWidth + 1).map(x => x.tagName.toLowerCase() + "." + x.className))],
  ink: contrast(light(w.getComputedStyle(d.body).color), paper),
  plots: svgs.map(s => s.getAttribute("aria-label")),
  sizes: svgs.map(s => Math.min(s.getBoundingClientRect().width, s.getBoundingClientRect().height)),
  least: texts.length ? Math.min(...texts) : 21,
  beyond,
  samples: d.querySelectorAll(".sample").length,
  loaded: w.performance.getEntriesByType("resource").map(r => r.name),
  elements: d.querySelectorAll("script, img, iframe, object").length,
  alerted: w.alerted || window.alerted || "no"
};
document.getElementById("said").textContent = JSON.stringify(said);
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def look(text: str, width: int, dark: bool, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The page in a frame of ``width`` pixels that may load nothing: what was measured, and what the console said."""
    frame = folder / "frame.html"
    frame.write_text(f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,"><pre id="said"></pre><iframe id="f" width="{width}" height="3000" srcdoc="{html.escape(text)}"></iframe><script>const f=document.getElementById("f");f.onload=()=>{{{LOOK}}}</script>')
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--virtual-time-budget=5000", "--enable-logging=stderr", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([chromium(), *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    said = html.unescape(done.stdout.split('<pre id="said">')[1].split("</pre>")[0])
    return json.loads(said), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_browser_would_notice(tmp_path: Path) -> None:
    """A page that does all that must not be done: the checks below would fail on it."""
    bad = "<html><body><div style='width:900px'>wide</div><img src='https://x.invalid/i.png'><script>console.error('oh no'); window.alerted='alerted'</script></body></html>"
    said, console = look(bad, 390, False, tmp_path)
    assert said["open"] > 0
    assert said["alerted"] == "alerted"
    assert any("oh no" in line for line in console)
    assert any("x.invalid" in line for line in console)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_and_legible(name: str, width: int, dark: bool, runs: dict[str, Path], tmp_path: Path) -> None:
    said, console = look(runs[name].read_text(), width, dark, tmp_path)
    assert console == []
    assert (said["closed"], said["open"], said["wide"]) == (0, 0, [])
    assert said["loaded"] == []
    assert (said["elements"], said["alerted"]) == (0, "no")
    assert said["paper"] < 0.1 if dark else said["paper"] > 0.8
    assert said["ink"] > 7
    assert said["least"] >= 4
    assert said["beyond"] == []
    assert all(size > 120 for size in said["sizes"])
    expected = {
        "length": PLOTS + PLOTS + PLOTS + ["Scores", "Accuracy against length"],
        "hashed": PLOTS + PLOTS + PLOTS + ["Scores", "Accuracy against length"],
        "comparison": [],
        "best of n": ["Gold value of the chosen answer", "Proxy against gold"],
    }
    assert said["plots"] == expected[name]


def printed(text: str, folder: Path) -> int:
    """How many letters are on paper: those of the compressed text of a PDF."""
    folder.mkdir()
    (folder / "page.html").write_text(text)
    subprocess.run([chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={folder / 'page.pdf'}", (folder / "page.html").as_uri()], capture_output=True, timeout=120, check=True)
    streams = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", (folder / "page.pdf").read_bytes(), re.DOTALL):
        with contextlib.suppress(zlib.error):
            streams.append(zlib.decompress(stream))
    return sum(len(letters) // 4 for stream in streams if b" Tf" in stream for letters in re.findall(rb"<([0-9A-Fa-f]+)>", stream))


def test_what_is_closed_on_the_screen_is_printed(runs: dict[str, Path], tmp_path: Path) -> None:
    text = runs["length"].read_text()
    closed, opened = printed(text, tmp_path / "closed"), printed(text.replace("<details>", "<details open>"), tmp_path / "open")
    assert closed == opened > 1_000, (closed, opened)


# In the text.


@pytest.mark.parametrize("name", PAGES)
def test_texts_are_escaped_and_nothing_is_loaded_from_elsewhere(name: str, runs: dict[str, Path]) -> None:
    text = runs[name].read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>groups" not in text
    assert "pairs <b>&" not in text
    assert "hashed <i>" not in text
    assert "{{" not in text.replace(html.escape(EVIL, quote=False), "").replace("{{ 7 * 7 }}", "")
    assert not re.search(r"<[^>]+\ssrc=", text)
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\")", text)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert not re.search(r"https?://(?!www\.w3\.org|x\.invalid)", text)


@pytest.mark.parametrize("name", PAGES)
def test_no_figure_is_missing(name: str, runs: dict[str, Path]) -> None:
    visible = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", runs[name].read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b|nan%", visible)
    styles = re.findall(r'style="([^"]*%[^"]*)"', runs[name].read_text())
    assert all(0 <= float(x) <= 100.001 for style in styles for x in re.findall(r"(-?[\d.]+)%", style))


def prose(page: Path) -> str:
    """The page as it is read: without tags, spaces made one."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.DOTALL)))


@pytest.mark.parametrize("name", ["length", "hashed"])
def test_every_figure_is_on_the_page(name: str, runs: dict[str, Path]) -> None:
    said = prose(runs[name])
    results = json.loads((runs[name].parent / "results.json").read_text())
    for suite, result in results["suites"].items():
        assert suite in said
        figures = [result["overall"], *result["sections"].values(), *(result["subsets"].values() if len(result["subsets"]) > 1 else [])]
        for figure in figures:
            show = "{:.1%}" if result["share"] else "{:+.2f}"
            assert f"{show.format(figure['value'])} {show.format(figure['low'])} to {show.format(figure['high'])}" in said
        for warning in result["warnings"]:
            assert re.sub(r"\s+", " ", warning) in said
    assert results["suites"]["flat"]["warnings"]


def test_warnings_say_what_is_wrong(runs: dict[str, Path]) -> None:
    assert "every answer got the same score, 6: the scorer says nothing about these items" in prose(runs["length"])
    hashed = prose(runs["hashed"])
    assert "answers got no score and count as wrong" in hashed
    assert "a text was longer than the scorer reads" in hashed
    assert "answers without a score" in hashed


def test_the_precision_is_on_the_page(tmp_path: Path) -> None:
    scorer = Hashed()
    scorer.precision = "bf16"  # type: ignore[attr-defined]
    evaluate(scorer, suites()[-1:], tmp_path)
    assert "scores computed in bf16" in prose(write_results_page(tmp_path))
    evaluate(Hashed(), suites()[-1:], tmp_path)
    assert "computed in" not in prose(write_results_page(tmp_path))


def excerpt(text: str) -> str:
    return re.sub(r"\s+", " ", text if len(text) <= EXCERPT else text[:EXCERPT] + " ...")


@pytest.mark.parametrize("name", ["length", "hashed"])
@pytest.mark.parametrize("suite", ["pairs <b>&", "rm-bench", "solutions"])
def test_the_worst_mistakes_show_both_answers_with_their_scores(name: str, suite: str, runs: dict[str, Path]) -> None:
    said = prose(runs[name])
    table = pl.read_parquet(runs[name].parent / "items.parquet").filter((pl.col("suite") == suite) & (pl.col("margin") < 0)).sort("margin")
    assert table.height
    row = table.row(0, named=True)
    pairs = [(b, w) for b, g in enumerate(row["gold"]) for w, h in enumerate(row["gold"]) if g > h and row["scores"][b] - row["scores"][w] == pytest.approx(row["margin"])]
    assert any(
        f"better by the label, score {row['scores'][b]:.3f} {excerpt(answer_text(row['answers'][b]))}".strip() in said and f"scored higher, score {row['scores'][w]:.3f} {excerpt(answer_text(row['answers'][w]))}".strip() in said
        for b, w in pairs
    )
    assert f"{row['margin']:.3f} between the better and the higher scored answer" in said


def test_the_worst_come_first_and_are_few(runs: dict[str, Path]) -> None:
    text = runs["length"].read_text()
    for part in re.findall(r"<h3>The worst mistakes</h3>.*?</details>", text, re.DOTALL):
        margins = [float(m) for m in re.findall(r'<div class="why">(-?[\d.]+) between', part)]
        assert margins == sorted(margins)
        assert len(margins) <= WORST
        assert all(m < 0 for m in margins)


def test_published_figures_stand_beside(runs: dict[str, Path]) -> None:
    text = runs["length"].read_text()
    assert text.count("Beside published models") == 1
    assert "INF-ORM-Llama3.1-70B" in text


def test_published_macro_averages_stand_beside_a_macro_average(tmp_path: Path) -> None:
    """JudgeBench's published rows are means of its four categories, not shares of all pairs."""
    rows = [item(f"j{i}", "mmlu-pro" if i < 9 else "livebench-math", f"j{i}", ["long answer" if i < 9 else "b", "a" if i < 9 else "long answer"], [1, 0]) for i in range(10)]
    evaluate(Length(), [Suite("j", "judgebench", rows)], tmp_path)
    said = prose(write_results_page(tmp_path))
    assert re.search(r"model macro average rule:length 50.0% .*Skywork-Reward-V2-Llama-3.1-8B 80.0%", said)
    assert "GPT-4o split" in said


def test_the_comparison_says_what_was_tested(runs: dict[str, Path]) -> None:
    said = prose(runs["comparison"])
    folder = runs["comparison"].parent
    found = compare([load_results(folder / name) for name in ("length", "other")])
    assert found["names"] == ["rule:length", "hashed <i>&"]
    for name, suite in found["suites"].items():
        assert name in said
        (against,) = suite["against_first"].values()
        share = next(iter(suite["figures"].values()))["share"]
        for test in against["tests"].values():
            shown = f"{100 * test['difference']:+.1f}" if share else f"{test['difference']:+.2f}"
            p = "< 0.001" if test["holm"] < 0.001 else f"{test['holm']:.3f}"
            assert re.search(rf"{re.escape(shown)} \S+ to \S+ {test['gained']}, {test['lost']} {re.escape(p)}", said), test
        for items in against["changed"].values():
            for one in items:
                assert one["id"] in said
                better, worse = ("better by the label " + answer_text(one["answers"][one["decided"][0]]), " worse by the label " + answer_text(one["answers"][one["decided"][1]]))
                assert re.sub(r"\s+", " ", (better + worse)[:EXCERPT // 2]) in said
                assert one["gold"][one["decided"][0]] > one["gold"][one["decided"][1]]
                assert f"margins {one['margins'][0]:+.2f} and {one['margins'][1]:+.2f}" in said


def test_a_suite_that_only_one_has_is_named_on_the_comparison(tmp_path: Path) -> None:
    every = suites()
    evaluate(Length(), every[:2], tmp_path / "a")
    evaluate(Hashed(), every[1:3], tmp_path / "b")
    page = write_comparison_page(compare([load_results(tmp_path / n) for n in "ab"]), tmp_path / "c.html")
    assert "Not in all results, so left out: pairs <b>&, rated." in prose(page)


def test_three_scorers_are_compared_on_one_page(tmp_path: Path) -> None:
    every = suites()[:2]
    for name, scorer in (("a", Length()), ("b", Hashed("one")), ("c", Hashed("two"))):
        evaluate(scorer, every, tmp_path / name)
    text = write_comparison_page(compare([load_results(tmp_path / n) for n in "abc"]), tmp_path / "c.html").read_text()
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        widths = {len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)}
        assert len(widths) == 1
        assert "the best first" in table or widths == {1 + 3 + 2 * 3}


def test_scorers_and_published_models_stand_the_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = suites()[:2]
    for name, scorer in (("a", Length()), ("b", Hashed("one")), ("c", Hashed("two"))):
        evaluate(scorer, every, tmp_path / name)
    found = compare([load_results(tmp_path / n) for n in "abc"])
    pairs_board, rm_bench = re.findall(r"<tr><th>the best first.*?</table>", write_comparison_page(found, tmp_path / "c.html").read_text(), re.DOTALL)
    show_comparison(found, None)
    terminal = capsys.readouterr().out
    for name, board in zip(found["suites"], (pairs_board, rm_bench), strict=True):
        shown = [(html.unescape(n), float(v)) for n, v in re.findall(r"<tr><td[^>]*>(.*?)(?: <small>.published.</small>)?</td><td[^>]*>([\d.]+)%", board)]
        assert [v for _, v in shown] == sorted((v for _, v in shown), reverse=True)
        ours = {n: round(100 * suite["overall"]["value"], 1) for n, suite in found["suites"][name]["figures"].items()}
        assert {n: v for n, v in shown if n in ours} == ours
        assert [n for n, _ in shown if n in ours] == sorted(ours, key=lambda n: -ours[n])
        lines = terminal[terminal.index(f"{name}: 3 scorers") :].splitlines()[2:5]
        assert [line.split("%")[0].rsplit(maxsplit=1)[0].strip() for line in lines] == [n for n, _ in shown if n in ours]
    assert "Skywork-Reward-V2-Llama-3.1-8B <small>(published)" in rm_bench
    assert "published" not in pairs_board


def test_best_of_n_has_a_row_for_every_n(runs: dict[str, Path]) -> None:
    text = runs["best of n"].read_text()
    rows = re.findall(r"<tr><td class=\"n\">(\d+)</td>", text)
    assert rows == ["1", "2", "3", "4", "6", "8", "12", "16"]
    for name in ("scorer", "random answer", "longest answer", "oracle", "self-consistency", "weighted voting"):
        assert f'<th class="n">{name}</th>' in text


def test_gold_values_that_are_no_shares_are_shown_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    groups = [item(f"g{i}", "all", f"g{i}", [f"{i} {j}" for j in range(4)], rng.integers(1, 10, 4).astype(float)) for i in range(20)]
    suite = Suite("g", "best-of-n", groups)
    found = best_of_n(suite, score_suites(Hashed(), [suite])[0].rewards)
    said = prose(write_best_of_n_page(found, "x", tmp_path / "b.html"))
    last = found["curves"]["scorer"][-1]
    assert f"{last['value']:.3f} {last['low']:.3f} to {last['high']:.3f}" in said


# What could go wrong.


def test_a_scorer_that_gave_no_score_at_all_has_a_page(tmp_path: Path) -> None:
    every = [s for s in suites() if s.rule != "ratings"]
    evaluate(Hashed(without=""), every, tmp_path)
    said = prose(write_results_page(tmp_path))
    assert "answers got no score and count as wrong" in said
    assert not re.search(r"\b(nan|NaN)\b|nan%", said)


def test_solutions_without_an_error_have_a_page(tmp_path: Path) -> None:
    """Nothing can be found in them; the figures that cannot be measured are dashes, not numbers, and not nan."""
    steps = [item(f"s{i}", "all", f"s{i}", [f"{i} " + "step\n" * j for j in range(1, 4)], [1, 1, 0] if i else [1, 1, 1]) for i in range(10)]
    evaluate(Length(), [Suite("s", "steps", steps)], tmp_path / "some")
    assert not re.search(r"\b(nan|NaN)\b|nan%", prose(write_results_page(tmp_path / "some")))
    bad = [item(f"s{i}", "all", f"s{i}", [f"{i} " + "step\n" * j for j in range(1, 4)], [0, 0, 0]) for i in range(10)]
    evaluate(Length(), [Suite("s", "steps", steps[1:] + bad)], tmp_path / "bad")
    assert not re.search(r"\b(nan|NaN)\b|nan%", prose(write_results_page(tmp_path / "bad")))


def test_the_same_results_give_the_same_page(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["length"].parent, tmp_path / "copy")
    assert write_results_page(tmp_path / "copy").read_bytes() == runs["length"].read_bytes()


def test_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"no results\.json"):
        write_results_page(tmp_path)
