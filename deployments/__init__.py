"""How studies run elsewhere, and how a person looks at them: servers, the UI, deployments."""

from prefect_optuna.deployments.local_server import (
    LocalServer,
    LocalServerError,
    LocalServerTimeoutError,
)

__all__ = ["LocalServer", "LocalServerError", "LocalServerTimeoutError"]
