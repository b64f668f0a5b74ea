"""Keys and passwords: found in the environment and the netrc, kept out of everything written.

Run folders and the manifest keep the config, and W&B the command line, so a config or a command
line with a secret in it is refused before anything is written. A secret is the value of an
environment variable with such a name, a password of the netrc, or a URL with credentials.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from train.errors import ConfigError, did_you_mean

SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|api_?key|credential)")
"""Names of environment variables and of keys whose values are secrets."""

HARMLESS_NAME = re.compile(r"(?i)(_file|_path|_dir|_url|_limit|_parallelism)$")
"""Endings of names that only look so: where a secret is, or how much of something there may be."""

SHORTEST_SECRET = 8
"""Characters. A shorter value is no secret: `false`, say, stands in many configs."""

SHORTEST_LINE = 20
"""Characters. Each line of this length, in a secret of several such as a key file's text, is a
secret by itself."""

CREDENTIALS_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/\s:@]*:[^/\s@]+|[^/\s:@]{20,})@")
"""scheme://user:password@host, or a token in the user's place."""

NETRC_PASSWORD = re.compile(r"\bpassword\s+(\S+)")

MASK = "***"


def refuse_secrets(values: Iterable[tuple[str, Any]]) -> None:
    """Refuse values that hold a secret.

    Args:
        values: Names and values of settings or words; only text can hold a secret.

    Raises:
        ConfigError: Names the setting and where the secret is known from, never the secret.
    """
    secrets = known_secrets()
    for name, value in values:
        if not isinstance(value, str):
            continue
        for secret, source in secrets.items():
            if secret in value:
                raise ConfigError(
                    f"{name}: holds the secret of {source}; run folders record the config, so "
                    f"leave it in the environment, where it is found"
                )
        if CREDENTIALS_URL.search(value):
            raise ConfigError(
                f"{name}: holds a URL with credentials (scheme://user:password@host); use one "
                f"without them"
            )


def refuse_secret_words(words: Iterable[str], known: set[str]) -> None:
    """Refuse a word that holds a secret, or that sets an unknown key with the name of one.

    Args:
        words: The command line.
        known: Every config key, such as `budget.tokens`, which is no secret.

    Raises:
        ConfigError: Names the key, and never repeats its value.
    """
    words = list(words)
    refuse_secrets((_key(word), word) for word in words)
    for word in words:
        key = _key(word)
        if "=" in word and _is_secret_name(key) and key not in known:
            raise ConfigError(
                f"{key}: unknown{did_you_mean(key, known)} (its value is not repeated here; keys "
                f"and passwords are given in the environment only, such as WANDB_API_KEY)"
            )


def known_secrets() -> dict[str, str]:
    """Return every secret of the environment and the netrc with its source, longest first."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if _is_secret_name(name):
            found.update((part, f"the environment's {name}") for part in _parts(value))
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        text = netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for password in NETRC_PASSWORD.findall(text):
        found.update((part, str(netrc)) for part in _parts(password))
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def mask(text: str) -> str:
    """Replace every secret in `text`, such as a message that quotes a refused value."""
    for secret in known_secrets():
        text = text.replace(secret, MASK)
    return CREDENTIALS_URL.sub(lambda found: f"{found[0].partition('://')[0]}://{MASK}@", text)


def _is_secret_name(name: str) -> bool:
    return bool(SECRET_NAME.search(name)) and not HARMLESS_NAME.search(name)


def _parts(value: str) -> Iterator[str]:
    """A secret as a whole, and its long lines where it has several; a plain number is none."""
    whole = value.strip()
    lines = whole.splitlines()
    if len(whole) >= SHORTEST_SECRET and not whole.isdecimal():
        yield whole
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= SHORTEST_LINE)


def _key(word: str) -> str:
    """The key of an override without Hydra's + and ~, or `command line` where there is none."""
    key, equals, _ = word.lstrip("+~").partition("=")
    return key.partition("@")[0] if equals else "command line"
