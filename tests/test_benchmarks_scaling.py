from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks import scaling
from tests.benchmarks.scaling import (
    Measurement,
    cut,
    figures,
    peak_memory,
    sentences,
    write_documents,
)


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the benchmark and return the figures that it wrote."""
    file = folder / "figures.json"
    assert scaling.main([*arguments, "--repeats", "2", "--json", str(file)]) == 0
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return result


class TestScaling:
    def test_every_ratio_is_that_of_the_medians(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(scaling, "PREPARED_DOCUMENTS", 200)
        monkeypatch.setattr(scaling, "WORDS_PER_BATCH", 200)
        sizes = ("--documents", "400", "200", "--words", "5", "50", "--folder", str(tmp_path))
        record = run(tmp_path, "--parts", "documents", "words", *sizes)
        assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
        medians: dict[tuple[str, str], dict[str, float]] = {}
        for one in record["measurements"]:
            assert one["median"] == np.median(one["values"]) > 0
            medians.setdefault((one["part"], one["measured"]), {})[one["size"]] = one["median"]
        for part, measured, expected in [
            ("documents", ["preparing", "loading", "training"], ["200", "400"]),
            ("words", ["training", "inference"], ["5", "50"]),
        ]:
            assert list(record[f"cost_per_token_{part}"]) == measured
            for name, ratio in record[f"cost_per_token_{part}"].items():
                assert list(medians[part, name]) == expected
                costs = medians[part, name].values()
                assert ratio == max(costs) / min(costs)
        assert "cost_per_token_words inference: " in capsys.readouterr().out

    @pytest.mark.slow
    def test_whole_processes_are_measured(self, tmp_path: Path) -> None:
        record = run(tmp_path, "--parts", "memory", "startup", "--memory_documents", "200")
        small, large = (record["measurements"][i]["median"] for i in range(2))
        assert record["memory_mb"] == max(small, large) > 100
        assert record["memory_growth"] == large / small
        seconds = {one["size"]: one["median"] for one in record["measurements"][2:]}
        assert record["help_seconds"] == seconds["han --help"]
        ratio = seconds["han classify"] / seconds["import torch"]
        assert record["classify_over_import_torch"] == ratio


class TestFigures:
    def test_equal_what_is_computed_by_hand(self) -> None:
        found = figures(
            [
                Measurement("documents", "loading", "10", "s/word", (4.0, 1.0, 2.0)),
                Measurement("documents", "loading", "20", "s/word", (1.0, 3.0, 2.0)),
                Measurement("documents", "loading", "40", "s/word", (3.0,)),
                Measurement("memory", "peak of han fit", "10 documents", "MB", (200.0,)),
                Measurement("memory", "peak of han fit", "100 documents", "MB", (210.0,)),
                Measurement("memory", "peak of han fit", "a.csv", "MB", (300.0,)),
                Measurement("startup", "process", "import torch", "s", (2.0,)),
                Measurement("startup", "process", "han --help", "s", (0.5,)),
                Measurement("startup", "process", "han classify", "s", (3.0,)),
            ]
        )
        assert found == {
            "cost_per_token_documents": {"loading": 1.5},
            "memory_mb": 300.0,
            "memory_growth": 1.05,
            "help_seconds": 0.5,
            "classify_over_import_torch": 1.5,
        }


class TestWriteDocuments:
    def test_each_sentence_occurs_before_one_occurs_again(self, tmp_path: Path) -> None:
        source = sentences(2_000, seed=0)
        words = sum(sentence.words for sentence in source)
        assert 2_000 <= words < 2_000 + source[-1].words
        write_documents(tmp_path / "a.jsonl", 300, source, seed=0)
        rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) == 300
        text = " ".join(row["text"] for row in rows)
        counts = Counter({one.text: text.count(one.text) for one in source})
        assert min(counts.values()) >= 5  # 300 documents have 12,000 words and more

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        source = sentences(2_000, seed=0)
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            write_documents(tmp_path / name, 20, source, seed)
        a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
        assert a == b != c


class TestCut:
    def test_all_lengths_have_the_same_words(self) -> None:
        tokens = np.arange(40_000)
        for length in (20, 200, 2_000):
            batches = list(islice(cut(tokens, length), 3))
            assert len(batches) == 2
            for number, batch in enumerate(batches):
                assert set(batch.words_per_sentence.tolist()) == {length}
                assert len(batch) == 8
                first = 16_000 * number
                assert batch.tokens.tolist() == list(range(first, first + 16_000))


class TestPeakMemory:
    def test_is_that_of_the_process_alone(self) -> None:
        nothing = peak_memory(sys.executable, "-c", "")
        much = peak_memory(sys.executable, "-c", "bytearray(100_000_000)")
        assert nothing < 50  # far less than this process has with torch
        assert 90 < much - nothing < 110  # what starting took is free by then

    def test_a_failing_command_says_why(self) -> None:
        with pytest.raises(RuntimeError, match="NameError: name 'nowhere'"):
            peak_memory(sys.executable, "-c", "nowhere")
