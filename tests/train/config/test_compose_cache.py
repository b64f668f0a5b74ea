"""Points composed on copies are those that Hydra composes one by one, errors included."""

from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from omegaconf import DictConfig
from train.config.compose_cache import composed_once

from train.config.compose import CONFIG_ROOT, explain, register_schema, to_config


class Hydra:
    """Hydra's own composition, which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, words: list[str]) -> DictConfig:
        self.asked.append(words)
        return compose("train", words)


@pytest.fixture
def hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hydra]:
    """Hydra with our configs and plugins, as python -m train starts it."""
    monkeypatch.syspath_prepend(str(CONFIG_ROOT.parent / "train" / "plugins"))
    Singleton._instances.pop(Plugins, None)  # so that it looks for plugins anew
    register_schema()
    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        yield Hydra()


POINTS = [
    ["study=quickstart", "model=d16", "budget.flops=1e10", "optimizer.lr=null"],
    ["study=quickstart", "model=d16", "budget.flops=2e10", "optimizer.lr=0.01"],
    ["study=quickstart", "model=d32", "budget.flops=2e10", "data.files=[a,'b c']"],
    ["study=quickstart", "model=d32", "schedule=wsd", "schedule.cooldown=linear", "seed=3"],
    ["study=quickstart", "model=d32", "model.d_model=48", "data.synthetic.seed=7"],
    ["study=quickstart", "data=synthetic", "+model.n_layers=3", "model.head_dim=16"],
    ["study=quickstart", "study.name=x.y-z", "study.question='a=b, c: 50%'"],
]


def test_every_point_is_what_hydra_composes(hydra: Hydra) -> None:
    fast = composed_once(hydra)
    for _ in range(2):  # the second time from what is kept
        for words in POINTS:
            tree, expected = fast(words), hydra(words)
            assert tree == expected
            assert to_config(tree) == to_config(expected)


def test_hydra_is_asked_once_for_each_choice_of_groups(hydra: Hydra) -> None:
    fast = composed_once(hydra)
    for model in ("d16", "d32"):
        for flops in ("1e9", "2e9", "3e9"):
            fast([f"model={model}", f"budget.flops={flops}"])
    assert hydra.asked == [["model=d16"], ["model=d32"]]


def test_a_point_does_not_see_the_values_of_another(hydra: Hydra) -> None:
    fast = composed_once(hydra)
    fast(["model=d16", "optimizer.lr=0.5"])
    assert fast(["model=d16"]).optimizer.lr is None
    fast(["model=d16"]).optimizer.lr = 0.7
    assert fast(["model=d16"]).optimizer.lr is None


@pytest.mark.parametrize(
    "word", ["model.d_modle=3", "optimizer.lr=fast", "model.x.y=2", "modle.d=3", "model=d17"]
)
def test_a_refusal_is_hydra_s_in_our_words(hydra: Hydra, word: str) -> None:
    messages = []
    for composer in (hydra, composed_once(hydra)):
        with pytest.raises(Exception) as refused:  # noqa: PT011
            composer(["study=quickstart", word])
        messages.append(str(explain(refused.value)))
    assert messages[0] == messages[1]
    assert (
        word.partition("=")[0] in messages[0] or "model.x" in messages[0] or "modle" in messages[0]
    )
