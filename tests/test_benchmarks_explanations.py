from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import explanations
from tests.benchmarks.explanations import FORMATS, main, make_explanations


def test_it_measures_every_method_and_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(explanations, "SCORED_DOCUMENTS", 3)
    file = tmp_path / "figures.json"
    sizes = ("--batches", "1", "--repeats", "1", "--page_documents", "3", "--page_words", "50")
    assert main([*sizes, "--json", str(file)]) == 0
    record = json.loads(file.read_text("utf-8"))
    assert all(value > 0 for value in record["methods"].values())
    assert set(record["files"]) == {*FORMATS, "empty.html"}
    assert record["files"]["empty.html"]["megabytes"] < record["files"][".html"]["megabytes"]
    assert "occlusion words per second" in capsys.readouterr().out


def test_documents_have_the_words_that_are_asked_for() -> None:
    made = list(make_explanations(2, 50, seed=0))
    assert [len(explanation.words) for explanation in made] == [50, 50]
    assert made == list(make_explanations(2, 50, seed=0))
    assert made[0].methods == ("attention", "attention_gradient")
    for explanation in made:
        assert sum(explanation.share) == pytest.approx(1, abs=1e-5)
