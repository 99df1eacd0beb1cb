"""Secrets in text: how they stay out of what people, logs, servers and archives get to see."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|CONNECTION_STRING|KEY|AUTH(?!OR)|SIGNATURE|^SIG$",
    re.IGNORECASE,
)
# The names of parameters: a tokenizer, a number of keys and a key of a mapping are no secrets.
_PARAMETER = re.compile(
    r"(?:^|_)(?:token|secret|passw(?:or)?d|passphrase|pwd|credentials?|connection_string"
    r"|(?:api|access|account|auth|encryption|private|secret|signing|ssh)_?keys?)s?$"
)
# Of a limited length, as all that is looked for in text: a message may have a megabyte.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,63}")
_URL = re.compile(rf"{_SCHEME.pattern}://[^\s'\"`<>]*")
# A URL in which a slash was forgotten.
_ONE_SLASH = re.compile(rf"({_SCHEME.pattern}):/[^\s/:@'\"`<>]{{0,256}}:[^\s'\"`<>]{{1,1024}}@")
_IPV6 = re.compile(r"\[[^\]]*\]")
_FILES = ("sqlite", "sqlite+pysqlite", "journal", "file", "local", "memory", "unix")
_LEAST = 6  # characters; a shorter value is found in any text
_WORD = 12  # characters; shorter words, such as `postgres`, also occur where no password is meant

# What a program fills in is no secret: {password}, %s, $PASSWORD.
_LOGIN_IN_TEXT = re.compile(r":/{1,3}[^\s/?#'\"`<>@:]{0,256}:(?!%[s(])/?[^\s/'\"`<>@{}$*]{1,1024}@")
_OPTION_IN_TEXT = re.compile(r"[?&]([\w.-]{1,64})=(?!%[s(])[^\s&#'\"`<>{}$*]+")
_USER_IN_TEXT = re.compile(r"https?://[^\s/?#'\"`<>@:{}$*]{20,256}@")  # no name is that long

# Of files that hold credentials: their names, what services begin tokens with, netrc, `name: text`.
_CREDENTIALS = re.compile(
    r"(?:^|[._-])(?:credentials?|secrets?|passwords?|kubeconfig|netrc|pgpass|htpasswd"
    r"|service[_-]?account|id_(?:rsa|dsa|ecdsa|ed25519))(?:[._-]|$)"
    r"|\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ovpn)$",
    re.IGNORECASE,
)
_TOKEN_IN_TEXT = re.compile(
    r"\b(?:gh[opsu]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA|AIza|eyJhbGciOi)[\w.-]{16}"
    r"|-key-data: ?\w|\bauth[\"']?: ?[\"']|\blogin\s+\S+\s+password\s+\S"
)
_PAIR_IN_TEXT = re.compile(
    r"\b([A-Za-z][\w.-]{1,63})[\"']?[ \t]{0,9}[:=][ \t]{0,9}[\"']?"
    r"([^\s\"',;}${<\[(%][^\s\"',;}]{5,})"
)
_MOST = 100_000  # bytes of a file of credentials

_ENCODE = (
    "expected at most one @, the one after the user and the password, and found another. Write /, "
    "?, # and @ in a password as %2F, %3F, %23 and %40, as urllib.parse.quote(password, safe='') "
    "does"
)


def is_secret_name(name: str) -> bool:
    """Tell whether a field, option or environment variable of this name holds a secret."""
    return _NAME.search(name) is not None


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URL, if it can be nothing else and is therefore safe to quote."""
    scheme, colon, _ = text.partition(":")
    return scheme.lower() if colon and _SCHEME.fullmatch(scheme) else None


def check_login(url: str) -> None:
    """Refuse a URL of a server of which two parsers would find different passwords."""
    _, _, rest = url.partition("://")
    authority = _authority(rest)
    if rest.count("@") > 1 or ("@" in rest and "@" not in authority):
        raise ValueError(f"{_ENCODE}.")


def has_credentials(url: str) -> bool:
    """Tell whether a URL may contain a secret: a password, or an option, which may be one."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return False
    login, _, _ = _authority(rest).rpartition("@")
    return ":" in login or "?" in rest or "#" in rest or _is_ambiguous(scheme, rest)


def has_secret_urls(text: str) -> bool:
    """Tell whether a text, such as a program's source, contains a URL with a password or token."""
    return bool(
        _LOGIN_IN_TEXT.search(text)
        or _USER_IN_TEXT.search(text)
        or any(is_secret_name(match[1]) for match in _OPTION_IN_TEXT.finditer(text))
    )


def holds_credentials(name: str, content: bytes) -> bool:
    """Tell whether a file holds credentials, judging by its name and its content."""
    if _CREDENTIALS.search(name) or b"PRIVATE KEY-----" in content:  # however large
        return True
    text = content.decode("utf-8", "replace") if len(content) <= _MOST else ""
    return (
        has_secret_urls(text)
        or _TOKEN_IN_TEXT.search(text) is not None
        or any(
            _is_secret_parameter(match[1], match[2]) and not match[2].isnumeric()
            for match in _PAIR_IN_TEXT.finditer(text)
        )
    )


def place_text(value: str) -> str:
    """Mask the secrets in a location that a person has typed, so that everybody may read it."""
    scheme, separator, rest = value.partition("://")
    if separator:
        if scheme_of(value) is None or _is_ambiguous(scheme, rest):
            return f"{scheme}://***" if scheme_of(value) else "***"
        user, colon, _ = _authority(rest).rpartition("@")[0].partition(":")
        place = re.split("[?#]", rest.rpartition("@")[2] if colon else rest)[0]
        return f"{scheme}://{user}:***@{place}" if colon else f"{scheme}://{place}"
    scheme = scheme_of(value) or ""
    if "@" in value or "=" in value or len(scheme) > 1:  # C: is a drive
        return f"{scheme}:***" if scheme else "***"
    return value


def _authority(rest: str) -> str:
    return re.split("[/?#]", rest, maxsplit=1)[0]


def _is_ambiguous(scheme: str, rest: str) -> bool:
    """Tell whether a password may be mistaken for a part of the path after `://`."""
    authority = _authority(rest)
    if "@" not in rest:  # who has forgotten the host has a password where a port would be
        hosts = _IPV6.sub("", authority).split(",")
        ports = [host.partition(":")[2] for host in hosts if ":" in host]
        return scheme.lower() not in _FILES and not all(map(_is_port, ports))
    if "@" not in rest[len(authority) :]:
        return authority.count("@") > 1
    return ":" in authority or not (authority or scheme.lower() in _FILES)


def _is_port(text: str) -> bool:
    """Tell whether a text is a port, or what a program fills one into."""
    return (text.isdecimal() and len(text) <= 5) or text.startswith(("{", "$", "%"))


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Text in which no URL has a user, a password, a query or a fragment."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        for spelling in _spellings(secret):
            text = text.replace(spelling, "***")
    if "@" in text:
        text = _ONE_SLASH.sub(r"\1:/***@", text)
    return _URL.sub(_bare_url, text) if "://" in text else text


def _bare_url(match: re.Match[str]) -> str:
    # fsspec chains URLs, as in zip://a.csv::s3://key:secret@bucket/b.zip.
    first, chain, others = match[0].partition("::")
    if chain and "://" in first and "://" in others:
        return f"{without_secrets(first)}::{without_secrets(others)}"
    scheme, _, rest = match[0].partition("://")
    authority = rest.partition("/")[0]
    if "@" in authority:
        rest = rest[rest.rindex("@", 0, len(authority)) + 1 :]
        authority = rest.partition("/")[0]
    elif "@" in rest and _is_ambiguous(scheme, rest) and not authority.startswith("["):
        rest = rest.rpartition("@")[2]  # the password has a slash in it, or there is one too many
    return f"{scheme}://{re.split('[?#]', rest)[0]}"


def _spellings(secret: str) -> Iterable[str]:
    # An empty one would be found between any two characters.
    forms = {secret, unquote(secret)} if len(secret) > 2 else set[str]()
    for form in sorted(forms):
        yield from {
            form: None,
            quote(form): None,
            quote(form, safe=""): None,
            quote_plus(form): None,
            repr(form)[1:-1]: None,
            json.dumps(form)[1:-1]: None,
        }


def secrets_in(value: Any, *, secret: bool = False) -> set[str]:
    """The secrets in a URL or in options: passwords, and what is under a name of a secret."""
    if isinstance(value, Mapping):
        secrets = (
            secrets_in(inner, secret=secret or is_secret_name(str(name)))
            for name, inner in value.items()
        )
        return set[str]().union(*secrets)
    if isinstance(value, (list, tuple, set, frozenset)):
        return set[str]().union(*(secrets_in(inner, secret=secret) for inner in value))
    if hasattr(value, "get_secret_value"):
        return secrets_in(value.get_secret_value(), secret=True)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return set()
    found_here = {value} if secret and value else set[str]()
    whole = [value] if "://" in value else []
    for url in [*whole, *(match[0] for match in _URL.finditer(value))]:
        try:
            parts = urlsplit(url)
            password, query = parts.password, parse_qsl(parts.query)
        except ValueError:
            continue
        found_here |= {password} if password else set()
        found_here |= {text for name, text in query if is_secret_name(name) and text}
    return found_here


def secret_paths(value: Any, path: str) -> Iterator[str]:
    """Yield the paths of secrets in parameters or a context: by name, or in a URL."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            inside = f"{path}[{name!r}]"
            if isinstance(inner, (str, bytes)) and _is_secret_parameter(str(name), inner):
                yield inside
            else:
                yield from secret_paths(inner, inside)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, inner in enumerate(value):
            yield from secret_paths(inner, f"{path}[{number}]")
    elif isinstance(value, str) and has_secret_urls(value):
        yield path


def _is_secret_parameter(name: str, value: str | bytes) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).lower()
    return (
        len(value) >= _LEAST
        and _PARAMETER.search(words) is not None
        and not _is_special_token(value)
    )


def _is_special_token(value: str | bytes) -> bool:
    """Such as `<|endoftext|>` or `[MASK]`, which language models have."""
    return (value[:1], value[-1:]) in (("<", ">"), ("[", "]"))


def clean_cause(error: BaseException, secrets: Iterable[str] = ()) -> BaseException | None:
    """An error to raise another one from, or `None` if a traceback of it would show a secret."""
    secrets = list(secrets)
    texts = map(str, _chain(error))
    return error if all(without_secrets(text, secrets) == text for text in texts) else None


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and those that a traceback of it shows as well."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is not None and all(link is not other for other in seen):
            seen.append(link)
            pending += [link.__cause__, link.__context__]
    return seen


def error_words(error: BaseException) -> str:
    """The type and the message of an error of whatever code, as everybody may read them."""
    return public_text(f"{type(error).__name__}: {error}")


def public_text(text: str) -> str:
    """Remove secrets of URLs and values of secret variables from the output of other code."""
    return SecretVariables.here().without(text)


def is_public(error: BaseException) -> bool:
    """Tell whether everybody may read the traceback of an error."""
    variables = SecretVariables.here()
    return all(variables.without(str(link)) == str(link) for link in _chain(error))


class SecretVariables:
    """The environment variables whose names say that they are secret, and where their values are.

    So are those that hold a URL with a password. What is a file's path, or shorter than 6
    characters, is no secret. A word of up to 11 letters is found where it is all of a text.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in environment.items():
            secrets = secrets_in(value)
            if is_secret_name(name) and not _is_path(value):
                secrets.add(value)
            self._values |= {secret: name for secret in secrets if len(secret) >= _LEAST}
        # Longer ones first, so that of two the one is named that is meant.
        by_length = sorted(self._values.items(), key=lambda item: len(item[0]), reverse=True)
        parts = {value: name for value, name in by_length if not _is_word(value)}
        self._parts = tuple(parts)
        self._bytes = {
            secret.encode(encoding, "surrogateescape" if encoding == "utf-8" else "replace"): name
            for secret, name in parts.items()
            for encoding in ("utf-8", "utf-16-le", "utf-32-le")
        }
        self._forms = {
            form: name
            for secret, name in parts.items()
            for form in (secret, json.dumps(secret)[1:-1])
        }
        self._forms |= {
            form: name for content, name in self._bytes.items() for form in _in_base64(content)
        }
        self._shortest = min(map(len, self._forms), default=0)

    @classmethod
    def here(cls) -> SecretVariables:
        """Return the variables of this process, as they are now."""
        global _here
        now = dict(os.environ)
        if _here is None or _here[0] != now:
            _here = now, cls(now)
        return _here[1]

    def without(self, text: str) -> str:
        """A text for people without the values of these variables, and the secrets of URLs."""
        plain = without_secrets("***" if text in self._values else text, self._parts)
        name = self.name_in(plain)  # such as in base64
        return plain if name is None else f"a text with the value of {name}, which is left out"

    def name_in(self, value: Any) -> str | None:
        """The name of a variable whose value is in this text, these bytes or this JSON."""
        if not self._values:
            return None
        if isinstance(value, bytes):
            return next((name for form, name in self._bytes.items() if form in value), None)
        if isinstance(value, str):
            if (name := self._values.get(value)) is not None or len(value) < self._shortest:
                return name
            for form, name in self._forms.items():
                if form in value:
                    return name
            return None
        if isinstance(value, Mapping):
            parts = (part for item in value.items() for part in item)
            return next(filter(None, map(self.name_in, parts)), None)
        if isinstance(value, (list, tuple)):
            return next(filter(None, map(self.name_in, value)), None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._values.get(str(value))
        return None


_here: tuple[dict[str, str], SecretVariables] | None = None


def _is_word(value: str) -> bool:
    return value.isalpha() and len(value) < _WORD


def _is_path(value: str) -> bool:
    try:
        return Path(value).is_absolute() and Path(value).exists()
    except (ValueError, OSError):
        return False


def _in_base64(content: bytes) -> Iterable[str]:
    """Yield the parts of an encoding in base64 that are the same at every offset."""
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + content).decode("ascii")
        start, end = (8 * shift + 5) // 6, 8 * (shift + len(content)) // 6
        if end - start >= _LEAST:
            yield encoded[start:end]
