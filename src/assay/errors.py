"""The one exception a user ever sees.

``AssayError`` says what is wrong, where, what was expected and what to do next. The command line prints it and exits
with 2; a library caller catches it. Everything else that escapes is a bug in Assay.
"""

import difflib
from collections.abc import Iterable


class AssayError(Exception):
    """Bad input or configuration: one message a person can act on."""


class MissingExtra(AssayError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs the optional packages of Assay: pip install "assay[{extra}]"')
        self.said = (feature, extra)

    def __reduce__(self) -> tuple[type["MissingExtra"], tuple[str, str]]:
        """What pickle needs to bring it over from another process."""
        return MissingExtra, self.said


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """" Did you mean `x`?" for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{close[0]}`?" if close else ""
