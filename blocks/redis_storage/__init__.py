"""An Optuna storage on Redis."""

from prefect_optuna.blocks.redis_storage.maintenance import (
    RedisDescription,
    RedisReport,
    check,
    repair,
)
from prefect_optuna.blocks.redis_storage.server import acl_rules
from prefect_optuna.blocks.redis_storage.storage import RedisStorage
from prefect_optuna.blocks.redis_storage.study_check import RedisProblem

__all__ = [
    "RedisDescription",
    "RedisProblem",
    "RedisReport",
    "RedisStorage",
    "acl_rules",
    "check",
    "repair",
]
