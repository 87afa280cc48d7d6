"""The model card of a checkpoint: what it was trained on, what it is worth, and a snippet that gives the right number."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from assay.errors import AssayError, MissingExtra
from assay.files import MANIFEST, first_line, read_json, write_text
from assay.model import contract as contracts

FILE = "README.md"

CARD = """---
library_name: {{ "onnx" if graph else "transformers" }}
pipeline_tag: text-classification
tags: [reward-model, assay]
---
# {{ name }}

A reward model: it gives the last answer of a conversation a number, the higher the better. Made with Assay {{ contract.made_with.assay }} from `{{ config.model or manifest.get("exported_from") or "other checkpoints" }}`.

{% if graph %}
## A score, with ONNX Runtime

```python
import numpy as np
import onnxruntime
from transformers import AutoTokenizer
{% if on_hub %}
from huggingface_hub import snapshot_download
{% endif %}

folder = {{ 'snapshot_download("%s")' % name if on_hub else '"%s"' % name }}
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{folder}/{{ graph }}")

conversation = {{ canary.conversation }}
text = tokenizer.apply_chat_template(conversation, tokenize=False)
batch = tokenizer(text, return_tensors="np", truncation=True, max_length={{ contract.max_length }}, add_special_tokens={{ contract.add_special_tokens }})
(logits,) = session.run(None, {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]})
reward = float(logits[0] @ np.array({{ weights }}))
print(f"{reward:.4f}")  # {{ "%.4f" % canary.score }}
```
{% else %}
## A score, with plain transformers

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{{ name }}")
model = AutoModelForSequenceClassification.from_pretrained("{{ name }}", dtype=torch.float32).eval()

conversation = {{ canary.conversation }}
text = tokenizer.apply_chat_template(conversation, tokenize=False)
batch = tokenizer(text, return_tensors="pt", truncation=True, max_length={{ contract.max_length }}, add_special_tokens={{ contract.add_special_tokens }})
with torch.inference_mode():
    reward = float(model(**batch).logits[0] @ torch.tensor({{ weights }}))
print(f"{reward:.4f}")  # {{ "%.4f" % canary.score }}
```
{% endif %}

The template adds no answer to come and the output has no sigmoid. `scoring.json` holds the rules and eight conversations with the scores they must get; `assay doctor` checks them.

## What a score means

{% if contract.std is not none %}On `{{ contract.measured_on }}` rewards have the mean {{ "%.3f" % contract.mean }} and the standard deviation {{ "%.3f" % contract.std }}. {% endif %}
{%- if contract.temperature is not none %}The probability that one answer is preferred to another is sigmoid(difference / {{ "%.3f" % contract.temperature }}), fitted there. {% endif -%}
Only differences between answers to the same prompt are learned.

{% if weights|length > 1 %}
The reward is a weighted sum of the outputs: {% for attribute, weight in contract.weights.items() %}{{ attribute }} ({{ "%.3f" % weight }}){{ ", " if not loop.last }}{% endfor %}.

{% if manifest.ratings_intervals is defined %}| attribute | share of its variance explained on held-out answers | 95% interval |
|---|---:|---|
{% for attribute, (low, high) in manifest.ratings_intervals.items() %}| {{ attribute }} | {{ "%.2f" % manifest.ratings["r2_" + attribute] }} | {{ "%.2f to %.2f" % (low, high) }} |
{% endfor %}

{% endif %}
{% endif %}
## Training

{% if manifest.pairs is defined %}| | |
|---|---|
| {{ "rated answers" if config.attributes else "pairs" }} | {{ "{:,}".format(manifest.pairs) }}, and {{ "{:,}".format(manifest.held_out) }} held out by prompt |
{% if manifest.accuracy is defined %}| accuracy on held-out pairs | {{ "%.1f" % (100 * manifest.accuracy) }}% |
{% endif %}| loss | {{ "squared error of the ratings" if config.attributes else config.loss.kind }} |
| steps | {{ manifest.steps }} of {{ config.batch_size }}, learning rate {{ config.learning_rate }}{{ ", LoRA of rank %d" % config.lora.rank if config.lora }} |
| longest conversation | {{ contract.max_length }} tokens; longer ones lose their beginning ({{ manifest.truncated_pairs }} did) |
{% else %}See `manifest.json`.
{% endif %}"""


def model_card(folder: Path, name: str | None = None) -> str:
    """The card of the checkpoint, or ONNX export, in ``folder``, as Markdown; ``name`` is what it is loaded by from the hub, by default the folder.

    Raises:
        AssayError: there is no contract.
    """
    contract, manifest = contracts.read(folder), read_json(folder / MANIFEST)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    config: dict[str, Any] = {"model": None, "attributes": [], "lora": None, **(manifest.get("config") or {})}
    text: str = environment.from_string(CARD).render(
        name=name or str(folder), on_hub=name is not None, graph=next((file.name for file in folder.glob("*.onnx")), None), contract=contract, config=config, manifest=manifest, canary=contract.canaries[0], weights=list(contract.weights.values())
    )
    return text


def push(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload a checkpoint with its card to the hub; the address of what was made. A token is read as huggingface_hub does.

    Raises:
        AssayError: there is no contract, or the hub refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtra("uploading to the hub", "train") from None
    write_text(folder / FILE, model_card(folder, repository))
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a reward model")
    except Exception as error:
        raise AssayError(f"{repository}: the hub refused ({first_line(error)}); is there a token (`hf auth login`)?") from None
    return str(done)
