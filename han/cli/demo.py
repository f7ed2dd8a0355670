"""`han demo`: the whole road on the bundled corpus."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from han.cli.explaining import PAGE_METHODS, explain_and_score, sample
from han.documents import read_documents
from han.predictor import load
from han.report import write_report

ARGUMENTS = ("--name=demo", "--data.train=builtin")  # what configs/demo.yaml says
SCORED = 50  # documents on which the highlights are scored, a second's work
NEXT_STEPS = """\

Next, with this model and with your own documents:
  han classify {run} "We train a quadruped robot to walk on sand."
  han explain  {run} "We train a quadruped robot to walk on sand." --method occlusion
  han serve    {run}
  han fit --data.train reviews.csv --data.text_column review --data.label_column stars
"""


def demo(command: argparse.Namespace) -> None:
    """Train on the bundled corpus, classify and explain its test documents, say what to do next."""
    from han.cli.training import run
    from han.datamodule import bundled_corpus

    sys.stderr.write(
        "Training on 1,185 bundled abstracts of arXiv papers in eight topics; this takes about a "
        "minute.\n"
    )
    place = () if command.run_dir is None else (f"--run_dir={command.run_dir}",)
    directory = run(["fit", *ARGUMENTS, "--trainer.devices=1", *place]).run_dir
    predictor = load(directory)
    documents = read_documents(bundled_corpus(), id_column="title")
    test = [document for document in documents if document.split == "test"]
    report = directory / "report.html"
    scored = sample(range(len(test)), SCORED)
    explained, faithfulness = explain_and_score(predictor, test, PAGE_METHODS, scored)
    explanations = list(explained)
    write_report(report, explanations, title="Topics of arXiv abstracts", faithfulness=faithfulness)
    surest = max(explanations, key=lambda explanation: explanation.probability)
    sys.stdout.write(f"report: {report}\n\n{surest.to_text(Console())}")
    sys.stderr.write(NEXT_STEPS.format(run=directory))
