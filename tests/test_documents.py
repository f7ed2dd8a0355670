from __future__ import annotations

import csv
import datetime
import gzip
import io
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from han.documents import Document, in_blocks, read_documents

ROWS = [
    {"text": "A fine film.", "label": "pos"},
    {"text": 'Two lines,\nand "quotes".', "label": "neg"},
    {"text": "", "label": "pos"},
    {"text": "Köln, 서울, 🎉 \u2028 and NUL \0.", "label": "neg"},
]


def read(source: str | Path, **options: Any) -> list[Document]:  # noqa: ANN401
    return list(read_documents(source, **options))


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def compressed(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".zst":
        return bytes(pa.compress(content, "zstd", asbytes=True))
    return content


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".jsonl": as_json_lines,
    ".ndjson": as_json_lines,
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".parquet": as_parquet,
}


class TestReadDocuments:
    @pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_every_format_gives_the_same_documents(
        self, tmp_path: Path, suffix: str, compression: str
    ) -> None:
        path = write(
            tmp_path / f"a{suffix}{compression}", compressed(FORMATS[suffix](ROWS), compression)
        )
        documents = read(path)
        assert [{"text": one.text, "label": one.label} for one in documents] == ROWS
        assert [one.id for one in documents] == [f"{path.name}:{n}" for n in (1, 2, 3, 4)]
        assert all(one.split is None and one.columns == {} for one in documents)

    def test_suffixes_may_be_in_capitals(self, tmp_path: Path) -> None:
        path = write(tmp_path / "A.CSV.GZ", gzip.compress(as_csv(ROWS)))
        assert len(read(path)) == 4

    def test_source_may_be_a_string_or_a_path(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", as_csv(ROWS))
        assert read(str(path)) == read(path)

    def test_first_documents_come_before_the_file_is_read_to_its_end(self, tmp_path: Path) -> None:
        line = json.dumps({"text": "x" * 1000, "label": "a"}) + "\n"
        path = write(tmp_path / "a.jsonl", line * 3000 + "{")
        assert len(list(itertools.islice(read_documents(path), 1000))) == 1000

    def test_columns_have_the_names_that_the_options_say(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "key,review,stars,fold,n\n k1 ,Good.,5,dev,7\n")
        options = {"text_column": "review", "label_column": "stars", "id_column": "key"}
        (document,) = read(path, **options, split_column="fold", keep_columns=["n", "key"])
        assert document == Document(
            " k1 ", "Good.", "5", "validation", f"{path}:2", {"n": "7", "key": " k1 "}
        )

    def test_missing_ids_are_filled_and_repeated_ids_are_kept(self, tmp_path: Path) -> None:
        rows = [{"text": "t", "label": "a", "id": one} for one in (7, 7, None, "", 2.0)]
        path = write(tmp_path / "a.jsonl", as_json_lines(rows))
        assert [one.id for one in read(path)] == ["7", "7", "a.jsonl:3", "a.jsonl:4", "2"]

    @pytest.mark.parametrize(
        ("value", "label"),
        [(3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "true"), (False, "false"), (" a b ", "a b")],
    )
    def test_labels_become_strings(self, tmp_path: Path, value: object, label: str) -> None:
        path = write(tmp_path / "a.jsonl", as_json_lines([{"text": "t", "label": value}]))
        assert read(path)[0].label == label

    @pytest.mark.parametrize("value", ["null", "NaN", '""', '" \\t"', '"nan"', '"NaN"'])
    def test_missing_labels_are_errors_unless_labels_are_optional(
        self, tmp_path: Path, value: str
    ) -> None:
        path = write(tmp_path / "a.jsonl", f'{{"text": "t", "label": {value}}}\n')
        with pytest.raises(ValueError, match=r"a\.jsonl:1: `label` is empty or NaN; fill it in"):
            read(path)
        assert read(path, labels_required=False)[0].label is None

    def test_label_column_is_used_where_labels_are_optional(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text,label\nx,a\n")
        assert read(path, labels_required=False)[0].label == "a"
        assert read(path, labels_required=False, label_column=None)[0].label is None
        path = write(tmp_path / "b.csv", "text\nx\n")
        assert read(path, labels_required=False)[0].label is None

    def test_required_labels_need_a_column(self) -> None:
        with pytest.raises(ValueError, match="`label_column` is None, but labels are required"):
            read("a.csv", label_column=None)

    @pytest.mark.parametrize(
        ("value", "split"),
        [
            *(("train", "train"), ("Training", "train"), (" TEST ", "test"), ("", None)),
            *((name, "validation") for name in ("dev", "val", "valid", "validation")),
        ],
    )
    def test_splits_are_normalised(self, tmp_path: Path, value: str, split: str | None) -> None:
        path = write(tmp_path / "a.csv", f"text,label,split\nx,a,{value}\n")
        assert read(path)[0].split == split

    def test_unknown_split_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text,label,split\nx,a,train\ny,b,unsup\n")
        with pytest.raises(ValueError, match=r"a\.csv:3: `split` is 'unsup'; it must be train"):
            read(path)
        assert len(read(path, split_column=None)) == 2

    @pytest.mark.parametrize(("value", "kind"), [("3", "a number"), ("null", "null")])
    def test_text_must_be_a_string(self, tmp_path: Path, value: str, kind: str) -> None:
        path = write(tmp_path / "a.jsonl", f'{{"text": {value}, "label": "a"}}')
        with pytest.raises(ValueError, match=f"a.jsonl:1: `text` is {kind}, not a string"):
            read(path)

    def test_label_must_be_a_string_or_a_number(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", '{"text": "t", "label": {"a": 1}}')
        with pytest.raises(ValueError, match=r"a\.jsonl:1: `label` is an object; it must be"):
            read(path)

    def test_a_list_holds_several_labels_or_none(self, tmp_path: Path) -> None:
        rows = [{"text": "t", "label": label} for label in (["b", " a ", 3, "b"], [], True)]
        path = write(tmp_path / "a.jsonl", as_json_lines(rows))
        assert [document.label for document in read(path)] == [("b", "a", "3"), (), "true"]

    def test_parquet_s_lists_do_too(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": ["t", "u"], "label": [["b", "a"], []]}), path)
        assert [document.label for document in read(path)] == [("b", "a"), ()]

    def test_a_text_is_parted_where_a_separator_is_given(self, tmp_path: Path) -> None:
        rows = [{"text": "t", "label": label} for label in ("b; a;;b", "c", "", ";")]
        path = write(tmp_path / "a.csv", as_csv(rows))
        found = [document.label for document in read(path, label_separator=";")]
        assert found == [("b", "a"), ("c",), (), ()]

    def test_an_empty_label_in_a_list_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", '{"text": "t", "label": ["a", null]}')
        with pytest.raises(ValueError, match=r"a\.jsonl:1: `label` has an empty label in its list"):
            read(path)

    def test_labels_that_are_not_known_are_no_empty_list(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", '{"text": "t", "label": null}')
        with pytest.raises(ValueError, match=r"a\.jsonl:1: `label` is empty or NaN"):
            read(path, label_separator=";")

    def test_kept_values_fit_every_output(self, tmp_path: Path) -> None:
        row = '{"text": "t", "label": "a", "n": NaN, "i": Infinity, "l": [1, "é"], "b": true}'
        path = write(tmp_path / "a.jsonl", row)
        (document,) = read(path, keep_columns=["n", "i", "l", "b"])
        assert document.columns == {"n": None, "i": "inf", "l": '[1, "é"]', "b": True}

    def test_lone_surrogates_become_replacement_characters(self, tmp_path: Path) -> None:
        row = '{"text": "a\\ud800b \\ud83d\\ude00", "label": "\\udfff", "id": "\\udc00"}'
        path = write(tmp_path / "a.jsonl", row)
        (document,) = read(path)
        assert (document.text, document.label, document.id) == ("a\ufffdb 😀", "\ufffd", "\ufffd")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".json"])
    def test_missing_column_lists_those_present_and_names_the_option(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = write(tmp_path / f"a{suffix}", FORMATS[suffix](ROWS))
        expected = "no column 'body'; the columns are 'text', 'label': set `text_column`"
        with pytest.raises(ValueError, match=expected):
            read(path, text_column="body")
        with pytest.raises(ValueError, match=r"no column 'stars'.*set `label_column`"):
            read(path, label_column="stars")
        with pytest.raises(ValueError, match=r"no column 'n'.*set `keep_columns`"):
            read(path, keep_columns=["n"])

    def test_missing_column_is_an_error_also_without_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "body,label\n")
        with pytest.raises(ValueError, match=r"a\.csv:1: no column 'text'"):
            read(path, on_bad_row="skip")

    def test_long_column_names_are_cut_and_control_characters_shown(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", f"{'x' * 500},\x1b[31mred\n")
        with pytest.raises(ValueError, match=r"'x{39}…', '\\x1b\[31mred': set"):
            read(path)

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet", ".txt"])
    def test_empty_file_is_an_error(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path / f"a{suffix}", b"")
        with pytest.raises(ValueError, match=rf"a\{suffix}: the file is empty\."):
            read(path, labels_required=False)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            *(("a.csv", "text,label\n"), ("a.csv", "\ufeff"), ("a.csv", "\n\n"), ("a.csv.gz", "")),
            *(("a.jsonl", "\n \n"), ("a.json", " [ ] "), ("a.json", "\n")),
        ],
    )
    def test_file_without_documents_is_an_error(
        self, tmp_path: Path, name: str, content: str
    ) -> None:
        data = gzip.compress(b"") if name.endswith(".gz") else content
        with pytest.raises(ValueError, match="no documents in it"):
            read(write(tmp_path / name, data))

    def test_parquet_without_rows_is_an_error(self, tmp_path: Path) -> None:
        table = pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="no documents in it"):
            read(tmp_path / "a.parquet")

    def test_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"b\.csv: no such file or folder\."):
            read(tmp_path / "b.csv")

    @pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.csv.bz2"])
    def test_unknown_suffix_names_the_known_ones(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match=r"the suffix .* is not known.*\.csv.*\.parquet"):
            read(write(tmp_path / name, "x"))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
    def test_unreadable_file_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", as_csv(ROWS))
        path.chmod(0)
        with pytest.raises(PermissionError, match=r"a\.csv"):
            read(path)

    @pytest.mark.parametrize("encoding", ["nonsense", "base64"])
    def test_unknown_encoding_is_an_error(self, tmp_path: Path, encoding: str) -> None:
        path = write(tmp_path / "a.csv", as_csv(ROWS))
        with pytest.raises(ValueError, match=f"`encoding` '{encoding}' is not a text encoding"):
            read(path, encoding=encoding)


class TestReadDocumentsEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
    def test_encoding_is_an_option(self, tmp_path: Path, suffix: str, encoding: str) -> None:
        rows = [{"text": "Größe “ja”\n", "label": "é"}] * 3
        path = write(tmp_path / f"a{suffix}", FORMATS[suffix](rows).decode(), encoding)
        assert [(one.text, one.label) for one in read(path, encoding=encoding)] == [
            ("Größe “ja”\n", "é")
        ] * 3

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
    def test_byte_order_mark_is_dropped(self, tmp_path: Path, encoding: str) -> None:
        path = write(tmp_path / "a.csv", "\ufefftext,label\nx,a\n", encoding)
        assert read(path, encoding=encoding)[0].location == f"{path}:2"

    @pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
    def test_characters_and_line_ends_at_a_block_border_stay_whole(
        self, tmp_path: Path, size: int
    ) -> None:
        text = "x" * ((1 << 20) - len('text,label\n"') - size) + "é€😀\r\n\r\nend"
        path = write(tmp_path / "a.csv", f'text,label\n"{text}",a\r\n"y",b\r\n')
        documents = read(path)
        assert [one.text for one in documents] == [text, "y"]
        assert documents[1].location == f"{path}:5"

    @pytest.mark.parametrize("before", [0, 1, 40_000])
    def test_bad_bytes_are_located(self, tmp_path: Path, before: int) -> None:
        good = "é,a\n".encode() * before + b'"two\nlines",b\n'
        content = b"\xef\xbb\xbftext,label\n" + good + b'"x\ny\xe9z",b\nend,c\n' * 2
        path = write(tmp_path / "a.csv", content)
        position = content.index(b"\xe9z")
        expected = (
            rf"a\.csv:{before + 4}: byte position {position} \(e9\) is not utf-8; pass the file's "
            r"own `encoding`, such as cp1252, or set `on_bad_row` to skip\."
        )
        iterator = read_documents(path)
        assert len(list(itertools.islice(iterator, before + 1))) == before + 1
        with pytest.raises(ValueError, match=expected):
            next(iterator)
        skipped: Counter[str] = Counter()
        documents = read(path, on_bad_row="skip", skipped=skipped)
        assert [one.text for one in documents[-3:]] == ["two\nlines", "end", "end"]
        assert skipped == {"bad encoding": 2}

    @pytest.mark.parametrize(
        ("name", "start"), [("a.jsonl", '{"text": "'), ("a.json", '[\n{"text": "'), ("a.txt", "")]
    )
    def test_bad_bytes_are_located_in_every_format(
        self, tmp_path: Path, name: str, start: str
    ) -> None:
        path = write(tmp_path / name, start.encode() + b'abc\xff", "label": "b"}')
        with pytest.raises(ValueError, match=f"byte position {len(start) + 3} .ff. is not utf-8"):
            read(path, labels_required=False)

    def test_file_cut_within_a_character_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text,label\nx,é".encode()[:-1])
        with pytest.raises(ValueError, match=r"a\.csv:2: byte position 13 \(c3\) is not utf-8"):
            read(path)

    def test_bad_bytes_of_wide_encodings_are_located(self, tmp_path: Path) -> None:
        content = "text,label\nx,a\n".encode("utf-16") + b"\x00\xdc" + ",b\ny,c".encode("utf-16-le")
        path = write(tmp_path / "a.csv", content)
        with pytest.raises(ValueError, match=r"a\.csv:3: byte position 32 \(00 dc\) is not utf-16"):
            read(path, encoding="utf-16")
        documents = read(path, encoding="utf-16", on_bad_row="skip")
        assert [one.text for one in documents] == ["x", "y"]

    def test_bad_bytes_of_a_multibyte_encoding_at_a_block_border_are_seen(
        self, tmp_path: Path
    ) -> None:
        head = b"text,label\n"
        content = head + b"x" * ((1 << 20) - len(head) - 1) + b"\x82\x00,a\n"
        path = write(tmp_path / "a.csv", content)
        expected = f"byte position {(1 << 20) - 1} .* is not shift_jis"
        with pytest.raises(ValueError, match=expected):
            read(path, encoding="shift_jis")

    def test_utf_16_file_read_as_utf_8_is_recognised(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", as_csv(ROWS).decode(), "utf-16")
        with pytest.raises(ValueError, match=r"a\.csv:1: the header .* pass `encoding` utf-16"):
            read(path, on_bad_row="skip")


class TestReadDocumentsCsv:
    def test_location_is_the_line_on_which_the_record_begins(self, tmp_path: Path) -> None:
        content = '\ufeff\n"text\nof it",label\r\n"a\n\r\nb",x\n\n\nc,y\rd,z'
        path = write(tmp_path / "a.csv", content)
        documents = read(path, text_column="text\nof it")
        assert [one.location for one in documents] == [f"{path}:{line}" for line in (4, 9, 10)]
        assert [one.text for one in documents] == ["a\n\r\nb", "c", "d"]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_delimiter_is_the_one_that_finds_the_text_column(
        self, tmp_path: Path, delimiter: str
    ) -> None:
        path = write(tmp_path / "a.csv", as_csv(ROWS, delimiter))
        assert [one.text for one in read(path)] == [row["text"] for row in ROWS]

    @pytest.mark.parametrize(("row", "number"), [("x", "1 field,"), ("x,y,z", "3 fields,")])
    def test_ragged_row_is_an_error(self, tmp_path: Path, row: str, number: str) -> None:
        path = write(tmp_path / "a.csv", f'text,label\n"a\nb",c\n{row}\nd,e\n')
        expected = (
            f"a.csv:4: {number} the header has 2; quote fields that contain ',', or set "
            "`on_bad_row` to skip."
        )
        with pytest.raises(ValueError, match=expected):
            read(path)
        skipped: Counter[str] = Counter()
        documents = read(path, on_bad_row="skip", skipped=skipped)
        assert [(one.id, one.text) for one in documents] == [("a.csv:1", "a\nb"), ("a.csv:3", "d")]
        assert skipped == {"ragged row": 1}

    def test_error_remains_where_every_row_was_skipped(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text,label\nx\ny,\n")
        with pytest.raises(ValueError, match=r"left out: 1 ragged row, 1 empty label"):
            read(path, on_bad_row="skip")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_repeated_column_names_are_an_error(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path / "a.csv", "text,label,text\nx,a,y\n")
        if suffix == ".parquet":
            path = tmp_path / "a.parquet"
            pq.write_table(pa.Table.from_arrays([["x"]] * 3, ["text", "label", "text"]), path)
        with pytest.raises(ValueError, match="names 'text' more than once; rename or remove"):
            read(path)

    def test_several_columns_without_a_name_are_no_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", ",text,label,,\n0,x,a,,\n")
        assert read(path)[0].text == "x"

    def test_fields_may_have_any_length(self, tmp_path: Path) -> None:
        text = "word " * 1_000_000
        path = write(tmp_path / "a.csv", as_csv([{"text": text, "label": "a"}]))
        assert read(path)[0].text == text

    def test_unclosed_quote_is_an_error_even_when_skipping(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", 'text,label\nx,a\n"y,b\nz,c\n')
        for on_bad_row in ("error", "skip"):
            with pytest.raises(ValueError, match=r"a\.csv:3: a quoted field begins here and never"):
                read(path, on_bad_row=on_bad_row)

    def test_text_after_a_closing_quote_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", 'text,label\n"he said "no" twice",a\nx,b\n')
        with pytest.raises(ValueError, match=r"a\.csv:2: .*double the quotes inside a quoted"):
            read(path)
        skipped: Counter[str] = Counter()
        assert [one.text for one in read(path, on_bad_row="skip", skipped=skipped)] == ["x"]
        assert skipped == {"bad quoting": 1}

    @settings(deadline=None)  # it writes files
    @given(
        st.lists(
            st.tuples(st.text(st.characters(codec="utf-8")), st.sampled_from(["a", "b"])),
            min_size=1,
            max_size=5,
        )
    )
    def test_reads_what_python_writes(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
    ) -> None:
        path = tmp_path_factory.mktemp("csv") / "a.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        assert [(one.text, one.label) for one in read(path)] == rows


class TestReadDocumentsJson:
    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ('{"text": "x", "label" "b"}', "not JSON: Expecting ':' delimiter \\(column 23\\)"),
            ('{"text": "x"', "not JSON: Expecting ',' delimiter \\(column"),
            ("[1, 2]", "a list where a JSON object with columns is needed"),
            ('"x"', "a string where a JSON object"),
            ("null", "null where a JSON object"),
            ("[" * 100_000, "not JSON: nested too deeply"),
            ("9" * 5000, "not JSON: Exceeds the limit"),
            (
                '{"text": "x\x00", "label": "a"}',
                "not JSON: Invalid control character at \\(column 12\\)",
            ),
        ],
    )
    def test_bad_line_is_an_error(self, tmp_path: Path, line: str, problem: str) -> None:
        good = '{"text": "x\u2028\u0085", "label": "a"}'
        path = write(tmp_path / "a.jsonl", f"{good}\n\n{line}\n{good}\n")
        with pytest.raises(ValueError, match=f"a.jsonl:3: {problem}"):
            read(path)
        assert [one.location for one in read(path, on_bad_row="skip")] == [f"{path}:1", f"{path}:4"]

    def test_line_without_the_column_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", as_json_lines([ROWS[0], {"Text": "x", "label": "a"}]))
        with pytest.raises(
            ValueError, match=r"a\.jsonl:2: no column 'text'; the columns are 'Text'"
        ):
            read(path)

    def test_json_file_may_hold_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.json", b"\n" + as_json_lines(ROWS))
        assert [one.location for one in read(path)] == [f"{path}:{n}" for n in (2, 3, 4, 5)]

    def test_objects_of_an_array_are_located(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.json", b"\n" + json.dumps(ROWS, indent=2).encode())
        assert [one.location for one in read(path)] == [f"{path}:{n}" for n in (3, 7, 11, 15)]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ('[{"text": "x", "label": "a"},\n 3]', "2: a number where a JSON object"),
            ('[{"text": "x", "label": "a"},\n]', "2: not JSON: Expecting value \\(column 1\\)"),
            ('[{"text": "x", "label": "a"}\n', "2: not JSON: `,` or `]` should follow"),
            ('[{"text": "x", "label": "a"},{\n"te', "2: not JSON: Unterminated string"),
            ('[{"text": "x", "label": "a"}] 3', " not JSON: something follows the array"),
            ("[" * 100_000, "1: not JSON: nested too deeply"),
        ],
    )
    def test_bad_array_is_an_error(self, tmp_path: Path, content: str, problem: str) -> None:
        with pytest.raises(ValueError, match=f"a.json:{problem}"):
            read(write(tmp_path / "a.json", content))


class TestReadDocumentsParquet:
    @pytest.mark.parametrize(
        "column_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    )
    def test_string_columns_of_every_type_are_read(
        self, tmp_path: Path, column_type: pa.DataType
    ) -> None:
        values = pa.array(["x", "y", "x"], column_type)
        table = pa.table({"text": values, "label": values, "other": [[1], [2], [3]]})
        pq.write_table(table, tmp_path / "a.parquet")
        documents = read(tmp_path / "a.parquet")
        assert [(one.text, one.label) for one in documents] == [(c, c) for c in "xyx"]
        assert documents[2].location == f"{tmp_path / 'a.parquet'}:3"

    @pytest.mark.parametrize("label", [None, float("nan")])
    def test_missing_label_cites_its_row(self, tmp_path: Path, label: float | None) -> None:
        table = pa.table({"text": ["x"] * 2000, "label": [1.0] * 1499 + [label] + [0.0] * 500})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=600)
        with pytest.raises(ValueError, match=r"a\.parquet:1500: `label` is empty or NaN"):
            read(tmp_path / "a.parquet")
        documents = read(tmp_path / "a.parquet", on_bad_row="skip")
        assert len(documents) == 1999
        assert {one.label for one in documents} == {"0", "1"}

    def test_bad_utf_8_in_a_string_is_an_error(self, tmp_path: Path) -> None:
        bad = pa.Array.from_buffers(
            pa.string(),
            2,
            [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\4\0\0\0"), pa.py_buffer(b"xab\xff")],
        )
        pq.write_table(pa.table({"text": bad, "label": ["a", "b"]}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"a\.parquet:2: byte position 2 of a string is not"):
            read(tmp_path / "a.parquet")
        assert [one.text for one in read(tmp_path / "a.parquet", on_bad_row="skip")] == ["x"]

    @pytest.mark.parametrize("damage", ["garbage", "cut", "flip"])
    def test_damaged_file_is_an_error(self, tmp_path: Path, damage: str) -> None:
        content = as_parquet([{"text": f"some words {n}" * 9, "label": "a"} for n in range(500)])
        damaged = {
            "garbage": b"not parquet at all",
            "cut": content[: len(content) // 2],
            "flip": content[:200] + bytes(400) + content[600:],
        }
        path = write(tmp_path / "a.parquet", damaged[damage])
        with pytest.raises(ValueError, match=r"a\.parquet: not a whole Parquet file"):
            read(path)

    def test_kept_values_of_other_types_become_strings(self, tmp_path: Path) -> None:
        day = datetime.date(2016, 6, 12)
        pq.write_table(
            pa.table({"text": ["x"], "label": [1], "day": [day]}), tmp_path / "a.parquet"
        )
        (document,) = read(tmp_path / "a.parquet", keep_columns=["day"])
        assert document.columns == {"day": "2016-06-12"}


class TestReadDocumentsCompressed:
    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    @pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
    def test_cut_file_is_an_error(self, tmp_path: Path, suffix: str, share: float) -> None:
        content = compressed(as_json_lines(ROWS * 500), suffix)
        path = write(tmp_path / f"a.jsonl{suffix}", content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=rf"a\.jsonl\{suffix}: damaged or cut short"):
            read(path)

    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    def test_file_that_is_not_compressed_is_an_error(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path / f"a.csv{suffix}", as_csv(ROWS))
        with pytest.raises(ValueError, match=rf"a\.csv\{suffix}: damaged or cut short"):
            read(path)

    def test_joined_files_are_read_to_the_end(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl.gz", gzip.compress(as_json_lines(ROWS)) * 2)
        assert len(read(path)) == 8


class TestReadDocumentsText:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("pos/b.txt", "pos/a", "neg/deep/c.md", "neg/d.text", "pos/.hidden", ".x/y"):
            write(tmp_path / "set" / name, f"text of {name}\r\n")
        write(tmp_path / "set" / "neg" / "e.txt.gz", gzip.compress(b"zipped"))
        write(tmp_path / "set" / "neg" / "photo.jpg", "x")
        write(tmp_path / "set" / "README", "x")
        return tmp_path / "set"

    def test_folders_are_classes_and_files_come_sorted(self, folder: Path) -> None:
        skipped: Counter[str] = Counter()
        documents = read(folder, skipped=skipped, label_column="stars")
        expected = ["neg/d.text", "neg/e.txt.gz", "neg/deep/c.md", "pos/a", "pos/b.txt"]
        assert [one.id for one in documents] == expected
        assert [one.label for one in documents] == ["neg", "neg", "neg", "pos", "pos"]
        assert [one.location for one in documents] == [str(folder / name) for name in expected]
        assert documents[0].text == "text of neg/d.text\r\n"
        assert documents[1].text == "zipped"
        assert skipped == {"not a text file": 1, "outside a class folder": 1}

    def test_files_outside_classes_are_documents_where_labels_are_optional(
        self, folder: Path
    ) -> None:
        documents = read(folder, labels_required=False)
        assert (documents[0].id, documents[0].label) == ("README", None)
        assert len(documents) == 6

    @pytest.mark.parametrize("names", [("train", "test"), ("train", "dev", "test")])
    def test_folders_of_splits_are_honoured(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        for split in names:
            for label in ("neg", "pos"):
                write(tmp_path / "set" / split / label / "0_9.txt", "x")
            write(tmp_path / "set" / split / "urls.txt", "x")
        write(tmp_path / "set" / "README", "x")
        documents = read(tmp_path / "set")
        splits = {"dev": "validation"}
        assert sorted({(one.split, one.label) for one in documents}) == sorted(
            (splits.get(split, split), label) for split in names for label in ("neg", "pos")
        )
        assert documents[0].id == f"{min(names)}/neg/0_9.txt"

    def test_classes_may_have_the_names_of_splits(self, tmp_path: Path) -> None:
        write(tmp_path / "set" / "train" / "a.txt", "on rails")
        write(tmp_path / "set" / "test" / "a.txt", "an exam")
        documents = read(tmp_path / "set")
        assert [(one.label, one.split) for one in documents] == [("test", None), ("train", None)]

    @pytest.mark.parametrize("name", ["set/a.txt", "set/pos/photo.jpg", "set/.pos/a.txt"])
    def test_folder_without_documents_is_an_error(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / name, "x")
        with pytest.raises(ValueError, match=r"must hold text files .* in sub-folders, one for"):
            read(tmp_path / "set")

    def test_folder_of_tables_says_to_name_one(self, tmp_path: Path) -> None:
        write(tmp_path / "set.csv" / "part-0.csv", as_csv(ROWS))
        with pytest.raises(ValueError, match=r"but part-0\.csv: name a file to read it"):
            read(tmp_path / "set.csv")

    def test_empty_text_is_a_document(self, tmp_path: Path) -> None:
        write(tmp_path / "set" / "a" / "0.txt", "")
        assert read(tmp_path / "set")[0].text == ""

    def test_bad_bytes_cite_the_file(self, tmp_path: Path) -> None:
        write(tmp_path / "set" / "a" / "0.txt", b"ab\xff")
        write(tmp_path / "set" / "a" / "1.txt", "fine")
        with pytest.raises(ValueError, match=r"0\.txt: byte position 2 \(ff\) is not utf-8"):
            read(tmp_path / "set")
        assert [one.id for one in read(tmp_path / "set", on_bad_row="skip")] == ["a/1.txt"]

    def test_single_text_file_is_a_document_without_a_label(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", "\ufeffOne.\n\nTwo.\n")
        documents = read(path, labels_required=False, text_column="body")
        assert documents == [Document("a.txt:1", "One.\n\nTwo.\n", location=str(path))]
        with pytest.raises(ValueError, match=r"a\.txt: a text file has no label"):
            read(path)


class TestReadDocumentsStandardInput:
    @pytest.fixture
    def feed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
        def put(content: bytes) -> None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

        return put

    def test_json_lines_are_recognised(self, feed: Callable[[bytes], None]) -> None:
        feed(b"\n" + as_json_lines(ROWS))
        documents = read("-")
        assert [one.label for one in documents] == [row["label"] for row in ROWS]
        assert (documents[0].id, documents[0].location) == ("stdin:1", "stdin:2")

    def test_other_lines_are_documents(self, feed: Callable[[bytes], None]) -> None:
        feed("\ufeff First é. \r\n\n \nSecond: {".encode())
        documents = read("-", labels_required=False)
        assert [one.text for one in documents] == [" First é. ", "Second: {"]
        assert [one.location for one in documents] == ["stdin:1", "stdin:4"]

    def test_bad_bytes_are_an_error(self, feed: Callable[[bytes], None]) -> None:
        feed(b"fine\n\xff\n")
        with pytest.raises(ValueError, match=r"stdin:2: byte position 5 \(ff\) is not utf-8"):
            read("-", labels_required=False)

    def test_nothing_is_an_error(self, feed: Callable[[bytes], None]) -> None:
        feed(b"")
        with pytest.raises(ValueError, match="no documents in it"):
            read("-", labels_required=False)


class TestReadDocumentsHub:
    @pytest.fixture
    def datasets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        datasets.disable_progress_bars()
        yield datasets
        datasets.enable_progress_bars()

    def save(self, datasets: ModuleType, folder: Path, split: str, labels: list[int]) -> None:
        features = datasets.Features(
            text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
        )
        rows = {"text": [f"{split} {n}" for n in range(len(labels))], "label": labels}
        folder.mkdir(exist_ok=True)
        data = datasets.Dataset.from_dict(rows, features)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")

    def test_class_names_and_splits_are_kept(self, datasets: ModuleType, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        self.save(datasets, folder, "train", [0, 1])
        self.save(datasets, folder, "test", [1])
        source = f"hf://{folder}"
        assert read(source) == [
            Document(f"{source}:1", "train 0", "neg", "train", f"{source}:train:1"),
            Document(f"{source}:2", "train 1", "pos", "train", f"{source}:train:2"),
            Document(f"{source}:3", "test 0", "pos", "test", f"{source}:test:1"),
        ]
        assert [one.split for one in read(f"{source}?split=test")] == ["test"]

    def test_class_minus_one_is_no_label(self, datasets: ModuleType, tmp_path: Path) -> None:
        self.save(datasets, tmp_path / "set", "train", [0, -1])
        with pytest.raises(ValueError, match="train:2: `label` is empty or NaN"):
            read(f"hf://{tmp_path / 'set'}")

    def test_lists_of_classes_have_their_names(self, datasets: ModuleType, tmp_path: Path) -> None:
        features = datasets.Features(
            text=datasets.Value("string"),
            label=datasets.Sequence(datasets.ClassLabel(names=["neg", "pos"])),
        )
        rows = {"text": ["one", "two"], "label": [[1, 0], []]}
        (tmp_path / "set").mkdir()
        data = datasets.Dataset.from_dict(rows, features)
        data.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
        found = [document.label for document in read(f"hf://{tmp_path / 'set'}")]
        assert found == [("pos", "neg"), ()]

    def test_missing_column_is_an_error(self, datasets: ModuleType, tmp_path: Path) -> None:
        self.save(datasets, tmp_path / "set", "train", [0, 1])
        with pytest.raises(ValueError, match="no column 'body'; the columns are 'text', 'label'"):
            read(f"hf://{tmp_path / 'set'}", text_column="body")

    @pytest.mark.usefixtures("datasets")
    def test_unknown_parameter_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="name is not known; `config`, `split` and `revision`"):
            read("hf://owner/set?name=x")

    def test_missing_package_says_how_to_install_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r'pip install "han-classifier\[hub\]"'):
            read("hf://owner/set")


class TestInBlocks:
    def test_a_list_ends_at_either_size(self) -> None:
        texts = ["a", "b", "c", "", "four", "x" * 9, "e"]
        blocks = in_blocks(
            (Document(str(i), text) for i, text in enumerate(texts)),
            max_documents=3,
            max_characters=4,
        )
        assert [[d.text for d in block] for block in blocks] == [
            ["a", "b", "c"],
            ["", "four"],
            ["x" * 9],
            ["e"],
        ]

    def test_nothing_makes_no_list(self) -> None:
        assert list(in_blocks([], max_documents=3, max_characters=4)) == []
