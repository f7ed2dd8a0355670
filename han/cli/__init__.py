"""The command `han`: each subcommand imports only what it uses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

TRAINING = {
    "fit": "train on labelled documents, test, and write a model directory",
    "validate": "compute a checkpoint's figures on the validation documents",
    "test": "compute a checkpoint's figures on the test documents",
    "predict": "classify documents with a checkpoint, by the trainer",
}
EXAMPLES = """\
examples:
  han demo
  han fit --data.train reviews.csv --data.text_column review --data.label_column stars
  han classify runs/reviews "The soup was cold." --output predictions.csv
  han explain runs/reviews new_reviews.csv --output report.html
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command line after `han`; by default the process's.

    Returns:
        The exit status: 0, or 1 where bad input made one line on standard error, 2 where the
        command line is wrong, 130 where the user interrupted.
    """
    args = sys.argv[1:] if args is None else list(args)
    try:
        if args and args[0] in TRAINING:
            from han.cli.training import run

            run(args)
        else:
            command = _parser().parse_args(args)
            command.run(command)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Without this Python complains as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] == "han":
            raise
        return _fail(str(error))
    except (ValueError, OSError) as error:
        return _fail(str(error))
    return 0


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"han: {' '.join(message.split())}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="han",
        description="Classify documents with a hierarchical attention network and see why.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"han {version('han-classifier')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    demo = commands.add_parser("demo", help="train on the bundled corpus and show what comes out")
    demo.add_argument("--run_dir", help="where the run goes (default: runs/demo/<n>)")
    demo.set_defaults(run=_demo)

    for name, text in TRAINING.items():  # for --help alone, see main
        commands.add_parser(name, help=text, add_help=False)

    classify = commands.add_parser("classify", help="classify texts with a trained model")
    _add_input(classify)
    classify.add_argument(
        "--output", metavar="FILE", help="a .jsonl, .csv or .parquet file (default: JSON lines)"
    )
    classify.set_defaults(run=_classify)

    explain = commands.add_parser("explain", help="show what a trained model looked at")
    _add_input(explain)
    explain.add_argument(
        "--output", metavar="FILE", help="a .html, .json, .jsonl or .txt file (default: terminal)"
    )
    explain.add_argument("--limit", type=int, metavar="N", help="explain the first N documents")
    explain.set_defaults(run=_explain)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model directory, or a run that holds one")
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a text, a file (CSV, TSV, JSON lines, Parquet, text; .gz and .zst), a folder of text "
        "files, hf://owner/name, or - for standard input",
    )
    parser.add_argument("--text_column", default="text", help="column of the text (%(default)s)")
    parser.add_argument("--label_column", default="label", help="column of the class, if any")
    parser.add_argument("--id_column", default="id", help="column that names a document, if any")
    parser.add_argument("--split_column", default="split", help="column of the split, if any")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="read only this split's documents"
    )
    parser.add_argument(
        "--keep_columns", default="", metavar="A,B", help="further columns to write beside the id"
    )
    parser.add_argument("--encoding", default="utf-8", help="of text files (%(default)s)")
    parser.add_argument(
        "--on_bad_row",
        choices=("error", "skip"),
        default="error",
        help="stop at a row that cannot be read, or skip and count it (%(default)s)",
    )


def _demo(command: argparse.Namespace) -> None:
    from han.cli.demo import demo

    demo(command.run_dir)


def _classify(command: argparse.Namespace) -> None:
    from han.cli.reading import classify

    classify(command)


def _explain(command: argparse.Namespace) -> None:
    from han.cli.reading import explain

    explain(command)
