"""Studies behind an Optuna gRPC proxy."""

from __future__ import annotations

import re

from optuna.storages import BaseStorage, GrpcStorageProxy
from pydantic import Field, field_validator

from prefect_optuna.blocks._metadata import LOGO_URL, page
from prefect_optuna.blocks.attribute_json import CheckedAttributes
from prefect_optuna.blocks.study_storage import StudyStorage
from prefect_optuna.errors import StorageUnavailableError


class _Proxy(CheckedAttributes, GrpcStorageProxy):
    """Optuna's, without attributes that would make a study unreadable."""


class GrpcStudyStorage(StudyStorage):
    """Keeps studies behind a proxy started with `optuna.storages.run_grpc_proxy_server`.

    For thousands of workers: the proxy holds the connections to the database, and they do not.
    The connection is neither encrypted nor authenticated, so keep the port private.
    Needs `pip install "prefect-optuna[grpc]"`. Optuna calls its proxy experimental, and warns so.

    Example:
        Load a saved block and use it:
        ```python
        from prefect_optuna.blocks import GrpcStudyStorage

        storage = GrpcStudyStorage.load("BLOCK_NAME")
        study = storage.create_study("tuning")
        ```
    """

    _block_type_name = "gRPC Study Storage"
    _block_type_slug = "grpc-study-storage"
    _documentation_url = page("howto/storages")
    _logo_url = LOGO_URL

    host: str = Field(
        default="localhost", min_length=1, description="The name or address of the proxy's host."
    )
    port: int = Field(default=13000, ge=1, le=65535, description="The proxy's port.")
    timeout: float = Field(
        default=10.0, gt=0, description="Seconds to wait for the proxy to answer when opening."
    )

    @field_validator("host")
    @classmethod
    def _only_a_host(cls, host: str) -> str:
        # What is before an @ may be a password, and is not quoted.
        if re.search(r"[@/?#\s\[\]]", host.removeprefix("[").removesuffix("]")):
            raise ValueError(
                "expected the name or the address of a host and nothing else, such as "
                "proxy.example.org, and found more. The port has a field of its own; there are "
                "no users and passwords."
            )
        if host.count(":") == 1:
            raise ValueError("expected a host without its port, which has a field of its own.")
        return host

    @property
    def location(self) -> str:
        """The storage's URL for people to read."""
        return f"grpc://{self._bracketed_host}:{self.port}"

    @property
    def _bracketed_host(self) -> str:
        is_ipv6 = ":" in self.host and not self.host.startswith("[")
        return f"[{self.host}]" if is_ipv6 else self.host

    def _open(self) -> BaseStorage:
        try:
            proxy = _Proxy(host=self._bracketed_host, port=self.port)
        except ImportError as error:
            raise StorageUnavailableError(
                f"The storage {self.location} needs the packages grpcio and protobuf. "
                'Install them with: pip install "prefect-optuna[grpc]"'
            ) from error
        try:
            proxy.wait_server_ready(timeout=self.timeout)
        except ConnectionError as error:
            proxy.close()
            raise StorageUnavailableError(
                f"No gRPC proxy answered at {self.location} within {self.timeout:g} s. Start one "
                "there with optuna.storages.run_grpc_proxy_server, or correct host and port."
            ) from error
        return proxy
