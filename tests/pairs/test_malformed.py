"""Malformed files, rows and recipes: each is refused or set aside with exactly the message written here.

Three tables of cases. ``FILES``: a file that cannot be read raises. ``ROWS``: one bad row among good ones is set aside with its number
and its reason, the others are read, and only ``strict`` raises. ``RECIPES``: mistakes in a recipe or an override raise, naming the field.
"""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from assay.cli import run_app
from assay.curate.steps import MODULES
from assay.errors import AssayError
from assay.pairs.formats import FORMATS
from assay.pairs.read import read
from assay.pipeline import read_stage
from assay.recipes.recipe import Source, load_recipe

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    monkeypatch.delenv("ASSAY_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


def line(row: Any) -> bytes:
    return json.dumps(row).encode()


GOOD: Row = {"prompt": "Hi?", "chosen": "yes", "rejected": "no"}
LINE = line(GOOD) + b"\n"
TABLE = pa.table({"prompt": ["Hi?"] * 3, "chosen": ["yes"] * 3, "rejected": ["no"] * 3})
TYPES = ".parquet, .jsonl, .jsonl.gz, .ndjson, .ndjson.gz, .json, .json.gz, .arrow, .feather"
RENAME = "Rename columns with --columns, for example --columns question=prompt; formats: `assay explain formats`"
ROWS_WANTED = "expected a list of rows, or an object with one list of rows, found an object with the keys"


def parquet(table: pa.Table = TABLE) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def arrow(table: pa.Table = TABLE) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def refused(reads: Callable[[], Any]) -> str:
    """The message of the AssayError that ``reads`` raises."""
    with pytest.raises(AssayError) as caught:
        reads()
    return str(caught.value)


# Files.

FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("set.jsonl", None, "{path}: no such file or folder, and not a hub id of the form owner/name"),
    "empty jsonl": ("set.jsonl", b"", "{path}: the file is empty"),
    "empty parquet": ("set.parquet", b"", "{path}: the file is empty"),
    "empty arrow": ("set.arrow", b"", "{path}: the file is empty"),
    "blank lines only": ("set.jsonl", b"\n\n   \n", "{path}: holds no rows"),
    "parquet without rows": ("set.parquet", parquet(TABLE.slice(0, 0)), "{path}: holds no rows"),
    "arrow without rows": ("set.arrow", arrow(TABLE.slice(0, 0)), "{path}: holds no rows"),
    "gzip of nothing": ("set.jsonl.gz", gzip.compress(b""), "{path}: holds no rows"),
    "json of an empty list": ("set.json", b"[]", "{path}: holds no rows"),
    "parquet that is text": (
        "set.parquet",
        b"prompt,chosen,rejected\n",
        "{path}: not a readable Parquet file (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.)",
    ),
    "parquet cut short": (
        "set.parquet",
        parquet()[:-40],
        "{path}: not a readable Parquet file (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.)",
    ),
    "arrow that is text": ("set.arrow", b"this is a text, not an Arrow file", "{path}: not a readable Arrow file (Not an Arrow file)"),
    "arrow that is parquet": ("set.arrow", parquet(), "{path}: not a readable Arrow file (Not an Arrow file)"),
    "feather that is text": ("set.feather", b"this is a text, not an Arrow file", "{path}: not a readable Arrow file (Not an Arrow file)"),
    "gzip cut short": (
        "set.jsonl.gz",
        gzip.compress(LINE * 100)[:-10],
        "{path}: not a readable gzip file (Compressed file ended before the end-of-stream marker was reached)",
    ),
    "json gzip cut short": (
        "set.json.gz",
        gzip.compress(line([GOOD] * 100))[:-10],
        "{path}: not a readable gzip file (Compressed file ended before the end-of-stream marker was reached)",
    ),
    "gzip that is not": ("set.jsonl.gz", LINE, "{path}: not a readable gzip file (Not a gzipped file (b'{{\"'))"),
    "json gzip that is not": ("set.json.gz", line([GOOD]), "{path}: not a readable gzip file (Not a gzipped file (b'[{{'))"),
    "jsonl that is gzip": ("set.jsonl", gzip.compress(LINE), "{path}: holds gzip data, not JSON; give it the suffix of its type"),
    "jsonl that is parquet": ("set.jsonl", parquet(), "{path}: holds Parquet data, not JSON; give it the suffix of its type"),
    "jsonl that is zip": ("set.jsonl", b"PK\x03\x04....", "{path}: holds zip data, not JSON; give it the suffix of its type"),
    "json that is jsonl": ("set.json", LINE * 2, "{path}: not JSON (Extra data, line 2, column 1); it looks like JSON lines: name it .jsonl"),
    "json cut short": ("set.json", b'[{"prompt": "Hi?"', "{path}: not JSON (Expecting ',' delimiter, line 1, column 18)"),
    "json of spaces": ("set.json", b"  \n", "{path}: not JSON (Expecting value, line 2, column 1)"),
    "json not UTF-8": ("set.json", b'[{"prompt": "caf\xe9"}]', "{path}: not UTF-8 (byte 17); save it as UTF-8"),
    "json too deep": ("set.json", b"[" * 100_000, "{path}: not JSON (nested too deeply)"),
    "json with a number of too many digits": ("set.json", b'[{"prompt": ' + b"1" * 5_000 + b"}]", "{path}: not JSON (a number of too many digits)"),
    "json of a number": ("set.json", b"5", "{path}: expected a list of rows, found a number"),
    "json of a string": ("set.json", b'"rows"', "{path}: expected a list of rows, found text"),
    "json of null": ("set.json", b"null", "{path}: expected a list of rows, found null"),
    "json of true": ("set.json", b"true", "{path}: expected a list of rows, found a boolean"),
    "json of numbers": ("set.json", b"[1, 2]", "{path}: no row could be read, of 2; most often: not an object but a number"),
    "object with no list": ("set.json", b'{"version": "1.0", "rows": 5}', "{path}: " + ROWS_WANTED + " version, rows"),
    "object with two lists": ("set.json", line({"train": [GOOD], "test": [GOOD]}), "{path}: " + ROWS_WANTED + " train, test"),
    "object with nothing": ("set.json", b"{}", "{path}: " + ROWS_WANTED + " (none)"),
    "one row without its list": ("set.json", line(GOOD), "{path}: " + ROWS_WANTED + " prompt, chosen, rejected"),
    "csv": ("set.csv", b"prompt,chosen,rejected\n", "{path}: unknown file type `.csv`; Assay reads " + TYPES),
    "zstd": ("set.jsonl.zst", b"(\xb5/\xfd", "{path}: unknown file type `.zst`; Assay reads " + TYPES),
    "no suffix": ("set", b"Hi?", "{path}: unknown file type `set`; Assay reads " + TYPES),
    "unknown columns": ("set.jsonl", line({"question": "Hi?", "good": "yes", "bad": "no"}), "{path}: no known format has the keys question, good, bad. " + RENAME),
    "unknown columns of a parquet": ("set.parquet", parquet(TABLE.select(["prompt"])), "{path}: no known format has the keys prompt. " + RENAME),
    "one answer only": ("set.jsonl", line({"prompt": "Hi?", "chosen": "yes"}), "{path}: no known format has the keys prompt, chosen. " + RENAME),
    "rows without keys": ("set.jsonl", b"{}\n{}\n", "{path}: no known format has the keys (none). " + RENAME),
    "no line is JSON": ("set.jsonl", b"hello\nhello\n", "{path}: no row could be read, of 2; most often: not JSON (Expecting value, column 1)"),
    "UTF-16": ("set.jsonl", json.dumps(GOOD).encode("utf-16-le"), "{path}: no row could be read, of 1; most often: not JSON (Expecting property name enclosed in double quotes, column 2)"),
    "every pair identical": ("set.jsonl", line({**GOOD, "rejected": "yes"}), "{path}: no row could be read, of 1; most often: identical answers"),
    "no prompt has two answers": (
        "set.jsonl",
        line({"prompt": "Hi?", "response": "yes", "helpfulness": 4}),
        "{path}: no row could be read, of 1; most often: only one answer to its prompt",
    ),
}


def bad_file(tmp_path: Path, name: str) -> tuple[Path, str]:
    file, content, message = FILES[name]
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    return path, message.format(path=path)


@pytest.mark.parametrize("name", FILES)
def test_file(name: str, tmp_path: Path) -> None:
    path, message = bad_file(tmp_path, name)
    assert refused(lambda: read(path)) == message


@pytest.mark.parametrize("name", FILES)
def test_file_on_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, message = bad_file(tmp_path, name)
    assert said(capsys, "read", str(path), "-o", str(tmp_path / "out.parquet")) == message
    assert not (tmp_path / "out.parquet").exists()


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What the command line complains of, having seen that it exits with 2 and shows no traceback."""
    code = run_app(list(argv))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    _, found, complaint = err.rpartition("assay: ")
    assert found
    return complaint.rstrip("\n")


def test_folder_without_data(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text("nothing")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "old.jsonl").write_bytes(LINE)
    assert refused(lambda: read(folder)) == f"{folder}: holds no data file; looked for {TYPES}"


def test_folder_with_one_bad_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "b.jsonl").write_bytes(b'{"x": 1}\n')
    assert refused(lambda: read(tmp_path)) == f"{tmp_path / 'b.jsonl'}: no known format has the keys x. {RENAME}"


def test_missing_in_the_data_root(tmp_path: Path) -> None:
    message = f"no/such/set: no such file or folder (also looked in {tmp_path}), and not a hub id of the form owner/name"
    assert refused(lambda: read("no/such/set", data_root=tmp_path)) == message


@pytest.mark.parametrize(("given", "hint"), [("hh_rlhf", " Did you mean `hh-rlhf`?"), ("rating", " Did you mean `ratings`?"), ("zzz", "")])
def test_unknown_format(given: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(LINE)
    assert refused(lambda: read(path, format=given)) == f"unknown format `{given}`.{hint} Known: {', '.join(f.name for f in FORMATS)}"


def test_format_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(LINE)
    message = f"{path}: no row could be read, of 1; most often: no rating `helpfulness`"
    assert refused(lambda: read(path, format="ratings")) == message


def test_attribute_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(line({"prompt": "Hi?", "response": "yes", "helpfulness": 4}))
    assert refused(lambda: read(path, attribute="quality")) == f"{path}: no row could be read, of 1; most often: no rating `quality`"


def test_hub_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = 'reading owner/name from the hub needs the optional packages of Assay: pip install "assay[hub]"'
    assert refused(lambda: read("owner/name")) == message


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert refused(lambda: read("owner/name")) == (
        "owner/name: not a local path, and the hub did not give it (no route to host). Put a copy at ASSAY_DATA/owner/name to work without a network."
    )


READ_ARGUMENTS = {
    "no source": (["read", "-o", "out.parquet"], "nothing to read: give files, folders or hub ids"),
    "not parquet": (["read", "set.jsonl", "-o", "out.csv"], "-o out.csv: the pairs are written as Parquet; give a name that ends in .parquet"),
    "rename without =": (
        ["read", "set.jsonl", "-o", "out.parquet", "--columns", "question"],
        "--columns question: expected OLD=NEW, for example --columns question=prompt",
    ),
    "unknown topic": (
        ["explain", "agre"],
        f"nothing is called `agre`. Did you mean `agree`? Known: {', '.join(MODULES)}, "
        "recipe, sources, train, loss, lora, evaluate, bradley_terry, temperature_bt, focal, focal_penalty, hinge, margin_mse, cross_entropy, tempered_log, margin_bt, scaled_bt, "
        "demo, helpsteer2-preference, helpsteer2, skywork-audited, skywork, pairs, best-of-n, rewardbench, rewardbench2, rm-bench, judgebench, ppe-preference, ppe-correctness, rmb, solution-steps, ratings, steps, losses, formats, importing, recipes, scorers, suites",
    ),
}


@pytest.mark.parametrize("name", READ_ARGUMENTS)
def test_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, message = READ_ARGUMENTS[name]
    assert said(capsys, *argv) == message


# Rows.


def user(content: Any) -> Row:
    return {"role": "user", "content": content}


def bot(content: Any) -> Row:
    return {"role": "assistant", "content": content}


def system(content: Any) -> Row:
    return {"role": "system", "content": content}


def tool(content: Any) -> Row:
    return {"role": "tool", "content": content}


KINDS: dict[str, Row] = {
    "explicit": GOOD,
    "implicit": {"chosen": [user("Hi?"), bot("yes")], "rejected": [user("Hi?"), bot("no")]},
    "hh": {"chosen": "\n\nHuman: Hi?\n\nAssistant: yes", "rejected": "\n\nHuman: Hi?\n\nAssistant: no"},
    "nemo": {"context": [user("Hi?")], "completions": [{"rank": 0, "completion": [bot("yes")]}, {"rank": 1, "completion": [bot("no")]}]},
    "ultra": {"instruction": "Hi?", "completions": [{"response": "yes", "overall_score": 8}, {"response": "no", "overall_score": 3}]},
    "rb2": {"prompt": "Hi?", "chosen": ["yes"], "rejected": ["no", "nay"]},
    "magpie": {"instruction": "Hi?", "responses": ["yes", "no"], "rewards_armorm": [{"score": 0.2}, {"score": 0.1}]},
    "magpie-ultra": {"instruction": "Hi?", "response": "yes", "response_base": "no", "score": 0.5, "score_base": 0.25},
    "two": {"instruction": "Hi?", "input": "", "output_1": "yes", "output_2": "no", "label": 1},
    "swift": {"messages": [user("Hi?"), bot("yes")], "rejected_response": "no"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi?"}], "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}},
    "alpaca": {"instruction": "Hi?", "input": "", "chosen": "yes", "rejected": "no"},
}

ROLES = "expected one of system, user, assistant, tool"

BROKEN_LINES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"hello", "not JSON (Expecting value, column 1)"),
    "cut short": (b'{"prompt": "Hi?"', "not JSON (Expecting ',' delimiter, column 17)"),
    "single quotes": (b"{'prompt': 'Hi?'}", "not JSON (Expecting property name enclosed in double quotes, column 2)"),
    "unclosed text": (b'{"prompt": "Hi?', "not JSON (Unterminated string starting at, column 12)"),
    "two rows on a line": (b"{} {}", "not JSON (Extra data, column 4)"),
    "control character": (b'{"prompt": "a\tb"}', "not JSON (Invalid control character at, column 14)"),
    "nested too deeply": (b"[" * 100_000, "not JSON (nested too deeply)"),
    "a number of too many digits": (b'{"prompt": ' + b"1" * 5_000 + b"}", "not JSON (a number of too many digits)"),
    "a list": (b"[1, 2]", "not an object but a list"),
    "a number": (b"5", "not an object but a number"),
    "a string": (b'"Hi?"', "not an object but text"),
    "a boolean": (b"true", "not an object but a boolean"),
    "null": (b"null", "not an object but null"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}', "not UTF-8 (byte 16)"),
    "half a UTF-8 character": (b'{"prompt": "\xe2\x82"}', "not UTF-8 (byte 13)"),
    "no keys": (b"{}", "no `prompt`"),
}

CARRIED = ("topic", "category", "subset", "source")

BROKEN_FIELDS: dict[str, tuple[str, Row, str]] = {
    "prompt null": ("explicit", {"prompt": None}, "no `prompt`"),
    "prompt a number": ("explicit", {"prompt": 5}, "prompt is a number, expected text"),
    "prompt an object": ("explicit", {"prompt": user("Hi?")}, "prompt is an object, expected text"),
    "prompt a boolean": ("explicit", {"prompt": True}, "prompt is a boolean, expected text"),
    "prompt an empty list": ("explicit", {"prompt": []}, "prompt is an empty list, expected a list of messages"),
    "prompt a list of texts": ("explicit", {"prompt": ["Hi?"]}, "prompt[0] is text, expected a message"),
    "prompt a list of numbers": ("explicit", {"prompt": [user("Hi?"), 5]}, "prompt[1] is a number, expected a message"),
    "prompt empty": ("explicit", {"prompt": ""}, "the prompt is empty"),
    "prompt of spaces": ("explicit", {"prompt": " \n"}, "the prompt is empty"),
    "last turn empty": ("explicit", {"prompt": [user("Hi?"), bot("ha"), user("")]}, "the prompt is empty"),
    "chosen empty": ("explicit", {"chosen": ""}, "chosen is empty"),
    "rejected of spaces": ("explicit", {"rejected": "\t\n "}, "rejected is empty"),
    "chosen null": ("explicit", {"chosen": None}, "no `chosen`"),
    "rejected null": ("explicit", {"rejected": None}, "no `rejected`"),
    "chosen a number": ("explicit", {"chosen": 5}, "chosen is a number, expected text"),
    "chosen an empty list": ("explicit", {"chosen": []}, "chosen is an empty list, expected a list of messages"),
    "chosen a list of texts": ("explicit", {"chosen": ["yes"]}, "chosen[0] is text, expected a message"),
    "identical answers": ("explicit", {"rejected": "yes"}, "identical answers"),
    "identical but for spaces": ("explicit", {"rejected": " yes\n"}, "identical answers"),
    "unknown role": ("explicit", {"prompt": [{"role": "robot", "content": "Hi?"}]}, f"broken roles: prompt[0] has the role 'robot', {ROLES}"),
    "role missing": ("explicit", {"prompt": [{"content": "Hi?"}]}, f"broken roles: prompt[0] has the role None, {ROLES}"),
    "role a list": ("explicit", {"prompt": [{"role": ["user"], "content": "Hi?"}]}, f"broken roles: prompt[0] has the role ['user'], {ROLES}"),
    "role in capitals": ("explicit", {"prompt": [{"role": "User", "content": "Hi?"}]}, f"broken roles: prompt[0] has the role 'User', {ROLES}"),
    "content null": ("explicit", {"prompt": [user(None)]}, "prompt[0].content is null, expected text"),
    "content missing": ("explicit", {"prompt": [{"role": "user"}]}, "prompt[0].content is null, expected text"),
    "content a number": ("explicit", {"prompt": [user(5)]}, "prompt[0].content is a number, expected text"),
    "content an image": ("explicit", {"prompt": [user([{"type": "image", "url": "x"}])]}, "prompt[0] has content that is not text"),
    "content text and image": (
        "explicit",
        {"prompt": [user([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": "x"}])]},
        "prompt[0] has content that is not text",
    ),
    "content parts of numbers": ("explicit", {"prompt": [user([{"type": "text", "text": 5}])]}, "prompt[0] has content that is not text"),
    "two user turns": ("explicit", {"prompt": [user("Hi?"), user("Ho?")]}, "broken roles: two user turns in a row at position 2 of the prompt"),
    "two assistant turns": (
        "explicit",
        {"prompt": [user("Hi?"), bot("a"), bot("b"), user("Ho?")]},
        "broken roles: two assistant turns in a row at position 3 of the prompt",
    ),
    "system in the middle": ("explicit", {"prompt": [user("Hi?"), system("Be short."), user("Ho?")]}, "broken roles: a system turn at position 2 of the prompt"),
    "two systems": ("explicit", {"prompt": [system("a"), system("b"), user("Ho?")]}, "broken roles: a system turn at position 2 of the prompt"),
    "prompt of a system only": ("explicit", {"prompt": [system("Be short.")]}, "broken roles: the last turn of the prompt is the system's"),
    "prompt ends with the assistant": ("explicit", {"prompt": [user("Hi?"), bot("ha")]}, "broken roles: the last turn of the prompt is the assistant's"),
    "answer by the user": ("explicit", {"chosen": [user("yes")]}, "broken roles: chosen contains a turn of the user"),
    "answer with a user turn": ("explicit", {"rejected": [bot("a"), user("b"), bot("c")]}, "broken roles: rejected contains a turn of the user"),
    "answer of a tool only": ("explicit", {"chosen": [tool("4")]}, "chosen is empty"),
    "whole conversation on one side": ("explicit", {"chosen": [user("Hi?"), bot("yes")]}, "broken roles: chosen contains a turn of the user"),
    "NUL in the prompt": ("explicit", {"prompt": "a\0b"}, "prompt contains a NUL character"),
    "NUL in an answer": ("explicit", {"chosen": "a\0b"}, "chosen contains a NUL character"),
    "NUL in a message": ("explicit", {"chosen": [bot("a\0b")]}, "chosen[0].content contains a NUL character"),
    "lone surrogate": ("explicit", {"rejected": "a\ud800"}, "rejected contains a lone surrogate"),
    "lone surrogate in a message": ("explicit", {"prompt": [user("\udfff")]}, "prompt[0].content contains a lone surrogate"),
    **{f"lone surrogate in {c}": ("explicit", {c: "a\ud800"}, f"{c} contains a lone surrogate") for c in CARRIED},
    **{f"NUL in {c}": ("explicit", {c: "a\0b"}, f"{c} contains a NUL character") for c in CARRIED},
    "lone surrogate inside an extra column": ("explicit", {"topic": {"a": ["\udfff"]}}, "topic contains a lone surrogate"),
    "lone surrogate in a key of an extra column": ("explicit", {"topic": {"\udfff": 1}}, "topic contains a lone surrogate"),
    "lone surrogate in the name of a column": ("explicit", {"topic\ud800": 1}, "the name of a column contains a lone surrogate"),
    "NUL in the name of a column": ("explicit", {"topic\0": 1}, "the name of a column contains a NUL character"),
    "lone surrogate in the id": ("explicit", {"id": "a\ud800"}, "source_id contains a lone surrogate"),
    "lone surrogate in a category under another name": ("magpie-ultra", {"primary_tag": "\ud800"}, "category contains a lone surrogate"),
    "margin NaN": ("explicit", {"margin": float("nan")}, "margin is not finite"),
    "margin infinite": ("explicit", {"margin": float("-inf")}, "margin is not finite"),
    "margin nan as text": ("explicit", {"margin": "nan"}, "margin is not finite"),
    "margin a word": ("explicit", {"margin": "high"}, "margin is not a number"),
    "margin a boolean": ("explicit", {"margin": True}, "margin is not a number"),
    **{
        f"{column} {name}": ("explicit", {column: value}, f"{column} is {reason}")
        for column in ("margin", "weight")
        for name, value, reason in (
            ("a list", [1], "not a number"),
            ("an object", {"a": 1}, "not a number"),
            ("an empty text", "", "not a number"),
            ("too large for float32", 1e39, "not finite"),
            ("too large for float32 and negative", -1e39, "not finite"),
            ("too large for float32 as text", "1e39", "not finite"),
            ("an integer too large for a float", 10**400, "not finite"),
        )
    },
    "weight a word": ("explicit", {"weight": "heavy"}, "weight is not a number"),
    "weight a boolean": ("explicit", {"weight": False}, "weight is not a number"),
    "weight NaN": ("explicit", {"weight": float("nan")}, "weight is not finite"),
    "conversations share no prompt": ("implicit", {"rejected": [user("Ho?"), bot("no")]}, "the two conversations share no prompt"),
    "identical conversations": ("implicit", {"rejected": [user("Hi?"), bot("yes")]}, "identical answers"),
    "conversations part at the user": (
        "implicit",
        {"chosen": [user("a"), bot("b"), user("c"), bot("d")], "rejected": [user("a"), bot("b"), user("e"), bot("d")]},
        "broken roles: the last turn of the prompt is the assistant's",
    ),
    "conversation without an answer": ("implicit", {"rejected": [user("Hi?")]}, "broken roles: rejected has no assistant turn"),
    "conversation ends with two user turns": ("implicit", {"rejected": [user("Hi?"), user("no")]}, "broken roles: rejected contains a turn of the user"),
    "conversation null": ("implicit", {"chosen": None}, "no `chosen`"),
    "conversation empty": ("implicit", {"chosen": []}, "chosen is an empty list, expected a list of messages"),
    "hh without a human turn": ("hh", {"chosen": "yes"}, "chosen does not begin with a `Human:` turn"),
    "hh with a preface": ("hh", {"chosen": "Note.\n\nHuman: Hi?\n\nAssistant: yes"}, "chosen does not begin with a `Human:` turn"),
    "hh with another question": ("hh", {"chosen": "\n\nHuman: Ho?\n\nAssistant: yes"}, "the two conversations share no prompt"),
    "hh with an empty answer": ("hh", {"rejected": "\n\nHuman: Hi?\n\nAssistant:"}, "rejected is empty"),
    "hh without an answer": ("hh", {"rejected": "\n\nHuman: Hi?"}, "broken roles: rejected has no assistant turn"),
    "completions a number": ("nemo", {"completions": 5}, "`completions` is a number, expected a list"),
    **{
        f"{kind} {key} {name}": (kind, {key: value}, f"`{key}` is {name}, expected a list")
        for kind, key in (
            ("nemo", "completions"),
            ("ultra", "completions"),
            ("rb2", "chosen"),
            ("rb2", "rejected"),
            ("magpie", "responses"),
            ("magpie", "rewards_armorm"),
            ("alpaca", "history"),
        )
        for name, value in (("text", "abc"), ("a boolean", True), ("an object", {"a": 1}))
    },
    "completions of numbers": ("nemo", {"completions": [0, 1]}, "`completions` is not a list of {rank, completion}"),
    "context a text": ("nemo", {"context": "Hi?"}, "context is text, expected a list of messages"),
    "rank too large": ("nemo", {"completions": [{"rank": 10**400, "completion": "yes"}]}, "completions[0].rank is not finite"),
    "scores apart by more than float32": ("magpie", {"rewards_armorm": [3e38, -3e38]}, "margin is not finite"),
    "right answers none": ("rb2", {"chosen": []}, "no right or no wrong answer"),
    "right answer a number": ("rb2", {"chosen": [5]}, "chosen is a number, expected text"),
    "responses of numbers": ("magpie", {"responses": [5, 6]}, "responses[0] is a number, expected text"),
    "scores of null": ("magpie", {"rewards_armorm": [None, 1]}, "rewards_armorm[0] is not a number"),
    "score too large": ("magpie", {"rewards_armorm": [10**400, 1]}, "rewards_armorm[0] is not finite"),
    "base score a word": ("magpie-ultra", {"score_base": "N/A"}, "score is not a number"),
    "base score too large": ("magpie-ultra", {"score_base": 10**400}, "score is not finite"),
    "conversations a text": ("sharegpt", {"conversations": "Hi?"}, "conversations is text, expected a list of messages"),
    "messages an object": ("swift", {"messages": user("Hi?")}, "messages is an object, expected a list of messages"),
    "label true": ("two", {"label": True}, "label is True, expected 1 or 2 (the better output)"),
    "label false": ("two", {"label": False}, "label is False, expected 1 or 2 (the better output)"),
    "label a list": ("two", {"label": [1]}, "label is [1], expected 1 or 2 (the better output)"),
    "label between": ("two", {"label": 1.5}, "label is 1.5, expected 1 or 2 (the better output)"),
    "completions null": ("nemo", {"completions": None}, "no `completions`"),
    "completion without a rank": ("nemo", {"completions": [{"completion": [bot("yes")]}]}, "no `rank`"),
    "rank a word": ("nemo", {"completions": [{"rank": "best", "completion": [bot("yes")]}]}, "completions[0].rank is not a number"),
    "ranks equal": ("nemo", {"completions": [{"rank": 1, "completion": [bot("a")]}, {"rank": 1, "completion": [bot("b")]}]}, "answers are rated equal"),
    "completion without a score": (
        "ultra",
        {"completions": [{"response": "yes"}]},
        "completions[0] has no score (overall_score, fine-grained_score, score or rating)",
    ),
    "completion score a word": ("ultra", {"completions": [{"response": "yes", "overall_score": "N/A"}]}, "completions[0].overall_score is not a number"),
    "completion score infinite": (
        "ultra",
        {"completions": [{"response": "yes", "overall_score": 1}, {"response": "no", "overall_score": float("inf")}]},
        "completions[1].overall_score is not finite",
    ),
    "completion without a response": ("ultra", {"completions": [{"response": None, "overall_score": 1}]}, "no `response`"),
    "completions empty": ("ultra", {"completions": []}, "only one answer to its prompt"),
    "right answer also wrong": ("rb2", {"rejected": ["no", "yes"]}, "identical answers"),
    "wrong answer empty": ("rb2", {"rejected": ["no", ""]}, "rejected is empty"),
    "fewer responses than scores": ("magpie", {"responses": ["yes"]}, "1 in `responses` but 2 in `rewards_armorm`"),
    "score missing": ("magpie", {"rewards_armorm": [{"score": 0.2}, {}]}, "rewards_armorm[1] is not a number"),
    "scores equal": ("magpie", {"rewards_armorm": [{"score": 0.2}, {"score": 0.2}]}, "answers are rated equal"),
    "responses null": ("magpie", {"responses": None}, "no `responses`"),
    "base response null": ("magpie-ultra", {"response_base": None}, "no `response_base`"),
    "base response the same": ("magpie-ultra", {"response_base": "yes"}, "identical answers"),
    "label 0": ("two", {"label": 0}, "label is 0, expected 1 or 2 (the better output)"),
    "label 3": ("two", {"label": 3}, "label is 3, expected 1 or 2 (the better output)"),
    "label a word": ("two", {"label": "first"}, "label is 'first', expected 1 or 2 (the better output)"),
    "label null": ("two", {"label": None}, "label is None, expected 1 or 2 (the better output)"),
    "output null": ("two", {"output_2": None}, "no `output_2`"),
    "input a number": ("two", {"input": 5}, "input is a number, expected text"),
    "messages end with the user": ("swift", {"messages": [user("Hi?")]}, "broken roles: `messages` ends with a user turn"),
    "messages empty": ("swift", {"messages": []}, "messages is an empty list, expected a list of messages"),
    "messages of an answer only": ("swift", {"messages": [bot("yes")]}, "the prompt is empty"),
    "rejected response null": ("swift", {"rejected_response": None}, "no `rejected_response`"),
    "rejected messages of another prompt": ("swift", {"rejected_messages": [user("Ho?"), bot("no")]}, "the two conversations share no prompt"),
    "sharegpt answer by the human": ("sharegpt", {"chosen": {"from": "human", "value": "yes"}}, "broken roles: chosen contains a turn of the user"),
    "sharegpt answer without a value": ("sharegpt", {"rejected": {"from": "gpt"}}, "rejected.content is null, expected text"),
    "sharegpt system a number": ("sharegpt", {"system": 5}, "system is a number, expected text"),
    "history of texts": ("alpaca", {"history": ["One?", "1"]}, "`history` is not a list of [user, assistant] turns"),
    "history of single turns": ("alpaca", {"history": [["One?"]]}, "`history` is not a list of [user, assistant] turns"),
    "history without an answer": ("alpaca", {"history": [["One?", None]]}, "history is null, expected text"),
    "instruction empty": ("alpaca", {"instruction": ""}, "the prompt is empty"),
}

ANOTHER = {
    "explicit": "no `prompt`",
    "implicit": "no `chosen`",
    "hh": "no `chosen`",
    "nemo": "no `context`",
    "ultra": "prompt is null, expected text",
    "rb2": "no `prompt`",
    "magpie": "no `instruction`",
    "magpie-ultra": "no `instruction`",
    "two": "no `instruction`",
    "swift": "no `messages`",
    "sharegpt": "no `conversations`",
    "alpaca": "no `instruction`",
}
"""Why a row of no known format does not fit among rows of each kind."""

ROWS: dict[str, tuple[Row, bytes, str]] = {
    **{name: (GOOD, raw, reason) for name, (raw, reason) in BROKEN_LINES.items()},
    **{name: (KINDS[kind], line({**KINDS[kind], **change}), reason) for name, (kind, change, reason) in BROKEN_FIELDS.items()},
    **{f"another kind of row among {name}": (good, line({"question": "Hi?"}), ANOTHER[name]) for name, good in KINDS.items()},
    "chosen missing": (GOOD, line({"prompt": "Hi?", "rejected": "no"}), "no `chosen`"),
    "rejected missing": (GOOD, line({"prompt": "Hi?", "chosen": "yes"}), "no `rejected`"),
    "label missing": (KINDS["two"], line({k: v for k, v in KINDS["two"].items() if k != "label"}), "label is None, expected 1 or 2 (the better output)"),
}


def among_good(tmp_path: Path, name: str) -> Path:
    good, bad, _ = ROWS[name]
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\n".join([line(good), line(good), bad, line(good), b""]))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_row_goes_aside_and_the_rest_is_read(name: str, tmp_path: Path) -> None:
    path = among_good(tmp_path, name)
    reading = read(path)
    (aside,) = reading.aside
    assert (aside["file"], aside["row"], aside["reason"]) == (str(path), 3, ROWS[name][2])
    assert set(aside) == {"file", "row", "reason", "raw"}
    assert (reading.rows_read, reading.rows_used, reading.reasons()) == (4, 3, {ROWS[name][2]: 1})
    assert reading.pairs["id"].n_unique() == reading.pairs.height / 3
    written = read_stage([Source(path=str(path))], tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "aside.jsonl").read_text()) == aside
    assert pl.read_parquet(written).equals(reading.pairs)


@pytest.mark.parametrize("name", ROWS)
def test_strict_stops_at_the_row(name: str, tmp_path: Path) -> None:
    path = among_good(tmp_path, name)
    assert refused(lambda: read(path, strict=True)) == f"{path}, row 3: {ROWS[name][2]}"


@pytest.mark.parametrize("name", ["not JSON", "not UTF-8", "identical answers", "unknown role", "lone surrogate", "margin NaN", "ranks equal"])
def test_row_on_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = among_good(tmp_path, name), str(tmp_path / "out.parquet")
    assert said(capsys, "read", str(path), "-o", out, "--strict") == f"{path}, row 3: {ROWS[name][2]}"
    assert run_app(["read", str(path), "-o", out, "--json"]) == 0
    (reading,) = json.loads(capsys.readouterr().out)["readings"]
    assert (reading["rows_read"], reading["rows_used"], reading["reasons"]) == (4, 3, {ROWS[name][2]: 1})
    assert json.loads((tmp_path / "out.aside.jsonl").read_text())["reason"] == ROWS[name][2]


def test_blank_lines_count_as_lines_but_not_as_rows(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\n" + LINE + b"\n\nhello\n")
    reading = read(path)
    assert (reading.rows_read, [(a["row"], a["raw"]) for a in reading.aside]) == (2, [(5, "hello")])


def test_json_rows_that_are_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(line([1, GOOD, "x", None, [2]]))
    reading = read(path)
    assert [(a["row"], a["reason"], a["raw"]) for a in reading.aside] == [
        (1, "not an object but a number", "1"),
        (3, "not an object but text", '"x"'),
        (4, "not an object but null", "null"),
        (5, "not an object but a list", "[2]"),
    ]


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 1, 3))
    broken = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xff\xfe")])
    path = tmp_path / "set.parquet"
    path.write_bytes(parquet(pa.table({"prompt": ["Hi?", "Ho?"], "chosen": broken, "rejected": ["no", "nay"]})))
    reading = read(path)
    assert (reading.rows_used, [(a["row"], a["reason"]) for a in reading.aside]) == (1, [(2, "not UTF-8")])


def test_long_raw_rows_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(LINE + b"x" * 5_000)
    assert [len(a["raw"]) for a in read(path).aside] == [2_000]


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"prompt": "Hi?", "completions": []}, "no `chosen`"),
        ({"prompt": "Hi?", "chosen": ["yes"], "rejected": ["no"]}, "chosen[0] is text, expected a message"),
        ({"question": "Hi?"}, "no `prompt`"),
        ({}, "no `prompt`"),
        ({"prompt": "Hi?", "response": "yes"}, "no `chosen`"),
    ],
)
def test_one_odd_row_does_not_decide_the_format(odd: Row, reason: str, first: int, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows = [GOOD, GOOD]
    rows.insert(first, odd)
    path.write_bytes(b"\n".join(map(line, rows)))
    reading = read(path)
    assert (reading.formats, reading.rows_used) == ({str(path): "explicit prompt"}, 2)
    assert [(a["row"], a["reason"]) for a in reading.aside] == [(first + 1, reason)]


def rated(response: Any, helpfulness: Any, prompt: Any = "Hi?") -> Row:
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness}


RATED: dict[str, tuple[Row, str]] = {
    "response empty": (rated("", 9), "response is empty"),
    "response of spaces": (rated(" \n", 9), "response is empty"),
    "response null": (rated(None, 9), "no `response`"),
    "response a number": (rated(5, 9), "response is a number, expected text"),
    "response with NUL": (rated("a\0b", 9), "response contains a NUL character"),
    "response with a lone surrogate": (rated("\ud800", 9), "response contains a lone surrogate"),
    "response of the user": (rated([user("yes")], 9), "broken roles: response contains a turn of the user"),
    "rating null": (rated("yes!", None), "no rating `helpfulness`"),
    "rating a word": (rated("yes!", "good"), "helpfulness is not a number"),
    "rating a boolean": (rated("yes!", True), "helpfulness is not a number"),
    "rating NaN": (rated("yes!", float("nan")), "helpfulness is not finite"),
    "rating too large for float32": (rated("yes!", 1e39), "helpfulness is not finite"),
    "rating an integer too large for a float": (rated("yes!", 10**400), "helpfulness is not finite"),
    "prompt null": (rated("yes!", 9, None), "no `prompt`"),
    "prompt a number": (rated("yes!", 9, 5), "prompt is a number, expected text"),
    "prompt empty": (rated("yes!", 9, ""), "the prompt is empty"),
    "prompt that ends with the assistant": (rated("yes!", 9, [user("Hi?"), bot("yes")]), "broken roles: the last turn of the prompt is the assistant's"),
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("name", RATED)
def test_rated_answer_goes_aside_and_the_others_pair_up(name: str, at: int, tmp_path: Path) -> None:
    bad, reason = RATED[name]
    path = tmp_path / "set.jsonl"
    rows = [rated("yes", 4), rated("no", 1)]
    rows.insert(at, bad)
    path.write_bytes(b"\n".join(map(line, rows)))
    reading = read(path)
    assert [(a["row"], a["reason"]) for a in reading.aside] == [(at + 1, reason)]
    assert (reading.rows_read, reading.rows_used) == (3, 2)
    assert reading.pairs.select("chosen", "rejected", "margin").rows() == [([bot("yes")], [bot("no")], 3.0)]
    assert refused(lambda: read(path, strict=True)) == f"{path}, row {at + 1}: {reason}"


# Sources.


def test_source_without_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = "the name of a source is empty; give a file, a folder or a hub id"
    assert refused(lambda: read("")) == message
    assert said(capsys, "read", "", "-o", "out.parquet") == message


@pytest.mark.parametrize(
    "source", ["mine/missing", "a/", "./missing", "../missing", "~/missing", "/missing", "owner/data.csv", "owner/data.jsonl", "owner/data.json.gz", "a/b/c", "missing", " "]
)
def test_what_looks_local_is_not_looked_for_on_the_hub(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "mine").mkdir()
    assert refused(lambda: read(source)) == f"{source}: no such file or folder, and not a hub id of the form owner/name"


SPLITS = {
    "dev": "has no split `dev`, only train, validation",
    "test": "has no split `test`, only train, validation",
    "Train": "has no split `Train`, only train, validation",
    "train[:10]": "has no split `train[:10]`, only train, validation",
}


@pytest.mark.parametrize("split", SPLITS)
def test_split_that_a_copy_has_not(split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "root" / "owner" / "name"
    copy.mkdir(parents=True)
    for there in ("train", "validation"):
        (copy / f"{there}.jsonl").write_bytes(LINE)
    message = f"{copy}: {SPLITS[split]}"
    assert refused(lambda: read("owner/name", data_root=tmp_path / "root", split=split)) == message
    assert said(capsys, "read", "owner/name", "-o", "out.parquet", "--data-root", str(tmp_path / "root"), f"--split={split}") == message


@pytest.mark.parametrize(("columns", "named"), [(["question=prompt"], "question"), (["question=prompt", "good=chosen"], "question or good")])
def test_columns_that_no_row_has(columns: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(LINE)
    message = f"--columns: no row has a column {named} to be renamed"
    assert refused(lambda: read(path, columns=dict(c.split("=") for c in columns))) == message
    assert said(capsys, "read", str(path), "-o", "out.parquet", *(f"--columns={c}" for c in columns)) == message


OUTPUTS = {
    "pairs into a file": (["read", "set.jsonl", "-o", "plain/out.parquet"], "cannot write plain/out.parquet: File exists"),
    "pairs below a file": (["read", "set.jsonl", "-o", "plain/sub/out.parquet"], "cannot write plain/sub/out.parquet: Not a directory"),
    "pairs into a device": (["read", "set.jsonl", "-o", "/dev/null/out.parquet"], "cannot write /dev/null/out.parquet: File exists"),
    "curation into a file": (["curate", "r.yaml", "-o", "plain"], "cannot write plain/read/.started: Not a directory"),
    "curation below a file": (["curate", "r.yaml", "-o", "plain/sub"], "cannot write plain/sub/read/.started: Not a directory"),
    "scores into a file": (["score", "rule:length", "set.jsonl", "-o", "plain/out.jsonl"], "cannot write plain/out.jsonl: File exists"),
    "results into a file": (["evaluate", "rule:length", "--suite", "set=set.jsonl", "-o", "plain"], "cannot write plain/items.parquet: File exists"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_that_cannot_be_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, message = OUTPUTS[name]
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "set.jsonl").write_bytes(LINE)
    (tmp_path / "r.yaml").write_text("name: r\nsources: [{path: set.jsonl}]\n")
    assert said(capsys, *argv) == message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", "r.yaml", "set.jsonl"]
    assert (tmp_path / "plain").read_text() == "a file"


def test_name_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    assert said(capsys, "read", name, "-o", "out.parquet") == f"cannot read or write {name}: File name too long"


# Recipes.

BASE = "name: r\nsources: [{path: a.jsonl}]\n"
STEPS = "Steps: agree, balance, contradictions, decontaminate, duplicates, filter, markers, mix, near_duplicates, perplexity, select, semantic_duplicates, shortcuts"
EXPECTED = "{path}: expected a recipe (name, sources, curate, train, evaluate), found"

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", f"{EXPECTED} an empty file"),
    "a comment": ("# nothing yet\n", f"{EXPECTED} an empty file"),
    "a list": ("- a\n- b\n", f"{EXPECTED} list"),
    "a text": ("hello\n", f"{EXPECTED} str"),
    "a number": ("5\n", f"{EXPECTED} int"),
    "unclosed list": ("sources: [a\n", "{path}: not YAML: line 2, column 1: expected ',' or ']', but got '<stream end>'"),
    "tab": ("train:\n\tepochs: 1\n", "{path}: not YAML: line 2, column 1: found character '\\t' that cannot start any token"),
    "two colons": ("name: a: b\n", "{path}: not YAML: line 1, column 8: mapping values are not allowed here"),
    "unknown alias": ("name: *x\n", "{path}: not YAML: line 1, column 7: found undefined alias 'x'"),
    "NUL": ("name: \0\n", "{path}: not YAML: unacceptable character #x0000: special characters are not allowed"),
    "python object": (
        "name: !!python/object/apply:os.getcwd []\n",
        "{path}: not YAML: line 1, column 7: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
    "two documents": ("name: r\n---\nname: s\n", "{path}: not YAML: line 2, column 1: but found another document"),
    "not UTF-8": (b"name: caf\xe9\n", "{path}: not UTF-8 text; a recipe is a YAML file"),
    "nothing in it": ("{}", "{path}: name is missing\n{path}: sources is missing"),
    "no name": ("sources: [{path: a.jsonl}]", "{path}: name is missing"),
    "no sources": ("name: r", "{path}: sources is missing"),
    "name with a space": ("name: a b\nsources: [{path: a.jsonl}]", "{path}: name: string should match pattern '^[A-Za-z0-9._-]+$', found 'a b'"),
    "name with a slash": ("name: a/b\nsources: [{path: a.jsonl}]", "{path}: name: string should match pattern '^[A-Za-z0-9._-]+$', found 'a/b'"),
    "name a number": ("name: 5\nsources: [{path: a.jsonl}]", "{path}: name: input should be a valid string, found 5"),
    "sources empty": ("name: r\nsources: []", "{path}: sources: list should have at least 1 item after validation, not 0, found []"),
    "sources an object": ("name: r\nsources: {path: a}", "{path}: sources: input should be a valid list, found {'path': 'a'}"),
    "source without a path": ("name: r\nsources: [{}]", "{path}: sources[0].path is missing"),
    "source with a misspelt path": (
        "name: r\nsources: [{pth: a}]",
        "{path}: sources[0].path is missing\n{path}: sources[0].pth is not a field of `sources`. Did you mean `path`? See `assay explain sources`.",
    ),
    "source with an unknown key": (
        "name: r\nsources: [{path: a}, {path: b, colums: {}}]",
        "{path}: sources[1].colums is not a field of `sources`. Did you mean `columns`? See `assay explain sources`.",
    ),
    "limit 0": ("name: r\nsources: [{path: a, limit: 0}]", "{path}: sources[0].limit: input should be greater than or equal to 1, found 0"),
    "limit a word": (
        "name: r\nsources: [{path: a, limit: all}]",
        "{path}: sources[0].limit: input should be a valid integer, unable to parse string as an integer, found 'all'",
    ),
    "columns a list": ("name: r\nsources: [{path: a, columns: [b]}]", "{path}: sources[0].columns: input should be a valid dictionary, found ['b']"),
    "misspelt section": (BASE + "tain: {}", "{path}: tain is not a field of `recipe`. Did you mean `train`? See `assay explain recipe`."),
    "unknown section": (BASE + "deploy: {}", "{path}: deploy is not a field of `recipe`. See `assay explain recipe`."),
    "a key that stands twice": (BASE + "name: s\n", "{path}: not YAML: line 3, column 1: the key `name` stands twice"),
    "a key of a section that stands twice": (BASE + "train: {epochs: 1, epochs: 2}\n", "{path}: not YAML: line 3, column 20: the key `epochs` stands twice"),
    "a key of a step that stands twice": (BASE + "curate:\n  - kind: markers\n    kind: agree\n", "{path}: not YAML: line 5, column 5: the key `kind` stands twice"),
    "a date of no calendar": (BASE + "about: 2001-99-99\n", "{path}: not YAML: month must be in 1..12"),
    "an integer that is none": (BASE + "about: !!int x\n", "{path}: not YAML: invalid literal for int() with base 10: 'x'"),
    "a float that is none": (BASE + "about: !!float x\n", "{path}: not YAML: could not convert string to float: 'x'"),
    "a number of too many digits": (
        BASE + "about: " + "1" * 5_000 + "\n",
        "{path}: not YAML: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit",
    ),
    "a key that is a number": (BASE + "5: x\n", "{path}: [5]: keys should be strings, found 5"),
    "epochs infinite": (BASE + "train: {epochs: .inf}", "{path}: train.epochs: input should be less than or equal to 1000, found inf"),
    "learning rate NaN": (BASE + "train: {learning_rate: .nan}", "{path}: train.learning_rate: input should be greater than 0, found nan"),
    "step by its name only": (BASE + "curate: [agree]", "{path}: curate[0]: expected fields, found 'agree'; write `- {kind: agree}`"),
    "second step by its name only": (BASE + "curate: [{kind: markers}, select]", "{path}: curate[1]: expected fields, found 'select'; write `- {kind: select}`"),
    "unknown step by its name only": (BASE + "curate: [zzz]", "{path}: curate[0]: expected fields, found 'zzz'"),
    "step a number": (BASE + "curate: [5]", "{path}: curate[0]: expected fields, found 5"),
    "step null": (BASE + "curate: [null]", "{path}: curate[0]: expected fields, found None"),
    "step by its kind as a key": (BASE + "curate: [{agree: {folds: 2}}]", f"{{path}}: curate[0] needs a `kind`. {STEPS}"),
    "kind a list": (BASE + "curate: [{kind: [a]}]", f"{{path}}: curate[0]: there is no step `['a']`. {STEPS}"),
    "source by its path only": ("name: r\nsources: [a.jsonl]", "{path}: sources[0]: expected fields, found 'a.jsonl'"),
    "train a number": (BASE + "train: 5", "{path}: train: expected fields, found 5"),
    "fit a number": (BASE + "curate: [{kind: agree, fit: 5}]", "{path}: curate[0].fit: expected fields, found 5"),
    "select group with a misspelt field": (
        BASE + "curate: [{kind: select, by: score, groups: [{name: a, categoris: [b], categories: [b], keep: 0.3}]}]",
        "{path}: curate[0].groups[0].categoris is not a field of a group of `select`. Did you mean `categories`? See `assay explain select`.",
    ),
    "select group with a misspelt name": (
        BASE + "curate: [{kind: select, by: score, groups: [{nme: a, categories: [b], keep: 0.3}]}]",
        "{path}: curate[0].groups[0].name is missing\n"
        "{path}: curate[0].groups[0].nme is not a field of a group of `select`. Did you mean `name`? See `assay explain select`.",
    ),
    "select group a text": (BASE + "curate: [{kind: select, by: score, groups: [a]}]", "{path}: curate[0].groups[0]: expected fields, found 'a'"),
    "filter values an object": (
        BASE + "curate: [{kind: filter, column: a, values: {b: 1}}]",
        "{path}: curate[0].values: input should be a valid list, found {'b': 1}",
    ),
    "filter value an object": (
        BASE + "curate: [{kind: filter, column: a, values: [{b: 1}]}]",
        "{path}: curate[0].values[0]: input should be a valid string, found {'b': 1}\n"
        "{path}: curate[0].values[0]: input should be a valid boolean, found {'b': 1}\n"
        "{path}: curate[0].values[0]: input should be a valid integer, found {'b': 1}\n"
        "{path}: curate[0].values[0]: input should be a valid number, found {'b': 1}",
    ),
    "curate an object": (BASE + "curate: {}", "{path}: curate: input should be a valid list, found {}"),
    "step without a kind": (BASE + "curate: [{folds: 2}]", f"{{path}}: curate[0] needs a `kind`. {STEPS}"),
    "misspelt step": (BASE + "curate: [{kind: agre}]", f"{{path}}: curate[0]: there is no step `agre`. Did you mean `agree`? {STEPS}"),
    "unknown step": (BASE + "curate: [{kind: markers}, {kind: zzz}]", f"{{path}}: curate[1]: there is no step `zzz`. {STEPS}"),
    "agree with an unknown key": (
        BASE + "curate: [{kind: agree, fold: 3}]",
        "{path}: curate[0].fold is not a field of `agree`. Did you mean `folds`? See `assay explain agree`.",
    ),
    "folds 1": (BASE + "curate: [{kind: agree, folds: 1}]", "{path}: curate[0].folds: input should be greater than or equal to 2, found 1"),
    "folds 2.5": (
        BASE + "curate: [{kind: agree, folds: 2.5}]",
        "{path}: curate[0].folds: input should be a valid integer, got a number with a fractional part, found 2.5",
    ),
    "unknown action": (BASE + "curate: [{kind: agree, action: remove}]", "{path}: curate[0].action: input should be 'drop', 'flip' or 'keep', found 'remove'"),
    "fit with an unknown key": (
        BASE + "curate: [{kind: agree, fit: {max_stps: 1}}]",
        "{path}: curate[0].fit.max_stps is not a field of `train`. Did you mean `max_steps`? See `assay explain train`.",
    ),
    "fit out of range": (
        BASE + "curate: [{kind: agree, fit: {batch_size: 0}}]",
        "{path}: curate[0].fit.batch_size: input should be greater than or equal to 1, found 0",
    ),
    "only a text": (BASE + "curate: [{kind: markers, only: web}]", "{path}: curate[0].only: input should be a valid list, found 'web'"),
    "filter without its fields": (BASE + "curate: [{kind: filter}]", "{path}: curate[0].column is missing\n{path}: curate[0].values is missing"),
    "filter without values": (
        BASE + "curate: [{kind: filter, column: a, values: []}]",
        "{path}: curate[0].values: list should have at least 1 item after validation, not 0, found []",
    ),
    "select without by": (BASE + "curate: [{kind: select}]", "{path}: curate[0].by is missing"),
    "select group without a share": (
        BASE + "curate: [{kind: select, by: score, groups: [{name: a, categories: [b]}]}]",
        "{path}: curate[0].groups[0]: value error, give either `keep` (a share) or `count` (a number of rows), found {'name': 'a', 'categories': ['b']}",
    ),
    "select share above 1": (
        BASE + "curate: [{kind: select, by: score, groups: [{name: a, categories: [b], keep: 30}]}]",
        "{path}: curate[0].groups[0].keep: input should be less than or equal to 1, found 30",
    ),
    "select offset a word": (
        BASE + "curate: [{kind: select, by: score, offsets: {a: b}}]",
        "{path}: curate[0].offsets.a: input should be a valid number, unable to parse string as a number, found 'b'",
    ),
    "decontaminate without against": (BASE + "curate: [{kind: decontaminate}]", "{path}: curate[0].against is missing"),
    "decontaminate against nothing": (
        BASE + "curate: [{kind: decontaminate, against: {}}]",
        "{path}: curate[0].against: dictionary should have at least 1 item after validation, not 0, found {}",
    ),
    "unknown key of duplicates": (
        BASE + "curate: [{kind: duplicates, key: prompts}]",
        "{path}: curate[0].key: input should be 'pair', 'unordered' or 'prompt', found 'prompts'",
    ),
    "unknown resolve": (
        BASE + "curate: [{kind: contradictions, resolve: keep}]",
        "{path}: curate[0].resolve: input should be 'drop' or 'majority', found 'keep'",
    ),
    "markers with a field": (BASE + "curate: [{kind: markers, marker: x}]", "{path}: curate[0].marker is not a field of `markers`. See `assay explain markers`."),
    "train with an unknown key": (
        BASE + "train: {learning_rat: 1}",
        "{path}: train.learning_rat is not a field of `train`. Did you mean `learning_rate`? See `assay explain train`.",
    ),
    "epochs 0": (BASE + "train: {epochs: 0}", "{path}: train.epochs: input should be greater than 0, found 0"),
    "epochs a word": (
        BASE + "train: {epochs: many}",
        "{path}: train.epochs: input should be a valid number, unable to parse string as a number, found 'many'",
    ),
    "learning rate negative": (BASE + "train: {learning_rate: -1}", "{path}: train.learning_rate: input should be greater than 0, found -1"),
    "warmup 1": (BASE + "train: {warmup: 1}", "{path}: train.warmup: input should be less than 1, found 1"),
    "precision fp16": (BASE + "train: {precision: fp16}", "{path}: train.precision: input should be 'auto', 'fp32' or 'bf16', found 'fp16'"),
    "max_length 4": (BASE + "train: {max_length: 4}", "{path}: train.max_length: input should be greater than or equal to 8, found 4"),
    "seed null": (BASE + "train: {seed: null}", "{path}: train.seed: input should be a valid integer, found None"),
    "trackers a text": (BASE + "train: {report_to: wandb}", "{path}: train.report_to: input should be a valid list, found 'wandb'"),
    "baseline a word": (BASE + "baseline: maybe", "{path}: baseline: input should be a valid boolean, unable to interpret input, found 'maybe'"),
    "evaluate with an unknown key": (
        BASE + "evaluate: {suite: [a]}",
        "{path}: evaluate.suite is not a field of `evaluate`. Did you mean `suites`? See `assay explain evaluate`.",
    ),
    "suites a text": (BASE + "evaluate: {suites: rewardbench}", "{path}: evaluate.suites: input should be a valid list, found 'rewardbench'"),
    "two mistakes": (
        BASE + "train: {epochs: 0}\nbaseline: maybe",
        "{path}: train.epochs: input should be greater than 0, found 0\n"
        "{path}: baseline: input should be a valid boolean, unable to interpret input, found 'maybe'",
    ),
}


def bad_recipe(tmp_path: Path, name: str) -> tuple[Path, str]:
    text, message = RECIPES[name]
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path, message.replace("{path}", str(path))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, tmp_path: Path) -> None:
    path, message = bad_recipe(tmp_path, name)
    assert refused(lambda: load_recipe(str(path))) == message


@pytest.mark.parametrize("command", ["curate", "train", "run"])
@pytest.mark.parametrize("name", ["empty", "tab", "not UTF-8", "misspelt section", "misspelt step", "epochs 0"])
def test_recipe_on_the_command_line(name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, message = bad_recipe(tmp_path, name)
    assert said(capsys, command, str(path), "-o", str(tmp_path / "out")) == message
    assert not (tmp_path / "out").exists()


NO_RECIPES = {
    "misspelt": ("skywrk", "skywrk: no such recipe file, and not a shipped recipe. Did you mean `skywork`? Shipped: demo, helpsteer2-preference, helpsteer2, skywork-audited, skywork"),
    "missing": ("./mine.yaml", "./mine.yaml: no such recipe file, and not a shipped recipe. Shipped: demo, helpsteer2-preference, helpsteer2, skywork-audited, skywork"),
    "a folder": ("..", "..: no such recipe file, and not a shipped recipe. Shipped: demo, helpsteer2-preference, helpsteer2, skywork-audited, skywork"),
}


@pytest.mark.parametrize("name", NO_RECIPES)
def test_no_such_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given, message = NO_RECIPES[name]
    assert refused(lambda: load_recipe(given)) == message
    assert said(capsys, "run", given) == message


OVERRIDES = {
    "no value": ("train.epochs", "--set train.epochs: expected KEY=VALUE, for example --set train.epochs=2"),
    "no key": ("=2", "--set =2: expected KEY=VALUE, for example --set train.epochs=2"),
    "a word for a number": (
        "train.epochs=many",
        "{path}: train.epochs: input should be a valid number, unable to parse string as a number, found 'many'",
    ),
    "out of range": ("train.epochs=-1", "{path}: train.epochs: input should be greater than 0, found -1"),
    "misspelt field": ("train.epoch=2", "{path}: train.epoch is not a field of `train`. Did you mean `epochs`? See `assay explain train`."),
    "misspelt section": ("trian.epochs=2", "{path}: trian is not a field of `recipe`. Did you mean `train`? See `assay explain recipe`."),
    "misspelt field of a step": (
        "curate.agree.fold=3",
        "{path}: curate[0].fold is not a field of `agree`. Did you mean `folds`? See `assay explain agree`.",
    ),
    "out of range in a step": ("curate.0.folds=1", "{path}: curate[0].folds: input should be greater than or equal to 2, found 1"),
    "step that is not there": (
        "curate.duplicates.key=pair",
        "--set curate.duplicates.key=pair: nothing at `duplicates`; the list holds 2 (agree, markers)",
    ),
    "step number too high": ("curate.5.key=pair", "--set curate.5.key=pair: nothing at `5`; the list holds 2 (agree, markers)"),
    "step number negative": ("curate.-1.folds=2", "--set curate.-1.folds=2: nothing at `-1`; the list holds 2 (agree, markers)"),
    "whole step that is not there": ("curate.select=x", "--set curate.select=x: nothing at `select`; the list holds 2 (agree, markers)"),
    "unknown kind": ("curate.agree.kind=zzz", f"{{path}}: curate[0]: there is no step `zzz`. {STEPS}"),
    "inside a plain value": ("name.first.letter=a", "--set name.first.letter=a: `first` is inside a plain value"),
    "last key inside a plain value": ("name.first=a", "--set name.first=a: `first` is inside a plain value"),
    "inside a plain value of a list": ("sources.0.path.x=1", "--set sources.0.path.x=1: `x` is inside a plain value"),
    "a dot only": (".=1", "--set .=1: expected KEY=VALUE, for example --set train.epochs=2"),
    "key with an empty part": ("train..epochs=1", "--set train..epochs=1: expected KEY=VALUE, for example --set train.epochs=2"),
    "key that begins with a dot": (".train=1", "--set .train=1: expected KEY=VALUE, for example --set train.epochs=2"),
    "key that ends with a dot": ("train.=1", "--set train.=1: expected KEY=VALUE, for example --set train.epochs=2"),
    "superscript digit": ("curate.²=x", "--set curate.²=x: nothing at `²`; the list holds 2 (agree, markers)"),
    "superscript digit on the way": ("curate.¹.folds=2", "--set curate.¹.folds=2: nothing at `¹`; the list holds 2 (agree, markers)"),
    "digit of another script": ("curate.١.folds=2", "--set curate.١.folds=2: nothing at `١`; the list holds 2 (agree, markers)"),
    "source number too high": ("sources.1.path=b", "--set sources.1.path=b: nothing at `1`; the list holds 1"),
    "date of no calendar is text": (
        "train.epochs=2001-99-99",
        "{path}: train.epochs: input should be a valid number, unable to parse string as a number, found '2001-99-99'",
    ),
    "scalar of the wrong tag is text": (
        "train.epochs=!!timestamp x",
        "{path}: train.epochs: input should be a valid number, unable to parse string as a number, found '!!timestamp x'",
    ),
    "key that cannot be one": (
        "train.epochs={[a]: 1}",
        "--set train.epochs={[a]: 1}: not YAML: line 1, column 2: a key must be a plain word",
    ),
    "step by its name only": ("curate.1=markers", "{path}: curate[1]: expected fields, found 'markers'; write `- {kind: markers}`"),
    "step null": ("curate.agree=null", "{path}: curate[0]: expected fields, found None"),
    "section null": ("train=", "{path}: train: expected fields, found None"),
    "misspelt field of a source": ("sources.0.pth=a", "{path}: sources[0].pth is not a field of `sources`. Did you mean `path`? See `assay explain sources`."),
    "fit of a step": ("curate.agree.fit.lr=1", "{path}: curate[0].fit.lr is not a field of `train`. Did you mean `lora`? See `assay explain train`."),
    "no sources left": ("sources=[]", "{path}: sources: list should have at least 1 item after validation, not 0, found []"),
    "broken YAML": (
        "train.epochs=[1",
        "--set train.epochs=[1: not YAML: line 1, column 3: expected ',' or ']', but got '<stream end>'",
    ),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_override(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(BASE + "curate:\n  - {kind: agree}\n  - {kind: markers}\n")
    given, message = OVERRIDES[name]
    message = message.replace("{path}", str(path))
    assert refused(lambda: load_recipe(str(path), [given])) == message
    assert said(capsys, "curate", str(path), "-o", str(tmp_path / "out"), f"--set={given}") == message


def test_good_overrides_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(BASE + "curate:\n  - {kind: agree}\n  - {kind: markers}\n")
    recipe, folder = load_recipe(str(path), ["train.learning_rate=2e-5", "curate.agree.folds=3", "curate.1.only=[web]", "evaluate.suites=[a=b.jsonl]"])
    agree, markers = recipe.curate
    assert (recipe.train.learning_rate, agree.model_dump()["folds"], markers.only, recipe.evaluate.suites) == (2e-5, 3, ["web"], ["a=b.jsonl"])
    assert folder == tmp_path.resolve()


def test_there_are_enough_cases() -> None:
    assert len(FILES) + len(ROWS) + len(RECIPES) + len(OVERRIDES) + len(NO_RECIPES) + len(READ_ARGUMENTS) + len(RATED) >= 350
