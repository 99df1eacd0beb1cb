"""Gives damaged files, attributes and URLs to whatever reads them, in processes of their own.

    python tests/fuzz/fuzz.py --seconds 600 [--seed 1] [TARGET ...]

Of each case it is asked that it ends in a value or in an error of ours, within a few seconds and
4 GB; that nothing ran, that no file was made, and that nothing of the process' own memory is in
the value. A case that breaks this is kept in the folder that is printed, and so is one that takes
the process along.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

_MEMORY = 4 << 30
_SECONDS = 10
_CANARY = bytes((7 * number + 131) % 256 for number in range(64))  # in no file, nor in this one


class _Watch:
    """What happens in the process while a case runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.armed = False
        self.seen: list[str] = []
        library, here = Path(os.__file__).parent, Path(__file__).parents[2]
        self.known = (str(library), str(here), "site-packages", "<frozen")

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            if name == "<string>" and _is_importing():
                return  # a module of a library makes its dataclasses; its own file is known
            if not any(known in name for known in self.known):
                self.seen.append(f"exec of {name}")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
            self.seen.append(f"{event} {arguments!r}")
        elif event == "pickle.find_class":
            self.seen.append(f"unpickled {arguments[1:]}")
        elif event == "open" and isinstance(arguments[2], int):
            is_new = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            path = str(arguments[0])
            if is_new and ".pyc" not in path and not path.startswith((self.folder, "/dev/null")):
                self.seen.append(f"opened {path!r} to write")


def _is_importing() -> bool:
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
    return False


def _holds_canary(value: Any) -> bool:
    """Whether it is somewhere in a value, which may be nested deeply, or be in itself."""
    waiting, known = [value], set[int]()
    while waiting:
        item = waiting.pop()
        if not isinstance(item, (dict, list, tuple, set)):
            if _is_canary(item):
                return True
        elif id(item) not in known:
            known.add(id(item))
            waiting += [*item, *(item.values() if isinstance(item, dict) else ())]
    return False


def _is_canary(value: Any) -> bool:
    import numpy as np
    import pyarrow as pa

    kind = type(value).__module__.partition(".")[0]
    if isinstance(value, (bytes, str)):
        text = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        return _CANARY[:12] in text
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return _CANARY[:12] in value.tobytes()
    if isinstance(value, (pa.RecordBatch, pa.Table)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write(value)
        return _CANARY[:12] in sink.getvalue().to_pybytes()
    if kind in ("pandas", "polars") and hasattr(value, "to_dict"):
        repr(value)
    return False


def _memory_failed(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_long(_signal: int, _frame: Any) -> None:
    raise TimeoutError(f"more than {_SECONDS} s")


def run_target(name: str, seed: int, seconds: float, folder: Path, count: int = 0) -> int:
    """Run one target in this process; print a line of JSON, and return the number of findings."""
    import targets

    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # Optuna's, of each odd category
    os.chdir(folder)
    target = targets.TARGETS[name]
    findings, cases, values = 0, 0, 0
    watch = _Watch(folder)
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, _too_long)
    with contextlib.ExitStack() as stack:
        case_of, check, errors = stack.enter_context(target(folder))
        for warm in range(-40, 0):  # imports what is imported where it is used
            with contextlib.suppress(Exception):
                check(case_of(random.Random(f"{name} {warm}")))
        if name != "redis":  # whose server's client has threads
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MEMORY,) * 2)
        last = folder / f"{name}.last"
        # Open all the time: some filesystems write to the disk what is closed after a truncation.
        now = stack.enter_context(last.open("wb", buffering=0))
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and (not count or cases < count):
            rng = random.Random(f"{name} {seed} {cases}")
            cases += 1
            try:
                case = case_of(rng)
            except RecursionError:  # nested so deeply that it cannot even be written
                continue
            now.seek(0)
            now.write(case if isinstance(case, bytes) else repr(case).encode())
            now.truncate()
            # Beside the case, in the memory, and alive; behind it what it could be read into.
            around = [_CANARY * (max(len(case), 64) // len(_CANARY) + 1) for _ in range(2)]
            held = bytes(bytearray(case)) if isinstance(case, bytes) else case
            around += [_CANARY * (max(len(case), 64) // len(_CANARY) + 1) for _ in range(2)]
            problem = ""
            watch.armed = True
            signal.alarm(_SECONDS)
            try:
                value = check(held)
                watch.armed = False
                values += 1
                if _holds_canary(value):
                    problem = "memory of the process is in the value"
            except errors as error:
                if _memory_failed(error):
                    problem = f"asked for too much memory: {error}"
            except BaseException as error:  # noqa: BLE001 - that is what is looked for
                problem = f"{type(error).__module__}.{type(error).__name__}: {error}"
            finally:
                signal.alarm(0)
                watch.armed = False
            if watch.seen:
                problem, watch.seen = "; ".join(watch.seen), []
            if problem:
                findings += 1
                shutil.copy(last, folder / f"{name}-{seed}-{cases - 1}")
                if findings <= 20:
                    print(f"{name}: case {cases - 1} of seed {seed}: {problem[:600]}", flush=True)
    print(json.dumps({"target": name, "cases": cases, "values": values, "findings": findings}))
    return findings


def _address_space() -> int:
    return (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        * resource.getpagesize()
    )


def run_targets(seconds: dict[str, float], seed: int, folder: Path, count: int) -> int:
    """Run targets, each in a fork of this process, and return how many went wrong."""
    wrong = 0
    for name, share in seconds.items():
        child = folder / name
        child.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            status = 2
            try:
                status = int(run_target(name, seed, share, child, count) > 0)
                sys.stdout.flush()
            except BaseException:  # noqa: BLE001 - nothing of the parent may run here
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        wrong += status != 0
        if status not in (0, 1):
            print(f"{name} ended with {status}, at the case {child / name}.last", flush=True)
    return wrong


def fuzz(names: list[str], seed: int, seconds: float, folder: Path, count: int = 0) -> str:
    """Run targets in another process, and return what went wrong.

    Args:
        names: of the targets; none for all.
        seed: of the random numbers.
        seconds: for each target.
        folder: for the cases that went wrong.
        count: of cases, if they shall end before their time does.
    """
    command = [sys.executable, __file__, "--folder", str(folder), "--each", str(seconds)]
    command += ["--seed", str(seed), "--count", str(count), *names]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    return process.stdout + process.stderr if process.returncode else ""


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--each", type=float, default=0.0, help="for each target")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    import targets

    shares = {name: targets.SHARES.get(name, 1) for name in options.names or targets.TARGETS}
    one = options.seconds / sum(shares.values())
    seconds = {name: options.each or one * share for name, share in shares.items()}
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"seed {options.seed}; cases that go wrong are kept in {folder}", flush=True)
    return int(run_targets(seconds, options.seed, folder, options.count) > 0)


if __name__ == "__main__":
    sys.exit(main())
