"""The mirror of the run folder: a small protocol, nothing, or Weights & Biases.

A mirror never stops training: every call to wandb is guarded, and the first failure switches the
mirror off for the attempt and says so once. This is the only module that imports wandb.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from train.config import TrackerConfig, TrackerKind, WandbMode
from train.errors import MissingExtraError

WandbWord = Literal["online", "offline"]

INIT_SECONDS = 20
"""A connection that takes longer counts as none."""

WANDB_KEYS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "perf/tokens_per_second",
    "mfu": "perf/mfu",
}
EVAL_KEYS = {"loss": "val/loss", "bits_per_byte": "val/bits_per_byte"}
PROGRESS_KEYS = {
    "step": "progress/step",
    "tokens": "progress/tokens",
    "flops": "progress/flops",
}


class Tracker(Protocol):
    """What the loop tells a mirror."""

    attempt_id: str | None

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl."""

    def log_eval(self, row: Mapping[str, Any]) -> None:
        """One row of evals.jsonl."""

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """The attempt is over."""


class NullTracker:
    """No mirror."""

    attempt_id: str | None = None

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_eval(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run per attempt: group = study, name = run_id, config = the science."""

    def __init__(
        self,
        config: TrackerConfig,
        *,
        study: str,
        run_id: str,
        attempt: int,
        science: Mapping[str, Any],
        folder: Path,
    ) -> None:
        require_tracker(config)
        import wandb

        self.attempt_id: str | None = f"{run_id}-a{attempt}"
        self._run: Any = None
        mode = resolve_mode(config.mode, has_key=_has_key())

        def start(mode: WandbWord) -> Any:  # noqa: ANN401
            return wandb.init(
                project=config.project,
                entity=config.entity,
                group=study,
                name=run_id,
                id=self.attempt_id,
                resume="never",
                dir=folder,
                config=dict(science),
                mode=mode,
                settings=wandb.Settings(
                    init_timeout=INIT_SECONDS,
                    disable_code=True,
                    disable_git=True,
                    save_code=False,
                    console="off",
                    silent=True,
                    x_disable_stats=True,
                ),
            )

        try:
            self._run = start(mode)
        except Exception as error:
            if mode == "online" and config.mode is WandbMode.auto:
                warnings.warn(f"wandb cannot connect ({error}); mirroring offline", stacklevel=3)
                self._guard("start offline", lambda: setattr(self, "_run", start("offline")))
            else:
                self._switch_off("start", error)
        self._guard("define metrics", self._define_axes)

    def _define_axes(self) -> None:
        for axis in PROGRESS_KEYS.values():
            self._run.define_metric(axis)
        self._run.define_metric("train/*", step_metric="progress/tokens")
        self._run.define_metric("perf/*", step_metric="progress/tokens")
        self._run.define_metric("val/*", step_metric="progress/flops")

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of metrics.jsonl."""
        self._log(row, WANDB_KEYS)

    def log_eval(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of evals.jsonl."""
        self._log(row, EVAL_KEYS)

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """Write the summary and close the W&B run."""

        def close() -> None:
            self._run.summary.update({"state": state, **summary})
            self._run.finish(exit_code=0 if state in ("completed", "preempted") else 1)

        self._guard("finish", close)

    def _log(self, row: Mapping[str, Any], keys: Mapping[str, str]) -> None:
        named = {**PROGRESS_KEYS, **keys}
        values = {named[key]: value for key, value in row.items() if key in named}
        self._guard("log", lambda: self._run.log(values))

    def _guard(self, what: str, call: Any) -> None:  # noqa: ANN401
        if self._run is None and what != "start offline":
            return
        try:
            call()
        except Exception as error:
            self._switch_off(what, error)

    def _switch_off(self, what: str, error: Exception) -> None:
        self._run = None
        warnings.warn(
            f"wandb failed to {what} ({type(error).__name__}: {error}); this attempt is no longer "
            f"mirrored, the run folder has everything",
            stacklevel=3,
        )


def require_tracker(config: TrackerConfig) -> None:
    """Refuse a mirror whose package is missing, before anything is written.

    Raises:
        MissingExtraError: tracker=wandb and wandb cannot be imported.
    """
    if config.kind is TrackerKind.none or config.mode is WandbMode.off:
        return
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise MissingExtraError("wandb", "wandb", "tracker=wandb") from None


def build_tracker(
    config: TrackerConfig,
    *,
    study: str,
    run_id: str,
    attempt: int,
    science: Mapping[str, Any],
    folder: Path,
) -> Tracker:
    """The tracker that the config asks for.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    is_disabled = config.mode is WandbMode.auto and os.environ.get("WANDB_MODE") == "disabled"
    if config.kind is TrackerKind.none or config.mode is WandbMode.off or is_disabled:
        return NullTracker()
    return WandbTracker(
        config, study=study, run_id=run_id, attempt=attempt, science=science, folder=folder
    )


def resolve_mode(mode: WandbMode, *, has_key: bool) -> WandbWord:
    """Auto is online with a key and offline without; the rest say what they mean.

    `WANDB_MODE` in the environment wins over auto, as wandb's users expect.
    """
    if mode is not WandbMode.auto:
        return "online" if mode is WandbMode.online else "offline"
    from_environment = os.environ.get("WANDB_MODE")
    if from_environment in ("online", "offline"):
        return "online" if from_environment == "online" else "offline"
    return "online" if has_key else "offline"


def _has_key() -> bool:
    """Whether wandb finds a key, in the environment or in the netrc entry of its server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return server in netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
