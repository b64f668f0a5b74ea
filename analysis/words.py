"""Plain `key=value` words of a command become one checked dataclass, and its `--help`.

The dataclass is the whole surface: what is not a field is an unknown key and is refused with the
nearest name. OmegaConf turns words into types; no Hydra is needed. How a command ends is here too.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from analysis.errors import AnalysisError, OptionError, near_names

T = TypeVar("T")

HELP = ("--help", "-h", "help")

EXIT_DONE, EXIT_STORAGE, EXIT_INTERRUPTED = 0, 3, 130


def run_command(words: Sequence[str], usage: str, run: Callable[[], int]) -> int:
    """Run a command, or say how it is used, and return its exit code.

    Args:
        words: As typed.
        usage: What --help prints.
        run: The command. A user's mistake or full storage ends in a line, all else in a traceback.
    """
    stderr = Console(stderr=True)
    try:
        if wants_help(words):
            say(Console(), usage)
            return EXIT_DONE
        return run()
    except AnalysisError as error:
        say(stderr, f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(stderr, f"error: storage: {error}")
        return EXIT_STORAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def say(console: Console, text: str) -> None:
    """Print one line as it is, whatever the width."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def wants_help(words: Sequence[str]) -> bool:
    """Return whether the user asked what there is."""
    return any(word in HELP for word in words)


def read_words(schema: type[T], words: Sequence[str], example: str) -> T:
    """Turn words into an instance of `schema`, typed but not yet checked against each other.

    Args:
        schema: A dataclass whose fields, and whose nested dataclasses' fields, are the keys.
        words: `key=value`, values as typed; `null` is None.
        example: A right word, for the message about a wrong one.

    Raises:
        OptionError: A word is not `key=value`, or a key or value is not known.
    """
    config = OmegaConf.structured(schema)
    known = known_keys(schema)
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise OptionError(f"'{word}' is not key=value, for example {example}")
        if key not in known:
            raise OptionError(f"unknown key '{key}'{near_names(key, known)}")
        try:
            # A filter or a path is text whatever it looks like; the rest is typed by its field.
            OmegaConf.update(config, key, value if value != "null" else None)
        except OmegaConfBaseException as error:
            raise OptionError(_value_message(known[key], key, value, str(error))) from None
    read: T = OmegaConf.to_object(config)  # type: ignore[assignment]
    return read


def known_keys(schema: type, prefix: str = "") -> dict[str, Any]:
    """Return every key, dotted where dataclasses nest, with its type."""
    keys: dict[str, Any] = {}
    for item in dataclasses.fields(schema):
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            keys |= known_keys(item.type, f"{prefix}{item.name}.")
        else:
            keys[prefix + item.name] = item.type
    return keys


def describe(schema: type, prefix: str = "") -> str:
    """Return one line a key: its default, and the text that stands under the field."""
    documented = _field_docs(schema)
    lines = []
    for item in dataclasses.fields(schema):
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            lines.append(describe(item.type, f"{prefix}{item.name}."))
            continue
        shown = _default(item.default)
        lines.append(f"  {prefix}{item.name}{shown}\n      {documented.get(item.name, '')}")
    return "\n".join(lines)


def _default(value: Any) -> str:  # noqa: ANN401
    """Return `=default`, with the choices where there are some; nothing for a key without one."""
    if isinstance(value, Enum):
        return f"={value.name}  ({'|'.join(item.name for item in type(value))})"
    if value is None or value is dataclasses.MISSING:
        return ""
    return f"={str(value).lower() if isinstance(value, bool) else value}"


def _field_docs(schema: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def _value_message(kind: Any, key: str, value: str, detail: str) -> str:  # noqa: ANN401
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{key}={value} is not a choice{near_names(value, [item.name for item in kind])}"
    return f"{key}={value} cannot be read: {detail.splitlines()[0]}"
