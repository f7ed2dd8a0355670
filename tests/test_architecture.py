"""The stages import in one direction, and only what each may."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import han

PACKAGE = Path(han.__file__).parent

# Each stage imports from those before it; `__main__` only starts the command line.
ORDER = (
    "atomic",
    "documents",
    "native",
    "lexicon",
    "tokenization",
    "vocabulary",
    "embeddings",
    "corpus",
    "word2vec",
    "batching",
    "task",
    "metrics",
    "ordinal",
    "kernel",
    "attention",
    "gru",
    "transformer",
    "model",
    "attribution",
    "explanation",
    "overview",
    "faithfulness",
    "report",
    "records",
    "parts",
    "bundle",
    "predictor",
    "scale",
    "calibration",
    "baseline",
    "recipe",
    "datamodule",
    "optimization",
    "module",
    "training",
    "tuning",
    "tracking",
    "estimator",
    "server",
    "cli",
    "__main__",
)

# `Explanation.to_html` and its like call the renderers, which read explanations: the one turn back.
# It is made inside those methods, so that the modules still import in order.
ALLOWED_BACK = {("explanation", "report")}

LIGHTNING = {"datamodule", "module", "training", "tracking", "estimator", "cli"}
WITH_TORCH = {
    "batching",
    "task",
    "ordinal",
    "kernel",
    "attention",
    "gru",
    "transformer",
    "model",
    "attribution",
    "bundle",
    "predictor",
    "calibration",
    "scale",
    "optimization",
}
TORCH_FREE = set(ORDER) - WITH_TORCH - LIGHTNING - {"embeddings", "__main__"}


def modules() -> list[Path]:
    """Return every module of the package but its lazy `__init__`."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def stage(path: Path) -> str:
    """Return the stage that a module belongs to: its own name, or that of its folder."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, ...]]:
    """Yield what a module imports, split at the dots, `from a import b` as `("a", "b")`.

    With `top_level`, leave out what is imported inside a function or for type checking alone.
    """
    package = ("han", *path.relative_to(PACKAGE).parent.parts)
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = (*start, *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)
        elif top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif top_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))


def stages_imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Return the stages that a module imports from."""
    names = imports(path, top_level=top_level)
    found = {name[1] for name in names if name[0] == "han" and len(name) > 1}
    return found & set(ORDER) - {stage(path)}


def users_of(*libraries: str) -> set[str]:
    """Return the stages that import one of `libraries` anywhere."""
    return {stage(path) for path in modules() if any(i[0] in libraries for i in imports(path))}


class TestOrder:
    def test_every_module_belongs_to_a_stage(self) -> None:
        assert {stage(path) for path in modules()} <= set(ORDER)

    @pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
    def test_a_stage_imports_only_from_those_before_it(self, path: Path) -> None:
        own = stage(path)
        later = {name for name in stages_imported(path) if ORDER.index(name) > ORDER.index(own)}
        assert {(own, name) for name in later} <= ALLOWED_BACK

    @pytest.mark.parametrize(("own", "later"), sorted(ALLOWED_BACK))
    def test_the_exception_is_made_inside_functions_only(self, own: str, later: str) -> None:
        for path in modules():
            if stage(path) == own:
                assert later not in stages_imported(path, top_level=True)

    def test_the_package_itself_imports_no_stage_at_once(self) -> None:
        assert not stages_imported(PACKAGE / "__init__.py", top_level=True)


class TestLibraries:
    def test_only_embeddings_imports_torchtext(self) -> None:
        assert users_of("torchtext") <= {"embeddings"}

    def test_only_word2vec_imports_gensim(self) -> None:
        assert users_of("gensim") == {"word2vec"}

    def test_only_tuning_imports_optuna(self) -> None:
        assert users_of("optuna") == {"tuning"}

    def test_only_scale_imports_ray(self) -> None:
        assert users_of("ray") == {"scale"}

    def test_only_training_imports_lightning(self) -> None:
        assert users_of("pytorch_lightning", "lightning", "lightning_fabric") <= LIGHTNING

    def test_stages_on_text_and_explanations_import_no_torch(self) -> None:
        assert not users_of("torch") & TORCH_FREE


class TestImport:
    def test_importing_han_is_light(self) -> None:
        assert not loaded_by("han") & {"torch", "pytorch_lightning", "sklearn", "pyarrow", "numpy"}

    @pytest.mark.parametrize("name", sorted(TORCH_FREE | {"embeddings"}))
    def test_importing_a_stage_without_torch_loads_none(self, name: str) -> None:
        heavy = {"torch", "torchtext", "pytorch_lightning", "gensim"}
        assert not loaded_by(f"han.{name}") & heavy

    def test_importing_the_documents_loads_no_library(self) -> None:
        assert not loaded_by("han.documents") & {"pyarrow", "datasets", "numpy", "rich"}

    def test_importing_the_predictor_loads_no_lightning(self) -> None:
        assert not loaded_by("han.predictor") & {
            "torchtext",
            "pytorch_lightning",
            "lightning_fabric",
        }

    def test_importing_the_estimator_loads_no_lightning(self) -> None:
        assert "pytorch_lightning" not in loaded_by("han.estimator")


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after importing `module`."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    result = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.split()}
