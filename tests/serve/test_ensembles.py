"""An ensemble behind the port: the scores it has here, how far its members are apart, and no more passes than members."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from assay.errors import AssayError
from assay.score.scorer import load_scorer
from assay.serve.app import create_app
from assay.serve.models import Served
from assay.serve.serve import load_models
from serve.test_dialects import post, text_of
from served import checkpoints, conversations, in_thread, make_checkpoint

TALKS = conversations()


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    import tiny

    folder = tmp_path_factory.mktemp("ensembles")
    decoder = tiny.decoder(folder / "backbone")
    first, twin = (str(make_checkpoint(decoder, folder / name, 300, seed=seed, temperature=0.7)) for name, seed in (("a", 0), ("b", 1)))
    other = str(checkpoints()["second"])
    return {"sure": f"mean-0.5({first},{twin})", "nested": f"mean(min({first},{twin}),{other})", "one": first}


@pytest.fixture(scope="module")
def served(specs: dict[str, str]) -> dict[str, Served]:
    return load_models([f"{name}={spec}" for name, spec in specs.items()], "fp32")


@pytest.fixture(scope="module")
def client(served: dict[str, Served]) -> Iterator[httpx2.Client]:
    with in_thread(create_app(served)) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("name", ["sure", "nested"])
def test_rewards_and_spread_are_those_of_the_scorer(name: str, client: httpx2.Client, specs: dict[str, str]) -> None:
    here = load_scorer(specs[name], precision="fp32")
    wanted = here.score(TALKS).values
    assert wanted[:, 2].max() > 0.1
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda talk: post(client, "/v1/rewards", model=name, conversations=[talk])["scores"][0], TALKS))
    for row, one in zip(wanted.tolist(), found, strict=True):
        assert [one["reward"], one["attributes"]["mean"], one["attributes"]["spread"]] == pytest.approx(row, abs=1e-4)


def test_other_formats_and_the_client_give_the_same(client: httpx2.Client, specs: dict[str, str], served: dict[str, Served]) -> None:
    wanted = load_scorer(specs["sure"], precision="fp32").score(TALKS).values
    text = text_of(served["one"], TALKS[0])
    assert post(client, "/get_reward", model="sure", query=[text])["rewards"][0] == pytest.approx(wanted[0, 0], abs=1e-4)
    assert post(client, "/classify", model="sure", messages=TALKS[1])["data"][0]["probs"][0] == pytest.approx(wanted[1, 0], abs=1e-4)
    compared = post(client, "/v1/compare", model="sure", prompt=TALKS[0][:-1], answers=[TALKS[0][-1]["content"], "?"])
    assert compared["rewards"][0] == pytest.approx(wanted[0, 0], abs=1e-4)
    assert not compared["calibrated"]
    remote = load_scorer(f"assay:{str(client.base_url).rstrip('/')}#sure")
    assert remote.attributes == ("reward", "mean", "spread")
    assert remote.score(TALKS).values == pytest.approx(wanted, abs=1e-4)


def test_texts_are_refused_where_members_read_them_differently(client: httpx2.Client) -> None:
    response = client.post("/get_reward", json={"model": "nested", "query": ["x"]})
    assert response.status_code == 400
    assert "the members of `nested` have different templates or tokenizers, so it takes messages" in response.text


def test_a_member_is_loaded_once_and_has_one_queue(served: dict[str, Served]) -> None:
    assert served["sure"].members[0] is served["one"] is served["nested"].members[0].members[0]  # type: ignore[union-attr]


def test_what_is_no_checkpoint_is_no_member() -> None:
    with pytest.raises(AssayError, match="rule:length: no such folder"):
        load_models(["mean(rule:length,rule:length)"], "fp32")
