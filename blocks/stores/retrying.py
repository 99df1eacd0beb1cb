"""A store on a network, which is asked again when it fails for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from prefect_optuna.blocks.stores.failures import is_transient, wrong_options
from prefect_optuna.blocks.stores.protocol import ArtifactInfo, ArtifactStore
from prefect_optuna.errors import PrefectOptunaError

T = TypeVar("T")

_ATTEMPTS = 6
_SECONDS = 30.0  # after this long, the one attempt under way is the last
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.1, 5.0, 0.5  # seconds


class RetryingStore:
    """Calls a store, and again after a transient failure; all else is raised at once.

    Waits of 0.1 s, doubled each time, with up to 0.5 s of jitter, so that a hundred workers do
    not come back in the same instant. Each repetition is logged, by the logger `stamina`, and
    begins with a new connection where the kind of store keeps one.
    """

    def __init__(self, url: str, connect: Callable[[], ArtifactStore]) -> None:
        self._url = url
        self._connect = connect
        self._connected: ArtifactStore | None = None
        self._worked = False

    @property
    def _store(self) -> ArtifactStore:
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _again(self, call: Callable[[], T]) -> T:
        import stamina

        def fails_for_a_moment(error: Exception) -> bool:
            transient = is_transient(error)
            if transient:
                self._connected = None
            return transient

        for attempt in stamina.retry_context(
            on=fails_for_a_moment,
            attempts=_ATTEMPTS,
            timeout=_SECONDS,
            wait_initial=_FIRST_WAIT,
            wait_max=_LONGEST_WAIT,
            wait_jitter=_JITTER,
        ):
            with attempt:
                try:
                    result = call()
                except (TypeError, AttributeError) as error:
                    if self._worked or isinstance(error, PrefectOptunaError):
                        raise
                    # Some clients look at their options when they are first used.
                    raise wrong_options(self._url) from None
                self._worked = True
                return result
        raise AssertionError("unreachable")

    def open(self, path: str) -> BinaryIO:
        return self._again(lambda: self._store.open(path))

    def read(self, path: str) -> bytes:
        return self._again(lambda: self._store.read(path))

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        paths = list(paths)
        return self._again(lambda: self._store.read_many(paths))

    def write(self, path: str, content: bytes) -> None:
        self._again(lambda: self._store.write(path, content))

    def create(self, path: str, content: bytes, token: str) -> bool:
        return self._again(lambda: self._store.create(path, content, token))

    def scratch(self, path: str) -> str | None:
        return None

    def put(self, file: str, path: str, token: str | None) -> bool:
        return self._again(lambda: self._store.put(file, path, token))

    def copy(self, source: str, target: str) -> None:
        self._again(lambda: self._store.copy(source, target))

    def info(self, path: str) -> ArtifactInfo:
        return self._again(lambda: self._store.info(path))

    def is_file(self, path: str) -> bool:
        return self._again(lambda: self._store.is_file(path))

    def ls(self, path: str) -> list[str]:
        return self._again(lambda: self._store.ls(path))

    def walk(self, path: str) -> Iterator[str]:
        return iter(self._again(lambda: list(self._store.walk(path))))

    def unfinished(self) -> Iterator[ArtifactInfo]:
        return iter(self._again(lambda: list(self._store.unfinished())))

    def rm(self, path: str, recursive: bool) -> None:
        asked = False

        def remove() -> None:
            nonlocal asked
            first, asked = not asked, True
            try:
                self._store.rm(path, recursive)
            except FileNotFoundError:
                if first:
                    raise  # else it went away with the reply that was lost

        self._again(remove)

    def root_is_there(self) -> bool:
        return self._again(self._store.root_is_there)

    def location(self, path: str) -> str:
        return f"{self._url}/{path}" if path else self._url
