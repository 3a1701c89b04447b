"""Checks of one client: each prints a line, and the process fails if one of them did."""

import os
import sys
import traceback

URL = os.environ["FLASH_URL"]
MODEL = "demo/tiny"

_checks = []


def check(function):
    """Registers a check, whose name is the claim."""
    _checks.append(function)
    return function


def run(client):
    """Runs all checks in the order in which they were written."""
    n_failed = 0
    for function in _checks:
        claim = function.__name__.replace("_", " ")
        try:
            function()
        except Exception:
            n_failed += 1
            print(f"FAIL {client}: {claim}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"ok   {client}: {claim}", flush=True)
    sys.exit(1 if n_failed else 0)


def raises(error, function):
    """Returns the exception of a type that a call must raise."""
    try:
        function()
    except error as raised:
        return raised
    raise AssertionError(f"{error.__name__} was not raised")
