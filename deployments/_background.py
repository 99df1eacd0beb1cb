"""The process behind `prefect-optuna up`: a `LocalServer` that ends when nobody uses it.

python -m prefect_optuna.deployments._background HOME IDLE_SECONDS
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from prefect_optuna.deployments.local_server import USED_FILE, LocalServer
from prefect_optuna.deployments.serve import HOLDER_FILE, usual_port_if_free
from prefect_optuna.errors import PrefectOptunaError

_LOOK_SECONDS = 1.0


def main(home: Path, idle: float) -> None:
    """Serve until nobody has asked the server anything for so long, or until SIGTERM.

    Args:
        home: where the server's history is.
        idle: seconds.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())  # pyright: ignore[reportUnknownLambdaType]
    with LocalServer(home, port=usual_port_if_free()) as server:
        holder = home / HOLDER_FILE
        started = psutil.Process().create_time()
        holder.write_text(json.dumps({"pid": os.getpid(), "started": started}), encoding="utf-8")
        begun = time.time()
        try:
            while not ended.wait(_LOOK_SECONDS) and server.pid and psutil.pid_exists(server.pid):
                used = home / USED_FILE
                last = used.stat().st_mtime if used.exists() else begun
                if time.time() - max(last, begun) > idle:
                    return
        finally:
            holder.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), float(sys.argv[2]))
    except PrefectOptunaError as error:
        sys.exit(str(error))
