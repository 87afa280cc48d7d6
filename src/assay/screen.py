"""What a person sees while something runs: lines and progress bars on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


class Terminal:
    """Shows progress on stderr; on a terminal with bars, in a log as a line every tenth of the way."""

    def say(self, text: str) -> None:
        """One line."""
        stderr.print(text, markup=False)

    @contextmanager
    def bar(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        """A progress bar called ``name``; yields a function of (done, total, text)."""
        if not stderr.is_terminal:
            yield _log_lines(name)
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=stderr, transient=True) as progress:
            task = progress.add_task(name, total=total, text="")

            def update(done: int, of: int | None = None, text: str = "") -> None:
                progress.update(task, completed=done, total=of or total, text=text)

            yield update


def _log_lines(name: str) -> Callable[..., None]:
    shown = 0

    def update(done: int, of: int | None = None, text: str = "") -> None:
        nonlocal shown
        tenth = done * 10 // of if of else 0
        if tenth > shown:
            shown = tenth
            stderr.print(f"{name}: {done:,} of {of:,} {text}".rstrip(), markup=False)

    return update
