"""Every fault the doctor knows, really built: it is named with its fix, nothing else is blamed before it, and a good checkpoint of the same kind passes."""

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
)

import tiny
from assay.errors import AssayError
from assay.model import checkpoint, template
from assay.model import contract as contracts
from assay.model.backbones import text_hash
from assay.model.doctor import Finding, cause, examine
from assay.model.loading import quiet
from assay.model.reward_model import from_backbone

Against = Callable[[list[contracts.Conversation]], list[float]]
Fault = Callable[[Path], None]

TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }}"
THINKS = "{% if enable_thinking is defined and enable_thinking %}/think{% else %}/no_think{% endif %}"
OPENS = "{% if add_generation_prompt %}<assistant>{% endif %}"
WHOLE = f"{DATED} {THINKS}\n{TURNS}{OPENS}"
ENDS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
"""A template whose last token is the end token."""
ATTRIBUTES, MERGE = ("kind", "right", "short"), (0.5, 0.3, 0.2)
MEAN, STD = 2.0, 3.0
WIDE: dict[str, Any] = {"initializer_range": 0.2, "head_dim": 8}
KINDS = ["decoder", "encoder", "many", "bos", "ends", "mistral", "gemma2"]


def adds_bos(backbone: Path) -> Path:
    """Let the tokenizer of a backbone put its BOS before every text."""
    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 0)])
    tokenizer.save_pretrained(backbone)
    return backbone


def stirred(backbone: Path) -> Path:
    """Let what a backbone reads matter more than in one that is drawn with small weights."""
    tensors(lambda weights: [matrix.mul_(10) for matrix in weights.values() if matrix.dim() == 2])(backbone)
    return backbone


def make(backbone: Path, folder: Path, scale: float = 40.0, attributes: Sequence[str] = ("reward",)) -> Path:
    """An untrained checkpoint whose rewards lie some apart."""
    model = from_backbone(str(backbone), 128, 1, attributes)
    if len(attributes) > 1:
        model.merge = dict(zip(attributes, MERGE, strict=True))
    head = getattr(model.model, "score", None) or model.model.classifier
    with torch.no_grad():
        head.weight.mul_(scale)
    checkpoint.save(model, folder, measured={"mean": MEAN, "std": STD, "measured_on": "made up", "temperature": 1.0})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good checkpoint of each kind; do not change it, copy it."""
    at = tmp_path_factory.mktemp("faults")
    decoder = tiny.decoder(at / "b1", WHOLE)
    return {
        "decoder": make(decoder, at / "decoder"),
        "encoder": make(stirred(tiny.encoder(at / "b2")), at / "encoder"),
        "many": make(decoder, at / "many", attributes=ATTRIBUTES),
        "bos": make(adds_bos(tiny.decoder(at / "b3", TURNS)), at / "bos"),
        "ends": make(tiny.decoder(at / "b4", ENDS), at / "ends"),
        "mistral": make(tiny.backbone(at / "b5", MistralConfig, TURNS, sliding_window=16, **WIDE), at / "mistral", 4.0),
        "gemma2": make(tiny.backbone(at / "b6", Gemma2Config, TURNS, sliding_window=16, attn_logit_softcapping=2.0, query_pre_attn_scalar=8, **WIDE), at / "gemma2", 4.0),
        "other": make(tiny.backbone(at / "b7", LlamaConfig, WHOLE, initializer_range=0.03), at / "other"),
    }


@pytest.fixture
def copy_of(made: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of a checkpoint that may be broken."""
    return lambda kind: Path(shutil.copytree(made[kind], tmp_path / kind))


def wrong(findings: list[Finding]) -> dict[str, Finding]:
    """What is wrong, in the order in which it was found."""
    return {f.check: f for f in findings if not f.ok}


def server(folder: Path, change: Callable[[Any, Any], None] = lambda model, tokenizer: None, settings: dict[str, Any] | None = None, **options: Any) -> Against:
    """Another side, of plain transformers: the checkpoint with ``settings`` in its config, after ``change``, its template called with ``options``."""
    said = contracts.read(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    for key, value in (settings or {}).items():
        setattr(config, key, value)
    with quiet():
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    model.weights = list(said.weights.values())
    change(model, tokenizer)

    def score(conversation: contracts.Conversation) -> float:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, **options)
        batch = tokenizer(text, truncation=True, max_length=said.max_length, add_special_tokens=said.add_special_tokens, return_tensors="pt")
        with torch.inference_mode():
            return float(model(**batch).logits[0].float() @ torch.tensor(model.weights))

    return lambda conversations: [score(c) for c in conversations]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_checkpoint_passes_everything(made: dict[str, Path], kind: str) -> None:
    assert wrong(examine(made[kind], server(made[kind]))) == {}
    assert cause(made[kind]) == "the doctor finds nothing wrong"


# faults of the files


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    """A fault of the weights."""

    def fault(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return fault


def redrawn(weights: dict[str, torch.Tensor]) -> None:
    head = "score.weight" if "score.weight" in weights else "classifier.weight"
    weights[head] = torch.randn(weights[head].shape, generator=torch.Generator().manual_seed(5))


def lost(weights: dict[str, torch.Tensor]) -> None:
    del weights["score.weight" if "score.weight" in weights else "classifier.weight"]


def doubled(weights: dict[str, torch.Tensor]) -> None:
    weights["score.weight"] = weights["score.weight"].repeat(2, 1)


def with_bias(weights: dict[str, torch.Tensor]) -> None:
    weights["score.bias"] = torch.tensor([0.5])


def rounded(head_alone: bool) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if not head_alone or name.startswith(("score.", "classifier.")):
                weights[name] = weights[name].bfloat16()

    return change


def config(**changes: object) -> Fault:
    return lambda folder: edit(folder / "config.json", **changes)


def rope(theta: float) -> Fault:
    def fault(folder: Path) -> None:
        now = json.loads((folder / "config.json").read_text())["rope_parameters"]
        edit(folder / "config.json", rope_parameters={**now, "rope_theta": theta})

    return fault


def scoring(**changes: object) -> Fault:
    return lambda folder: edit(folder / contracts.FILE, **changes)


def measured_elsewhere(folder: Path) -> None:
    """Mean and standard deviation copied from the contract of other weights."""
    other = contracts.read(folder.parent / "other").model_dump()
    edit(folder / contracts.FILE, **{key: other[key] for key in ("mean", "std", "measured_on", "temperature", "measured_with")})


def templated(written: str, known: bool = False) -> Fault:
    """Another template; ``known``: the contract was made with it."""

    def fault(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(written)
        if known:
            edit(folder / contracts.FILE, template_sha256=text_hash(written))

    return fault


FROZEN = template.freeze(WHOLE)
SWITCH = "{%- set enable_thinking = false %}"
RESTORE, AGAIN = "restore the weights from the run that made them", "measure them anew"
FAULTS: dict[str, tuple[str, Fault, str, str, str]] = {
    "head of a decoder drawn anew": ("decoder", tensors(redrawn), "head", "the weights of `score` are not those that were saved: drawn anew", RESTORE),
    "head of an encoder drawn anew": ("encoder", tensors(redrawn), "head", "the weights of `classifier` are not those that were saved: drawn anew", RESTORE),
    "head of three attributes drawn anew": ("many", tensors(redrawn), "head", "the weights of `score`", RESTORE),
    "head of a decoder lost": ("decoder", tensors(lost), "loads", "weights are missing: score.weight; the head is lost", "restore the files"),
    "head of an encoder lost": ("encoder", tensors(lost), "loads", "weights are missing: classifier.weight; the head is lost", "restore the files"),
    "two labels in the config": ("decoder", config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}), "loads", "the head has 2 labels, expected 1", "restore the files"),
    "two labels in the weights": ("decoder", tensors(doubled), "loads", "the saved head has another number of labels than the 1 asked for", "restore the files"),
    "bias in the head": ("decoder", tensors(with_bias), "head's tensors", "score.bias: a bias that should not be there", "take it out of the weights"),
    "saved in bf16": ("decoder", tensors(rounded(False)), "precision", "saved in BF16: every reward is rounded", "save them in fp32"),
    "encoder saved in bf16": ("encoder", tensors(rounded(False)), "precision", "saved in BF16: every reward is rounded", "save them in fp32"),
    "head alone in bf16": ("decoder", tensors(rounded(True)), "precision", "saved in BF16: every reward is rounded", "save them in fp32"),
    "window of Mistral": ("mistral", config(sliding_window=64), "config.json", "sliding_window is 64, was 16", "set sliding_window back to 16"),
    "no window in Mistral": ("mistral", config(sliding_window=None), "config.json", "sliding_window is None, was 16", "set sliding_window back to 16"),
    "window of Gemma 2": ("gemma2", config(sliding_window=64), "config.json", "sliding_window is 64, was 16", "set sliding_window back to 16"),
    "soft cap": ("gemma2", config(attn_logit_softcapping=50.0), "config.json", "attn_logit_softcapping is 50.0, was 2.0", "set attn_logit_softcapping back to 2.0"),
    "rope theta": ("decoder", rope(500.0), "config.json", "'rope_theta': 500.0", "set rope_parameters back to {'rope_theta': 10000.0"),
    "order of attributes": ("many", scoring(attributes=["right", "kind", "short"]), "attributes", "swapped: right comes out as kind, kind comes out as right", "put `attributes` of scoring.json in the order of the head"),
    "mean of other weights": ("decoder", measured_elsewhere, "mean and std", "were measured with other weights", AGAIN),
    "mean of another model": ("decoder", scoring(mean=400.0), "mean and std", "standard deviations from the mean", AGAIN),
    "thinking switch": ("decoder", templated(FROZEN.replace(SWITCH, ""), known=True), "thinking switch", "the template thinks or not, by who calls it", "begin chat_template.jinja with {%- set enable_thinking = false %}"),
    "thinking switch put in later": ("decoder", templated(FROZEN.replace(SWITCH, "")), "chat template", "another chat template than the model was trained with", "restore chat_template.jinja"),
    "clock": ("decoder", templated(SWITCH + WHOLE, known=True), "dated template", "reads the clock: scores change from day to day", "freeze the date"),
    "clock put in later": ("decoder", templated(SWITCH + WHOLE), "chat template", "another chat template than the model was trained with", "restore chat_template.jinja"),
    "generation prompt in the template": ("decoder", templated(FROZEN.replace(OPENS, "<assistant>")), "chat template", "another chat template than the model was trained with", "restore chat_template.jinja"),
}


@pytest.fixture
def broken(copy_of: Callable[[str], Path], made: dict[str, Path]) -> Callable[[str], Path]:
    """Makes a copy of a checkpoint with one of FAULTS."""

    def make_it(fault: str) -> Path:
        folder = copy_of(FAULTS[fault][0])
        (folder.parent / "other").symlink_to(made["other"])
        FAULTS[fault][1](folder)
        return folder

    return make_it


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_files_is_named_before_anything_else(fault: str, broken: Callable[[str], Path]) -> None:
    """But that the weights are others may be said before, since it is true."""
    _, _, check, says, fix = FAULTS[fault]
    found = wrong(examine(broken(fault)))
    assert next(c for c in found if c != "weights") == check, found
    assert says in found[check].detail
    assert fix in found[check].fix


@pytest.mark.parametrize("fault", ["mean of other weights", "mean of another model", "thinking switch"])
def test_what_moves_no_score_is_the_only_thing_found(fault: str, broken: Callable[[str], Path]) -> None:
    assert list(wrong(examine(broken(fault)))) == [FAULTS[fault][2]]


@pytest.mark.parametrize("fault", ["bias in the head", "saved in bf16", "head alone in bf16"])
def test_a_head_that_is_as_saved_but_for_this_is_not_said_to_be_drawn_anew(fault: str, broken: Callable[[str], Path]) -> None:
    assert not any("drawn anew" in f.detail for f in wrong(examine(broken(fault))).values())


def test_a_mean_of_another_model_is_given_its_distance(broken: Callable[[str], Path]) -> None:
    folder = broken("mean of another model")
    scores = [c.score for c in contracts.read(folder).canaries]
    detail = wrong(examine(folder))["mean and std"].detail
    assert int(re.findall(r"\d+", detail)[0]) == round(abs(sum(scores) / 8 - 400) / STD)


def test_a_generation_prompt_in_the_template_is_called_so(broken: Callable[[str], Path]) -> None:
    found = wrong(examine(broken("generation prompt in the template")))
    assert "generation prompt" in found["token ids"].detail
    assert "chat_template.jinja" in found["token ids"].fix


@pytest.mark.parametrize("fault", ["clock put in later", "generation prompt in the template"])
def test_another_template_is_not_blamed_on_the_tokenizer(fault: str, broken: Callable[[str], Path]) -> None:
    assert "tokenizer files" not in wrong(examine(broken(fault)))["token ids"].fix


@pytest.mark.parametrize("kind", ["decoder", "encoder", "many"])
def test_an_old_contract_without_the_new_fields_passes(kind: str, copy_of: Callable[[str], Path]) -> None:
    folder = copy_of(kind)
    old = json.loads((folder / contracts.FILE).read_text())
    for key in ("head_sha256", "settings", "measured_with"):
        del old[key]
    for canary in old["canaries"]:
        del canary["outputs"]
    (folder / contracts.FILE).write_text(json.dumps(old))
    checkpoint.load(folder)
    assert wrong(examine(folder, server(folder))) == {}


# faults of the other side


def losing_the_end(model: Any, tokenizer: Any) -> None:
    tokenizer.truncation_side = "right"


def half_more(model: Any, tokenizer: Any) -> None:
    head = getattr(model, "score", None) or model.classifier
    head.bias = torch.nn.Parameter(torch.full((head.out_features,), 0.5))


def pad_is_eos(model: Any, tokenizer: Any) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id


def uncapped(model: Any, tokenizer: Any) -> None:
    """What SDPA computes, which cannot cap scores."""
    model._supports_sdpa = True
    model.set_attn_implementation("sdpa")
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = None  # or transformers would refuse


def anew(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(5)
    head = getattr(model, "score", None) or model.classifier
    torch.nn.init.normal_(head.weight, std=0.8)


def in_bf16(model: Any, tokenizer: Any) -> None:
    model.to(torch.bfloat16)


def weighing(*weights: float) -> Callable[[Any, Any], None]:
    def change(model: Any, tokenizer: Any) -> None:
        model.weights = weights

    return change


def no_change(model: Any, tokenizer: Any) -> None:
    """It is called with other options."""


FULL = {"layer_types": ["full_attention"] * 2}
OWN = "let it use the checkpoint's chat template as it is"
KERNEL = "use a kernel that honours it"
FORMULA = "weigh the attributes as the contract's `merge` says"
MISTAKES: dict[str, tuple[str, Callable[[Any, Any], None], dict[str, Any], str, str]] = {
    "generation prompt": ("decoder", no_change, {"add_generation_prompt": True}, "a generation prompt is added behind the answer", "add_generation_prompt=False"),
    "generation prompt of three": ("many", no_change, {"add_generation_prompt": True}, "a generation prompt is added behind the answer", "add_generation_prompt=False"),
    "thinking": ("decoder", no_change, {"chat_template": WHOLE.replace(DATED, template.FROZEN_DATE), "enable_thinking": True}, "the thinking switch of the template is on", OWN),
    "date": ("decoder", no_change, {"chat_template": WHOLE, "enable_thinking": False}, "the template reads the date", OWN),
    "end lost by a decoder": ("decoder", losing_the_end, {}, "long conversations lose their end instead of their beginning", '"truncation_side": "left"'),
    "end lost by an encoder": ("encoder", losing_the_end, {}, "long conversations lose their end instead of their beginning", '"truncation_side": "left"'),
    "end lost by a decoder with BOS": ("bos", losing_the_end, {}, "long conversations lose their end instead of their beginning", '"truncation_side": "left"'),
    "bias of a decoder": ("decoder", half_more, {}, "+0.5 is added to every reward: a bias in the head", "give the head no bias there"),
    "bias of an encoder": ("encoder", half_more, {}, "+0.5 is added to every reward: a bias in the head", "give the head no bias there"),
    "bias of three": ("many", half_more, {}, "+0.5 is added to every reward: a bias in the head", "give the head no bias there"),
    "ChatML": ("decoder", no_change, {"chat_template": template.CHATML}, "the template is ChatML", OWN),
    "ChatML for an encoder": ("encoder", no_change, {"chat_template": template.CHATML}, "the template is ChatML", OWN),
    "a template for encoders": ("decoder", no_change, {"chat_template": template.ENCODER}, "the template puts the role before each turn, as for encoders", OWN),
    "pad is eos": ("ends", pad_is_eos, {}, "the reward is read one token early, as where the pad token is the end token", "a pad token of its own"),
    "no window in Mistral": ("mistral", no_change, {"settings": {"sliding_window": None}}, "passes over the sliding window of attention (sliding_window)", KERNEL),
    "no window in Gemma 2": ("gemma2", no_change, {"settings": FULL}, "passes over the sliding window of attention (sliding_window)", KERNEL),
    "no soft cap": ("gemma2", uncapped, {}, "passes over the soft cap of attention (attn_logit_softcapping)", KERNEL),
    "first attribute": ("many", weighing(1.0, 0.0, 0.0), {}, "it gives the attribute kind, not the reward", FORMULA),
    "last attribute": ("many", weighing(0.0, 0.0, 1.0), {}, "it gives the attribute short, not the reward", FORMULA),
    "weights swapped": ("many", weighing(0.2, 0.3, 0.5), {}, "the attributes kind and short are swapped", "weigh the attributes in the order of the contract"),
    "head of a decoder drawn anew": ("decoder", anew, {}, "have little to do with the golden ones (correlation ", "compare its tokenizer, template and weights"),
    "head of an encoder drawn anew": ("encoder", anew, {}, "have little to do with the golden ones (correlation ", "compare its tokenizer, template and weights"),
    **{f"{kind} in bf16": (kind, in_bf16, {}, "about what bf16 rounds", "let it compute in fp32") for kind in ("decoder", "encoder", "many", "mistral")},
}


def other_side(folder: Path, against: Against) -> Finding:
    """What is said of it; everything else must be fine."""
    found = wrong(examine(folder, against))
    assert list(found) == ["the other side"]
    return found["the other side"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_other_side_is_named(mistake: str, made: dict[str, Path]) -> None:
    kind, change, options, says, fix = MISTAKES[mistake]
    one = other_side(made[kind], server(made[kind], change, **options))
    assert says in one.detail
    assert fix in one.fix


def test_a_kernel_that_passes_over_both_window_and_soft_cap_is_named(made: dict[str, Path]) -> None:
    one = other_side(made["gemma2"], server(made["gemma2"], uncapped, FULL))
    assert "passes over the soft cap of attention (attn_logit_softcapping)" in one.detail
    assert "the sliding window of attention (sliding_window)" in one.detail
    assert KERNEL in one.fix


@pytest.mark.parametrize("kind", ["decoder", "encoder", "many"])
def test_mean_and_standard_deviation_taken_off_by_the_other_side_are_named(kind: str, made: dict[str, Path]) -> None:
    right = server(made[kind])
    one = other_side(made[kind], lambda conversations: [(x - MEAN) / STD for x in right(conversations)])
    assert "the contract's mean and standard deviation are applied to it" in one.detail
    assert one.fix == "take the reward as it is"


# loading


LOADED = {
    "head of a decoder drawn anew": "weights: the weights are not the ones the contract was made for",
    "rope theta": "config.json: rope_parameters is",
    "soft cap": "config.json: attn_logit_softcapping is 50.0, was 2.0",
    "no window in Mistral": "config.json: sliding_window is None, was 16",
    "order of attributes": "attributes: swapped: right comes out as kind",
    "clock": "dated template: reads the clock",
    "generation prompt in the template": "chat template: another chat template",
}


@pytest.mark.parametrize("fault", LOADED)
def test_loading_refuses_with_the_cause_or_warns_of_it(fault: str, broken: Callable[[str], Path]) -> None:
    folder = broken(fault)
    with pytest.raises(AssayError, match=re.escape(LOADED[fault])) as refused:
        checkpoint.load(folder)
    assert f"Run `assay doctor {folder}`, or allow it with --allow-drift" in str(refused.value)
    with pytest.warns(UserWarning, match=re.escape(LOADED[fault])):
        model, said = checkpoint.load(folder, allow_drift=1_000.0)
    assert contracts.TOLERANCE < checkpoint.drift(model, said) < 1_000.0


def test_more_drift_than_is_allowed_is_refused(broken: Callable[[str], Path]) -> None:
    folder = broken("rope theta")
    with pytest.warns(UserWarning, match="a canary differs by"):
        worst = checkpoint.drift(*checkpoint.load(folder, allow_drift=1_000.0))
    with pytest.warns(UserWarning, match="a canary differs by"):
        checkpoint.load(folder, allow_drift=worst * 1.01)
    with pytest.raises(AssayError, match=re.escape(f"(now {worst * 0.99:g})")):
        checkpoint.load(folder, allow_drift=worst * 0.99)


@pytest.mark.parametrize("allowed", [None, 1e-3, 1_000.0])
def test_a_good_checkpoint_loads_without_a_warning(allowed: float | None, made: dict[str, Path]) -> None:
    checkpoint.load(made["decoder"], allow_drift=allowed)


@pytest.mark.parametrize("fault", ["head of a decoder lost", "two labels in the config", "two labels in the weights"])
def test_what_cannot_be_loaded_is_refused_whatever_is_allowed(fault: str, broken: Callable[[str], Path]) -> None:
    with pytest.raises(AssayError, match=re.escape(FAULTS[fault][3])):
        checkpoint.load(broken(fault), allow_drift=math.inf)


def nan_head(weights: dict[str, torch.Tensor]) -> None:
    weights["score.weight"][0, 3] = math.nan


def nan_of_one_token(folder: Path) -> None:
    """The vector of a token that stands in one canary alone, and not in the first."""
    token = AutoTokenizer.from_pretrained(folder)("🌅", add_special_tokens=False)["input_ids"][0]
    tensors(lambda weights: weights["model.embed_tokens.weight"][token].fill_(math.nan))(folder)


def nan_in_the_contract(folder: Path) -> None:
    canaries = json.loads((folder / contracts.FILE).read_text())["canaries"]
    canaries[3]["score"] = math.nan
    edit(folder / contracts.FILE, canaries=canaries)


@pytest.mark.parametrize("allowed", [None, 1e9])
@pytest.mark.parametrize("fault", [tensors(nan_head), nan_of_one_token, nan_in_the_contract], ids=["all", "one canary", "contract"])
def test_no_number_is_refused_whatever_is_allowed(fault: Fault, allowed: float | None, copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    fault(folder)
    assert "canaries" in wrong(examine(folder))
    with pytest.raises(AssayError, match="nan"):
        checkpoint.load(folder, allow_drift=allowed)


@pytest.mark.parametrize("fault", [tensors(nan_head), nan_of_one_token], ids=["all", "one canary"])
def test_no_number_from_plain_transformers_is_no_agreement(fault: Fault, copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    fault(folder)
    assert "plain transformers" in wrong(examine(folder))
