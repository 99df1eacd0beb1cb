"""What is taken for a secret in text, and what is not."""

from __future__ import annotations

import pytest

from prefect_optuna.blocks import _secrets
from prefect_optuna.blocks._secrets import SecretVariables, holds_credentials, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a.json?signature=x", "s3://bucket/a.json"),
        ("C:/data/a.json", "C:/data/a.json"),
        ("redis:/me:secret@host", "redis:/***@host"),
        ("zip://a.csv::s3://key:secret@bucket/b.zip", "zip://a.csv::s3://bucket/b.zip"),
    ],
)
def test_a_url_in_text_has_no_password(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    error = OSError(text)
    assert _secrets.error_words(error) == f"OSError: {shown}"
    assert _secrets.is_public(error) == (text == shown)
    assert (_secrets.clean_cause(error) is error) == (text == shown)


def test_a_secret_that_is_known_is_found_as_it_is_written_in_urls() -> None:
    assert without_secrets("no role 'hunter%2'", ["hunter%2"]) == "no role '***'"
    found = _secrets.secrets_in("redis://me:hunter2@host?ssl_password=hunter3&timeout=3")
    assert found == {"hunter2", "hunter3"}
    assert _secrets.secrets_in({"arguments": {"password": "hunter2", "port": 1}}) == {"hunter2"}


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("postgresql://me:hunter2@host/db?sslpassword=x", "postgresql://me:***@host/db"),
        ("postgresql:/me:hunter2@host", "postgresql:***"),
        ("redis-study-storage/lab", "redis-study-storage/lab"),
        ("redis:/:hunter2", "redis:***"),
        ("C:/data", "C:/data"),
        ("redis://:hunter2", "redis://***"),
        ("redis://me:/hunter2", "redis://***"),
        ("postgresql://me:hunter2/db?sslmode=require", "postgresql://***"),
        ("redis+sentinel://a:26379,me:hunter2/name", "redis+sentinel://***"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis+sentinel://a:26379,b:26379/name", "redis+sentinel://a:26379,b:26379/name"),
        ("grpc://{{ host }}:{{ port }}", "grpc://{{ host }}:{{ port }}"),
        ("memory://a:b", "memory://a:b"),
    ],
)
def test_a_place_is_shown_without_what_may_be_a_password(typed: str, shown: str) -> None:
    assert _secrets.place_text(typed) == shown
    assert _secrets.has_credentials(typed) == (shown != typed and "://" in typed)


def test_a_login_of_which_two_parsers_find_different_passwords_is_refused() -> None:
    _secrets.check_login("redis://me:%2Fhunter2@host")
    with pytest.raises(ValueError, match="at most one @, the one after the user"):
        _secrets.check_login("redis://me:/hunter2@host")


def test_a_template_of_a_url_is_no_secret() -> None:
    assert _secrets.has_secret_urls('url = "https://oauth2:hunter2@host/x"')
    assert not _secrets.has_secret_urls('url = f"https://oauth2:{token}@host/x?size=3"')
    scope = {"api_key": "x7Kw92", "pad_token": "<|pad|>", "max_tokens": 512}
    assert list(_secrets.secret_paths(scope, "scope")) == ["scope['api_key']"]


def test_the_value_of_a_secret_variable_is_found_by_its_name() -> None:
    secrets = SecretVariables({"API_TOKEN": "hunter2", "HOME": "/root"})
    assert secrets.name_in("Bearer hunter2") == "API_TOKEN"
    assert secrets.name_in("hunter") is None
    assert secrets.without("401 for 'hunter2' at http://a@b") == "401 for '***' at http://b"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("service-account.json", "{}"),
        ("client_secret_12.json", "{}"),
        ("lab.pem", ""),
        ("id_ed25519", ""),
        ("x", "-----BEGIN RSA PRIVATE KEY-----"),
        ("lab.ini", "[db]\nuser = me\npassword = hunter2\n"),
        ("lab.json", '{"user": "me", "client_secret": "GOCSPX-abcdef"}'),
        ("lab.toml", 'apiToken = "hunter2-4f1d"'),
        ("hosts.yml", "github.com:\n    oauth_token: hunter2\n"),
        ("settings", "AccountName=x;AccountKey=hunter2=="),
        ("login", "machine lab.example login me password hunter2"),
        ("docker.json", '{"auths": {"lab.example": {"auth": "bWU6aHVudGVyMg=="}}}'),
        ("kube", "- user:\n    client-key-data: LS0tLS1C\n"),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0"),
        ("a.csv", "https://oauth2:hunter2@lab.example/a.csv"),
    ],
)
def test_a_file_of_credentials_is_known(name: str, content: str) -> None:
    assert holds_credentials(name, content.encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("keys.csv", "t,hare\n1,2\n"),
        ("secretary.csv", "1845,19.58"),
        ("id_map.csv", "1,2"),
        ("tokenizer.json", '{"eos_token": "</s>", "unk_token": "[UNK]", "max_tokens": 512000}'),
        ("book.txt", "The secret garden: a story. Password protected, author: somebody"),
        ("sweep.yaml", "key: temperature\nnames: [token, password]\npassword: ${PASSWORD}\n"),
        ("links.csv", "https://lab.example/x?size=3,abc"),
    ],
)
def test_data_is_taken_for_data(name: str, content: str) -> None:
    assert not holds_credentials(name, content.encode())
