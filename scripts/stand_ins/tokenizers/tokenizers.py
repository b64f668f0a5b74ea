"""Stands in for tokenizers on a machine without it: text as bytes and synthetic text need none."""


class _Missing:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError("byte-pair encoding needs the package tokenizers")


class Tokenizer(_Missing):
    """Of byte pairs; not here."""


decoders = models = pre_tokenizers = trainers = _Missing()
