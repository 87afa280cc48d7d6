"""What the server's own description generates, fitting it and not: no answer is a failure of the server, and every refusal says why."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, core, given, seed, settings
from hypothesis import strategies as st
from hypothesis.vendor import pretty
from schemathesis import Case, GenerationMode
from schemathesis.openapi import from_asgi

from assay.score.checkpoint import CheckpointScorer
from assay.serve.app import create_app
from serve.test_faults import FITTING, POSTS, message

CASES = {"/v1/rewards": 20, "/v1/compare": 50, "/classify": 70, "/v1/classify": 50, "/pooling": 50, "/v1/embeddings": 20, "/v1/explain": 20}
"""Cases an operation and mode; schemathesis is slow at lists of messages."""
OTHERS = 110
TRIED = tuple(dict.fromkeys((*POSTS, "/v1/embeddings", "/v1/explain")))
GETS = ("/health", "/healthz", "/readyz", "/metrics", "/v1/models")
CONTENTS = ("input", "text", "input_ids", "messages")
Schema = schemathesis.BaseSchema


@pytest.fixture(autouse=True)
def printing() -> Iterator[None]:
    """Gives hypothesis back the printing of examples that schemathesis takes from it, for the tests of others."""
    yield
    core.RepresentationPrinter = pretty.RepresentationPrinter


@pytest.fixture(scope="module")
def schema(scorers: dict[str, CheckpointScorer]) -> Schema:
    """The description of the app in this process."""
    found = from_asgi("/openapi.json", create_app({"first": scorers["first"]}), config=schemathesis.Config())
    found.config.analysis.constants.enabled = False
    return found


def settled(n: int) -> settings:
    return settings(max_examples=n, derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def meant(case: Case, content: str) -> Case:
    """A case without a model that is not there, and with one of the contents that exclude each other: the one generated, or what fits."""
    case.body.pop("model", None)
    if case.path.endswith(("/classify", "/pooling", "/embeddings")):
        kept = case.body.get(content)
        for field in CONTENTS:
            case.body.pop(field, None)
        case.body.update({content: kept} if kept else FITTING.get(case.path, FITTING["/pooling"]))
    return case


def refusal(case: Case, response: Any) -> str:
    """What is wrong with an answer, nothing if it is as it should be."""
    if response.status_code >= 500 and response.status_code != 503:
        return f"{response.status_code} for {case.as_curl_command()}"
    if response.status_code >= 400 and not message(response):
        return f"no reason for {case.as_curl_command()}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", TRIED)
def test_no_generated_request_makes_the_server_fail(schema: Schema, path: str, mode: GenerationMode) -> None:
    wanted, statuses = CASES.get(path, OTHERS), []

    @seed(f"{mode} {path}")
    @settled(wanted)
    @given(schema[path]["POST"].as_strategy(mode), st.sampled_from(CONTENTS))
    def run(case: Case, content: str) -> None:
        response = (meant(case, content) if mode.is_positive else case).call()
        statuses.append(response.status_code)
        assert refusal(case, response) == ""
        assert not (mode.is_positive and response.status_code == 422), case.as_curl_command()

    run()
    assert len(statuses) >= wanted
    assert (200 if mode.is_positive else 422) in statuses


@pytest.mark.parametrize("path", GETS)
def test_what_takes_nothing_answers(schema: Schema, path: str) -> None:
    assert schema[path]["GET"].Case().call().status_code == 200


def test_the_description_holds_what_is_tried_here(schema: Schema) -> None:
    assert {operation.ok().path for operation in schema.get_all_operations() if operation.ok().method == "post"} == set(TRIED)
    assert 2 * sum(CASES.get(path, OTHERS) for path in TRIED) >= 2_000
