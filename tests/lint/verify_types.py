"""Is every public name typed? Pyright's own measure, on the package as a wheel installs it.

python tests/lint/verify_types.py
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".cache" / "installed"


def main() -> int:
    """Install the package without its dependencies, let pyright look at it, repeat its verdict."""
    # setuptools never deletes where it builds: a module that was removed since would come back.
    for leftover in (INSTALLED, ROOT / ".cache" / "build"):
        shutil.rmtree(leftover, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(INSTALLED), str(ROOT)], check=True)
    pyright = [sys.executable, "-m", "pyright"]
    result = subprocess.run(
        [*pyright, "--verifytypes", "prefect_optuna", "--ignoreexternal"],
        env=os.environ
        # With --verifytypes pyright asks the Python on the PATH, whatever --pythonpath says.
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        | {"PYTHONPATH": str(INSTALLED)},
        stdout=subprocess.PIPE,
        text=True,
    )
    # Name the files that people edit.
    print(result.stdout.replace(str(INSTALLED / "prefect_optuna"), str(ROOT)))
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
