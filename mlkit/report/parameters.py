"""Parameters of the notebooks, from their cells tagged ``parameters``, checked before anything runs.

papermill itself ignores an unknown name and guesses types from the text, so ``007`` becomes 7.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from mlkit.errors import ConfigError

_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": FiniteFloat,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "Literal": Literal,
}
_LONGEST = 200  # characters of an annotation


@dataclass(frozen=True)
class Parameter:
    """One annotated default of a notebook, such as ``seed: int = 7``."""

    name: str
    annotation: str
    kind: Any  # the type of the annotation

    def convert(self, text: str) -> Any:
        """The value of ``text`` by this annotation; ConfigError if it has another type.

        A ``str`` is the text itself; lists, tuples and dicts are written as JSON (``[1, 5]``). A tuple becomes a
        list, the only sequence that papermill can inject.
        """
        adapter: TypeAdapter[Any] = TypeAdapter(self.kind)
        try:
            if self.kind is str:
                return text
            if text in ("None", "null"):
                return adapter.validate_python(None)
            if (get_origin(self.kind) or self.kind) in (list, tuple, dict):
                value = adapter.validate_json(text)
                return list(value) if isinstance(value, tuple) else value
            return adapter.validate_strings(text)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"parameter {self.name}={text!r} is not of type {self.annotation}: {reason}") from error


def convert_parameters(
    notebooks: Sequence[Path], given: Mapping[str, str], defaults: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Values for each notebook (file name -> name -> value): those it declares, converted by its annotations.

    Parameters
    ----------
    given: parameters of the user; each name must be declared by some notebook.
    defaults: parameters of the report, for the notebooks that declare them.

    Raises ConfigError for an unknown name (listing the known ones), a value of the wrong type, or an
    unsupported annotation.
    """
    declared = {path.name: declared_parameters(path) for path in notebooks}
    known = sorted({name for parameters in declared.values() for name in parameters})
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(f"unknown parameter {unknown[0]!r}; the notebooks know {', '.join(known) or 'none'}")
    texts = {**defaults, **given}
    return {
        notebook: {name: parameters[name].convert(text) for name, text in texts.items() if name in parameters}
        for notebook, parameters in declared.items()
    }


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """Parameters of one notebook, by name; empty if no cell is tagged ``parameters``."""
    import nbformat

    try:
        cells = nbformat.read(notebook, as_version=4).cells
    # nbformat raises its own, json's and the system's errors.
    except Exception as error:
        raise ConfigError(f"{notebook.name} is not a notebook: {' '.join(str(error).split())[:200]}") from error
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if not tagged:
        return {}
    try:
        body = ast.parse(tagged[0].source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ConfigError(f"{notebook.name}: the cell tagged parameters is not Python: {reason}") from error
    found = [_parameter(statement, notebook.name) for statement in body]
    return {parameter.name: parameter for parameter in found if parameter is not None}


def _parameter(statement: ast.stmt, notebook: str) -> Parameter | None:
    """``name: annotation = default``, or ``name = default`` whose type is that of the default."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        name, written = statement.target.id, ast.unparse(statement.annotation)
    elif (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
    ):
        name, written = statement.targets[0].id, type(statement.value.value).__name__
    else:
        return None
    try:
        if len(written) > _LONGEST:
            raise ValueError("too long")
        kind = _kind(ast.parse(written, mode="eval").body)
        TypeAdapter(kind)
    # An annotation outside the table raises any error.
    except Exception as error:
        raise ConfigError(
            f"{notebook}: parameter {name} has the annotation {written}; use {', '.join(_TYPES)} or | None"
        ) from error
    return Parameter(name, written, kind)


def _kind(node: ast.expr) -> Any:
    """The type that an annotation of the names in `_TYPES` stands for; nothing is evaluated. ValueError for others."""
    match node:
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kind(left) | _kind(right)
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in _TYPES:
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            if name == "Literal":
                return Literal[tuple(map(ast.literal_eval, parts))]
            dots = isinstance(parts[-1], ast.Constant) and parts[-1].value is ...
            return _TYPES[name][tuple([_kind(part) for part in parts[: len(parts) - dots]] + [...] * dots)]
    raise ValueError("not an annotation of a parameter")
