"""Object stores: ``s3://``, ``gs://`` and whatever else fsspec knows, wherever a path may stand.

What is read is brought into a local cache under the name of its content; what is written is made in a local folder and uploaded when it is
complete, manifests last. So everything else works on files, a killed upload leaves no folder that looks finished, and a run goes on from
what is in the store, on another machine too.
"""

import functools
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.errors import AssayError, MissingExtra
from assay.files import MANIFEST, first_line

_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,2}(?!/)(.+)$")


def url(path: str | Path) -> str | None:
    """The URL that ``path`` is, also when ``Path`` has taken one of its slashes; None of a local path."""
    match = _URL.match(str(path))
    return f"{match[1]}://{match[2]}" if match and not Path(path).exists() else None


def cache() -> Path:
    """Where copies lie: ``ASSAY_CACHE/remote``, by default under ``~/.cache/assay``."""
    return Path(os.environ.get("ASSAY_CACHE", "~/.cache/assay")).expanduser() / "remote"


def fetch(path: str | Path) -> Path:
    """A local copy of what ``path`` names, a file or a folder; a local path as it is.

    Raises:
        AssayError: nothing is there, or the store cannot be reached.
        MissingExtra: the store's library is not installed.
    """
    address = url(path)
    if address is None:
        return Path(path)
    with _store(address) as (files, inside):
        listed = _listing(files, inside)
        if not listed:
            raise AssayError(f"{address}: nothing is there")
        target = cache() / "read" / _name(address, sorted(map(str, listed.items()))) / inside.rstrip("/").rpartition("/")[2]
        if not target.exists():
            _download(files, inside, listed, target)
        return target


@contextmanager
def local(path: str | Path) -> Iterator[Path]:
    """A local folder or file to work in, uploaded to ``path`` when the block ends; ``path`` itself if it is local.

    What the store holds already is there to begin with, and what the block leaves when it fails is uploaded too, so that a later run can go on.
    """
    address = url(path)
    if address is None:
        yield Path(path)
        return
    name = address.rstrip("/").rpartition("/")[2]
    staging = cache() / "written" / _name(address) / name
    shutil.rmtree(staging.parent, ignore_errors=True)
    staging.parent.mkdir(parents=True)
    with _store(address) as (files, inside):
        listed = _listing(files, inside)
        if listed:
            _download(files, inside, listed, staging)
    before = _stamps(staging.parent)
    _shown[str(staging)] = address
    try:
        yield staging
    finally:
        with _store(address) as (files, inside):
            _upload(files, inside.rstrip("/").rpartition("/")[0], staging.parent, before)
        shutil.rmtree(staging.parent)


_shown: dict[str, str] = {}
"""Folders worked in, and the URLs they stand for."""


def as_given(text: str) -> str:
    """A text for a person: with URLs in place of the local folders that stand for them."""
    for folder, address in _shown.items():
        text = text.replace(folder, address)
    return text


def with_output(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose ``output`` may be a URL."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        given = kwargs.get("output")
        if given is None or url(given) is None:
            return command(*args, **kwargs)
        with local(given) as folder:
            return command(*args, **{**kwargs, "output": folder})

    return run


@contextmanager
def _store(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path in it; its errors in our words."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtra(address, "cloud") from None
    try:
        files, inside = url_to_fs(address)
        files.invalidate_cache()
    except (ImportError, ValueError) as error:
        raise MissingExtra(address, "cloud") if isinstance(error, ImportError) else AssayError(f"{address}: {first_line(error)}") from None
    try:
        yield files, inside
    except (AssayError, KeyboardInterrupt):
        raise
    except (OSError, RuntimeError) as error:
        local_file = getattr(error, "filename", None)
        if local_file and Path(str(local_file)).exists():
            raise
        raise AssayError(f"{address}: the store did not answer as it should ({first_line(error)}). Look at the credentials and the address.") from None


def _listing(files: Any, inside: str) -> dict[str, str]:
    """Every file at or under a path, by its place under it ("" for the path itself), with what tells a changed one."""
    found = files.find(inside, detail=True)
    return {name[len(inside) :].lstrip("/"): str(info.get("ETag") or info.get("etag") or (info.get("size"), info.get("mtime"), info.get("LastModified"))) for name, info in found.items()}


def _name(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _download(files: Any, inside: str, listed: dict[str, str], target: Path) -> None:
    """Everything to ``target``, which appears when it is whole."""
    partial = target.parent.parent / f".{target.parent.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    for place in listed:
        to = partial / target.name / place if place else partial / target.name
        to.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(f"{inside}/{place}" if place else inside, str(to))
    shutil.rmtree(target.parent, ignore_errors=True)
    partial.replace(target.parent)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def _upload(files: Any, parent: str, folder: Path, before: dict[str, tuple[int, int]]) -> None:
    """What is new or changed, manifests last and the outermost of them at the very end; then take away what is gone."""
    now = _stamps(folder)
    changed = [place for place, stamp in now.items() if before.get(place) != stamp]
    stale = [place for place in before if place not in now]
    for place in sorted(stale, key=lambda p: Path(p).name != MANIFEST):
        files.rm_file(f"{parent}/{place}")
    for place in sorted(changed, key=lambda p: (Path(p).name == MANIFEST, -len(Path(p).parts), p)):
        files.put_file(str(folder / place), f"{parent}/{place}")
