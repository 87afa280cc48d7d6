"""The steps of curation, one file each; ``AnyStep`` is what a recipe may list."""

from types import ModuleType
from typing import Annotated

from pydantic import Field

from assay.curate.steps import agree, contradictions, decontaminate, duplicates, filter, markers, select

AnyStep = Annotated[
    agree.Config | contradictions.Config | decontaminate.Config | duplicates.Config | filter.Config | markers.Config | select.Config,
    Field(discriminator="kind"),
]

MODULES: dict[str, ModuleType] = {
    "agree": agree,
    "contradictions": contradictions,
    "decontaminate": decontaminate,
    "duplicates": duplicates,
    "filter": filter,
    "markers": markers,
    "select": select,
}
