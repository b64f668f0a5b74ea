from pathlib import Path

import pytest
from omegaconf import OmegaConf

import configs
from train.config.experiment import DataConfig
from train.data.prepare import check, prepared_folder

FILES = sorted(Path(next(iter(configs.__path__)), "data").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_data_config_is_typed_and_meaningful(path: Path) -> None:
    merged = OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(path))
    data = OmegaConf.to_object(merged)
    assert isinstance(data, DataConfig)
    check(data)
    assert prepared_folder(data, Path("data")).name.startswith(f"{data.name}-")
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert f"data={path.stem}" in first


def test_the_four_data_configs_are_there() -> None:
    assert [path.stem for path in FILES] == ["enwik8", "enwik8_bpe", "files", "synthetic"]
