"""The URLs of servers; redis-py is not needed to read them."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urlsplit

from prefect_optuna.blocks._secrets import check_login, scheme_of
from prefect_optuna.errors import InvalidLocationError

_SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)


def location_of(target: Any) -> str:
    """Return the address of a URL or a client, for people, without any password.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.urls import location_of
        >>> location_of("rediss://lab:secret@redis.example.org:6380/2?ssl_ca_certs=ca.pem")
        'rediss://redis.example.org:6380/2'
    """
    if isinstance(target, str):
        url = split_url(target)
        host = url.netloc.rpartition("@")[2]
        return f"{url.scheme}://{host}{url.path}"
    if hasattr(target, "get_default_node"):
        node: Any = target.get_default_node()
        return f"redis+cluster://{node.host}:{node.port}"
    pool = getattr(target, "connection_pool", None)
    if pool is None:
        raise InvalidLocationError(
            "expected a URL such as redis://localhost:6379/0, or a redis.Redis or RedisCluster "
            f"client, and found {type(target).__qualname__}."
        )
    settings = pool.connection_kwargs
    if (service := getattr(pool, "service_name", None)) is not None:
        return f"redis+sentinel://{service}"
    if "path" in settings:
        return f"unix://{settings['path']}"
    scheme = "rediss" if pool.connection_class.__name__.startswith("SSL") else "redis"
    host, port = settings.get("host", "localhost"), settings.get("port", 6379)
    return f"{scheme}://{host}:{port}/{settings.get('db', 0) or 0}"


def split_url(url: str) -> SplitResult:
    """Take a URL apart.

    Example:
        >>> from prefect_optuna.blocks.redis_storage.urls import split_url
        >>> split_url("redis+sentinel://a:26379,b/service/0").path
        '/service/0'
    """
    scheme = scheme_of(url)
    if scheme not in _SCHEMES or "://" not in url:
        raise InvalidLocationError(
            "expected a URL that starts with " + "://, ".join(_SCHEMES) + "://, such as "
            f"redis://localhost:6379/0, and found {f'one of {scheme!r}' if scheme else 'none'}."
        )
    try:
        check_login(url)
    except ValueError as error:
        raise InvalidLocationError(str(error)) from None
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        for host in hosts.split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise InvalidLocationError(
            f"expected {scheme}://host:port, such as {scheme}://localhost:6379, and found a host "
            "or a port that is none."
        ) from None
    return parts
