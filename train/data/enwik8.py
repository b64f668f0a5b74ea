"""enwik8: the first 100,000,000 bytes of the English Wikipedia dump of 2006-03-03.

It is downloaded by the first route that works, checked by length and SHA-256, and renamed to
`<root>/raw/enwik8` once complete.

Source: Mahoney, "Large Text Compression Benchmark", http://mattmahoney.net/dc/text.html.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from train.errors import DataError
from train.storage.records import file_sha256, sync_folder

SIZE = 100_000_000
SHA256 = "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"

HUB_DATASET = "LTCB/enwik8"
HUB_REVISION = "refs/convert/parquet"
HUB_FILE = "enwik8-raw/train/0000.parquet"
"""Parquet conversion by the hub: one row, whose column `text` is the whole file."""
HUB_PROBE_SECONDS = 3.0

PACKAGE = "mingru-pytorch"
PACKAGE_VERSION = "0.2.1"
PACKAGE_SHA256 = "fc9b278b4e04db930a5cd4cdab36e2713b1d6e14084269b161d4f133819e758d"
PACKAGE_MEMBER = "mingru_pytorch-0.2.1/data/enwik8.gz"
"""Python source archive that contains the file; downloaded and read, never installed."""
PACKAGE_SECONDS = 600.0

_ADDRESS = re.compile(r"\S*(?:https?|file)://\S*")

Route = Callable[[Path], bytes]
"""Function from an empty working folder to the raw bytes; raises RouteError."""


class RouteError(Exception):
    """A route does not work on this machine; the message gives the reason."""


def raw_path(root: Path) -> Path:
    """Path of the raw file under the data root."""
    return root / "raw" / "enwik8"


def fetch(root: Path) -> Path:
    """Return the path of the verified raw file, downloading it on first use.

    Among several processes one downloads, and the others wait.

    Raises:
        DataError: The file is not enwik8, or every route failed; lists their reasons.
    """
    target = raw_path(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name("enwik8.lock")):
        if target.exists():
            remedy = "; delete it and run again"
            _check(f"{target}", target.stat().st_size, file_sha256(target), remedy)
            return target
        reasons = []
        # left by a process that died
        for stale in target.parent.glob("fetch-*"):
            shutil.rmtree(stale, ignore_errors=True)
        for name, route in ROUTES.items():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as work:
                try:
                    raw = route(Path(work))
                    _check("what came", len(raw), hashlib.sha256(raw).hexdigest())
                except (RouteError, DataError) as reason:
                    reasons.append(f"  {name}: {reason}")
                    continue
            _store(target, raw)
            return target
    raise DataError(
        "enwik8 could not be fetched:\n" + "\n".join(reasons) + f"\nPut the {SIZE:,} bytes with "
        f"sha256 {SHA256} at {target} by hand and run again"
    )


def read(path: Path, block_bytes: int = 1 << 20) -> Iterator[str]:
    """Yield the raw file's text in blocks; a character cut at the file's end is dropped."""
    with path.open(encoding="utf-8", errors="ignore", newline="\n") as file:
        while block := file.read(block_bytes):
            yield block


def from_hub(work: Path) -> bytes:
    """Download the file from the Hugging Face hub, running none of the repository's code."""
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError:
        raise RouteError("the package huggingface_hub is not installed") from None
    if constants.HF_HUB_OFFLINE:
        raise RouteError("HF_HUB_OFFLINE is set")
    _probe(constants.ENDPOINT)
    import pyarrow.parquet

    try:
        path = huggingface_hub.hf_hub_download(
            HUB_DATASET,
            HUB_FILE,
            repo_type="dataset",
            revision=HUB_REVISION,
            local_dir=work,
            etag_timeout=10.0,
        )
        column = pyarrow.parquet.read_table(path, columns=["text"])["text"]
        return b"".join(value.as_py().encode() for value in column)
    # after any failure of the hub's client the next route is tried
    except Exception as error:
        raise RouteError(_first_line(error)) from None


def from_package(work: Path) -> bytes:
    """Read the file from a source archive, after pip has checked its hash."""
    requirement = work / "requirements.txt"
    requirement.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{PACKAGE_SHA256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--no-binary", PACKAGE, "--require-hashes", "--progress-bar", "off"),
        *("--dest", str(work), "--requirement", str(requirement)),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PACKAGE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise RouteError(f"pip download took more than {PACKAGE_SECONDS:.0f} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        reason = _ADDRESS.sub("(address)", errors[0]) if errors else f"exit {done.returncode}"
        raise RouteError(f"pip download failed: {reason}")
    archive = work / PACKAGE_MEMBER.partition("/")[0]
    return read_member(archive.with_name(archive.name + ".tar.gz"), PACKAGE_MEMBER)


def read_member(archive: Path, member: str) -> bytes:
    """Decompress one gzip file of a tar archive in memory; nothing is extracted to disk.

    Raises:
        RouteError: The archive or the member is missing or damaged.
    """
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for entry in tar:
                if entry.name == member and entry.isfile():
                    stream = tar.extractfile(entry)
                    if stream is not None:
                        with gzip.open(stream) as unpacked:
                            return unpacked.read(SIZE + 1)
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise RouteError(f"{archive.name}: {_first_line(error)}") from None
    raise RouteError(f"{archive.name} has no member {member}")


ROUTES: dict[str, Route] = {
    "Hugging Face hub": from_hub,
    "Python package archive": from_package,
}
"""Routes in the order of trial."""


def _probe(endpoint: str) -> None:
    """Raise within seconds if the hub cannot be reached; its client would retry for 30 s."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own address
    try:
        urllib.request.urlopen(request, timeout=HUB_PROBE_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        # an HTTP error is an answer too
        answer.close()
    except OSError as error:
        raise RouteError(f"not reachable ({_first_line(error)})") from None


def _check(name: str, size: int, sha256: str, remedy: str = "") -> None:
    """Refuse anything but enwik8."""
    if size != SIZE:
        raise DataError(f"{name}: expected {SIZE:,} bytes, got {size:,}{remedy}")
    if sha256 != SHA256:
        raise DataError(f"{name}: expected sha256 {SHA256}, got {sha256}{remedy}")


def _store(target: Path, raw: bytes) -> None:
    """Write `<target>.partial`, sync, rename, sync the folder."""
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(target.parent)


def _first_line(error: BaseException) -> str:
    """First line of an error without addresses, which may hold credentials."""
    text = str(error).strip() or type(error).__name__
    return _ADDRESS.sub("(address)", text.splitlines()[0])
