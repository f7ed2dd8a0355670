"""Run directories: `runs/<name>/<n>`, one for each run, and the checkpoints in them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("runs")
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINTS = ("best", "last")


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


def run_of(checkpoint: Path) -> Path | None:
    """Return the run directory that a checkpoint file lies in; None where it lies elsewhere."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINT_FOLDER else None


def find_checkpoint(path: str, run_dir: str | None, name: str) -> Path:
    """Return the checkpoint file that the user means.

    Args:
        path: A file, a run directory (its best checkpoint), or `best` or `last`.
        run_dir: Where to look for `best` and `last`; by default the latest run of `name`.
        name: The runs' name.

    Raises:
        FileNotFoundError: There is no such checkpoint.
    """
    if path not in CHECKPOINTS:
        found = Path(path)
        if found.is_dir():
            return find_checkpoint("best", path, name)
        if not found.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint.")
        return found
    if run_dir is not None:
        candidates = [Path(run_dir)]
    else:
        folder = ROOT / name
        candidates = [folder / str(number) for number in sorted(_numbers(folder), reverse=True)]
    for run in candidates:
        checkpoint = run / CHECKPOINT_FOLDER / f"{path}.ckpt"
        if checkpoint.is_file():
            return checkpoint
    where = run_dir or f"any run in {ROOT / name}"
    raise FileNotFoundError(
        f"There is no checkpoint `{path}` in {where}; give --ckpt_path a file or a run directory, "
        "or --name the name of the runs."
    )


def _numbers(folder: Path) -> list[int]:
    return [int(run.name) for run in folder.glob("*") if run.name.isdecimal()]
