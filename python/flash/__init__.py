"""Run language models that are larger than memory.

The package contains the program `flash-cli` with the libraries that it needs:

    import flash

    result = flash.run(["run", "--model", "DIR", "--prompt", "The capital of France is"], capture_output=True, text=True)
    print(result.stdout)

`flash-cli --help`, or `python -m flash --help`, lists the commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "program", "run"]


def program() -> Path:
    """Returns the path of `flash-cli`."""
    return Path(__file__).resolve().parent / "bin" / "flash-cli"


def run(args: Sequence[str | os.PathLike[str]], **kwargs: Any) -> subprocess.CompletedProcess[Any]:
    """Runs `flash-cli` with `args` and waits for it; `kwargs` are those of `subprocess.run`."""
    if isinstance(args, (str, bytes)):
        raise TypeError("args must be a sequence of arguments, not one string")
    return subprocess.run([program(), *args], **kwargs)


def main() -> None:
    """Replaces this process by `flash-cli` with the same arguments."""
    path = os.fspath(program())
    # Not a child process: signals reach the program, and its exit status is that of the process.
    os.execv(path, [path, *sys.argv[1:]])
