"""The command `han`: each subcommand imports only what it uses."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

TRAINING = {
    "fit": "train on labelled documents, test, and write a model directory",
    "validate": "compute a checkpoint's figures on the validation documents",
    "test": "compute a checkpoint's figures on the test documents",
    "predict": "classify documents with a checkpoint, by the trainer",
}
TERMINATED = 128 + signal.SIGTERM  # the exit status
MODEL_HELP = "a model directory, or a run that holds one"
ALL_METHODS = "all"
COLUMNS = {"label_column": "label", "id_column": "id", "split_column": "split"}
"""Columns that are used where they are there; one that the user names must be."""

EXAMPLES = """\
examples:
  han demo
  han fit --data.train reviews.csv --data.text_column review --data.label_column stars
  han tune --data.train reviews.csv --data.text_column review --trials 30
  han classify runs/reviews "The soup was cold." --output predictions.csv
  han explain runs/reviews new_reviews.csv --output report.html
  han words runs/reviews new_reviews.csv
  han serve runs/reviews
  han baseline reviews.csv --text_column review --label_column stars
  han vectors reviews.csv --text_column review --output own.npz
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command line after `han`; by default the process's.

    Returns:
        The exit status: 0, or 1 where bad input made one line on standard error, 2 where the
        command line is wrong, 130 where the user interrupted, 143 where a training
        ended because the process was asked to end (SIGTERM).
    """
    args = sys.argv[1:] if args is None else list(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What is read by programs is UTF-8 everywhere; a terminal gets what it can show.
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    try:
        if args and args[0] in TRAINING:
            _choose_threads()
            from han.cli.training import run

            run(args)
        else:
            parser = _parser()
            command, others = parser.parse_known_args(args or ["--help"])
            if "options_of_fit" in command:
                command.options_of_fit = others
            elif others:
                parser.error(f"unrecognized arguments: {' '.join(others)}")
            command.run(command)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Without this Python complains as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except SystemExit as error:
        if error.code != TERMINATED:
            raise
        return _fail("terminated", TERMINATED)
    except argparse.ArgumentError as error:
        return _fail(str(error), 2)
    except ImportError as error:
        if (error.name or "").split(".")[0] == "han":
            raise
        return _fail(str(error))
    except OSError as error:
        known = error.filename is not None and error.strerror is not None
        return _fail(f"{error.filename}: {error.strerror}" if known else str(error))
    except ValueError as error:
        return _fail(str(error))
    return 0


def _choose_threads() -> None:
    """Set how torch's threads work, before torch is loaded; what the user has set stays."""
    from han import native

    # By default they wait at full speed for each other. On a machine that does other work too, that
    # can make everything many times slower, and alone it gains little.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if native.library is None:
        # The recurrence is then a chain of small operations, which more threads rather slow down.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def printable(text: str) -> str:
    """Return `text` on one line and without what a terminal obeys: such characters are escaped."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"han: {printable(message)}\n")
    return status


class _Version(argparse.Action):
    """Prints the version, and which of the compiled loops this processor gets."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from han import native

        sys.stdout.write(f"han {version('han-classifier')} ({native.description()})\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="han",
        description="Classify documents with a hierarchical attention network and see why.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="show which version this is, and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    demo = commands.add_parser("demo", help="train on the bundled corpus and show what comes out")
    demo.add_argument("--run_dir", help="where the run goes (default: runs/demo/<n>)")
    demo.set_defaults(run=_later("demo", "demo"))

    for name, text in TRAINING.items():  # for --help alone, see main
        commands.add_parser(name, help=text, add_help=False)

    tune = commands.add_parser(
        "tune",
        allow_abbrev=False,
        usage="han tune [options of han fit] [--space FILE] [--trials N] [--study FOLDER]",
        help="search for options of `han fit` that do best on the validation documents",
        description="Train again and again with other options (needs the extra `tune`), compare "
        "the figures of the validation documents, and write the best options as a file for `han "
        "fit --config`. Besides those below it takes all options of `han fit` (see `han fit "
        "--help`): --data.train, --config, --model.members, --monitor and so on. What the space "
        "does not hold stays as they say. Test documents are not looked at. Given again, the same "
        "command goes on where it stopped.",
    )
    tune.add_argument(
        "--space",
        metavar="FILE",
        help="what to search: YAML such as `model.hidden_size: {int: [25, 200], log: true}`, "
        "`model.word_dropout: {float: [0, 0.5]}`, `data.min_count: {choice: [1, 2, 5]}` (default: "
        "learning rates, hidden size, dropouts, label smoothing and batch size; the study's "
        "folder gets a copy)",
    )
    tune.add_argument(
        "--trials",
        type=int,
        default=30,
        metavar="N",
        help="how many trials, with those that ended before (%(default)s)",
    )
    tune.add_argument(
        "--study",
        metavar="FOLDER",
        help="where the study goes, or is (default: runs/<name>/tune)",
    )
    tune.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="begin no trial later than this (default: no limit)",
    )
    tune.set_defaults(run=_later("tuning", "tune"), options_of_fit=[])

    classify = commands.add_parser(
        "classify",
        allow_abbrev=False,
        help="classify texts with a trained model",
        description="Classify texts: one result a document, in the order of the input.",
    )
    _add_input(classify, "; the accuracy is then reported")
    classify.add_argument(
        "--keep_columns", default="", metavar="A,B", help="further columns to write beside the id"
    )
    classify.add_argument(
        "--min_confidence",
        type=float,
        default=0.0,
        metavar="P",
        help="give no label where the likeliest class is less probable, from 0 to 1 (%(default)s); "
        "the card in the model directory says what that does to the accuracy",
    )
    classify.add_argument(
        "--bfloat16",
        action="store_true",
        help="round to bfloat16 what the GRU and the attention multiply, where the CPU can: "
        "faster, and nearly the same",
    )
    classify.add_argument(
        "--output",
        metavar="FILE",
        help="a .jsonl, .csv, .tsv or .parquet file; without it results go to standard output: the "
        "two likeliest classes to a terminal, whole JSON lines to a pipe or file",
    )
    classify.set_defaults(run=_later("reading", "classify"))

    explain = commands.add_parser(
        "explain",
        allow_abbrev=False,
        help="show what a trained model looked at",
        description="Classify texts and show the weight of each sentence and word.",
    )
    _add_input(explain)
    explain.add_argument(
        "--output",
        metavar="FILE",
        help="a .html, .json, .jsonl, .tex, .md, .svg or .txt file; without it standard output, as "
        "text",
    )
    explain.add_argument("--limit", type=int, metavar="N", help="explain the first N documents")
    _add_method(explain, "attention; on a page attention,attention_gradient")
    explain.add_argument(
        "--label",
        metavar="CLASS",
        help="the class that words speak for or against, by all methods but attention (default: "
        "the predicted one; a page holds the three likeliest of each document, the true one and "
        "this one)",
    )
    explain.add_argument(
        "--compare", metavar="MODEL", help="show a second model's view beside it, on a page"
    )
    for level in ("word", "sentence"):
        explain.add_argument(
            f"--{level}_head",
            type=int,
            metavar="N",
            help=f"show the attention on {level}s of this head alone, from 0, where the model has "
            "several (default: their mean)",
        )
    explain.add_argument(
        "--faithfulness",
        type=int,
        metavar="N",
        help="score the highlights on N documents drawn at random, for a page or records (default "
        "for a page: up to 200, as many as take some seconds)",
    )
    explain.set_defaults(run=_later("explaining", "explain"))

    ray = commands.add_parser(
        "ray",
        allow_abbrev=False,
        help="classify more documents than one machine holds, on workers of Ray",
        description="Classify Parquet files on several workers (needs the extra `ray`): those of "
        "the cluster at RAY_ADDRESS, or else of this machine. Where it was killed, the same "
        "command goes on.",
    )
    ray.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}; every worker reads it")
    ray.add_argument(
        "input", metavar="INPUT", help="a .parquet file or a folder of them; every worker reads it"
    )
    ray.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where the Parquet files of predictions go; every worker writes there",
    )
    ray.add_argument(
        "--explain",
        nargs="?",
        const="attention",
        metavar="METHODS",
        help="write what the model looked at, too, in a column of JSON: by attention, "
        "attention_gradient, gradient or occlusion, several with commas between them, or "
        f"{ALL_METHODS} (by itself: attention)",
    )
    ray.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="how many (default: one for each GPU with `--num_gpus`, else for each processor)",
    )
    ray.add_argument(
        "--num_cpus",
        type=int,
        default=1,
        metavar="N",
        help="processors, and so threads, of each worker (%(default)s)",
    )
    ray.add_argument(
        "--num_gpus",
        type=float,
        default=0,
        metavar="N",
        help="GPUs of each worker (%(default)s)",
    )
    ray.add_argument(
        "--keep_columns",
        metavar="A,B",
        help="further columns to write beside the id (default: all but the text)",
    )
    ray.add_argument("--text_column", default="text", help="column of the text (%(default)s)")
    ray.add_argument(
        "--label_column",
        default=COLUMNS["label_column"],
        help="column of the true class, if any, written as `true` (%(default)s)",
    )
    ray.add_argument(
        "--id_column",
        default=COLUMNS["id_column"],
        help="column that names a document, if any (%(default)s)",
    )
    _add_on_bad_row(ray)
    ray.set_defaults(run=_later("scaling", "ray"))

    faithfulness = commands.add_parser(
        "faithfulness",
        allow_abbrev=False,
        help="measure how far a model's explanations can be trusted",
        description="Take words away in the order of each method, and see what becomes of the "
        "model's decisions; beside random orders.",
    )
    _add_input(faithfulness)
    _add_method(faithfulness, ALL_METHODS)
    faithfulness.add_argument(
        "--documents",
        type=int,
        default=200,
        metavar="N",
        help="how many documents to draw at random (%(default)s)",
    )
    faithfulness.add_argument(
        "--seed", type=int, default=0, help="of what is drawn at random (%(default)s)"
    )
    faithfulness.add_argument(
        "--rationale_column",
        metavar="COLUMN",
        help="column of what people marked: spans [[start, end], ...] in characters, or a 0 or 1 "
        "for each word between white space",
    )
    faithfulness.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="MODEL",
        help="a model trained alike, to see how differently it looks; may be given again",
    )
    faithfulness.add_argument(
        "--output", metavar="FILE", help="a .json file; without it standard output, as tables"
    )
    faithfulness.set_defaults(run=_later("explaining", "faithfulness"))

    words = commands.add_parser(
        "words",
        allow_abbrev=False,
        help="show which words carry each class over many documents",
        description="Read documents and list, for each class, the words that carry it, with "
        "examples in context.",
    )
    _add_input(words)
    words.add_argument(
        "--method",
        default="attention_gradient",
        metavar="NAME",
        help="which method's figures order the words: attention_gradient, gradient or occlusion by "
        "the mean score for the class, attention by what is looked at in this class rather than "
        "in others (%(default)s)",
    )
    words.add_argument("--label", metavar="CLASS", help="list the words of this class only")
    words.add_argument(
        "--top", type=int, default=20, metavar="N", help="words a class (%(default)s)"
    )
    words.add_argument(
        "--min_count",
        type=int,
        default=5,
        metavar="N",
        help="leave out words that occur less often in the documents of a class (%(default)s)",
    )
    words.add_argument(
        "--examples", type=int, default=1, metavar="N", help="examples a word (%(default)s)"
    )
    words.add_argument("--limit", type=int, metavar="N", help="read the first N documents")
    words.add_argument(
        "--output",
        metavar="FILE",
        help="a .csv, .tsv, .jsonl or .parquet file of words, or the whole overview as .json; "
        "without it standard output: tables to a terminal, JSON lines to a pipe or file",
    )
    words.set_defaults(run=_later("words", "words"))

    baseline = commands.add_parser(
        "baseline",
        allow_abbrev=False,
        help="see what linear models on bags of words make of your documents",
        description="Train scikit-learn's TF-IDF of words and pairs of words with a linear SVM and "
        "with logistic regression, on the documents and the split of `han fit`. Figures on "
        "validation are after training on the training documents, those on test after training "
        "on both.",
    )
    baseline.add_argument(
        "input",
        metavar="DOCUMENTS",
        help="labelled documents, as --data.train of `han fit`: a file (CSV, TSV, JSON lines, "
        "Parquet; .gz and .zst), a folder with one sub-folder of text files a class, "
        "hf://owner/name, or builtin",
    )
    for split in ("validation", "test"):
        baseline.add_argument(
            f"--{split}",
            metavar="DOCUMENTS",
            help=f"{split} documents, where they are not among the others",
        )
    _add_reading(baseline, "column of the class")
    baseline.add_argument(
        "--validation_share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the training documents for validation where nothing else says (%(default)s)",
    )
    baseline.add_argument(
        "--min_count",
        type=int,
        default=2,
        metavar="N",
        help="some word must occur so often or have a pretrained vector, as for --data.min_count "
        "of `han fit`; linear models know no such limit (%(default)s)",
    )
    baseline.add_argument(
        "--seed",
        type=int,
        default=0,
        help="decides the validation share, as --seed_everything of `han fit`, and what the SVM "
        "draws at random (%(default)s)",
    )
    baseline.add_argument(
        "--cache_dir",
        metavar="FOLDER",
        help="where the documents are kept as they are read; by default the user's cache folder",
    )
    baseline.add_argument(
        "--output", metavar="FILE", help="a .json file for all figures, besides the table"
    )
    baseline.set_defaults(run=_later("baseline", "baseline"))

    vectors = commands.add_parser(
        "vectors",
        allow_abbrev=False,
        help="learn word vectors from your own text, labelled or not",
        description="Learn word vectors (word2vec; needs the extra `word2vec`) from the text of "
        "documents, in words as `han fit` reads them, for its option --data.vectors. Each file is "
        "read twice, and need not fit into memory. One seed gives one result, as long as there is "
        "one worker.",
    )
    vectors.add_argument(
        "input",
        nargs="+",
        metavar="DOCUMENTS",
        help="a file (CSV, TSV, JSON lines, Parquet, text; .gz and .zst), a folder of text files, "
        "hf://owner/name, or builtin",
    )
    vectors.add_argument(
        "--output", required=True, metavar="FILE", help="where the vectors go, an .npz file"
    )
    vectors.add_argument(
        "--include_test",
        action="store_true",
        help="read test documents, too; without it the split column says which are left out",
    )
    vectors.add_argument(
        "--start",
        metavar="VECTORS",
        help="go on from vectors of a language as a whole: builtin, a name that torchtext knows "
        "(glove.6B.100d), or a file, as for --data.vectors",
    )
    vectors.add_argument(
        "--cache_dir",
        metavar="FOLDER",
        help="where downloaded vectors are kept; by default the user's cache folder",
    )
    _add_reading(vectors)
    vectors.add_argument(
        "--language", default="en", metavar="CODE", help="as --data.language (%(default)s)"
    )
    vectors.add_argument(
        "--lowercase",
        choices=("true", "false"),
        default="true",
        help="as --data.lowercase (%(default)s)",
    )
    vectors.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="numbers a word (that of --start, or else 200)",
    )
    numbers = {
        "min_count": (5, "how often a word must occur; all others are one, the unknown word"),
        "window": (5, "how far apart words of a sentence are learned from, at most"),
        "epochs": (5, "how often the text is learned from"),
        "seed": (0, "decides all that is random"),
        "workers": (1, "threads; with more than one no two results are the same"),
    }
    for name, (default, text) in numbers.items():
        vectors.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (%(default)s)"
        )
    vectors.add_argument(
        "--architecture",
        choices=("skip_gram", "cbow"),
        default="skip_gram",
        help="whether a word predicts those around it or they predict it, which is several times "
        "as fast (%(default)s)",
    )
    vectors.set_defaults(run=_later("vectors", "vectors"))

    serve = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="open a page that classifies and explains what is typed",
        description="Serve a page on this machine that classifies and explains what is typed, and "
        "an HTTP API; /openapi.json describes it. No text is stored.",
    )
    serve.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    serve.add_argument(
        "--port", type=int, default=8000, help="the port; 0 takes a free one (%(default)s)"
    )
    serve.add_argument(
        "--max_body",
        type=int,
        default=1_000_000,
        metavar="BYTES",
        help="the longest request (%(default)s)",
    )
    serve.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long a request may take to come, and its answer to compute (%(default)s)",
    )
    serve.add_argument("--no_browser", action="store_true", help="only print the page's address")
    serve.set_defaults(run=_later("serving", "serve"))
    return parser


def _add_method(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--method",
        metavar="NAMES",
        help="attention, attention_gradient, gradient or occlusion, several with commas between "
        f"them, or {ALL_METHODS}; the first is the one that is drawn where there is room for one "
        f"(default: {default})",
    )


def _add_input(parser: argparse.ArgumentParser, why_label: str = "") -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a file (CSV, TSV, JSON lines, Parquet, text; .gz and .zst), a folder of text files, "
        "hf://owner/name, - for standard input (JSON lines, or a text a line), or else the text "
        "itself",
    )
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="read only this split's documents"
    )
    _add_reading(parser, f"column of the true class, if any{why_label}")


def _add_reading(parser: argparse.ArgumentParser, label: str | None = None) -> None:
    """Add how rows become documents; `label` says what labels are for, None reads texts alone."""
    parser.add_argument("--text_column", default="text", help="column of the text (%(default)s)")
    if label is not None:
        parser.add_argument(
            "--label_column", default=COLUMNS["label_column"], help=f"{label} (%(default)s)"
        )
        parser.add_argument(
            "--label_separator",
            metavar="TEXT",
            help="what stands between the labels of a document that may have several (lists need "
            "none)",
        )
        parser.add_argument(
            "--id_column",
            default=COLUMNS["id_column"],
            help="column that names a document, if any (%(default)s)",
        )
    parser.add_argument(
        "--split_column",
        default=COLUMNS["split_column"],
        help="column of the split, if any (%(default)s)",
    )
    parser.add_argument("--encoding", default="utf-8", help="of text files (%(default)s)")
    _add_on_bad_row(parser)


def _add_on_bad_row(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on_bad_row",
        choices=("error", "skip"),
        default="error",
        help="stop at a row that cannot be read, or skip and count it (%(default)s)",
    )


def _later(module: str, function: str) -> Callable[[argparse.Namespace], None]:
    """Return what runs a subcommand: it is imported only then, with all that it uses."""

    def run(command: argparse.Namespace) -> None:
        _choose_threads()
        getattr(importlib.import_module(f"han.cli.{module}"), function)(command)

    return run
