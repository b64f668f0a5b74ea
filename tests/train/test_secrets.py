"""What counts as a secret, and what only looks like one."""

import os
import re

import pytest

from train.config.compose import known_keys
from train.config.schema import Config
from train.errors import ConfigError
from train.secrets import SECRET_NAME, known_secrets, mask, refuse_secret_words, refuse_secrets

CANARY = "hf_TokenOfTheTests0123"
KEYS = set(known_keys(Config))


@pytest.fixture(autouse=True)
def _only_ours(monkeypatch, tmp_path):
    for name in [name for name in os.environ if SECRET_NAME.search(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HF_TOKEN", CANARY)


@pytest.mark.parametrize("value", [CANARY, f"x{CANARY}y", f"s3://bucket/{CANARY}/x"])
def test_text_with_a_secret_is_refused_and_not_repeated(value):
    with pytest.raises(ConfigError) as refused:
        refuse_secrets([("seed", 1), ("study.question", value)])
    assert str(refused.value).startswith(
        "study.question: holds the secret of the environment's HF_TOKEN"
    )
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["MY_SECRET", "DB_PASSWORD", "DB_PASSWD", "OPENAI_API_KEY", "APIKEY", "X_CREDENTIALS"]
)
def test_names_of_secrets(name, monkeypatch):
    monkeypatch.setenv(name, "value-of-that")
    assert known_secrets()["value-of-that"] == f"the environment's {name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "definitely"),
        ("MAX_TOKENS", "163840000"),
        ("SECRETS_DIR", "/data/secrets"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("PASSWORD", "short"),
        ("HOME_OF_X", "/home/somebody"),
    ],
)
def test_names_and_values_that_only_look_like_it(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert set(known_secrets()) == {CANARY}
    refuse_secrets([("x", value)])


def test_netrc_passwords_count_and_an_unreadable_netrc_does_not(tmp_path):
    assert set(known_secrets()) == {CANARY}
    (tmp_path / "netrc").write_text("machine x login y password z-of-netrc\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"holds the secret of {tmp_path / 'netrc'}")):
        refuse_secrets([("x", "z-of-netrc")])


@pytest.mark.parametrize(
    "url", ["https://me:pass@example.org/x", "git+ssh://:pass@h", f"https://{'t' * 24}@example.org"]
)
def test_a_url_with_credentials_is_refused(url):
    with pytest.raises(ConfigError, match=r"^paths.data: holds a URL with credentials"):
        refuse_secrets([("paths.data", url)])
    assert "pass" not in mask(f"see {url} there")
    assert "t" * 24 not in mask(url)


@pytest.mark.parametrize(
    "url", ["https://example.org:443/a@b", "s3://bucket/a:b@c", "git@example.org:x", "a:b@c"]
)
def test_a_url_without_them_is_not(url):
    refuse_secrets([("paths.data", url)])
    assert mask(url) == url


def test_the_long_lines_of_a_key_file_count_one_by_one(monkeypatch):
    line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    monkeypatch.setenv("CLOUD_CREDENTIALS", f"-----BEGIN-----\n{line}\nshort\n")
    with pytest.raises(ConfigError, match=r"^x: holds the secret of the environment's CLOUD_CRED"):
        refuse_secrets([("x", f"see {line}")])
    refuse_secrets([("x", "short")])


def test_a_message_is_masked_and_keeps_the_rest():
    assert mask(f"a {CANARY} b https://me:{CANARY}@h c") == "a *** b https://***@h c"
    assert mask("nothing secret") == "nothing secret"


@pytest.mark.parametrize(
    "word",
    ["+hub_token=abc", "hub_token=abc", "++tracker.api_key=abc", "+hydra.job.env_set.HF_TOKEN=abc"],
)
def test_an_unknown_key_named_like_a_secret_is_refused_without_its_value(word):
    with pytest.raises(ConfigError, match=r": unknown.*not repeated here") as refused:
        refuse_secret_words([word], KEYS)
    assert "abc" not in str(refused.value)


def test_keys_of_ours_with_token_in_their_names_are_none():
    words = ["budget.tokens=163840000", "data.tokenizer=bytes", "budget.tokens_per_param=20"]
    refuse_secret_words([*words, "-m", "study=quickstart", "--config-dir", "x"], KEYS)
    refuse_secret_words(["+hydra.job.env_set.TOKENIZERS_PARALLELISM=true"], KEYS)


def test_a_typo_of_tokens_names_tokens():
    with pytest.raises(ConfigError, match=r"^budget.token: unknown; did you mean budget.tokens"):
        refuse_secret_words(["budget.token=1e6"], KEYS)
