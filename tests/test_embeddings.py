from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from email.message import Message
from importlib.resources import files
from pathlib import Path
from urllib.response import addinfourl

import numpy as np
import pytest
import torchtext.vocab

from han.embeddings import Vectors, embedding_matrix, load_vectors, write_vectors

TEXT = "the 0.5 -1 2\nCat 1 2 3\ncat 4 5 6\ncat 7 8 9\n"
ROWS = {"the": [0.5, -1, 2], "Cat": [1, 2, 3], "cat": [4, 5, 6]}


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write_npz(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def read(source: str, *words: str, cache_dir: Path = Path("no-cache")) -> dict[str, list[float]]:
    vectors = load_vectors(source, words or ROWS, cache_dir=cache_dir)
    assert vectors.matrix.dtype == np.float32
    assert len(vectors.matrix) == len(vectors.words)
    return dict(zip(vectors.words, vectors.matrix.tolist(), strict=True))


def pack_gz(folder: Path) -> str:
    return write(folder / "v.txt.gz", gzip.compress(TEXT.encode()))


def pack_zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "v.zip", "w") as archive:
        archive.writestr("vectors/v.txt", TEXT)
    return str(folder / "v.zip")


def pack_tar(folder: Path) -> str:
    write(folder / "v.txt", TEXT)
    with tarfile.open(folder / "v.tar.gz", "w:gz") as archive:
        archive.add(folder / "v.txt", arcname="vectors/v.txt")
    return str(folder / "v.tar.gz")


def no_network(url: str, timeout: float) -> None:
    raise OSError("Name or service not known")


def half_a_download(url: str, timeout: float) -> addinfourl:
    headers = Message()
    headers["Content-Length"] = "100"
    return addinfourl(io.BytesIO(b"x" * 50), headers, url)


class TestWriting:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        words = ["<unk>", "Straße", "🙂", "a" * 200, "a" * 201, "z"]
        matrix = np.arange(18, dtype=np.float32).reshape(6, 3) / 7
        write_vectors(tmp_path / "v.npz", Vectors(words, matrix))
        found = load_vectors(str(tmp_path / "v.npz"), words, cache_dir=tmp_path)
        assert list(found.words) == [word for word in words if len(word) <= 200]
        assert np.array_equal(found.matrix, matrix[[0, 1, 2, 3, 5]])
        assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]


class TestTextFiles:
    def test_the_vectors_of_the_wanted_words_are_read(self, tmp_path: Path) -> None:
        source = write(tmp_path / "v.txt", TEXT)
        assert read(source) == ROWS
        assert read(source, "cat", "dog") == {"cat": ROWS["cat"]}

    @pytest.mark.parametrize(
        "text",
        [
            "4 3\n" + TEXT,
            TEXT.replace("\n", " \n"),
            TEXT.replace("\n", "\r\n"),
            TEXT.replace(" ", "\t"),
            TEXT.rstrip("\n"),
            TEXT + "\n\n",
        ],
        ids=["header", "trailing spaces", "CRLF", "tabs", "no last line end", "blank lines"],
    )
    def test_the_ways_to_write_them_are_equal(self, tmp_path: Path, text: str) -> None:
        assert read(write(tmp_path / "v.vec", text)) == ROWS

    @pytest.mark.parametrize("pack", [pack_gz, pack_zip, pack_tar])
    def test_packed_files_are_read(self, tmp_path: Path, pack: Callable[[Path], str]) -> None:
        assert read(pack(tmp_path)) == ROWS

    def test_words_may_be_anything_without_the_separator(self, tmp_path: Path) -> None:
        words = [".\xa0.", "e\u0301", "한국어", "\U0001f469\u200d\U0001f52c", "\x85", "1"]
        source = write(tmp_path / "v.txt", "".join(f"{word} 1 2\n" for word in words))
        assert list(read(source, *words)) == words

    def test_words_that_are_no_utf8_are_passed_over(self, tmp_path: Path) -> None:
        assert read(write(tmp_path / "v.txt", b"caf\xe9 1 2 3\n" + TEXT.encode())) == ROWS

    def test_a_changed_file_of_the_same_name_gives_its_new_vectors(self, tmp_path: Path) -> None:
        assert read(write(tmp_path / "v.txt", "cat 1 2\n"), cache_dir=tmp_path) == {"cat": [1, 2]}
        assert read(write(tmp_path / "v.txt", "cat 3 4\n"), cache_dir=tmp_path) == {"cat": [3, 4]}
        assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "holds no vectors"),
            ("4 3\n", "holds no vectors"),
            ("the\n", ":1: 0 numbers"),
            ("the 1 2\ndog 1\n", ":2: 1 numbers, 2 expected"),
            ("4 3\nthe 1 2\ndog 1 2 3\n", ":3: 3 numbers, 2 expected"),
            ("the 1 2\ncat 1 x\n", ":2: what follows 'cat'"),
            ("once upon a time\n", ":1: what follows 'once'"),
            ("4 3\n" + "cat \x00\x01\xff 2\n", ":2: what follows 'cat'"),
            ("the 1 2\ncat 1 nan\n", "'cat' has a number that is not finite"),
            ("the 1 2\ncat 1 1e39\n", "'cat' has a number that is not finite"),
        ],
    )
    def test_a_malformed_file_is_named_with_the_line(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as error:
            read(write(tmp_path / "bad.txt", text))
        assert "bad.txt" in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["v.txt.gz", "v.zip", "v.tar.gz", "v.npz"])
    @pytest.mark.parametrize("end", [0, 1, 100])
    def test_a_damaged_package_is_an_error(self, tmp_path: Path, name: str, end: int) -> None:
        pack_gz(tmp_path), pack_zip(tmp_path), pack_tar(tmp_path)
        write_npz(tmp_path / "v.npz", words=np.array(["cat"]), vectors=np.ones((1, 2)))
        content = (tmp_path / name).read_bytes()
        source = write(tmp_path / name, content[: min(end, len(content) - 9)])
        with pytest.raises(ValueError, match=name):
            read(source)

    def test_an_archive_of_several_files_is_an_error(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
            archive.writestr("a.txt", TEXT)
            archive.writestr("b.txt", TEXT)
        with pytest.raises(
            ValueError, match=r"must hold one file of vectors, it holds a.txt, b.txt"
        ):
            read(str(tmp_path / "v.zip"))


class TestNumpyFiles:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
    def test_words_and_vectors_of_any_number_type(self, tmp_path: Path, dtype: type) -> None:
        words = np.array(["the", "cat", "cat"])
        vectors = np.array([[1, 2], [3, 4], [5, 6]], dtype=dtype)
        source = write_npz(tmp_path / "v.npz", words=words, vectors=vectors)
        assert read(source) == {"the": [1, 2], "cat": [3, 4]}

    def test_vectors_are_multiplied_by_the_scale_of_their_word(self, tmp_path: Path) -> None:
        source = write_npz(
            tmp_path / "v.npz",
            words=np.array(["a", "the", "cat"]),
            vectors=np.array([[1, 1], [127, -127], [2, 4]], dtype=np.int8),
            scale=np.array([[9], [0.5], [0.25]], dtype=np.float16),
        )
        assert read(source) == {"the": [63.5, -63.5], "cat": [0.5, 1]}

    @pytest.mark.parametrize(
        "arrays",
        [
            {"tokens": np.array(["cat"]), "vectors": np.ones((1, 2))},
            {"words": np.array(["cat"]), "matrix": np.ones((1, 2))},
            {"words": np.array(["cat"], dtype=object), "vectors": np.ones((1, 2))},
            {"words": np.array([1]), "vectors": np.ones((1, 2))},
            {"words": np.array(["cat"]), "vectors": np.ones((2, 2))},
            {"words": np.array(["cat"]), "vectors": np.ones(1)},
            {"words": np.array(["cat"]), "vectors": np.array([["x"]])},
            {"words": np.array(["cat"]), "vectors": np.ones((1, 2)), "scale": np.ones(3)},
        ],
        ids=str,
    )
    def test_wrong_arrays_are_an_error_that_says_what_is_right(
        self, tmp_path: Path, arrays: dict[str, object]
    ) -> None:
        with pytest.raises(ValueError, match=r"v\.npz.*`words`.*`vectors`.*numpy\.savez"):
            read(write_npz(tmp_path / "v.npz", **arrays))

    def test_a_file_of_another_kind_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not a NumPy archive"):
            read(write(tmp_path / "v.npz", TEXT))
        np.save(tmp_path / "v.npy", np.ones(3))
        with pytest.raises(ValueError, match="not a NumPy archive"):
            read(write(tmp_path / "v.npz", (tmp_path / "v.npy").read_bytes()))


class TestBuiltin:
    def test_it_has_the_most_frequent_english_words(self) -> None:
        with (files("han") / "data" / "glove50.npz").open("rb") as file:
            words = np.load(file)["words"].tolist()
        assert len(words) >= 30_000
        assert len(words) == len(set(words))
        vectors = load_vectors("builtin", words, cache_dir=Path("no-cache"))
        assert list(vectors.words) == words
        assert vectors.matrix.shape == (len(words), 50)

    def test_related_words_are_near(self) -> None:
        vectors = load_vectors(
            "builtin", ["king", "queen", "bread", "butter"], cache_dir=Path("no-cache")
        )
        unit = vectors.matrix / np.linalg.norm(vectors.matrix, axis=1, keepdims=True)
        near = dict(zip(vectors.words, unit @ unit[list(vectors.words).index("king")], strict=True))
        assert near["queen"] > 0.7
        assert max(near["bread"], near["butter"]) < 0.4

    def test_the_rounding_is_slight(self) -> None:
        published = [0.50451, 0.68607, -0.59517, -0.022801, 0.60046, -0.13498, -0.08813, 0.47377]
        (king,) = read("builtin", "king").values()
        np.testing.assert_allclose(king[:8], published, atol=0.02)


class TestPublishedNames:
    @pytest.fixture
    def torchtext_file(self, tmp_path: Path) -> Path:
        """The file of `glove.6B.100d` as torchtext lays it out, of random vectors."""
        rng = np.random.default_rng(0)
        path = tmp_path / "glove.6B.100d.txt"
        lines = (f"word{i} " + " ".join(f"{x:.4f}" for x in rng.normal(size=100)) for i in range(9))
        write(path, "\n".join(lines))
        return path

    @pytest.mark.parametrize("name", torchtext.vocab.pretrained_aliases)
    def test_without_network_every_name_fails_in_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr("han.embeddings.urlopen", no_network)
        with pytest.raises(ConnectionError, match=r"Cannot download http.* save it as .*") as error:
            load_vectors(name, ["cat"], cache_dir=tmp_path)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())

    def test_half_a_download_is_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("han.embeddings.urlopen", half_a_download)
        with pytest.raises(ConnectionError, match="it ended after 50 of 100 bytes"):
            load_vectors("fasttext.en.300d", ["cat"], cache_dir=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_an_unknown_name_lists_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"'glove\.7B\.100d'.*builtin.*glove\.6B\.100d"):
            load_vectors("glove.7B.100d", ["cat"], cache_dir=tmp_path)

    @pytest.mark.parametrize("name", ["v.txt", "folder/vectors", "./v.vec", "v.npz", "."])
    def test_a_missing_file_is_told_from_an_unknown_name(self, name: str) -> None:
        with pytest.raises(FileNotFoundError, match="no file of word vectors"):
            read(name)

    def test_a_cached_file_is_read_as_torchtext_reads_it(self, torchtext_file: Path) -> None:
        folder = torchtext_file.parent
        words = [f"word{i}" for i in range(9)]
        found = read("glove.6B.100d", *words, cache_dir=folder)
        oracle = torchtext.vocab.Vectors(str(torchtext_file), cache=str(folder / "oracle"))
        assert found == {word: oracle[word].tolist() for word in words}

    def test_a_changed_cached_file_gives_its_new_vectors(self, torchtext_file: Path) -> None:
        folder = torchtext_file.parent
        old = read("glove.6B.100d", "word0", cache_dir=folder)
        write(torchtext_file, torchtext_file.read_text().replace("word0 ", "word0 9"))
        assert read("glove.6B.100d", "word0", cache_dir=folder) != old

    def test_the_archive_is_downloaded_once(
        self, torchtext_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = read("glove.6B.100d", "word0", cache_dir=tmp_path)
        with zipfile.ZipFile(tmp_path / "remote.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(torchtext_file, "glove.6B.100d.txt")
            archive.writestr("glove.6B.50d.txt", "cat 1 2\n")
        cache = tmp_path / "cache"
        address = (tmp_path / "remote.zip").as_uri()
        monkeypatch.setitem(torchtext.vocab.GloVe.url, "6B", address)
        assert read("glove.6B.100d", "word0", cache_dir=cache) == expected
        assert [path.name for path in cache.iterdir()] == ["remote.zip"]
        (tmp_path / "remote.zip").unlink()
        assert read("glove.6B.100d", "word0", cache_dir=cache) == expected
        assert read("glove.6B.50d", "cat", cache_dir=cache) == {"cat": [1, 2]}

    def test_character_ngrams_are_composed_as_by_torchtext(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        ngrams = ["2gram-#BEGIN#c", "2gram-ca", "3gram-cat", "4gram-#BEGIN#cat", "2gram-t#END#"]
        rows = (f"{ngram} " + " ".join(map(str, rng.normal(size=5))) for ngram in ngrams)
        write(tmp_path / "charNgram.txt", "\n".join(rows))
        found = read("charngram.100d", "cat", "at", "dog", cache_dir=tmp_path)
        oracle = torchtext.vocab.CharNGram(cache=str(tmp_path))
        assert found.keys() == {"cat", "at"}
        for word, vector in found.items():
            np.testing.assert_allclose(vector, oracle[word][0].numpy(), rtol=1e-5)


class TestEmbeddingMatrix:
    def test_rows_follow_the_vocabulary(self, tmp_path: Path) -> None:
        source = write(tmp_path / "v.txt", TEXT)
        words = ["<unk>", "cat", "the", "Cat"]
        embedding = embedding_matrix(words, source, cache_dir=tmp_path, seed=0)
        assert embedding.matrix.dtype == np.float32
        assert embedding.matrix[1:].tolist() == [ROWS[word] for word in words[1:]]
        assert embedding.found == 3

    def test_a_word_is_tried_in_lower_case(self, tmp_path: Path) -> None:
        source = write(tmp_path / "v.txt", TEXT)
        embedding = embedding_matrix(["<unk>", "CAT", "Dog"], source, cache_dir=tmp_path, seed=0)
        assert embedding.matrix[1].tolist() == ROWS["cat"]
        assert embedding.found == 1

    def test_missing_words_are_noise_of_the_same_spread(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        words = ["<unk>", *(f"known{i}" for i in range(400)), *(f"new{i}" for i in range(400))]
        vectors = rng.normal(scale=0.3, size=(400, 20))
        source = write_npz(tmp_path / "v.npz", words=np.array(words[1:401]), vectors=vectors)
        matrix = embedding_matrix(words, source, cache_dir=tmp_path, seed=0).matrix
        assert matrix[401:].std() == pytest.approx(0.3, rel=0.05)
        assert abs(matrix[401:].mean()) < 0.02
        assert len(np.unique(matrix[401:], axis=0)) == 400
        assert np.abs(matrix[0]).sum() > 0

    def test_the_seed_decides_the_noise(self, tmp_path: Path) -> None:
        source = write(tmp_path / "v.txt", TEXT)
        first, again, other = (
            embedding_matrix(["<unk>", "the", "dog"], source, cache_dir=tmp_path, seed=seed).matrix
            for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert np.array_equal(first[1], other[1])
        assert not np.array_equal(first[2], other[2])

    def test_vectors_of_none_of_the_words_are_an_error(self, tmp_path: Path) -> None:
        source = write(tmp_path / "v.txt", TEXT)
        with pytest.raises(ValueError, match="None of the vocabulary's 2 words has a vector in"):
            embedding_matrix(["<unk>", "한국어", "문서"], source, cache_dir=tmp_path, seed=0)


class TestBundledCorpus:
    def test_it_is_what_its_description_says(self) -> None:
        packed = (files("han") / "data" / "arxiv8.jsonl.gz").read_bytes()
        records = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
        assert Counter(record["split"] for record in records) == {
            "train": 1185,
            "dev": 197,
            "test": 197,
        }
        assert len({record["label"] for record in records}) == 8
        assert len({record["id"] for record in records}) == len(records) == 1579
        assert all(record["text"].strip() and record["title"].strip() for record in records)
