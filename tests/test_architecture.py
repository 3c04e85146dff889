"""The rules of the code base, kept by reading it: who imports whom, what is read, what is committed."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from facellava_jax import config, experiment, extras

ROOT = Path(__file__).parent.parent
LIBRARY, CONVERSION = "facellava_jax", "conversion"

# Each level imports only from the levels before it. Within a level, groups never import each other; within a group,
# a module imports only what stands left of it.
ORDER = [
    [["extras", "errors", "config", "experiment", "axes", "program", "workers", "stopwatch", "headers", "folders"]],
    [["models"], ["media", "pixels", "faces", "text"], ["answers", "request"]],
    [["flops", "sharding", "optim", "lora", "step", "quantize"], ["synthetic"]],
    [["generate"], ["data"], ["checkpoint"], ["framing", "overlay"], ["memory"]],
    [["run", "train"], ["attention", "reading", "scoring", "predict"], ["results", "face_tables", "extraction"]],
    [["plan"], ["evaluate"]],
    [["cli_faces", "cli_train", "cli_data", "cli_eval", "cli"]],
]
# Only these files use these packages. (None: any file may.)
OPTIONAL: dict[str, set[str] | None] = {
    "torch": {"conversion/source.py"},
    "absl": {"facellava_jax/data/pipeline.py"},
    "ai_edge_litert": {"facellava_jax/faces/networks.py"},
    "array_record": {"facellava_jax/data/prepare.py"},
    "av": {"facellava_jax/faces/encode.py"},
    "cv2": {
        "facellava_jax/data/prepare.py",
        "facellava_jax/media.py",
        "facellava_jax/faces/crop.py",
        "facellava_jax/faces/detect.py",
        "facellava_jax/faces/draw.py",
        "facellava_jax/faces/extract.py",
        "facellava_jax/faces/heat.py",
        "facellava_jax/faces/landmarks.py",
        "facellava_jax/overlay.py",
        "facellava_jax/synthetic/canvas.py",
        "facellava_jax/synthetic/dataset.py",
        "facellava_jax/synthetic/forgery.py",
        "facellava_jax/synthetic/scene.py",
    },
    "grain": {"facellava_jax/data/pipeline.py"},
    "matplotlib": {"facellava_jax/evaluate/plots.py"},
    "mediapipe": {"facellava_jax/faces/mediapipe.py"},
    "optax": {"facellava_jax/optim.py"},
    "safetensors": {"conversion/source.py", "conversion/export.py"},
    "sentencepiece": None,
    "sklearn": {"facellava_jax/evaluate/metrics.py", "facellava_jax/evaluate/probabilities.py"},
    "tensorboardX": {"facellava_jax/run/metrics.py"},
    "tensorflow_datasets": {"facellava_jax/data/prepare.py", "facellava_jax/data/shards.py"},
    # Never imported.
    "tensorflow": set(),
    "transformers": set(),
}
HARD_LINE_LIMIT = 400
MIB = 2**20
LARGE_FILES = {
    "facellava_jax/faces/models/face_landmark.tflite",
    "tests/goldens/05_video_masked_f4/outputs.npz",
    "tests/goldens/07_mixed_batch_truncate/outputs.npz",
}

SOURCES = sorted(path for package in (LIBRARY, CONVERSION) for path in (ROOT / package).rglob("*.py"))
EVERY_SOURCE = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def absolute_imports(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Dotted names of everything that a file imports, wherever it does, with `require(...)` counted in."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1]] if node.level else [])
            module = ".".join(filter(None, [base, node.module]))
            yield from ((f"{module}.{alias.name}", node) for alias in node.names)
        elif required := required_module(node):
            yield required[0], node


def required_module(node: ast.AST) -> tuple[str, str] | None:
    """The module and the extra of a `require("module", "extra")` call; both must be written out."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "require"):
        return None
    module, extra = (ast.literal_eval(argument) for argument in node.args)
    return module, extra


def modules_imported_by(path: Path) -> set[str]:
    """Modules of the library that one of its files imports; the package's own version is there before any of them."""
    names = {name.split(".")[1] for name, _ in absolute_imports(path) if name.startswith(LIBRARY + ".")}
    return names - {"__version__"}


def module_of(path: Path) -> str:
    """`models` for facellava_jax/models/vit.py, `media` for facellava_jax/media.py."""
    return path.relative_to(ROOT / LIBRARY).parts[0].removesuffix(".py")


def allowed_for(module: str) -> set[str]:
    left: set[str] = set()
    for level in ORDER:
        for group in level:
            if module in group:
                return left | set(group[: group.index(module) + 1])
        left |= set(chain.from_iterable(level))
    raise AssertionError(f"{module} has no place in the import order: add it to ORDER")


@EVERY_SOURCE
def test_imports_go_only_leftwards(path: Path) -> None:
    if path.is_relative_to(ROOT / CONVERSION):
        return
    assert not [name for name, _ in absolute_imports(path) if name.split(".")[0] == CONVERSION]
    if path != ROOT / LIBRARY / "__init__.py":
        assert modules_imported_by(path) <= allowed_for(module_of(path))


@EVERY_SOURCE
def test_optional_dependencies_are_required_in_their_files(path: Path) -> None:
    """`cv2 = require("cv2", "predict")` where it is used, with an extra that brings it; `import` only for types."""
    declared = declared_dependencies()
    for name, node in absolute_imports(path):
        package = name.split(".")[0]
        where = f"{name} in line {node.lineno}"
        if package not in OPTIONAL or node in imports_for_types(path):
            continue
        homes = OPTIONAL[package]
        assert homes is None or path.relative_to(ROOT).as_posix() in homes, where
        required = required_module(node)
        assert required, f"{where}: use require()"
        assert distribution_of(package) in declared[required[1]], where


@EVERY_SOURCE
def test_other_dependencies_are_declared(path: Path) -> None:
    known = {*sys.stdlib_module_names, *OPTIONAL, LIBRARY, CONVERSION}
    imported = {name.split(".")[0] for name, _ in absolute_imports(path)} - known
    assert {distribution_of(package) for package in imported} <= declared_dependencies()[""]


def imports_for_types(path: Path) -> set[ast.AST]:
    blocks = [
        node for node in parse(path).body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {node for block in blocks for node in ast.walk(block)}


def distribution_of(package: str) -> str:
    return canonicalize_name({**extras.DISTRIBUTIONS, "orbax": "orbax-checkpoint"}.get(package, package))


@cache
def declared_dependencies() -> dict[str, set[str]]:
    """Names on PyPI by extra; "" for what every installation has."""
    return {extra: {canonicalize_name(line.name) for line in lines} for extra, lines in requirements().items()}


@cache
def requirements() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}


def test_models_know_no_machine_and_no_file() -> None:
    forbidden = re.compile(
        r"jax\.(sharding|distributed|experimental|devices|local_devices|device_put|default_backend|make_mesh|process_\w+)"
        r"|(orbax|tensorstore|pathlib|os|io)\b"
    )
    for path in (ROOT / LIBRARY / "models").rglob("*.py"):
        attributes = {ast.unparse(node) for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}
        names = attributes | {name for name, _ in absolute_imports(path)}
        assert not [name for name in names if forbidden.match(name)], path


@EVERY_SOURCE
def test_nothing_prints(path: Path) -> None:
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "print"]


@EVERY_SOURCE
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= HARD_LINE_LIMIT


@pytest.mark.parametrize("module", [config, experiment], ids=lambda module: module.__name__)
def test_every_config_field_is_read(module: ModuleType) -> None:
    """A check in __post_init__ is no reading: a field that nothing else asks for changes nothing."""
    read = set(chain.from_iterable(attributes_read(parse(path)) for path in SOURCES))
    classes = [kind for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)]
    fields = {f"{kind.__name__}.{field.name}" for kind in classes for field in dataclasses.fields(kind)}
    assert len(fields) > 30
    assert not {field for field in fields if field.split(".")[1] not in read}


def attributes_read(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
        return
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from attributes_read(child)


def test_importing_the_package_loads_nothing_optional_and_touches_no_device() -> None:
    source = (
        "import sys, facellava_jax\n"
        "loaded = sorted(name for name in sys.modules if '.' not in name)\n"
        "bridge = sys.modules.get('jax._src.xla_bridge')\n"
        "sys.stdout.write(' '.join(loaded) + '|' + ' '.join(bridge._backends if bridge else []))"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded, backends = run.stdout.split("|")
    assert LIBRARY in loaded.split()
    assert not set(loaded.split()) & OPTIONAL.keys()
    assert backends == ""


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"no-such-thing is needed .*: pip install 'facellava-jax\[predict\]'"):
        extras.require("no_such_thing", "predict")
    monkeypatch.setitem(extras.DISTRIBUTIONS, "no_such_thing", "its-own-name")
    with pytest.raises(ImportError, match=r"^its-own-name is needed"):
        extras.require("no_such_thing.part", "predict")
    assert extras.require("json.decoder", "predict").JSONDecoder


def test_a_failure_inside_an_installed_module_keeps_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_inside.py").write_text("import absent_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        extras.require("broken_inside", "predict")


@pytest.mark.parametrize("version", extras.BAD_JAXLIB)
def test_a_jaxlib_that_computes_wrong_numbers_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extras.check_jaxlib()
    monkeypatch.setattr(extras, "version", {"jaxlib": version}.__getitem__)
    with pytest.raises(ImportError, match=rf"jaxlib {version} .*#39103.*pip install 'jax>=0.10,!=0.10.2,!=0.11.0'"):
        extras.check_jaxlib()


def test_pyproject_excludes_the_bad_jaxlibs() -> None:
    ranges = {line.name: line.specifier for line in requirements()[""]}
    for version in extras.BAD_JAXLIB:
        assert not ranges["jaxlib"].contains(version)
        assert not ranges["jax"].contains(version)


def tracked_files() -> list[Path]:
    run = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if run.returncode or not run.stdout:
        pytest.skip("no git checkout")
    return [path for path in (ROOT / name for name in run.stdout.rstrip("\0").split("\0")) if path.is_file()]


def test_no_tracked_file_is_large_or_names_a_machine() -> None:
    files = tracked_files()
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in files}
    assert {name for name, size in sizes.items() if size > MIB} <= LARGE_FILES
    assert sum(size for name, size in sizes.items() if name.startswith("tests/goldens/")) < 20 * MIB
    machine_path = re.compile(rb"(?<![\w.])/(?:root|work|home|tmp|Users)/")
    assert not [path for path in files if path != Path(__file__) and machine_path.search(path.read_bytes())]
