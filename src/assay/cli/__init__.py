"""The command line: the same verbs as in Python. Results go to stdout, progress to stderr.

Exit codes: 0 done, 1 it ran and the answer is no, 2 the input or the configuration is wrong, 130 interrupted (run it again to resume).
"""

from assay.cli import data, help, loop, measuring, training, using  # each file adds its verbs
from assay.cli.app import main, run_app

__all__ = ["data", "help", "loop", "main", "measuring", "run_app", "training", "using"]
