"""Processes of the tests' own, which can be told when to go and can be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

Child = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]


@contextmanager
def _child(code: str, *arguments: str) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline(), "the child ended before it was ready"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def child() -> Child:
    """Run Python code in a process that prints a line once it is ready; kill it at the end."""
    return _child
