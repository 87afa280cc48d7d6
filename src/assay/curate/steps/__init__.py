"""The steps of curation, one file each; ``AnyStep`` is what a recipe may list."""

from types import ModuleType
from typing import Annotated

from pydantic import Field

from assay.curate.steps import (
    agree,
    balance,
    contradictions,
    decontaminate,
    duplicates,
    filter,
    markers,
    mix,
    near_duplicates,
    perplexity,
    select,
    semantic_duplicates,
    shortcuts,
)

AnyStep = Annotated[
    agree.Config
    | balance.Config
    | contradictions.Config
    | decontaminate.Config
    | duplicates.Config
    | filter.Config
    | markers.Config
    | mix.Config
    | near_duplicates.Config
    | perplexity.Config
    | select.Config
    | semantic_duplicates.Config
    | shortcuts.Config,
    Field(discriminator="kind"),
]

MODULES: dict[str, ModuleType] = {
    "agree": agree,
    "balance": balance,
    "contradictions": contradictions,
    "decontaminate": decontaminate,
    "duplicates": duplicates,
    "filter": filter,
    "markers": markers,
    "mix": mix,
    "near_duplicates": near_duplicates,
    "perplexity": perplexity,
    "select": select,
    "semantic_duplicates": semantic_duplicates,
    "shortcuts": shortcuts,
}
