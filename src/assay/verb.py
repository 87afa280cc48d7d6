"""Rooms that are verbs: ``assay.curate`` is a package, and calling it curates.

The package and the function of the same name live at the same place, so the package is made callable; the function is imported at the call.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    __verb__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, function = self.__verb__.split(":")
        return getattr(importlib.import_module(module), function)(*args, **kwargs)


def make_verb(package: str, function: str) -> None:
    """Let calling ``package`` call ``function``, given as "module:function"."""
    module = sys.modules[package]
    module.__class__ = _Verb
    module.__dict__["__verb__"] = function
