"""axes.py: every axis of every array is named by its letters."""

import ast
import re
from pathlib import Path

import pytest

import facellava_jax
from facellava_jax.axes import AXES

LIBRARY = Path(facellava_jax.__file__).parent
MODULES = [
    *sorted((LIBRARY / "models").glob("*.py")),
    LIBRARY / "axes.py",
    LIBRARY / "generate.py",
    LIBRARY / "data" / "batches.py",
]
SUFFIX = re.compile(r"[a-z]\w*?_([A-Z][A-Za-z0-9]*)")
ARRAY_TYPES = {"Float", "Float32", "Int", "Bool", "UInt32"}


def axes_of(annotation: ast.AST | None) -> list[str] | None:
    """The dimensions of a jaxtyping annotation."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ARRAY_TYPES:
        return str(ast.literal_eval(annotation.slice.elts[1])).split()
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_axis_is_of_the_vocabulary(path: Path) -> None:
    """Suffixes of names and dimensions of annotations are letters of AXES, sizes, or words; the two agree."""
    known = re.compile(rf"[{''.join(AXES)}0-9a-z]+")
    for node in ast.walk(ast.parse(path.read_text())):
        name = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr"}.get(type(node))
        match = SUFFIX.fullmatch(getattr(node, name)) if name else None
        if match:
            assert known.fullmatch(match[1]), f"{path.name}:{node.lineno}: {match[0]}"
        axes = axes_of(node)
        for axis in axes or []:
            assert axis in AXES or re.fullmatch(r"_|[0-9]+|[*]?[a-z]+", axis), f"{path.name}:{node.lineno}: {axis}"
        if match and isinstance(node, ast.arg) and (axes := axes_of(node.annotation)):
            assert match[1] == "".join(axes), f"{path.name}:{node.lineno}: {match[0]} is {axes}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_einsums_name_axes_as_their_arrays_do(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("einsum"):
            inputs, output = ast.literal_eval(node.args[0]).split("->")
            assert set(inputs + output) <= {*AXES, ","}
            for axes, array in zip(inputs.split(","), node.args[1:], strict=True):
                suffix = re.search(r"_([A-Z]+)\b", ast.unparse(array))
                assert suffix and suffix[1] == axes
