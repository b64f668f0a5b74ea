"""Text without style."""


class Text(str):
    """A string; its style is dropped."""

    __slots__ = ()

    def __new__(cls, text: str = "", *_: object, **__: object) -> "Text":
        """Keep the words."""
        return super().__new__(cls, text)
