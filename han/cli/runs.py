"""Run directories: `runs/<name>/<n>`, one for each run, and the checkpoints in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ROOT = Path("runs")
CHECKPOINT_FOLDER = "checkpoints"
CONFIG, METRICS, RUN = "config.yaml", "metrics.csv", "run.json"
BEST, LAST, REFIT = "best", "last", "refit"
CHECKPOINTS = (BEST, LAST, REFIT)


def new_run(name: str) -> Path:
    """Make the next run directory of `name`; two processes never get the same one."""
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        directory = folder / str(max((0, *_numbers(folder))) + 1)
        try:
            directory.mkdir()
        except FileExistsError:  # another process was faster
            continue
        return directory


def begun_run(run_dir: str | None, name: str) -> Path | None:
    """Return the directory of the training run that an interruption may have ended.

    Args:
        run_dir: The directory, if it is known; by default that of the latest training of `name`,
            which is empty or holds what training writes first.
        name: The runs' name.
    """
    if run_dir is not None:
        return Path(run_dir) if Path(run_dir).is_dir() else None
    folder = ROOT / name
    for number in sorted(_numbers(folder), reverse=True):
        directory = folder / str(number)
        content = {path.name for path in directory.iterdir()}
        if not content or content & {CONFIG, METRICS, CHECKPOINT_FOLDER}:
            return directory
    return None


def run_of(checkpoint: Path) -> Path | None:
    """Return the run directory that a checkpoint file lies in; None where it lies elsewhere."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINT_FOLDER else None


def checkpoint_file(run_dir: Path, checkpoint: str) -> Path:
    """Return where a run keeps one of its `CHECKPOINTS`."""
    return run_dir / CHECKPOINT_FOLDER / f"{checkpoint}.ckpt"


def find_checkpoint(
    path: str, run_dir: str | None, name: str, *, of_run: Sequence[str] = (BEST,)
) -> Path:
    """Return the checkpoint file that the user means.

    Args:
        path: A file, a run directory, or `best`, `last` or `refit`.
        run_dir: Where to look for those; by default the latest run of `name`.
        name: The runs' name.
        of_run: Which checkpoint is meant by a run directory: the first of these that it has.

    Raises:
        FileNotFoundError: There is no such checkpoint.
    """
    if path not in CHECKPOINTS:
        found = Path(path)
        if found.is_dir():
            there = [one for one in of_run if checkpoint_file(found, one).is_file()]
            return find_checkpoint(there[0] if there else of_run[-1], path, name)
        if not found.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint.")
        return found
    if run_dir is not None:
        candidates = [Path(run_dir)]
    else:
        folder = ROOT / name
        candidates = [folder / str(number) for number in sorted(_numbers(folder), reverse=True)]
    for run in candidates:
        checkpoint = checkpoint_file(run, path)
        if checkpoint.is_file():
            return checkpoint
    where = run_dir or f"any run in {ROOT / name}"
    raise FileNotFoundError(
        f"There is no checkpoint `{path}` in {where}; give --ckpt_path a file or a run directory, "
        "or --name the name of the runs."
    )


def _numbers(folder: Path) -> list[int]:
    return [int(run.name) for run in folder.glob("*") if run.name.isdecimal()]
