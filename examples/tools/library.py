"""What list_files and read_file share: the arguments on stdin, and the walls of the library."""

import json
import os
import sys


def fail(message):
    """End as a tool error: the worker shows stderr to the model."""
    print(message, file=sys.stderr)
    sys.exit(1)


def root():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.realpath(os.environ.get("LIBRARY_DIR") or os.path.join(here, "../library"))


def place():
    """The path asked for, with all symbolic links followed, never outside of the library."""
    try:
        path = json.load(sys.stdin)["path"]
    except (ValueError, KeyError, TypeError):
        fail('the arguments must be {"path": "..."}')
    if not isinstance(path, str) or "\0" in path:
        fail("path must be text")
    real = os.path.realpath(os.path.join(root(), path))
    if real != root() and not real.startswith(os.path.join(root(), "")):
        fail(f"{path} is outside of the library")
    return path, real
