import hashlib

import pytest
from tokenizers import Tokenizer

from train.config.experiment import TokenizerKind
from train.data import tokenizer
from train.errors import ConfigError

TEXTS = [f"the cat number {n} sat on the mat; the cat \u00e9t\u00e9 \U0001f600" for n in range(50)]


def test_bytes_are_utf8_with_a_zero_at_the_end():
    ids, empty = tokenizer.BytesTokenizer().encode(["a\u00e9\0b", ""])
    assert ids.tolist() == [97, 0xC3, 0xA9, 98, 0]
    assert empty.tolist() == [0]
    assert ids.dtype.name == "int64"


def test_lone_surrogates_become_replacement_characters():
    assert tokenizer.text_bytes("a\ud800b").decode() == "a\ufffdb"
    assert tokenizer.text_bytes("\ud83d\ude00").decode() == "\U0001f600"


def test_bpe_encodes_every_text_without_loss_and_ends_documents(tmp_path):
    bpe = tokenizer.train_bpe(TEXTS, 300)
    bpe.save(tmp_path / "tokenizer.json")
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    unseen = "\u65e5\u672c\t  new\n\nwords \U0001f680"
    ids, empty = bpe.encode([unseen, ""])
    assert saved.decode(ids.tolist()) == unseen
    assert ids[-1] == 0
    assert empty.tolist() == [0]
    assert saved.get_vocab_size() <= 300
    assert max(ids) < 300
    assert len(bpe.encode([TEXTS[0]])[0]) < len(TEXTS[0].encode()) / 2


def test_text_that_looks_like_the_separator_does_not_separate():
    bpe = tokenizer.train_bpe(TEXTS, 300)
    assert bpe.encode(["a<|document|>b"])[0].tolist().count(0) == 1


def test_bpe_training_is_repeatable_and_its_hash_is_that_of_its_file(tmp_path):
    one, two = tokenizer.train_bpe(TEXTS, 280), tokenizer.train_bpe(TEXTS, 280)
    assert one.sha256 == two.sha256
    assert one.sha256 != tokenizer.train_bpe(TEXTS, 290).sha256
    one.save(tmp_path / "tokenizer.json")
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == one.sha256


def test_vocabularies_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"vocab_size=200 .* use data\.vocab_size=256"):
        tokenizer.check_vocab_size(TokenizerKind.bytes, 200)
    with pytest.raises(ConfigError, match=r"vocab_size=256 .* use data\.vocab_size=257 or more"):
        tokenizer.check_vocab_size(TokenizerKind.bpe, 256)
    tokenizer.check_vocab_size(TokenizerKind.bytes, 256)
    tokenizer.check_vocab_size(TokenizerKind.bpe, 257)
