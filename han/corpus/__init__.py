"""Prepare documents once: read, split and encode them into a store that is read piece by piece.

A store is found by its content: its name is a hash of the sources' bytes, of every option that
matters and of the code that reads and encodes. So an unchanged run opens it at once, and a change
of anything makes another one.
"""

from __future__ import annotations

from han.corpus.preparing import prepare_corpus
from han.corpus.stored import SPLITS, Corpus, StoredDocuments, StringColumn

__all__ = ["SPLITS", "Corpus", "StoredDocuments", "StringColumn", "prepare_corpus"]
