from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.utilities import move_data_to_device
from torch.utils.data import DataLoader

from han.batching import Batch, BatchDataset, LengthGroupedBatchSampler, SequentialBatchSampler
from han.corpus import StoredDocuments

DOCUMENTS = [[[5, 6], [7]], [], [[8]], [[1, 2, 3], [4], [9]]]


class FakeDocuments:
    """What `BatchDataset` needs of `StoredDocuments`, made of lists."""

    def __init__(self, documents: Sequence[Sequence[Sequence[int]]], labels: Sequence[int]) -> None:
        self.documents = documents
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.documents)

    def gather(self, indices: Sequence[int]) -> tuple[np.ndarray[Any, Any], ...]:
        chosen = [self.documents[i] for i in indices]
        sentences = [sentence for document in chosen for sentence in document]
        return (
            np.array([word for sentence in sentences for word in sentence], np.int64),
            np.array([len(sentence) for sentence in sentences], np.int64),
            np.array([len(document) for document in chosen], np.int64),
            self.labels[list(indices)],
        )


def make_dataset(labels: Sequence[int] = (0, 1, 0, 1)) -> BatchDataset:
    return BatchDataset(cast(StoredDocuments, FakeDocuments(DOCUMENTS, labels)))


def make_lengths(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return lengths with the long tail that documents have."""
    return np.random.default_rng(seed).lognormal(5, 1, count).astype(np.int64)


def batches_of_ranks(
    lengths: np.ndarray[Any, Any], batch_size: int, num_replicas: int, epoch: int = 0, seed: int = 3
) -> list[list[list[int]]]:
    ranks = []
    for rank in range(num_replicas):
        sampler = LengthGroupedBatchSampler(
            lengths, batch_size, seed=seed, rank=rank, num_replicas=num_replicas
        )
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        ranks.append(batches)
    return ranks


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def tensors(batch: Batch) -> list[torch.Tensor]:
    assert batch.labels is not None
    return [batch.tokens, batch.words_per_sentence, batch.sentences_per_document, batch.labels]


class TestBatch:
    def test_lists_are_laid_end_to_end(self) -> None:
        batch = Batch.from_lists(DOCUMENTS, [1, 0, 1, 0])
        assert batch.tokens.tolist() == [5, 6, 7, 8, 1, 2, 3, 4, 9]
        assert batch.words_per_sentence.tolist() == [2, 1, 1, 3, 1, 1]
        assert batch.sentences_per_document.tolist() == [2, 0, 1, 3]
        assert batch.labels is not None
        assert batch.labels.tolist() == [1, 0, 1, 0]
        assert len(batch) == 4
        assert all(tensor.dtype == torch.int64 for tensor in tensors(batch))

    @pytest.mark.parametrize("documents", [[], [[]], [[], []]])
    def test_nothing_is_a_batch_too(self, documents: list[list[list[int]]]) -> None:
        batch = Batch.from_lists(documents, [0] * len(documents))
        assert len(batch) == len(documents)
        assert [len(tensor) for tensor in tensors(batch)] == [0, 0, len(documents), len(documents)]
        assert all(tensor.dtype == torch.int64 for tensor in tensors(batch))

    def test_labels_are_optional(self) -> None:
        batch = Batch.from_lists(DOCUMENTS)
        assert batch.labels is None
        assert batch.to("cpu").labels is None

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (([1, 2], [1], [1]), "number of tokens 2, its sum is 1"),
            (([1, 2], [1, 1], [1]), "number of sentences 2, its sum is 1"),
            (([1, 2], [2, 0], [2]), "sentence 1 has none"),
            (([1, 2], [1, 1], [3, -1]), "`sentences_per_document` must not be negative"),
            (([1, -2], [1, 1], [2]), "`tokens` must not be negative, got -2"),
            (([1.5, 2], [1, 1], [2]), "`tokens` must be a one-dimensional array of integers"),
            (([1, 2], [[1, 1]], [2]), "`words_per_sentence` must be a one-dimensional"),
            (([1, 2], [1, 1], [2], [0, 1]), "1 documents have 2 labels"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, arrays: Sequence[Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Batch.from_arrays(*map(np.array, arrays))

    def test_a_sentence_without_words_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Every sentence must have a word, sentence 1"):
            Batch.from_lists([[[1], []]])

    def test_read_only_arrays_are_copied(self) -> None:
        tokens = np.array([1, 2])
        tokens.setflags(write=False)
        batch = Batch.from_arrays(tokens, np.array([2]), np.array([1]))
        batch.tokens[0] = 7
        assert tokens.tolist() == [1, 2]

    def test_lightning_moves_every_field(self) -> None:
        batch = Batch.from_lists(DOCUMENTS, [1, 0, 1, 0])
        moved = move_data_to_device(batch, torch.device("meta"))
        assert isinstance(moved, Batch)
        assert all(tensor.device.type == "meta" for tensor in tensors(moved))

    def test_pickling_keeps_it(self) -> None:
        batch = Batch.from_lists(DOCUMENTS, [1, 0, 1, 0])
        again = pickle.loads(pickle.dumps(batch))
        assert all(map(torch.equal, tensors(batch), tensors(again)))

    @pytest.mark.gpu
    def test_pinned_memory_moves_to_the_gpu(self) -> None:
        batch = Batch.from_lists(DOCUMENTS, [1, 0, 1, 0]).pin_memory()
        assert all(tensor.is_pinned() for tensor in tensors(batch))
        moved = move_data_to_device(batch, torch.device("cuda"))
        assert isinstance(moved, Batch)
        assert all(tensor.is_cuda for tensor in tensors(moved))
        assert all(map(torch.equal, tensors(moved.to("cpu")), tensors(batch)))

    def test_sentences_are_dropped_with_their_words(self) -> None:
        batch = Batch.from_lists([[[1, 2], [3]], [[4]], [], [[5, 6], [7], [8, 9]]], [0, 1, 1, 0])
        rest = batch.drop_sentences(torch.tensor([True, False, True, False, True, True]))
        # The second document would lose its only sentence, and keeps it.
        expected = Batch.from_lists([[[3]], [[4]], [], [[5, 6]]], [0, 1, 1, 0])
        for name in ("tokens", "words_per_sentence", "sentences_per_document", "labels"):
            assert getattr(rest, name).tolist() == getattr(expected, name).tolist(), name

    def test_dropping_no_sentence_or_all_changes_nothing(self) -> None:
        batch = Batch.from_lists([[[1, 2], [3]], [], [[4]]])
        for dropped in (False, True):
            rest = batch.drop_sentences(torch.full((3,), dropped))
            assert rest.tokens.tolist() == batch.tokens.tolist()
            assert rest.sentences_per_document.tolist() == [2, 0, 1]


class TestBatchDataset:
    def test_items_are_batches_in_the_order_asked_for(self) -> None:
        dataset = make_dataset()
        assert len(dataset) == 4
        expected = Batch.from_lists([DOCUMENTS[3], DOCUMENTS[0]], [1, 0])
        assert all(map(torch.equal, tensors(dataset[[3, 0]]), tensors(expected)))

    def test_one_document_without_a_label_takes_the_labels_from_all(self) -> None:
        dataset = make_dataset((0, 1, -1, 1))
        assert dataset[[0, 1]].labels is None

    def test_the_documents_of_several_splits_are_numbered_one_after_the_other(self) -> None:
        more = [[[11]], [[12, 13]]]
        splits = [FakeDocuments(DOCUMENTS, (0, 1, 0, 1)), FakeDocuments(more, (1, 0))]
        dataset = BatchDataset(*cast(list[StoredDocuments], splits))
        assert len(dataset) == 6
        # Those of the first split come first, otherwise in the order asked for.
        documents = [DOCUMENTS[3], DOCUMENTS[0], more[1], more[0]]
        expected = Batch.from_lists(documents, [1, 0, 0, 1])
        assert all(map(torch.equal, tensors(dataset[[5, 3, 4, 0]]), tensors(expected)))
        expected = Batch.from_lists(more, [1, 0])
        assert all(map(torch.equal, tensors(dataset[[4, 5]]), tensors(expected)))
        with pytest.raises(IndexError):
            dataset[[6]]

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_data_loader_yields_its_batches(self, workers: int) -> None:
        loader: DataLoader[Batch] = DataLoader(
            make_dataset(),
            sampler=SequentialBatchSampler(4, 3),
            batch_size=None,
            num_workers=workers,
            # Python warns of a fork where there are threads, and torch has some.
            multiprocessing_context="spawn" if workers else None,
        )
        first, second = list(loader)
        expected = Batch.from_lists(DOCUMENTS[:3], [0, 1, 0])
        assert all(map(torch.equal, tensors(first), tensors(expected)))
        assert len(second) == 1
        assert len(loader) == 2

    @pytest.mark.gpu
    def test_a_data_loader_pins_its_batches(self) -> None:
        loader: DataLoader[Batch] = DataLoader(
            make_dataset(),
            sampler=SequentialBatchSampler(4, 3),
            batch_size=None,
            num_workers=2,
            pin_memory=True,
        )
        for batch in loader:
            assert all(tensor.is_pinned() for tensor in tensors(batch))


class TestLengthGroupedBatchSampler:
    @given(
        lengths=st.lists(st.integers(0, 1000), min_size=8, max_size=300),
        batch_size=st.integers(1, 40),
        num_replicas=st.integers(1, 8),
        epoch=st.integers(0, 5),
    )
    def test_ranks_share_the_documents(
        self, lengths: list[int], batch_size: int, num_replicas: int, epoch: int
    ) -> None:
        ranks = batches_of_ranks(np.array(lengths), batch_size, num_replicas, epoch)
        seen = [index for batches in ranks for index in flat(batches)]
        assert len(set(seen)) == len(seen) == len(lengths) - len(lengths) % num_replicas
        for batches in zip(*ranks, strict=True):
            assert len({len(batch) for batch in batches}) == 1
            assert 0 < len(batches[0]) <= batch_size
        assert sum(len(batch) < batch_size for batch in ranks[0]) <= 1

    def test_one_process_sees_every_document(self) -> None:
        [batches] = batches_of_ranks(make_lengths(1003), 16, 1)
        assert sorted(flat(batches)) == list(range(1003))

    @pytest.mark.parametrize("num_replicas", [2, 3, 8])
    @pytest.mark.parametrize("batch_size", [1, 16, 64])
    def test_ranks_get_equal_numbers_of_words(self, num_replicas: int, batch_size: int) -> None:
        lengths = make_lengths(5000)
        ranks = batches_of_ranks(lengths, batch_size, num_replicas)
        words = [lengths[flat(batches)].sum() for batches in ranks]
        assert max(words) < 1.05 * min(words)

    def test_ranks_get_about_equal_numbers_of_words_in_each_step(self) -> None:
        lengths = make_lengths(5000)
        steps = zip(*batches_of_ranks(lengths, 32, 2), strict=True)
        differences = [abs(lengths[a].sum() - lengths[b].sum()) for a, b in steps]
        assert sum(differences) < 0.02 * lengths.sum()

    def test_the_documents_of_a_step_do_not_depend_on_the_number_of_processes(self) -> None:
        lengths = make_lengths(1024)
        one = batches_of_ranks(lengths, 32, 1)[0]
        two = zip(*batches_of_ranks(lengths, 16, 2), strict=True)
        assert [sorted(batch) for batch in one] == [sorted(a + b) for a, b in two]

    def test_a_batch_holds_documents_of_similar_length(self) -> None:
        lengths = make_lengths(5000)
        [batches] = batches_of_ranks(lengths, 32, 1)
        spread = np.mean([lengths[batch].std() for batch in batches])
        assert spread < 0.2 * lengths.std()

    def test_short_and_long_batches_are_mixed(self) -> None:
        lengths = make_lengths(5000)
        [batches] = batches_of_ranks(lengths, 32, 1)
        means = np.array([lengths[batch].mean() for batch in batches])
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3

    def test_epochs_differ_in_order_and_in_the_members_of_batches(self) -> None:
        lengths = make_lengths(500)
        first, second = (batches_of_ranks(lengths, 16, 1, epoch)[0] for epoch in (0, 1))
        assert first != second
        common = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}
        assert len(common) < 3

    def test_each_epoch_leaves_out_other_documents(self) -> None:
        left_out = [
            {*range(9)}
            - {i for batches in batches_of_ranks(np.ones(9), 2, 2, epoch) for i in flat(batches)}
            for epoch in range(5)
        ]
        assert all(len(missing) == 1 for missing in left_out)
        assert len(set.union(*left_out)) > 1

    def test_the_seed_fixes_the_order(self) -> None:
        lengths = make_lengths(300)
        assert batches_of_ranks(lengths, 8, 2) == batches_of_ranks(lengths, 8, 2)
        assert batches_of_ranks(lengths, 8, 2) != batches_of_ranks(lengths, 8, 2, seed=4)

    def test_the_order_is_the_same_on_every_machine(self) -> None:
        [batches] = batches_of_ranks(np.array([5, 3, 9, 1, 7, 2, 8]), 3, 1)
        assert batches == [[2], [4, 0, 1], [6, 5, 3]]

    def test_fewer_documents_than_a_batch_make_one_batch(self) -> None:
        [batches] = batches_of_ranks(np.array([3, 0, 2]), 64, 1)
        assert [sorted(batch) for batch in batches] == [[0, 1, 2]]

    @given(st.integers(0, 13), st.integers(1, 3))
    def test_resuming_yields_exactly_the_remaining_batches(self, done: int, replicas: int) -> None:
        lengths = make_lengths(40)
        expected = batches_of_ranks(lengths, 1, replicas, epoch=2)[0]
        sampler = LengthGroupedBatchSampler(lengths, 1, seed=3, num_replicas=replicas)
        sampler.set_epoch(2)
        iterator = iter(sampler)
        for _ in range(done):
            next(iterator)
        state = sampler.state_dict()
        assert state == {
            "seed": 3, "epoch": 2, "batches": 40 // replicas, "batches_done": done,
            "step_size": replicas,
        }  # fmt: skip

        resumed = LengthGroupedBatchSampler(lengths, 1, seed=3, num_replicas=replicas)
        resumed.load_state_dict(state)
        resumed.set_epoch(2)
        assert resumed.state_dict() == state
        assert list(resumed) == expected[done:]
        assert len(resumed) == len(expected)
        assert list(resumed) == expected

    def test_the_owner_may_say_how_many_batches_are_done(self) -> None:
        sampler = LengthGroupedBatchSampler(make_lengths(40), 4, seed=3)
        batches = list(sampler)
        assert sampler.state_dict()["batches_done"] == 10
        sampler.load_state_dict(sampler.state_dict(batches_done=7))
        assert list(sampler) == batches[7:]

    def test_another_epoch_starts_at_its_first_batch(self) -> None:
        sampler = LengthGroupedBatchSampler(make_lengths(40), 4, seed=3)
        sampler.load_state_dict({**sampler.state_dict(batches_done=10), "epoch": 1})
        sampler.set_epoch(2)
        assert len(list(sampler)) == 10

    def test_a_batch_is_the_one_that_the_epoch_yields(self) -> None:
        sampler = LengthGroupedBatchSampler(make_lengths(40), 4, seed=3)
        sampler.set_epoch(1)
        assert [sampler.batch(number) for number in range(10)] == list(sampler)

    def test_a_state_amid_an_epoch_of_other_steps_is_refused(self) -> None:
        sampler = LengthGroupedBatchSampler(make_lengths(40), 4, seed=3)
        other = LengthGroupedBatchSampler(make_lengths(40), 4, seed=3, num_replicas=2)
        other.load_state_dict(sampler.state_dict(batches_done=0))
        other.load_state_dict(sampler.state_dict(batches_done=10))
        with pytest.raises(ValueError, match="4 documents a step, this one has 8"):
            other.load_state_dict(sampler.state_dict(batches_done=3))

    @pytest.mark.parametrize("num_replicas", [1, 3])
    def test_classes_are_drawn_equally_often(self, num_replicas: int) -> None:
        lengths, classes = make_lengths(1000), np.repeat([0, 1, 2], [900, 80, 20])

        def epoch(number: int) -> list[int]:
            samplers = [
                LengthGroupedBatchSampler(
                    lengths, 16, classes=classes, seed=0, rank=rank, num_replicas=num_replicas
                )
                for rank in range(num_replicas)
            ]
            for sampler in samplers:
                sampler.set_epoch(number)
            return [index for sampler in samplers for index in flat(list(sampler))]

        first, second = epoch(0), epoch(1)
        assert 999 <= len(first) <= 1000
        assert np.ptp(np.bincount(classes[first])) <= 2
        times = np.bincount(first, minlength=1000)
        assert times[:900].max() == 1
        assert {*times[900:980].tolist()} <= {3, 4, 5}
        assert {*times[980:].tolist()} <= {15, 16, 17}
        assert {*second} != {*first}  # other documents of the frequent class
        assert first == epoch(0)

    def test_a_balanced_epoch_goes_on_where_it_was_left(self) -> None:
        def make() -> LengthGroupedBatchSampler:
            classes = np.repeat([0, 1], [90, 10])
            return LengthGroupedBatchSampler(make_lengths(100), 8, classes=classes, seed=3)

        whole, interrupted, resumed = list(make()), make(), make()
        begun = iter(interrupted)
        assert [next(begun) for _ in range(5)] == whole[:5]
        resumed.load_state_dict(interrupted.state_dict())
        assert list(resumed) == whole[5:]

    def test_the_state_of_another_seed_is_refused(self) -> None:
        state = LengthGroupedBatchSampler([1, 2], 1, seed=1).state_dict()
        with pytest.raises(ValueError, match="has seed 1, this one has 2"):
            LengthGroupedBatchSampler([1, 2], 1, seed=2).load_state_dict(state)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "`batch_size` must be at least 1"),
            ({"seed": -1}, "`seed` must not be negative"),
            ({"rank": 2, "num_replicas": 2}, "`rank` must be from 0 to 1, got 2"),
            ({"num_replicas": 4}, "3 documents cannot be shared by 4"),
        ],
    )
    def test_unfit_arguments_are_refused(self, options: dict[str, int], message: str) -> None:
        arguments = {"batch_size": 2, "seed": 0, **options}
        with pytest.raises(ValueError, match=message):
            LengthGroupedBatchSampler([1, 2, 3], **arguments)


class TestSequentialBatchSampler:
    @given(st.integers(0, 100), st.integers(1, 40), st.integers(1, 8))
    def test_the_ranks_one_after_the_other_are_all_documents_in_order(
        self, num_documents: int, batch_size: int, num_replicas: int
    ) -> None:
        seen: list[int] = []
        sizes = []
        for rank in range(num_replicas):
            sampler = SequentialBatchSampler(
                num_documents, batch_size, rank=rank, num_replicas=num_replicas
            )
            batches = list(sampler)
            assert len(batches) == len(sampler)
            assert all(0 < len(batch) <= batch_size for batch in batches)
            seen += flat(batches)
            sizes.append(len(flat(batches)))
        assert seen == list(range(num_documents))
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1, "rank": 1}])
    def test_unfit_arguments_are_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be"):
            SequentialBatchSampler(3, **options)
