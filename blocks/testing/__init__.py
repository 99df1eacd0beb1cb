"""The contract of a study storage, as tests that any storage can subclass.

Optuna's own `optuna.testing.pytest_storages.StorageTestCase` says whether a storage answers
rightly to one process that is well. `StudyStorageContract` goes on from there: many processes,
forks, kills, connections that drop, servers that come back, hostile values. It needs pytest,
which `prefect_optuna.blocks` does not, so it is imported from here and nowhere else.
"""

import pytest

# So that a failed assertion shows its values, as in a test file.
pytest.register_assert_rewrite("prefect_optuna.blocks.testing.contract")

from prefect_optuna.blocks.testing.contract import (  # noqa: E402
    StudyStorageContract,
    contract_rows,
)
from prefect_optuna.blocks.testing.processes import (  # noqa: E402
    Attempt,
    Crew,
    FaultyProxy,
    History,
    StorageUnderTest,
    violations,
)

__all__ = [
    "Attempt",
    "Crew",
    "FaultyProxy",
    "History",
    "StorageUnderTest",
    "StudyStorageContract",
    "contract_rows",
    "violations",
]
