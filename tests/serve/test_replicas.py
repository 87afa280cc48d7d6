"""Two replicas behind nginx with the configuration of ``deploy/``: both work, and one may end and come back under load without a request failing."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import yaml

from assay.score.scorer import load_scorer
from assay.serve.app import Limits
from assay.serve.serve import grace
from served import Server, checkpoints, free_port, metrics_of, said, start, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def replicas() -> Iterator[list[Server]]:
    found = [start(f"first={checkpoints()['first']}") for _ in range(2)]
    yield found
    for one in found:
        one.stop()


@pytest.fixture
def balancer(replicas: list[Server], tmp_path: Path) -> Iterator[str]:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("SKIPPED LOUDLY: replicas are not tried behind a balancer, nginx is not installed (apt-get install nginx-light)")
    port, conf = free_port(), (DEPLOY / "nginx.conf").read_text().replace("listen 8080", "listen 127.0.0.1:PORT")
    for i, one in enumerate(replicas, start=1):
        conf = conf.replace(f"replica-{i}:8000", one.url.removeprefix("http://"))
    temp = "".join(f"{kind}_temp_path {tmp_path / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text("daemon off;\n" + conf.replace("PORT", str(port)).replace("http {", f"http {{\n{temp}", 1))
    process = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-g", f"pid {tmp_path / 'pid'};"])
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url))
    yield url
    process.terminate()
    process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.slow
def test_two_replicas_share_the_work_and_one_may_end(replicas: list[Server], balancer: str) -> None:
    asked = [said(f"What is {i}?", "A number. " * (i % 7)) for i in range(300)]
    expected = load_scorer(checkpoints()["first"], precision="fp32").score(asked).values[:, 0]
    half = threading.Event()

    def ask(i: int) -> float:
        if i == 150:
            half.set()
        answer = httpx2.post(f"{balancer}/v1/rewards", json={"conversations": [asked[i]]}, timeout=60)
        assert answer.status_code == 200, answer.text
        return float(answer.json()["scores"][0]["reward"])

    with ThreadPoolExecutor(16) as clients:
        answers = [clients.submit(ask, i) for i in range(300)]
        assert half.wait(60)
        counted = [metrics_of(one.url)["assay_items_total", ()] for one in replicas]
        assert replicas[0].stop() == 0
        time.sleep(0.5)
        replicas[0] = start(f"first={checkpoints()['first']}", port=int(replicas[0].url.rpartition(":")[2]))
        found = [answer.result() for answer in answers]
    assert min(counted) > 20
    assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_compose_file_names_what_the_balancer_does() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    conf = (DEPLOY / "nginx.conf").read_text()
    assert sorted(name for name in services if name.startswith("replica")) == ["replica-1", "replica-2"]
    assert all(f"{name}:8000" in conf for name in services if name != "balancer")
    assert all(int(services[name]["stop_grace_period"].removesuffix("s")) > grace(Limits()) for name in services if name != "balancer")
    assert services["balancer"]["ports"] == ["127.0.0.1:8080:8080"]
