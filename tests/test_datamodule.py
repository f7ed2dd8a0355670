from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from han.batching import Batch
from han.datamodule import HANDataModule, read_checkpoint
from han.module import HANModule
from tests.reviews import rows, write_reviews, write_rows
from tests.tiny import save_model

pytestmark = [
    # The main process gathers batches faster than others do.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval.*"),
    # Lightning's to mend.
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"),
]


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Write made-up reviews."""
    return write_reviews(tmp_path / "reviews.csv")


def make_data(train: Path | None, **options: Any) -> HANDataModule:  # noqa: ANN401
    """Return a data module without pretrained vectors that caches beside its documents."""
    folder = next(Path(path).parent for path in (train, *options.values()) if path is not None)
    source = None if train is None else str(train)
    return HANDataModule(
        train=source, cache_dir=str(folder / "cache"), **{"vectors": "none", **options}
    )


def make_network(data: HANDataModule) -> HANModule:
    """Return two tiny networks that fit the data."""
    torch.manual_seed(0)
    sizes = (data.vocabulary_size, data.num_classes, data.embedding_size)
    return HANModule(*sizes, members=2, hidden_size=3, attention_size=4)


def make_trainer(*callbacks: pl.Callback, epochs: int = 2) -> pl.Trainer:
    """Return a trainer that writes and shows nothing."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )


def save_checkpoint(data: HANDataModule, path: Path) -> HANModule:
    """Train a little and write a checkpoint."""
    module, trainer = make_network(data), make_trainer(epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
    return module


class TestCorpus:
    def test_vocabulary_and_labels_are_of_the_training_documents_alone(
        self, tmp_path: Path
    ) -> None:
        content = [
            (name, text if split == "train" else f"{text} zebra zebra", label, split)
            for name, text, label, split in rows()
        ]
        data = make_data(write_rows(tmp_path / "reviews.csv", content))
        assert "soup" in data.vocabulary.words
        assert "zebra" not in data.vocabulary.words
        assert data.labels == ("bad", "good")
        assert (data.vocabulary_size, data.num_classes) == (len(data.vocabulary.words), 2)

    def test_it_is_read_when_first_asked_for(self, tmp_path: Path) -> None:
        data = make_data(tmp_path / "missing.csv")
        with pytest.raises(FileNotFoundError):
            _ = data.num_classes

    def test_the_bundled_corpus_has_a_name(self, tmp_path: Path) -> None:
        data = HANDataModule("builtin", cache_dir=str(tmp_path), vectors="none")
        assert data.num_classes == 8
        assert set(data.corpus.splits) == {"train", "validation", "test"}

    @pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "embedding_size"])
    def test_a_size_below_one_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            HANDataModule("reviews.csv", **{name: 0})  # type: ignore[arg-type]

    def test_a_split_that_is_not_there_is_named(self, reviews: Path) -> None:
        with pytest.raises(ValueError, match="no documents for predict; give `predict`"):
            make_data(reviews).predict_dataloader()


class TestVectors:
    @pytest.fixture
    def vectors(self, tmp_path: Path) -> Path:
        path = tmp_path / "vectors.npz"
        words = np.array(["soup", "cold", "unheard"])
        np.savez(path, words=words, vectors=np.eye(3, 6, dtype=np.float32))
        return path

    def test_their_width_is_the_embedding_size(self, reviews: Path, vectors: Path) -> None:
        data = make_data(reviews, vectors=str(vectors))
        assert data.embedding_size == 6
        assert data.pretrained is not None
        assert data.pretrained.found == 2

    def test_they_arrive_in_the_network(self, reviews: Path, vectors: Path) -> None:
        data = make_data(reviews, vectors=str(vectors))
        module = make_network(data)
        for embedding in module.network.embeddings:
            embedding.weight.requires_grad_(False)
        make_trainer(epochs=1).fit(module, datamodule=data)
        soup = data.vocabulary.words.index("soup")
        for embedding in module.network.embeddings:
            assert embedding.weight[soup].tolist() == [1, 0, 0, 0, 0, 0]

    def test_another_size_is_refused(self, reviews: Path, vectors: Path) -> None:
        data = make_data(reviews, vectors=str(vectors), embedding_size=5)
        with pytest.raises(ValueError, match="are 6 wide, `embedding_size` says 5"):
            _ = data.embedding_size

    def test_without_them_the_size_is_free_and_by_default_the_papers(self, reviews: Path) -> None:
        assert make_data(reviews, embedding_size=7).embedding_size == 7
        assert make_data(reviews).embedding_size == 200
        assert make_data(reviews).embedding_matrix is None

    def test_english_has_the_bundled_ones(self, reviews: Path) -> None:
        assert make_data(reviews, vectors="auto").embedding_size == 50
        assert make_data(reviews, vectors="auto", language="de").embedding_size == 200


class Seen(pl.Callback):
    """Record the number of words of each training batch, by epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[tuple[int, ...]]] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.epochs.append([])

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, *_: object
    ) -> None:
        self.epochs[-1].append(tuple(batch.tokens.tolist()))


class TestDataloaders:
    def test_each_epoch_has_every_document_in_another_order(self, reviews: Path) -> None:
        data, seen = make_data(reviews, batch_size=4), Seen()
        make_trainer(seen, epochs=3).fit(make_network(data), datamodule=data)
        words = int(data.corpus.splits["train"].words_per_document.sum())
        assert [sum(map(len, batches)) for batches in seen.epochs] == [words] * 3
        assert seen.epochs[0] != seen.epochs[1] != seen.epochs[2]

    def test_the_seed_decides_the_order(self, reviews: Path) -> None:
        orders = []
        for seed in (1, 1, 2):
            batches = make_data(reviews, batch_size=4, seed=seed).train_dataloader()
            orders.append([batch.tokens.tolist() for batch in batches])
        assert orders[0] == orders[1] != orders[2]

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_the_others_are_in_order(self, reviews: Path, split: str) -> None:
        data = make_data(reviews, eval_batch_size=3)
        batches = list(getattr(data, f"{split}_dataloader")())
        name = "validation" if split == "val" else "test"
        expected = [data.labels.index(row[2]) for row in rows() if row[3] == name]
        assert [len(batch) for batch in batches[:-1]] == [3] * (len(batches) - 1)
        assert torch.cat([batch.labels for batch in batches]).tolist() == expected

    def test_documents_to_classify_need_no_labels(self, reviews: Path, tmp_path: Path) -> None:
        new = write_rows(tmp_path / "new.csv", [("a", "Cold soup."), ("b", "")], ("id", "text"))
        (batch,) = make_data(reviews, predict=str(new)).predict_dataloader()
        assert batch.labels is None
        assert batch.sentences_per_document.tolist() == [1, 0]

    def test_workers_hand_out_the_same_batches(self, reviews: Path) -> None:
        alone = make_data(reviews, batch_size=4).train_dataloader()
        helped = make_data(reviews, batch_size=4, num_workers=1).train_dataloader()
        assert [b.tokens.tolist() for b in alone] == [b.tokens.tolist() for b in helped]


class TestVocabularyFrom:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        content = [("a", "Unheard of: cold soup.", "good"), ("b", "Lovely!", "bad")]
        return write_rows(tmp_path / "other.csv", content, ("id", "text", "label"))

    def test_a_checkpoint_rules_over_other_documents(
        self, reviews: Path, other: Path, tmp_path: Path
    ) -> None:
        data = make_data(reviews, embedding_size=5, lowercase=False)
        save_checkpoint(data, tmp_path / "a.ckpt")
        again = make_data(None, test=str(other), vocabulary_from=str(tmp_path / "a.ckpt"))
        assert again.vocabulary.words == data.vocabulary.words
        assert again.vocabulary.tokenizer.options() == data.vocabulary.tokenizer.options()
        assert again.labels == data.labels
        assert again.embedding_size == 5
        (batch,) = again.test_dataloader()
        assert batch.labels.tolist() == [1, 0]

    def test_a_model_directory_does_too(self, other: Path, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model")
        data = make_data(None, test=str(other), vocabulary_from=str(model), vectors="auto")
        assert data.labels == ("bad", "good")
        assert data.embedding_size == 8
        assert data.pretrained is None

    def test_none_is_an_error(self, reviews: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"missing\.ckpt"):
            _ = make_data(reviews, vocabulary_from=str(tmp_path / "missing.ckpt")).labels


class TestStateDict:
    def test_a_checkpoint_has_what_reading_needs(self, reviews: Path, tmp_path: Path) -> None:
        data = make_data(reviews, max_sentences=3)
        module = save_checkpoint(data, tmp_path / "a.ckpt")
        learned = read_checkpoint(tmp_path / "a.ckpt")
        assert learned.vocabulary.words == data.vocabulary.words
        assert learned.vocabulary.tokenizer.max_sentences == 3
        assert learned.labels == data.labels
        assert dict(learned.options) == dict(module.hparams)
        assert learned.steps == module.global_step > 0

    def test_another_vocabulary_is_refused(self, reviews: Path, tmp_path: Path) -> None:
        other = make_data(reviews, lowercase=False)
        with pytest.raises(ValueError, match="another vocabulary or other labels"):
            make_data(reviews).load_state_dict(other.state_dict())

    def test_another_reading_is_refused(self, reviews: Path) -> None:
        other = make_data(reviews, hierarchical=False)
        assert other.vocabulary.words == make_data(reviews).vocabulary.words
        with pytest.raises(ValueError, match="another reading of texts"):
            make_data(reviews).load_state_dict(other.state_dict())

    def test_one_of_before_an_option_has_its_default(self, reviews: Path) -> None:
        state = make_data(reviews).state_dict()
        del state["tokenizer"]["hierarchical"]
        make_data(reviews).load_state_dict(state)
        with pytest.raises(ValueError, match="another reading of texts"):
            make_data(reviews, hierarchical=False).load_state_dict(state)

    def test_its_own_is_accepted(self, reviews: Path) -> None:
        make_data(reviews).load_state_dict(make_data(reviews).state_dict())


class TestReadCheckpoint:
    @pytest.mark.parametrize("hierarchical", [True, False])
    def test_it_reads_as_it_was_trained(
        self, reviews: Path, tmp_path: Path, hierarchical: bool
    ) -> None:
        path = tmp_path / "a.ckpt"
        save_checkpoint(make_data(reviews, hierarchical=hierarchical), path)
        again = make_data(reviews, vocabulary_from=str(path))  # whose own options do not count
        (batch,) = list(again.test_dataloader())
        assert batch.sentences_per_document.tolist() == [2 if hierarchical else 1] * 8

    def test_a_checkpoint_of_before_an_option_has_its_default(
        self, reviews: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.ckpt"
        save_checkpoint(make_data(reviews), path)
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint["HANDataModule"]["tokenizer"]["hierarchical"]
        torch.save(checkpoint, path)
        assert read_checkpoint(path).vocabulary.tokenizer == make_data(reviews).vocabulary.tokenizer

    def test_a_file_that_is_none_is_refused(self, reviews: Path) -> None:
        with pytest.raises(ValueError, match=r"reviews\.csv is not a checkpoint that `han fit`"):
            read_checkpoint(reviews)
