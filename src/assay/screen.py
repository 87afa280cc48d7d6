"""What a person sees while something runs: lines and progress bars on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

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

stderr = Console(stderr=True, highlight=False, markup=False)
stdout = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 140)


class Screen(Protocol):
    """What shows a run's progress to a person."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def bar(self, name: str, total: int | None) -> AbstractContextManager[Callable[..., None]]:
        """A progress bar; the callable takes (done, total, text)."""
        ...

    def tick(self, name: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A progress bar of work whose extent is known only as it goes on."""
        ...


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def bar(self, name: str, total: int | None) -> AbstractContextManager[Callable[..., None]]:
        """Nothing."""
        return nullcontext(lambda *_: None)

    def tick(self, name: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Nothing."""
        return nullcontext(lambda *_: None)


class Terminal:
    """Shows progress on stderr; on a terminal with bars, in a log as a line every tenth of the way."""

    def say(self, text: str) -> None:
        """One line."""
        stderr.print(text, soft_wrap=True)

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

    def tick(self, name: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A progress bar; in a log nothing, the lines that steps say are enough."""
        return self.bar(name, None) if stderr.is_terminal else nullcontext(lambda *_: None)


def _log_lines(name: str) -> Callable[..., None]:
    shown = 0

    def update(done: int, of: int | None = None, text: str = "") -> None:
        nonlocal shown
        tenth = done * 10 // of if of else 0
        if tenth > shown:
            shown = tenth
            stderr.print(f"{name}: {done:,} of {of:,} {text}".rstrip())

    return update


def training_progress(tick: Callable[..., None]) -> Callable[[int, int, dict[str, float]], None]:
    """A trainer's progress callback that moves a bar."""

    def progress(step: int, total: int, metrics: dict[str, float]) -> None:
        loss = metrics.get("loss")
        tick(step, total, f"loss {loss:.3f}" if loss is not None else "")

    return progress
