"""Data for training: the prepared corpus as batches, and the pretrained vectors, for Lightning."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import platformdirs
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from han.batching import (
    Batch,
    BatchDataset,
    LengthGroupedBatchSampler,
    SequentialBatchSampler,
    TrainingLoader,
)
from han.bundle import Bundle
from han.corpus import Corpus, prepare_corpus
from han.embeddings import (
    BUILTIN,
    PretrainedEmbedding,
    PretrainedVectors,
    embedding_matrix,
)
from han.recipe import Recipe, recipe_for
from han.task import Task, check_order
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
from han.word2vec import WORD2VEC, Word2Vec, corpus_vectors, require_gensim

Sampler = Literal["random", "balanced"]


class Learned(NamedTuple):
    """What a trained model fixes for whoever reads text for it.

    Attributes:
        vocabulary: The words it knows, and the tokenizer.
        labels: The classes' names.
        options: Arguments of the network, and of `HANModule` where a checkpoint tells them.
        steps: Updates of the weights so far, where a checkpoint tells them.
        resumable: Whether it is a checkpoint with all that training needs to go on.
    """

    vocabulary: Vocabulary
    labels: tuple[str, ...]
    options: Mapping[str, Any]
    steps: int = 0
    resumable: bool = False


class HANDataModule(pl.LightningDataModule):
    """Labelled documents, encoded once and served in batches of similar length.

    Documents come from CSV, TSV, JSON lines or Parquet files (plain, .gz or .zst), from a folder
    with one sub-folder of text files a class, or from the Hugging Face hub (`hf://owner/name`).

    Args:
        train: Documents to learn from; `builtin` is the bundled corpus of arXiv abstracts. A column
            named like `split_column` may send rows to another split.
        validation: Documents that decide when to stop; by default a share of `train`. Where
            networks are trained anew in the end (refit), it is on these too.
        test: Documents for the final figures.
        predict: Documents to classify; they need no labels.
        text_column: Name of the column that holds the text.
        label_column: Name of the column that holds the class, a string or an integer, or a list of
            labels where a document may have several.
        label_separator: What stands between the labels of a document that may have several, where
            they are one text: `;` of `art;music`.
        task: What labels are: `multiclass`, one of several classes; `multilabel`, any number of
            labels; `ordinal`, classes in an order, such as ratings, which must have numbers in
            their names. By default `multilabel` where labels are lists or have a separator, else
            `multiclass`; `ordinal` only where it is said.
        id_column: Name of the column that identifies a document, if there is one.
        split_column: Name of the column that says train, validation or test, if there is one.
        encoding: Encoding of text files.
        on_bad_row: Whether a row that cannot be read stops everything or is skipped and counted.
        language: Language of the texts (ISO 639), for finding sentences.
        lowercase: Whether upper and lower case are the same word.
        hierarchical: Whether words are read into sentences and these into the document; otherwise
            the same words are read as one sentence, and there is nothing for the sentence level to
            weigh or for `sentence_dropout` to leave out: what does the hierarchy give on this data?
        max_sentences: Most sentences read of a document; by default all.
        max_words_per_sentence: Most words read of a sentence, which is the whole document without
            `hierarchical`; by default all.
        min_count: How often a word must occur in the training documents to be known; once is
            enough for a word that has a pretrained vector, other than of `word2vec`.
        validation_share: Share of the training documents for validation where nothing else says.
        vectors: Pretrained word vectors: `builtin` (English), a name that torchtext knows
            (`glove.6B.100d`), a file of vectors (text or .npz), `word2vec` to learn them from the
            training and validation texts first (needs the extra `word2vec`), or `none`. `auto` is
            `builtin` where the language is English, otherwise `none`.
        embedding_size: Width of the word vectors where `vectors` is `word2vec` or `none`; by
            default 200.
        batch_size: Documents a batch in training; by default 16 of few documents, up to 64 of many.
        sampler: Which training documents an epoch has: `random` is each once, `balanced` as many of
            each class, those of rare classes several times and not all of the frequent ones.
        eval_batch_size: Documents a batch where nothing is learned.
        seed: Decides the validation share, the order of batches and the rows of unknown words.
        num_workers: Processes that assemble batches ahead of time; 0 for none.
        cache_dir: Where encoded documents and downloaded vectors are kept; by default the user's
            cache folder.
        vocabulary_from: A checkpoint or a model directory to read the documents for: its vocabulary
            and labels are used, and `vectors`, `min_count` and the options of the tokenizer are
            not. The command line sets it where a checkpoint is given.

    Attributes:
        pretrained_vectors: Where word vectors are that others have learned; None where there are
            none.
        progress: Whether progress is shown on standard error while documents are prepared.
        corpora_dir: Where encoded documents are kept.
        refitting: Whether networks are trained anew: on the validation documents too, and from
            `vectors`, also where `vocabulary_from` is a checkpoint whose network has its own.

    Raises:
        ValueError: A size is below 1.
        ImportError: `vectors` is `word2vec`, and gensim is missing.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        label_separator: str | None = None,
        task: Task | None = None,
        id_column: str = "id",
        split_column: str = "split",
        encoding: str = "utf-8",
        on_bad_row: Literal["error", "skip"] = "error",
        language: str = "en",
        lowercase: bool = True,
        hierarchical: bool = True,
        max_sentences: int | None = None,
        max_words_per_sentence: int | None = None,
        min_count: int = 2,
        validation_share: float = 0.1,
        vectors: str = "auto",
        embedding_size: int | None = None,
        batch_size: int | None = None,
        sampler: Sampler = "random",
        eval_batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
        vocabulary_from: str | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "embedding_size": embedding_size,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        if vectors == "auto":
            vectors = BUILTIN if Tokenizer(language).rules == "en" else "none"
        if vectors == WORD2VEC and vocabulary_from is None:
            require_gensim()
        self.progress = True
        self.refitting = False
        self._options: dict[str, Any] = {  # of `prepare_corpus`
            "train": bundled_corpus() if train == BUILTIN else train,
            "validation": validation,
            "test": test,
            "predict": predict,
            "text_column": text_column,
            "label_column": label_column,
            "label_separator": label_separator,
            "id_column": id_column,
            "split_column": split_column,
            "encoding": encoding,
            "on_bad_row": on_bad_row,
            "language": language,
            "lowercase": lowercase,
            "hierarchical": hierarchical,
            "max_sentences": max_sentences,
            "max_words_per_sentence": max_words_per_sentence,
            "min_count": min_count,
            "validation_share": validation_share,
            "seed": seed,
        }
        self._task = task
        self._embedding_size = embedding_size
        self._batch_size = batch_size
        self._sampler = sampler
        self._eval_batch_size = eval_batch_size
        self._seed = int(seed)  # a checkpoint that holds jsonargparse's own would not load
        self._num_workers = num_workers
        self._cache = Path(cache_dir or platformdirs.user_cache_dir("han"))
        self.corpora_dir = self._cache / "corpora"
        self._vectors = None if vectors == "none" else vectors
        self.pretrained_vectors = (
            None
            if vectors in ("none", WORD2VEC)
            else PretrainedVectors(vectors, self._cache / "vectors")
        )
        self._vocabulary_from = vocabulary_from

    @cached_property
    def corpus(self) -> Corpus:
        """The encoded documents; made when first asked for."""
        learned, task = self._learned, self._known_task
        return prepare_corpus(
            **self._options,
            multilabel=None if task is None else task == "multilabel",
            pretrained=self.pretrained_vectors,
            cache_dir=self.corpora_dir,
            vocabulary=learned and learned.vocabulary,
            labels=learned and learned.labels,
            progress=self.progress,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that are known."""
        return self.corpus.vocabulary

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names."""
        return self.corpus.labels

    @property
    def task(self) -> Task:
        """What labels are.

        Raises:
            ValueError: They should be ordinal, and nothing says in which order.
        """
        task = self._known_task or ("multilabel" if self.corpus.multilabel else "multiclass")
        if task == "ordinal" and self._learned is None:
            check_order(self.labels)
        return task

    @property
    def _known_task(self) -> Task | None:
        """What labels are, where it is said, or where a trained model says it."""
        own = self._learned and self._learned.options["task"]
        if own is not None and self._task not in (None, own):
            raise ValueError(
                f"`task` is {self._task}, but the network was trained as {own}; leave it out."
            )
        return own or self._task

    @property
    def vocabulary_size(self) -> int:
        """Number of word ids V."""
        return len(self.vocabulary)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.labels)

    @property
    def recipe(self) -> Recipe:
        """How training follows from the number of training documents."""
        return recipe_for(len(self.corpus.splits["train"]), self.num_classes)

    @property
    def batch_size(self) -> int:
        """Documents a batch in training; Lightning's `BatchSizeFinder` sets it."""
        return self._batch_size or self.recipe.batch_size

    @batch_size.setter
    def batch_size(self, documents: int) -> None:
        self._batch_size = documents

    @property
    def embedding_size(self) -> int:
        """Width E of the word vectors."""
        if self._learned is not None:
            return int(self._learned.options["embedding_size"])
        if self._vectors in (None, WORD2VEC):
            return self._embedding_size or Word2Vec.size
        assert self.pretrained is not None
        width: int = self.pretrained.matrix.shape[1]
        if self._embedding_size not in (None, width):
            raise ValueError(
                f"The vectors `{self._vectors}` are {width} wide, `embedding_size` says "
                f"{self._embedding_size}; leave it out, or choose `vectors` none."
            )
        return width

    @property
    def pretrained(self) -> PretrainedEmbedding | None:
        """The pretrained vectors of the vocabulary's words; None where none are started from."""
        trained = self._vocabulary_from
        if trained is not None and not (self.refitting and Path(trained).is_file()):
            return None
        return self._of_vocabulary

    @cached_property
    def _of_vocabulary(self) -> PretrainedEmbedding | None:
        if self._vectors is None:
            return None
        source, cache_dir = self._vectors, self._cache / "vectors"
        if source == WORD2VEC:
            training = Word2Vec(size=self.embedding_size, seed=self._seed)
            source = str(corpus_vectors(self.corpus, training, progress=self.progress))
        return embedding_matrix(self.vocabulary.words, source, cache_dir=cache_dir, seed=self._seed)

    def check_vectors(self) -> None:
        """See that a network of the width of `vocabulary_from` can be trained anew from `vectors`.

        Raises:
            ValueError: They are wider or narrower.
        """
        found = self._of_vocabulary
        if found is not None and found.matrix.shape[1] != self.embedding_size:
            raise ValueError(
                f"The checkpoint's word vectors are {self.embedding_size} wide, those of `vectors` "
                f"{found.matrix.shape[1]}; give the `vectors` that it was trained from, or `refit` "
                "false."
            )

    @property
    def embedding_matrix(self) -> npt.NDArray[np.float32] | None:
        """The rows (V, E) that the embedding starts from; None for random ones."""
        return self.pretrained and self.pretrained.matrix

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of similar length, in another order every epoch."""
        documents = self._training
        if self._sampler == "balanced" and documents.labels.ndim == 2:
            raise ValueError(
                "`sampler` balanced is for documents of one class each; for several labels there "
                "is `class_weights` balanced."
            )
        sampler = LengthGroupedBatchSampler(
            documents.words_per_document,
            self.batch_size,
            classes=documents.labels if self._sampler == "balanced" else None,
            seed=self._seed,
            rank=self._rank,
            num_replicas=self._num_replicas,
        )
        return self._loader(documents, sampler, TrainingLoader)

    @property
    def training_labels(self) -> npt.NDArray[np.integer]:
        """The labels of the documents that are trained on, as `StoredDocuments.labels`."""
        return self._training.labels

    @property
    def _training(self) -> BatchDataset:
        return self._documents("train", *(("validation",) if self.refitting else ()))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation documents in their order."""
        return self._in_order("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test documents in their order."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The documents to classify in their order."""
        return self._in_order("predict")

    def name_documents(self, batch_index: int) -> str:
        """Name the documents of a batch of the epoch that is trained on, at most eight of them."""
        loader: Any = self.trainer and self.trainer.train_dataloader
        documents, indices = loader.dataset, loader.sampler.batch(batch_index)
        names = [documents.id_of(index) for index in indices[:8]]
        return ", ".join(names) + (", ..." if len(indices) > len(names) else "")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for its model to read text: JSON values."""
        return {
            "vocabulary": self.vocabulary.to_json(),
            "tokenizer": self.vocabulary.tokenizer.options(),
            "labels": list(self.labels),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that the checkpoint was trained on the vocabulary, labels and reading in use.

        They are not taken from it here: Lightning comes by when the documents are encoded already.

        Raises:
            ValueError: They differ.
        """
        if (
            list(self.labels) != state["labels"]
            or self.vocabulary.to_json() != state["vocabulary"]
            or self.vocabulary.tokenizer != Tokenizer(**state["tokenizer"])
        ):
            raise ValueError(
                "The checkpoint was trained with another vocabulary or other labels, or with "
                "another reading of texts; give its path as `vocabulary_from`."
            )

    @cached_property
    def _learned(self) -> Learned | None:
        if self._vocabulary_from is None:
            return None
        path = Path(self._vocabulary_from)
        if path.is_file():
            return read_checkpoint(path)
        bundle = Bundle.load(path)
        return Learned(bundle.vocabulary, bundle.labels, bundle.network.options)

    def _documents(self, *splits: str) -> BatchDataset:
        for split in splits:
            if split not in self.corpus.splits:
                raise ValueError(f"There are no documents for {split}; give `{split}`.")
        return BatchDataset(*(self.corpus.splits[split] for split in splits))

    def _in_order(self, split: str) -> DataLoader[Batch]:
        documents = self._documents(split)
        sampler = SequentialBatchSampler(
            len(documents),
            self._eval_batch_size,
            rank=self._rank,
            num_replicas=self._num_replicas,
        )
        return self._loader(documents, sampler)

    def _loader(
        self,
        documents: BatchDataset,
        sampler: LengthGroupedBatchSampler | SequentialBatchSampler,
        loader: type[DataLoader[Batch]] = DataLoader,
    ) -> DataLoader[Batch]:
        return loader(
            documents,
            sampler=sampler,
            batch_size=None,
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _num_replicas(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def read_checkpoint(path: Path) -> Learned:
    """Return what the checkpoint of `HANModule` and `HANDataModule` knows; execute nothing in it.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a checkpoint.
    """
    problem = f"{path} is not a checkpoint that `han fit` wrote, or it is damaged; give another."
    if not zipfile.is_zipfile(path):
        raise ValueError(problem)
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        state = checkpoint[HANDataModule.__qualname__]
        return Learned(
            Vocabulary.from_json(state["vocabulary"], Tokenizer(**state["tokenizer"])),
            tuple(state["labels"]),
            # As it was before there were several members and kinds of label.
            {"members": 1, "task": "multiclass", **checkpoint["hyper_parameters"]},
            checkpoint["global_step"],
            "optimizer_states" in checkpoint,
        )
    except OSError:
        raise
    except Exception as error:  # a hostile file decides what is raised
        raise ValueError(problem) from error


def bundled_corpus() -> str:
    """Return the path of the bundled abstracts from arXiv."""
    return str(files("han") / "data" / "arxiv8.jsonl.gz")
