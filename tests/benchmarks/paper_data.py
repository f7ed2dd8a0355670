r"""The six data sets of Yang et al. 2016 as they are distributed, made into files that `han` reads.

    python -m tests.benchmarks.paper_data NAME [--output NAME.jsonl]

- Tang et al. 2015: NAME-train.txt.ss, NAME-dev.txt.ss and NAME-test.txt.ss hold a review a line,
  which is user, product, rating and text with two tabs in between; in the text `<sssss>` ends a
  sentence. It becomes a blank line, which ends one for `han`.
- Zhang et al. 2015: the folder NAME holds train.csv and test.csv, which have no header: the class,
  then one text or several (title and review; question, its details and answer), with `\n` for line
  ends. The texts become one, with blank lines in between.

Documents keep their order; the columns are `text`, `label` and `split`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from han.atomic import atomic_file

Row: TypeAlias = tuple[str, str]


def read_ss(path: Path) -> Iterator[Row]:
    """Yield the text and the label of each line of a file of Tang et al. 2015."""
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip("\r\n").split("\t\t")
            if len(fields) != 4:
                raise ValueError(
                    f"{path}:{number}: expected are user, product, rating and text with two tabs "
                    f"in between, not {len(fields)} field{'s' * (len(fields) != 1)}."
                )
            yield fields[3].replace("<sssss>", "\n\n").strip(), fields[2]


def read_csv(path: Path) -> Iterator[Row]:
    """Yield the text and the label of each record of a file of Zhang et al. 2015."""
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        for row in reader:
            if len(row) < 2 or not row[0].isdecimal():
                raise ValueError(f"{path}:{reader.line_num}: expected are a class and its texts.")
            label, *texts = row
            yield "\n\n".join(texts).replace("\\n", "\n").strip(), label


def convert(name: Path, output: Path) -> dict[str, int]:
    """Write the documents of a data set as JSON lines; return how many each split has."""
    if name.is_dir():
        splits = {split: read_csv(name / f"{split}.csv") for split in ("train", "test")}
    else:
        parts = ("train", "dev", "test")
        splits = {split: read_ss(Path(f"{name}-{split}.txt.ss")) for split in parts}
    counts = dict.fromkeys(splits, 0)
    with atomic_file(output) as file:
        for split, rows in splits.items():
            for text, label in rows:
                json.dump({"text": text, "label": label, "split": split}, file, ensure_ascii=False)
                file.write("\n")
                counts[split] += 1
    return counts


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.paper_data",
        description="Make a file that `han` reads of a data set of Yang et al. 2016.",
    )
    parser.add_argument(
        "name", metavar="NAME", help="what the files' names begin with, or a folder"
    )
    parser.add_argument("--output", metavar="FILE", help="(NAME.jsonl)")
    options = parser.parse_args(args)
    name = Path(options.name)
    output = Path(options.output or f"{name}.jsonl")
    try:
        counts = convert(name, output)
    except (OSError, ValueError, csv.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{output}: {', '.join(f'{n:,} {split}' for split, n in counts.items())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
