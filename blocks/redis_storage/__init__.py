"""An Optuna storage on Redis."""

from prefect_optuna.blocks.redis_storage.description import RedisDescription
from prefect_optuna.blocks.redis_storage.findings import RedisProblem
from prefect_optuna.blocks.redis_storage.maintenance import RedisReport, check, repair
from prefect_optuna.blocks.redis_storage.scripts import acl_rules
from prefect_optuna.blocks.redis_storage.storage import RedisStorage

__all__ = [
    "RedisDescription",
    "RedisProblem",
    "RedisReport",
    "RedisStorage",
    "acl_rules",
    "check",
    "repair",
]
