"""The page at ``/``, clicked through in headless Chromium against the real server."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from assay.score.scorer import load_scorer
from assay.serve.dialects.own import PIECES, cut
from served import checkpoints, shared

QUESTION = "What is red?"
ANSWERS = ["A colour. Like blood!\nOr wine, <b>some</b> wine.", "I won't say.", "Red is red."]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("SKIPPED LOUDLY: the page is not clicked through, Chromium and its driver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1600", "--disable-background-networking", "--disable-component-update"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def opened(browser: Any) -> Any:
    browser.get(shared().url + "/")
    WebDriverWait(browser, 30).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "#model option")) == 3)
    return browser


def texts(browser: Any, css: str) -> list[str]:
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, css)]


def write(browser: Any, answers: list[str]) -> None:
    browser.find_element(By.CSS_SELECTOR, "#turns textarea").send_keys(QUESTION)
    for _ in answers[2:]:
        browser.find_element(By.ID, "add-answer").click()
    for field, text in zip(browser.find_elements(By.CSS_SELECTOR, "#answers textarea"), answers, strict=True):
        field.send_keys(text)


def score(browser: Any, cards: int) -> None:
    browser.find_element(By.ID, "go").click()
    WebDriverWait(browser, 60).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "#pieces .card")) == cards and d.find_element(By.ID, "go").is_enabled())


def expected(answers: list[str], model: str = "first") -> list[float]:
    conversations = [[{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}] for answer in answers]
    return [float(x) for x in load_scorer(checkpoints()[model], precision="fp32").score(conversations).values[:, 0]]


def shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def test_a_person_compares_three_answers(browser: Any) -> None:
    opened(browser)
    write(browser, ANSWERS)
    score(browser, 3)
    assert texts(browser, "#scores .reward") == [shown(x) for x in expected(ANSWERS)]
    assert len(texts(browser, "#scores .best")) == 1
    cells = texts(browser, "#matrix td.n")
    assert len(cells) == 9
    assert cells[0] == cells[4] == cells[8] == ""
    assert int(cells[1][:-1]) + int(cells[3][:-1]) in (99, 100, 101)
    assert "temperature fitted on held-out pairs" in browser.find_element(By.ID, "calibration").text
    first = browser.find_element(By.CSS_SELECTOR, "#pieces .text")
    assert first.get_attribute("textContent") == ANSWERS[0]
    pieces = first.find_elements(By.CSS_SELECTOR, ".piece")
    assert [one.get_attribute("textContent") for one in pieces] == cut(ANSWERS[0])
    whole, without = expected([ANSWERS[0], ANSWERS[0].removeprefix("A colour. ")])
    assert pieces[0].get_attribute("title").lstrip("+") == shown(whole - without)


def test_all_attributes_of_a_model_are_shown(browser: Any) -> None:
    opened(browser)
    browser.find_element(By.CSS_SELECTOR, "#model option:nth-child(3)").click()
    write(browser, ANSWERS[:2])
    score(browser, 2)
    assert {"kind", "right", "short"} <= set(texts(browser, "#scores dt"))


def test_a_pasted_conversation_is_taken_apart(browser: Any) -> None:
    opened(browser)
    browser.find_element(By.CSS_SELECTOR, "summary").click()
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    browser.find_element(By.ID, "json").send_keys(json.dumps(said))
    browser.find_element(By.ID, "take").click()
    turns = [one.get_attribute("value") for one in browser.find_elements(By.CSS_SELECTOR, "#turns textarea")]
    answers = [one.get_attribute("value") for one in browser.find_elements(By.CSS_SELECTOR, "#answers textarea")]
    assert (turns, answers) == (["Be kind.", "hi"], ["hello", ""])
    browser.find_element(By.ID, "json").send_keys("nonsense")
    browser.find_element(By.ID, "take").click()
    assert "no list of messages" in browser.find_element(By.ID, "error").text


def test_one_answer_is_not_enough(browser: Any) -> None:
    opened(browser)
    browser.find_element(By.CSS_SELECTOR, "#answers textarea").send_keys("only this")
    browser.find_element(By.ID, "go").click()
    assert browser.find_element(By.ID, "error").text == "Give at least two answers to compare."
    assert not browser.find_element(By.ID, "results").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_any_screen_and_complains_of_nothing(browser: Any, width: int, scheme: str) -> None:
    browser.get_log("browser")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 500})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened(browser)
    write(browser, ["A" * 300 + " word.", "no"])
    score(browser, 2)
    inner, outer = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert inner <= outer
    ink, paper = browser.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    assert (sum(map(int, ink[4:-1].split(","))) < sum(map(int, paper[4:-1].split(",")))) == (scheme == "light")
    assert browser.get_log("browser") == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_needs_no_key_and_may_load_nothing() -> None:
    answer = httpx2.get(shared().url + "/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org", "")
    assert "https://" not in answer.text


@pytest.mark.parametrize("answer", ["", "one", "One. Two.", "One.\n\nTwo\n", "\n\nx", "一。二！三", "Is it 3.5? Yes.", "a. " * 1_000, " . ", "\n"])
def test_the_pieces_are_the_answer(answer: str) -> None:
    for most in (1, 3, PIECES):
        pieces = cut(answer, most)
        assert "".join(pieces) == answer
        assert len(pieces) <= most
        assert all(pieces) or answer == ""
