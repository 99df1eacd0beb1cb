"""The exit codes of the command line."""

OK = 0
"""It was done."""

FAILED = 1
"""It could not be done; the message says why."""

USAGE = 2
"""The command line itself is wrong."""

DRIFT = 3
"""Trials were run again, and not all of them were reproduced."""

INTERRUPTED = 130
"""Ctrl-C."""
