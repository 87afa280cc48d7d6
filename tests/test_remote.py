"""Object stores, against a real S3 server that the test starts."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay import remote
from assay.cli import run_app
from assay.errors import AssayError
from assay.pairs.read import read

ROWS = '{"prompt": "What is red?", "chosen": "A colour.", "rejected": "A fruit."}\n{"prompt": "What is red?", "chosen": "A colour.", "rejected": "A fruit."}\n{"prompt": "Say hi to me now.", "chosen": "Hi.", "rejected": "No."}\n'
RECIPE = """name: stored
sources: [{path: "s3://bucket/in/pairs.jsonl", name: s}]
curate:
  - {kind: duplicates}
  - {kind: decontaminate, against: {bench: "s3://bucket/bench.jsonl"}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of an S3 server with a bucket of data."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    said = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1", "ASSAY_CACHE": str(tmp_path_factory.mktemp("cache"))}
    before = dict(os.environ)
    os.environ.update(said)
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="in/pairs.jsonl", Body=ROWS.encode())
    client.put_object(Bucket="bucket", Key="bench.jsonl", Body=b'{"prompt": "Say hi to me now."}\n')
    client.put_object(Bucket="bucket", Key="recipe.yaml", Body=RECIPE.encode())
    client.put_object(Bucket="bucket", Key="hub/owner/name/train.jsonl", Body=ROWS.encode())
    yield client
    server.stop()
    os.environ.clear()
    os.environ.update(before)


def keys(store: Any, prefix: str) -> list[str]:
    """Names in the bucket, in the order they were written."""
    found = store.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return [o["Key"] for o in sorted(found, key=lambda o: o["LastModified"])]


@pytest.mark.parametrize(("path", "address"), [("s3://b/x/y", "s3://b/x/y"), (Path("s3://b/x"), "s3://b/x"), ("gs://b", "gs://b"), ("plain/x", None), ("/abs/x", None), ("C:/x", None), ("owner/name", None)])
def test_which_paths_are_urls(path: str | Path, address: str | None) -> None:
    assert remote.url(path) == address


@pytest.mark.filterwarnings("ignore")  # botocore and aiohttp warn of their own
def test_reading_from_a_store(store: Any) -> None:
    assert read("s3://bucket/in/pairs.jsonl").pairs.height == 3
    assert read("s3://bucket/in").pairs.height == 3
    assert read("owner/name", data_root=Path("s3://bucket/hub")).pairs.height == 3
    with pytest.raises(AssayError, match=r"s3://bucket/none.jsonl: nothing is there"):
        read("s3://bucket/none.jsonl")
    with pytest.raises(AssayError, match=r"s3://other/none.jsonl: "):
        read("s3://other/none.jsonl")


@pytest.mark.filterwarnings("ignore")
def test_a_changed_object_is_read_anew(store: Any) -> None:
    store.put_object(Bucket="bucket", Key="changing.jsonl", Body=ROWS.encode())
    assert read("s3://bucket/changing.jsonl").pairs.height == 3
    store.put_object(Bucket="bucket", Key="changing.jsonl", Body=ROWS.splitlines()[0].encode() + b"\n")
    assert read("s3://bucket/changing.jsonl").pairs.height == 1


@pytest.mark.filterwarnings("ignore")
def test_a_curation_in_a_store_is_that_of_a_folder(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["curate", "s3://bucket/recipe.yaml", "-o", "s3://bucket/out"]) == 0
    assert "s3://bucket/out/curate/kept.parquet" in capsys.readouterr().out
    assert run_app(["curate", "s3://bucket/recipe.yaml", "-o", str(tmp_path / "here")]) == 0
    there = remote.fetch("s3://bucket/out")
    for name in ("kept.parquet", "dropped.parquet", "ledger.parquet", "manifest.json"):
        assert (there / "curate" / name).read_bytes() == (tmp_path / "here" / "curate" / name).read_bytes()
    capsys.readouterr()
    row = pl.read_parquet(there / "curate" / "dropped.parquet")["id"][0]
    assert run_app(["why", "s3://bucket/out", row]) == 0
    assert row in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_a_finished_curation_is_not_done_again_on_another_machine(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_app(["curate", "s3://bucket/recipe.yaml", "-o", "s3://bucket/twice"]) == 0
    before = store.list_objects_v2(Bucket="bucket", Prefix="twice")["Contents"]
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "another"))
    assert run_app(["curate", "s3://bucket/recipe.yaml", "-o", "s3://bucket/twice"]) == 0
    after = store.list_objects_v2(Bucket="bucket", Prefix="twice")["Contents"]
    assert [(o["Key"], o["LastModified"]) for o in before] == [(o["Key"], o["LastModified"]) for o in after]


@pytest.mark.filterwarnings("ignore")
def test_a_failed_run_leaves_its_work_but_no_manifest(store: Any) -> None:
    def fail(address: str) -> None:
        with remote.local(address) as folder:
            folder.mkdir()
            (folder / "half.txt").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail("s3://bucket/failed")
    assert keys(store, "failed") == ["failed/half.txt"]
    with remote.local("s3://bucket/failed") as folder:
        assert (folder / "half.txt").read_text() == "half"
        shutil.rmtree(folder)
    assert keys(store, "failed") == []


@pytest.mark.filterwarnings("ignore")
def test_files_beside_the_output_are_uploaded_too(store: Any) -> None:
    assert run_app(["read", "s3://bucket/in/pairs.jsonl", "-o", "s3://bucket/made/pairs.parquet"]) == 0
    assert sorted(keys(store, "made")) == ["made/pairs.aside.jsonl", "made/pairs.parquet"]


def test_an_unknown_scheme_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["read", "nosuch://bucket/x.jsonl", "-o", "x.parquet"]) == 2
    assert "nosuch://bucket/x.jsonl" in capsys.readouterr().err


def test_manifests_are_uploaded_last(tmp_path: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.put: list[str] = []

        def put_file(self, here: str, there: str) -> None:
            self.put.append(there)

    for name in ("out/manifest.json", "out/z.parquet", "out/steps/1/manifest.json", "out/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    recorder = Recorder()
    remote._upload(recorder, "b", tmp_path, {})
    assert recorder.put == ["b/out/a.parquet", "b/out/z.parquet", "b/out/steps/1/manifest.json", "b/out/manifest.json"]
