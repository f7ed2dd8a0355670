from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from han import native
from han.batching import Batch
from tests.benchmarks import throughput
from tests.benchmarks.contenders import PackedNetwork, ours, packed, require_equal
from tests.benchmarks.operations import training_operations
from tests.benchmarks.peers import available
from tests.reviews import write_reviews

# Networks that are none: their logits count the ids that they were given, document by document.
COUNTER = """
import torch

class Counter(torch.nn.Module):
    def __init__(self, *sizes, **named):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def logits(self, sums):
        return sums[:, None] * self.weight
"""
SGRVINOD = f"""{COUNTER}
class HierarchialAttentionNetwork(Counter):
    def forward(self, documents, sentences, words):
        assert ((documents > 0).sum(2) == words).all()
        assert ((words > 0).sum(1) == sentences).all()
        return self.logits(documents.sum((1, 2))), None, None
"""
CEDIAS = f"""{COUNTER}
class Level(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb_att = torch.nn.Identity()

class HAN(Counter):
    def __init__(self, *sizes):
        super().__init__()
        self.word, self.sent = Level(), Level()

    def forward(self, words, numbers, words_per_sentence, sentences_per_document):
        assert not self.training
        assert words_per_sentence == sorted((words > 0).sum(1).tolist(), reverse=True)
        assert sentences_per_document == sorted((numbers > 0).sum(1).tolist(), reverse=True)
        sums = self.word.emb_att(torch.nn.functional.pad(words.sum(1), (1, 0)))
        return self.logits(self.sent.emb_att(sums[numbers].sum(1)))
"""
RYOTARO612 = f"""{COUNTER}
class Network(Counter):
    def sparse_dense_parameters(self):
        return [], list(self.parameters())

    def forward(self, documents):
        sums = [sum(int(sentence.sum()) for sentence in document) for document in documents]
        return self.logits(torch.tensor(sums)), None, None, None

class DocumentClassifierFactory:
    def create(self, *sizes, embedding_sparse, **named):
        assert not embedding_sparse
        return Network()
"""


def make_batch(words_per_sentence: list[int], sentences_per_document: list[int]) -> Batch:
    """Return a batch of 30 word ids at most."""
    torch.manual_seed(0)
    return Batch(
        torch.randint(30, (sum(words_per_sentence),)),
        torch.tensor(words_per_sentence),
        torch.tensor(sentences_per_document),
        torch.zeros(len(sentences_per_document), dtype=torch.int64),
    )


def write_peers(folder: Path) -> None:
    """Write the counters as three checkouts, none of which lies where another does."""
    for path, content in {
        "model.py": SGRVINOD,
        "Hierarchical-Sentiment/model.py": "unrelated",
        "Hierarchical-Sentiment/Nets.py": CEDIAS,
        "ryotaro612/han/han/__init__.py": "",
        "ryotaro612/han/han/model/__init__.py": "",
        "ryotaro612/han/han/model/document.py": RYOTARO612,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the whole benchmark on next to nothing, with one peer."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "model.py").write_text(SGRVINOD.replace("ones(3)", "ones(2)"), encoding="utf-8")
    documents = write_reviews(folder / "reviews.csv", count=80)
    threads = [str(n + 1) for n in range(min(2, len(throughput.usable_processors())))]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(throughput, "MATRIX_SIZE", 64)
        status = throughput.main(
            [
                *("--documents", str(documents), "--peers", str(folder)),
                *("--threads", *threads, "--repeats", "2", "--batches", "1"),
                *("--json", str(folder / "figures.json")),
            ]
        )
    assert status == 0
    assert "torch.nn.GRU" in out.getvalue()
    assert "cedias is left out: there is no Nets.py" in err.getvalue()
    result: dict[str, Any] = json.loads((folder / "figures.json").read_text("utf-8"))
    return result


class TestThroughput:
    def test_every_ratio_is_the_quotient_of_the_rates(self, record: dict[str, Any]) -> None:
        rate = {
            (one["stage"], one["threads"], one["contender"]): one["tokens_per_second"]
            for one in record["measurements"]
        }
        for key, stage, other in [
            ("train_over_peer", "training", "sgrvinod"),
            ("train_over_torch_gru", "training", "torch.nn.GRU"),
            ("inference_over_peer", "inference", "sgrvinod"),
            ("text_over_tfidf", "text", "TF-IDF + logistic regression"),
        ]:
            assert record[key] == rate[stage, 1, "han"] / rate[stage, 1, other]
            assert record[key] == record["by_threads"]["1"][key]
            with_bfloat16 = key.replace("_over_", "_bfloat16_over_")
            assert (with_bfloat16 in record) == (native.has_bfloat16() and stage != "training")
            if with_bfloat16 in record:
                assert record[with_bfloat16] == (
                    rate[stage, 1, "han, bfloat16"] / rate[stage, 1, other]
                )
        if ("training", 2, "han") in rate:
            expected = rate["training", 2, "han"] / rate["training", 1, "han"]
            assert record["threads_2_over_1"] == expected
        gflops = record["matrix_product_gflops"]
        words = record["workload"]["words"]
        share = sum(record["operations"].values()) / words * rate["training", 1, "han"]
        assert record["roofline_share_training"] == pytest.approx(share / gflops / 1e9)

    def test_rates_are_those_of_the_median_pass(self, record: dict[str, Any]) -> None:
        for one in record["measurements"]:
            assert len(one["seconds"]) == record["repeats"]
            assert one["tokens_per_second"] == one["tokens"] / (sum(one["seconds"]) / 2)

    def test_threads_are_as_before(self) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            job = throughput.Job(lambda: None, 1, 1)
            throughput.measure("training", {"nothing": job}, threads=[1], repeats=1)
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)

    def test_too_few_documents_are_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        documents = write_reviews(tmp_path / "reviews.csv")
        assert throughput.main(["--documents", str(documents), "--threads", "1"]) == 1
        assert capsys.readouterr().err.count("\n") == 1


class TestPacked:
    def test_equals_ours(self) -> None:
        torch.manual_seed(0)
        one = ours(30, 3)
        other = packed(one, 30, 3)
        require_equal(one, other, make_batch([3, 1, 7, 2, 2], [2, 1, 2]))

    def test_a_difference_is_found(self) -> None:
        one = ours(30, 3)
        other = packed(one, 30, 3)
        torch.nn.init.zeros_(other.network.get_parameter("classifier.bias"))
        with pytest.raises(AssertionError, match="not close"):
            require_equal(one, other, make_batch([3], [1]))


class TestTrainingOperations:
    def test_equals_what_torch_counts(self) -> None:
        """Sequences of one length, so that torch knows which states before the first are zero."""
        batch = make_batch([4] * 6, [2, 2, 2])
        sizes = {"embedding_size": 7, "hidden_size": 5, "attention_size": 3, "num_classes": 2}
        network = PackedNetwork(30, 2, 7, 5, 3)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
        counter = FlopCounterMode(display=False)
        with counter:
            network(batch)[0].sum().backward()

        expected = training_operations(batch, sizes, distinct=False)
        not_counted = 3 * 2 * 3 * (24 + 6)  # products with the context: matrix by vector
        zero_states = 2 * (6 + 3) * 5 * 6 * 5  # they need no gradient
        assert counter.get_total_flops() == sum(expected.values()) - not_counted - zero_states

    def test_distinct_words_are_multiplied_once(self) -> None:
        sizes = {"embedding_size": 7, "hidden_size": 5, "attention_size": 3, "num_classes": 2}
        batch = make_batch([40, 2], [2])
        distinct, every = (training_operations(batch, sizes, distinct=d) for d in (True, False))
        assert distinct["word_inputs"] * 42 == every["word_inputs"] * len(
            set(batch.tokens.tolist())
        )
        assert {**distinct, "word_inputs": 0} == {**every, "word_inputs": 0}


class TestAvailable:
    def test_each_peer_is_given_every_word_of_every_document(self, tmp_path: Path) -> None:
        write_peers(tmp_path)
        batch = make_batch([3, 1, 7, 2, 2, 5], [1, 3, 2])
        sums = [int((part + 1).sum()) for part in torch.split(batch.tokens, [3, 10, 7])]
        peers = dict(available(tmp_path, 30, 3, batch))
        assert peers.keys() == {"sgrvinod", "cedias", "ryotaro612"}
        for contender in peers.values():
            torch.nn.init.ones_(next(contender.network.parameters()))  # it took a step on trial
            prepared = contender.prepare(batch)
            (logits,) = contender.infer([prepared])
            found: Tensor = logits[:, 0]
            assert found.tolist() == [sums[index] for index in prepared.order.tolist()]

    def test_what_does_not_run_is_left_out_with_its_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_peers(tmp_path)
        (tmp_path / "model.py").write_text(f"import nowhere\n{SGRVINOD}", encoding="utf-8")
        peers = dict(available(tmp_path, 30, 3, make_batch([3], [1])))
        assert peers.keys() == {"cedias", "ryotaro612"}
        assert "sgrvinod is left out: ModuleNotFoundError" in capsys.readouterr().err
