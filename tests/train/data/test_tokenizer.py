from pathlib import Path

import numpy as np
import pytest

from train.config.experiment import TokenizerKind
from train.data import tokenizer
from train.errors import ConfigError, DataError

TEXTS = [f"the cat number {n} sat on the mat; the cat \u00e9t\u00e9 \U0001f600" for n in range(50)]


def test_bytes_are_utf8_with_a_zero_at_the_end() -> None:
    ids, empty = tokenizer.BytesTokenizer().encode(["a\u00e9\0b", ""])
    assert ids.tolist() == [97, 0xC3, 0xA9, 98, 0]
    assert empty.tolist() == [0]
    assert ids.dtype.name == "int64"


def test_bytes_decode_even_what_a_window_tore() -> None:
    wide = np.array([104, 105], dtype=np.uint16)  # as shards store them
    assert tokenizer.BytesTokenizer().decode(wide) == "hi"
    assert tokenizer.BytesTokenizer().decode([97, 0, 98, 0xC3]) == "a\nb\ufffd"


def test_lone_surrogates_become_replacement_characters() -> None:
    assert tokenizer.text_bytes("a\ud800b").decode() == "a\ufffdb"
    assert tokenizer.text_bytes("\ud83d\ude00").decode() == "\U0001f600"


def test_bpe_reads_back_every_text_and_ends_documents() -> None:
    bpe = tokenizer.train_bpe(TEXTS, 300)
    unseen = "\u65e5\u672c\t  new\n\nwords \U0001f680"
    ids, empty = bpe.encode([unseen, ""])
    assert bpe.decode(ids[:-1]) == unseen
    assert ids[-1] == tokenizer.SEPARATOR_ID == 0
    assert empty.tolist() == [0]
    assert bpe.vocab_size <= 300
    assert max(ids) < 300
    assert len(bpe.encode([TEXTS[0]])[0]) < len(TEXTS[0].encode()) / 2


def test_text_that_looks_like_the_separator_does_not_separate() -> None:
    bpe = tokenizer.train_bpe(TEXTS, 300)
    assert bpe.encode(["a<|document|>b"])[0].tolist().count(0) == 1


def test_bpe_training_is_repeatable_and_its_hash_is_that_of_its_file(tmp_path: Path) -> None:
    one, two = tokenizer.train_bpe(TEXTS, 280), tokenizer.train_bpe(TEXTS, 280)
    assert one.sha256 == two.sha256
    assert one.sha256 != tokenizer.train_bpe(TEXTS, 290).sha256
    one.save(tmp_path / "tokenizer.json")
    again = tokenizer.load_bpe(tmp_path / "tokenizer.json")
    assert again.sha256 == one.sha256
    assert again.encode(TEXTS[:1])[0].tolist() == one.encode(TEXTS[:1])[0].tolist()


def test_an_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json: no readable tokenizer"):
        tokenizer.load_bpe(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json: no readable tokenizer"):
        tokenizer.load_bpe(tmp_path / "bad.json")


def test_vocabularies_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size=200 .* use data\.vocab_size=256"):
        tokenizer.check_vocab_size(TokenizerKind.bytes, 200)
    with pytest.raises(ConfigError, match=r"vocab_size=256 .* use data\.vocab_size=257 or more"):
        tokenizer.check_vocab_size(TokenizerKind.bpe, 256)
    tokenizer.check_vocab_size(TokenizerKind.bytes, 256)
    tokenizer.check_vocab_size(TokenizerKind.bpe, 257)
