"""The program around the verbs: how it starts and ends, and the options that several verbs share."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Group, Parameter

from assay import __version__
from assay.errors import AssayError
from assay.files import finite

app = App(
    name="assay",
    version=__version__,
    help="Reward models end to end: curate preference data, train, measure and use, with one score everywhere.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
LOOP, DATA, TRAINING, MEASURING, USING, HELP = (Group.create_ordered(name) for name in ("The whole loop", "Preference data", "Training", "Measuring", "Using", "Help"))
app["--help"].group = app["--version"].group = HELP

CORES = os.cpu_count() or 1
Workers = Annotated[int, Parameter(help="Processes for the curation kernels; the result does not depend on it.")]
EngineName = Annotated[Literal["local", "ray"], Parameter(name="--engine", help="Where the work is done: processes of this machine, or a Ray cluster; the result does not depend on it.")]
DataRoot = Annotated[Path | None, Parameter(help="A folder with copies of hub data sets, DATA_ROOT/owner/name.")]
Overrides = Annotated[list[str] | None, Parameter(name="--set", negative="", help="Change a field of the recipe, KEY=VALUE; may be repeated.")]
AllowDrift = Annotated[float | None, Parameter(help="Take a checkpoint whose canaries are up to this far from their golden scores, with a warning that names the cause.")]
Precision = Annotated[str, Parameter(help="fp32, bf16, or auto.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    warnings.showwarning = lambda message, *_: complain(f"warning: {message}")
    sys.exit(run_app(argv))


def run_app(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code. No traceback reaches a user unless ASSAY_DEBUG is set."""
    try:
        result = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        complain(str(error) + " See `assay --help`.")
        return 2
    except AssayError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted; run the same command again to go on from here")
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        complain(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}")
        return 2
    except Exception as error:
        if os.environ.get("ASSAY_DEBUG"):
            raise
        complain(f"this is a bug in Assay ({type(error).__name__}: {error}); run again with ASSAY_DEBUG=1 for the traceback and report it")
        return 1
    return result if isinstance(result, int) else 0


def complain(text: str) -> None:
    print(f"assay: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(finite(value), indent=2, ensure_ascii=False))
