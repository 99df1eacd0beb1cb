"""`python -m prefect_optuna.deployments.cli`, where the script is not on the path."""

import sys

from prefect_optuna.deployments.cli import main

if __name__ == "__main__":
    sys.exit(main())
