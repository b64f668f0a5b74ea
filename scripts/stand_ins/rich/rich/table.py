"""Tables as lines of words."""


class Table:
    """Rows, each a line."""

    def __init__(self, *headers: str, **_: object) -> None:
        self._headers, self._rows = list(headers), []  # type: ignore[var-annotated]

    def add_column(self, header: object = "", **_: object) -> None:
        """Add a heading."""
        self._headers.append(str(header))

    def add_row(self, *cells: object, **_: object) -> None:
        """Add a line."""
        self._rows.append("  ".join(map(str, cells)))

    def __str__(self) -> str:
        return "\n".join(["  ".join(self._headers), *self._rows])


class Column:
    """How wide one would be."""

    def __init__(self, *_: object, **__: object) -> None:
        pass
