from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from gensim.models import Word2Vec as GensimModel

from han.cli import _parser
from han.datamodule import HANDataModule
from han.embeddings import Vectors, load_vectors
from han.estimator import HANClassifier
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
from han.word2vec import Word2Vec, corpus_vectors
from tests.commands import Place
from tests.reviews import QUICK, Row, han, read_csv, rows, write_rows
from tests.tiny import save_model

SMALL = Word2Vec(size=8, epochs=2)
Named = dict[str, npt.NDArray[np.float32]]

# The words occur 8, 7, 6, 5, 4, 3 and 2 times: gensim orders them by that. Those that the text has
# but once are `<unk>` here.
SENTENCES = (
    "a b c d e f <unk>",
    "a b c d e a b",
    "d c <unk> b a e",
    "c b a c d",
    "a <unk> b f",
    "a d b a",
    "c e",
)
TEXT = "a b c d e f x\n\nA b c d e a b\n\nd c y b a e\n\nc b a c d\n\na z b f\n\na d b a\n\nc e"


def named(vectors: Vectors) -> Named:
    return dict(zip(vectors.words, vectors.matrix, strict=True))


def load(path: Path, *words: str) -> Named:
    """Return the vectors of those of the words that a file has."""
    return named(load_vectors(str(path), words, cache_dir=Path("none")))


def learn(
    texts: Sequence[str], folder: Path, training: Word2Vec = SMALL, start: Named | None = None
) -> Named:
    """Learn the vectors of the words that occur twice."""
    vocabulary = Vocabulary.build(texts, Tokenizer(), min_count=2)
    encoded = ((text.tokens, text.words_per_sentence) for text in vocabulary.encode(texts))
    options: dict[str, Any] = {"count": len(texts), "folder": folder, "start": start}
    return named(training.train(encoded, vocabulary.words, **options, progress=False))


def assert_same(found: Named, expected: Named) -> None:
    assert found.keys() == expected.keys()
    for word, vector in expected.items():
        assert np.array_equal(found[word], vector), word


class TestTrain:
    @pytest.mark.parametrize("architecture", ["skip_gram", "cbow"])
    @pytest.mark.parametrize("window", [1, 5])
    @pytest.mark.parametrize(
        "start", [{}, {"a": np.full(8, 0.3), "f": np.ones(8), "x": -np.ones(8)}]
    )
    def test_it_is_gensim_on_the_sentences(
        self,
        tmp_path: Path,
        architecture: Literal["skip_gram", "cbow"],
        window: int,
        start: Named,
    ) -> None:
        counts = Counter(" ".join(SENTENCES).split())
        assert len(set(counts.values())) == len(counts)
        file = tmp_path / "sentences.txt"
        file.write_text("".join(f"{sentence}\n" for sentence in SENTENCES))
        skip_gram = int(architecture == "skip_gram")
        model = GensimModel(
            vector_size=8, window=window, min_count=1, sg=skip_gram, seed=5, workers=1
        )
        model.build_vocab(corpus_file=str(file))
        for word in ("a", "f"):
            if word in start:
                model.wv.vectors[model.wv.key_to_index[word]] = start[word]
        model.train(corpus_file=str(file), total_words=sum(counts.values()), epochs=3)
        training = Word2Vec(size=8, window=window, epochs=3, architecture=architecture, seed=5)
        expected = {word: model.wv[word] for word in model.wv.index_to_key}
        assert_same(learn([TEXT], tmp_path, training, start), expected)

    def test_words_that_are_used_alike_become_alike(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        animals, dishes = ("cat", "dog"), ("soup", "bread")
        around = {animals: "fur barks sleeps tail runs", dishes: "spoon hot eat salt bowl"}
        sentences = []
        for _ in range(1500):
            group = animals if random.random() < 0.5 else dishes
            near = random.choice(around[group].split(), 3)
            sentences.append(" ".join([near[0], str(random.choice(group)), *near[1:]]))
        vectors = learn(["\n\n".join(sentences)], tmp_path, replace(SMALL, epochs=100))

        def likeness(one: str, other: str) -> float:
            a, b = vectors[one], vectors[other]
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

        alike = min(likeness("cat", "dog"), likeness("soup", "bread"))
        assert alike > 0.3 + max(likeness(one, other) for one in animals for other in dishes)

    def test_a_text_without_sentences_is_read_to_its_end(self, tmp_path: Path) -> None:
        seen: list[int] = []

        class Recorder(GensimModel):  # type: ignore[misc]  # gensim comes without types
            def train(self, corpus_file: str, **options: object) -> None:
                lines = Path(corpus_file).read_text().splitlines()
                seen.extend(len(line.split()) for line in lines)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gensim.models.Word2Vec", Recorder)
            learn(["word " * 25_000, "word " * 3], tmp_path)
        assert seen == [10_000, 10_000, 5_000, 3]

    def test_a_word_that_does_not_occur_has_no_vector(self, tmp_path: Path) -> None:
        tokens = np.array([2, 1, 2, 1])
        found = SMALL.train(
            [(tokens, np.array([4]))],
            ["<unk>", "a", "b", "c"],
            count=1,
            folder=tmp_path,
            progress=False,
        )
        assert found.words == ["a", "b"]
        assert found.matrix.shape == (2, 8)

    def test_nothing_is_left_in_the_folder(self, tmp_path: Path) -> None:
        learn([TEXT], tmp_path)
        with pytest.raises(ValueError, match="no words"):
            learn(["each word once"], tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("texts", [[], ["", " \n"], ["each word once"]])
    def test_no_words_are_an_error(self, texts: list[str], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`min_count`"):
            learn(texts, tmp_path)

    @pytest.mark.parametrize("name", ["size", "window", "epochs", "workers"])
    def test_numbers_must_be_positive(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            Word2Vec(**{name: 0})

    @pytest.mark.parametrize("seed", [-1, 2**32])
    def test_a_seed_must_be_one_of_numpy(self, seed: int) -> None:
        with pytest.raises(ValueError, match="`seed`"):
            Word2Vec(seed=seed)


def write_split(path: Path, changes: dict[str, str]) -> Path:
    """Write reviews with other texts where `changes` has one for the split."""
    content: list[Row] = [
        (name, changes.get(split, text), label, split) for name, text, label, split in rows()
    ]
    return write_rows(path, content)


class TestCorpusVectors:
    def matrix(self, folder: Path, **changes: str) -> npt.NDArray[np.float32]:
        folder.mkdir()
        source = write_split(folder / "reviews.csv", changes)
        data = HANDataModule(
            train=str(source), vectors="word2vec", embedding_size=8, cache_dir=str(folder / "c")
        )
        assert data.embedding_matrix is not None
        assert data.embedding_matrix.shape == (data.vocabulary_size, 8)
        return data.embedding_matrix

    def test_they_are_learned_from_training_and_validation_documents(self, tmp_path: Path) -> None:
        found = self.matrix(tmp_path / "a")
        texts = {
            split: [text for _, text, _, of in rows() if of == split]
            for split in ("train", "validation")
        }
        vocabulary = Vocabulary.build(texts["train"], Tokenizer(), min_count=2)
        encoded = vocabulary.encode([*texts["train"], *texts["validation"]])
        expected = Word2Vec(size=8).train(
            [(text.tokens, text.words_per_sentence) for text in encoded],
            vocabulary.words,
            count=len(encoded),
            folder=tmp_path,
        )
        assert vocabulary.words[1:] == tuple(expected.words)[-len(vocabulary) + 1 :]
        assert np.array_equal(found[-len(expected.words) :], expected.matrix)

    def test_test_documents_do_not_matter_but_validation_ones_do(self, tmp_path: Path) -> None:
        plain = self.matrix(tmp_path / "a")
        assert np.array_equal(plain, self.matrix(tmp_path / "b", test="soup soup the soup"))
        assert not np.array_equal(
            plain, self.matrix(tmp_path / "c", validation="soup soup the soup")
        )

    def test_unknown_words_have_a_learned_vector_in_common(self, tmp_path: Path) -> None:
        plain = self.matrix(tmp_path / "a", validation="soup the unheard was unheard")
        other = self.matrix(tmp_path / "b", validation="soup the unseen was unseen")
        more = self.matrix(tmp_path / "c", validation="soup the unheard was here")
        assert np.array_equal(plain[0], other[0])
        assert not np.array_equal(plain[0], more[0])

    def test_they_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = write_split(tmp_path / "reviews.csv", {})
        corpus = HANDataModule(train=str(source), cache_dir=str(tmp_path / "c")).corpus
        first = corpus_vectors(corpus, SMALL)
        assert corpus_vectors(corpus, replace(SMALL, seed=1)) != first
        monkeypatch.setattr(Word2Vec, "train", None)
        assert corpus_vectors(corpus, SMALL) == first
        with pytest.raises(TypeError):
            corpus_vectors(corpus, replace(SMALL, seed=2))

    def test_the_estimator_learns_them_and_leaves_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        texts, labels = zip(*((text, label) for _, text, label, _ in rows()), strict=True)
        options: dict[str, Any] = {"hidden_size": 3, "attention_size": 4, "max_epochs": 1}
        model = HANClassifier(
            vectors="word2vec", embedding_size=6, cache_dir=str(tmp_path), **options
        )
        assert set(model.fit(texts, labels).predict(texts)) <= {"bad", "good"}
        assert not list(tmp_path.rglob("*word2vec*"))
        assert "".join(capsys.readouterr()) == ""

    def test_the_width_is_the_papers_unless_another_is_given(self, tmp_path: Path) -> None:
        source = str(write_split(tmp_path / "reviews.csv", {}))
        wide = HANDataModule(train=source, vectors="word2vec", cache_dir=str(tmp_path / "c"))
        assert wide.embedding_size == 200
        assert wide.embedding_matrix is not None
        assert wide.embedding_matrix.shape[1] == 200

    def test_gensim_is_needed_only_where_vectors_are_learned(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gensim", None)
        with pytest.raises(ImportError, match=r'pip install "han-classifier\[word2vec\]"'):
            HANDataModule(train="reviews.csv", vectors="word2vec")
        model = save_model(tmp_path / "model")
        data = HANDataModule(train="x", vectors="word2vec", vocabulary_from=str(model))
        assert data.embedding_matrix is None

    def test_fit_learns_them_and_the_model_has_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_rows(Path("reviews.csv"), rows())
        kept = ("--model.embedding_learning_rate=0", "--run_dir=run")
        options = (*QUICK, "--data.vectors=word2vec", *kept)
        assert han("fit", "--data.train=reviews.csv", *options) == 0
        assert read_csv(Path("run/metrics.csv"))
        from han.bundle import Bundle

        [file] = Path("cache/corpora").glob("*.word2vec.*.npz")
        bundle = Bundle.load(Path("run/model"))
        vectors = load(file, *bundle.vocabulary.words)
        for embedding in bundle.network.embeddings:
            weight = embedding.weight.detach().numpy()
            for word, row in zip(bundle.vocabulary.words, weight, strict=True):
                if word in vectors:
                    assert np.array_equal(row, vectors[word]), word
        assert len(vectors) >= len(bundle.vocabulary) - 1


class TestCommand:
    """`han vectors`."""

    REVIEWS = (("hot soup hot soup.", "train"), ("Hot soup cold beer", "dev"), ("beer beer", ""))

    def write(self, folder: Path, name: str = "reviews.csv", **more: str) -> Path:
        content = [*self.REVIEWS, *((text, split) for split, text in more.items())]
        return write_rows(folder / name, content, ("text", "split"))

    def learn(self, place: Place, *options: str) -> Named:
        output = place.folder / "own.npz"
        small = ("--min_count=2", "--size=6", f"--output={output}")
        outcome = place.run_main("vectors", *options, *small)
        assert (outcome.status, outcome.out) == (0, ""), outcome.err
        assert "vectors: " in outcome.err
        return load(output, "<unk>", "hot", "soup", "cold", "beer", "Hot", "secret", ".")

    def test_it_learns_from_texts_that_need_no_label(self, place: Place) -> None:
        vectors = self.learn(place, str(self.write(place.folder)))
        assert vectors.keys() == {"<unk>", "hot", "soup", "beer"}
        assert {vector.shape for vector in vectors.values()} == {(6,)}

    def test_the_vectors_are_those_of_the_function(self, place: Place) -> None:
        found = self.learn(place, str(self.write(place.folder)), "--seed=3", "--epochs=2")
        texts = [text for text, _ in self.REVIEWS]
        assert_same(found, learn(texts, place.folder, Word2Vec(size=6, seed=3, epochs=2)))

    def test_test_documents_are_left_out_unless_asked_for(self, place: Place) -> None:
        plain = self.learn(place, str(self.write(place.folder)))
        source = str(self.write(place.folder, test="secret soup secret"))
        assert_same(self.learn(place, source), plain)
        assert "secret" in self.learn(place, source, "--include_test")
        output = f"--output={place.folder / 'own.npz'}"
        told = place.run_main("vectors", source, output, "--min_count=2").err
        assert "left out 1 test documents" in told

    def test_several_sources_are_one_text(self, place: Place) -> None:
        whole = self.learn(place, str(self.write(place.folder)))
        parts = [
            write_rows(place.folder / f"{i}.csv", [row], ("text", "split"))
            for i, row in enumerate(self.REVIEWS)
        ]
        assert_same(self.learn(place, *map(str, parts)), whole)

    def test_upper_case_can_be_kept(self, place: Place) -> None:
        text = write_rows(place.folder / "r.csv", [("Hot Hot hot hot",)], ("text",))
        assert self.learn(place, str(text), "--lowercase=false").keys() == {"Hot", "hot"}
        assert self.learn(place, str(text)).keys() == {"hot"}

    def test_it_goes_on_from_other_vectors(self, place: Place) -> None:
        source = str(self.write(place.folder))
        vector = np.arange(5, dtype=np.float32)
        np.savez(place.folder / "s.npz", words=["hot", "no"], vectors=np.stack([vector, -vector]))
        output = place.folder / "own.npz"
        options = (f"--start={place.folder / 's.npz'}", f"--output={output}", "--min_count=2")
        outcome = place.run_main("vectors", source, *options)
        assert outcome.status == 0
        assert "1 of them start from " in outcome.err
        texts = [text for text, _ in self.REVIEWS]
        expected = learn(texts, place.folder, Word2Vec(size=5), {"hot": vector})
        assert_same(load(output, *expected), expected)
        assert place.run_main("vectors", source, *options, "--size=5").status == 0
        from_own = ("--min_count=2", f"--start={output}", f"--output={place.folder / 'more.npz'}")
        assert "3 of them start from " in place.run_main("vectors", source, *from_own).err
        outcome = place.run_main("vectors", source, *options, "--size=6")
        assert "are 5 wide, `--size` says 6; leave it out" in outcome.err

    def test_it_goes_on_from_the_vectors_of_the_package(self, place: Place) -> None:
        source, output = str(self.write(place.folder)), place.folder / "own.npz"
        options = ("--start=builtin", f"--output={output}", "--min_count=2", "--lowercase=false")
        assert place.run_main("vectors", source, *options).status == 0
        text = write_rows(place.folder / "r.csv", [("Soup SOUP beer " * 2,)], ("text",))
        outcome = place.run_main("vectors", str(text), *options)
        assert "3 words that occur" in outcome.err
        assert "3 of them start from builtin" in outcome.err
        words = load(output, "Soup", "SOUP", "beer")
        assert [words[word].shape for word in ("Soup", "SOUP", "beer")] == [(50,)] * 3
        assert np.corrcoef(words["Soup"], words["SOUP"])[0, 1] > 0.99

    def test_one_seed_gives_one_file(self, tmp_path: Path) -> None:
        files = []
        for hash_seed in "12":
            output = tmp_path / f"{hash_seed}.npz"
            options = (f"--output={output}", "--min_count=1")
            subprocess.run(
                [sys.executable, "-m", "han", "vectors", self.write(tmp_path), *options],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                check=True,
                capture_output=True,
            )
            files.append(output.read_bytes())
        assert files[0] == files[1]

    def test_fit_reads_what_it_writes(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(place.folder)
        write_rows(Path("reviews.csv"), rows())
        assert han("vectors", "reviews.csv", "--output=own.npz", "--size=8", "--min_count=2") == 0
        options = (*QUICK, "--data.vectors=own.npz", "--data.min_count=3")
        assert han("fit", "--data.train=reviews.csv", *options, "--run_dir=run") == 0
        assert "100.0% of them with a pretrained vector" in capsys.readouterr().err

    def test_its_defaults_are_those_of_the_function(self) -> None:
        command = _parser().parse_args(["vectors", "x", "--output=y.npz"])
        others = [field for field in fields(Word2Vec) if field.name != "size"]
        assert all(getattr(command, field.name) == field.default for field in others)

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (("--output=own.txt",), "must end in .npz"),
            (("--output=own.npz.gz",), "must end in .npz"),
            (("--size=0",), "`--size` must be at least 1, got 0"),
            (("--min_count=0",), "`--min_count` must be at least 1, got 0"),
            (("--min_count=9",), "lower `--min_count`"),
            (("--seed=-1",), "`--seed` must be from 0"),
            (("--language=xx",), "`--language` 'xx' is unknown"),
            (("--text_column=body",), "no column 'body'"),
            (("--split_column=part",), "no column 'part'"),
            (("--start=no.npz",), "no file of word vectors at no.npz"),
            (("--start=glove.wrong",), "Unknown word vectors 'glove.wrong'"),
            (
                ("--start=builtin", "--size=7", "--min_count=2"),
                "builtin are 50 wide, `--size` says 7",
            ),
        ],
    )
    def test_bad_options_are_one_line(
        self, place: Place, options: tuple[str, ...], part: str
    ) -> None:
        source = self.write(place.folder)
        before = sorted(place.folder.iterdir())
        given = (f"--output={place.folder / 'own.npz'}", *options)
        outcome = place.run_main("vectors", str(source), *given)
        line = outcome.err.splitlines(keepends=True)[-1]
        outcome._replace(err=line).assert_one_line(part)
        assert sorted(place.folder.iterdir()) == before

    def test_bad_sources_are_one_line(self, place: Place) -> None:
        output = f"--output={place.folder / 'own.npz'}"
        place.run_main("vectors", "-", output).assert_one_line("-: this can be read only once")
        place.run_main("vectors", "no.csv", output).assert_one_line("no.csv: no such file")
        pipe = place.folder / "pipe.csv"
        os.mkfifo(pipe)
        place.run_main("vectors", str(pipe), output).assert_one_line("read only once")
        only = write_rows(place.folder / "t.csv", [("a", "test")], ("text", "split"))
        place.run_main("vectors", str(only), output).assert_one_line("--include_test")
        source = str(self.write(place.folder))
        place.run_main("vectors", source, "--output", source).assert_one_line("must end in .npz")

    def test_gensim_is_named_where_it_is_missing(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gensim", None)
        output = f"--output={place.folder / 'own.npz'}"
        outcome = place.run_main("vectors", str(self.write(place.folder)), output)
        outcome.assert_one_line('pip install "han-classifier[word2vec]"')
