"""The scoring contract: everything that moves a score, written beside the weights as ``scoring.json``.

Whoever loads a checkpoint scores its eight canary conversations first and compares with the scores written here. A contract that does
not hold means that some number this model gives elsewhere is not the number it was trained to give.
"""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from assay.errors import AssayError
from assay.files import CONTRACT, fingerprint, read_json, sha256_file, write_json

FILE = CONTRACT
TOLERANCE = 1e-4
"""Largest difference from a golden score that other hardware and other libraries may make in fp32."""

SETTINGS = (
    "attn_logit_softcapping", "final_logit_softcapping", "hidden_act", "hidden_activation", "layer_norm_eps", "layer_types", "max_window_layers", "query_pre_attn_scalar",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "use_sliding_window",
)
"""Keys of config.json that move a score and are in no weight."""

Conversation = list[dict[str, str]]


class Canary(BaseModel):
    """A conversation with the score and the token ids it must get."""

    model_config = ConfigDict(frozen=True)

    conversation: Conversation
    tokens: int
    """Tokens after truncation."""
    ids_sha256: str
    """Hash of the token ids, so that a different text is told from a different network."""
    score: float
    """Reward in fp32."""
    outputs: dict[str, float] | None = None
    """By attribute, where there are several."""


class Contract(BaseModel):
    """What must be the same everywhere for the score to be the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    attributes: list[str] = ["reward"]
    """Names of the head's outputs, in order."""
    merge: dict[str, float] = {"reward": 1.0}
    """Weights by which the attributes make one reward."""
    template_sha256: str
    """Hash of the chat template, which is in the tokenizer's files."""
    add_special_tokens: bool
    """Whether the tokenizer adds its special tokens to the rendered text (if not, the template has them already)."""
    bos_token: str | None
    """The token that stands once at the beginning, if the model has one."""
    pooled: str
    """Which position the reward is read at: `last token that is not padding`, or `first token`."""
    max_length: int
    truncation_side: str = "left"
    """Longer conversations lose tokens at this end."""
    padding_side: str = "right"
    head_dtype: str = "float32"
    activation: str = "none"
    """The reward is the raw output: no sigmoid, no softmax."""
    mean: float | None = None
    std: float | None = None
    """Mean and standard deviation of the rewards of chosen and rejected answers of the named set."""
    measured_on: str | None = None
    temperature: float | None = None
    """T for which sigmoid(difference of two rewards / T) is the probability that the first is preferred, fitted on the named set."""
    length_slope: float | None = None
    """What a reward gains with each unit of the logarithm of 1 + the answer's characters, fitted to the differences within the pairs of the named set: what length alone is worth to the model."""
    measured_with: str | None = None
    """The ``weights_sha256`` of the weights that mean, standard deviation and temperature were measured with."""
    settings: dict[str, Any] | None = None
    """What config.json says of the things in SETTINGS."""
    tokenizer_sha256: str
    weights_sha256: str
    head_sha256: str | None = None
    """Hash of the head's tensors alone."""
    rounded: str | None = None
    """What the weights were rounded to after training: `int8`. Then the canaries are of the rounded weights."""
    tolerance: float = TOLERANCE
    """Largest difference from a golden score that other hardware and other libraries may make."""
    canaries: list[Canary]
    made_with: dict[str, str]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each output in the reward, in the order of the outputs."""
        return {name: self.merge[name] for name in self.attributes}


def read(folder: Path) -> Contract:
    """The contract of a checkpoint.

    Raises:
        AssayError: there is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise AssayError(f"{folder}: no {FILE}; this checkpoint was not made by Assay, or the file was lost")
    try:
        return Contract.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise AssayError(f"{path}: damaged at {'.'.join(map(str, first['loc']))} ({first['msg']})") from None


def write(folder: Path, contract: Contract) -> None:
    """Write the contract into a checkpoint folder."""
    write_json(folder / FILE, contract.model_dump())


def weights_sha256(folder: Path) -> str:
    """One hash for all safetensors files of a checkpoint, or for the ONNX graph of an export."""
    return fingerprint({p.name: sha256_file(p) for p in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.onnx"))})


def head_sha256(folder: Path, head: str) -> str | None:
    """One hash for the tensors of the module ``head`` in the safetensors files of a checkpoint; None if there is none."""
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found.update({name: hashlib.sha256(tensors.get_tensor(name).float().numpy().tobytes()).hexdigest() for name in tensors.keys() if name.startswith(f"{head}.")})  # noqa: SIM118
    return fingerprint(found) if found else None


def settings(folder: Path) -> dict[str, Any]:
    """What config.json says of the things in SETTINGS."""
    said = read_json(folder / "config.json")
    return {key: said[key] for key in SETTINGS if key in said}


def tokenizer_sha256(folder: Path) -> str:
    """One hash for the files that decide how text becomes token ids."""
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model")
    return fingerprint({n: sha256_file(folder / n) for n in names if (folder / n).is_file()})


def ids_sha256(ids: list[int]) -> str:
    """Hash of a list of token ids."""
    return fingerprint(ids)


def canary_conversations(max_length: int) -> list[Conversation]:
    """Eight conversations in which the usual mistakes show: several turns, an empty system prompt, Unicode, code, edge spaces, one word,
    an answer that ends like a template, and one longer than ``max_length``."""

    def one(user: str, assistant: str) -> Conversation:
        return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]

    long = " ".join(f"Item {i} of the list costs {i * 7 % 90 + 3} coins." for i in range(max_length // 4))
    code = "def add(a, b):\n    # both may be floats\n    return a + b\n"
    return [
        one("What is the capital of France?", "The capital of France is Paris."),
        one("hi", "no"),
        [*one("My name is Ada.", "Nice to meet you, Ada!"), *one("What is my name?", "Your name is Ada.")],
        [{"role": "system", "content": ""}, *one("Say something kind.", "You are doing better than you think.")],
        one("Übersetze ins Japanische: 'Guten Morgen' 🌅", "おはようございます — das heißt „Guten Morgen“."),
        one("Write a function that adds two numbers.", f"```python\n{code}```"),
        one("  Keep my spaces.  ", "Done.  \n\nAssistant: is there anything else?\n"),
        one(f"Sum up this list. {long}", "The list gives the price of every item, between three and ninety-two coins."),
    ]


