"""The original's checkpoint as one set of named tensors, whatever files it is spread over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facellava_jax.text import TOKENIZER_FILES

from .configuration import SourceTower, lora_of
from .rules import TOWER_FOLDERS, Part, canonical
from .source import DTYPES, Json, LazyTensor, SourceError, open_file, open_folder, read_json

ADAPTER_CONFIG = "adapter_config.json"
# What a peft adapter can ask for beside plain LoRA, and what says that it does not.
ADAPTER_EXTRAS = {"bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False}
ADAPTER_PATTERNS = ("rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Original:
    """A checkpoint: its tensors under the names of a whole one, LoRA merged; its configs; what should be said of it."""

    folder: Path
    config: Json
    generation_config: Json
    tensors: Mapping[str, LazyTensor]
    towers: Mapping[Part, SourceTower]
    tokenizer: tuple[Path, ...]
    merged: Json
    notes: tuple[str, ...]


def open_original(
    src: Path,
    *,
    image_tower: Path | None = None,
    video_tower: Path | None = None,
    projector: Path | None = None,
    base: Path | None = None,
) -> Original:
    """Opens a checkpoint folder, and the files that complete it.

    Args:
        src: the folder; of a LoRA run where `base` is given.
        image_tower: LanguageBind's folder; None looks for it in `src` and beside it.
        video_tower: likewise.
        projector: a file whose projector replaces the checkpoint's.
        base: the whole checkpoint that a LoRA run in `src` started from.

    Raises SourceError for anything that is not there, not whole, or there twice.
    """
    if not src.is_dir():
        raise SourceError(f"{src} is no folder: give the folder of the original's checkpoint")
    adapter = (src / ADAPTER_CONFIG).is_file()
    if adapter and not base:
        raise SourceError(f"{src} is a LoRA run: import it with the checkpoint that it started from as --base DIR")
    if base and not adapter:
        raise SourceError(f"{src}/{ADAPTER_CONFIG} is missing, so this is no LoRA run: leave out --base")
    home = base or src
    config = read_json((src if (src / "config.json").is_file() else home) / "config.json")
    tensors = _named(open_folder(home), "checkpoint")
    if not tensors:
        raise SourceError(f"{home} holds no weights: give the folder of pytorch_model.bin or model.safetensors")
    notes: list[str] = []
    merged: Json = {}
    if base:
        tensors |= _named(open_file(src / "non_lora_trainables.bin"), "adapter")
    towers: dict[Part, SourceTower] = {}
    folders: dict[Part, Path | None] = {"image_tower": image_tower, "video_tower": video_tower}
    for part, given in folders.items():
        if tower := _open_tower(part, given, home, config, tensors, notes):
            towers[part], replacing = tower
            if replacing:
                tensors = _without(tensors, _prefix(part)) | replacing
    if projector:
        replacing = _named(open_file(projector), "projector")
        if any(key.startswith("model.mm_projector.") for key in tensors):
            notes.append(f"the projector comes from {projector}, not from the checkpoint")
            tensors = _without(tensors, "model.mm_projector.")
        tensors |= replacing
    if "image_tower" in towers:
        tensors, merged["image_tower"] = _merge_tower(tensors, towers["image_tower"].config, notes)
        towers["image_tower"] = replace(towers["image_tower"], tensors=tensors)
    if base:
        tensors, merged["adapter"] = _merge_adapter(tensors, src)
    generation = home / "generation_config.json"
    return Original(
        folder=src,
        config=config,
        generation_config=read_json(generation) if generation.is_file() else {},
        tensors=tensors,
        towers=towers,
        tokenizer=_tokenizer(src, home),
        merged={name: lora for name, lora in merged.items() if lora},
        notes=tuple(notes),
    )


def _prefix(part: str) -> str:
    return f"model.{part}.{part}."


def _without(tensors: Mapping[str, LazyTensor], prefix: str) -> dict[str, LazyTensor]:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}


def _named(tensors: Mapping[str, LazyTensor], file: str) -> dict[str, LazyTensor]:
    """The tensors by the names of a whole checkpoint. Raises SourceError where two would have the same."""
    named: dict[str, LazyTensor] = {}
    for key, tensor in tensors.items():
        name = canonical(key, file)
        if name in named:
            raise SourceError(f"{name} is twice in {tensor.file}, with and without LoRA's name: remove one of them")
        named[name] = tensor
    return named


def _open_tower(
    part: Part, given: Path | None, home: Path, config: Json, tensors: Mapping[str, LazyTensor], notes: list[str]
) -> tuple[SourceTower, dict[str, LazyTensor]] | None:
    """A tower, and the tensors that replace the checkpoint's own, if any; None where the model has no such tower."""
    embedded = {key: tensor for key, tensor in tensors.items() if key.startswith(_prefix(part))}
    named = config.get(f"mm_{part}")
    if not (given or embedded or named):
        return None
    option = f"--{part.replace('_', '-')} DIR"
    folder = given or _find_tower(part, home, str(named or ""), notes)
    if given and not any(given.glob("*.json")) and not open_folder(given):
        raise SourceError(f"{given} holds neither a config.json nor weights: give LanguageBind's folder with {option}")
    own = _named(open_folder(folder), part) if folder else {}
    if not own and not embedded:
        raise SourceError(f"{part} has no weights, neither in {home} nor in a folder of its own: give {option}")
    if own and embedded:
        notes.append(f"{part} comes from {folder}, not from the checkpoint, as in the original")
    file = folder / "config.json" if folder else None
    found = read_json(file) if file and file.is_file() else None
    if found is None:
        notes.append(
            f"{part} has no config.json: its sizes come from its tensors, and heads, activation, frames and eps from "
            f"ViT-L/14; give {option} where that is wrong"
        )
    return SourceTower(found, own or embedded), own


def _find_tower(part: Part, home: Path, named: str, notes: list[str]) -> Path | None:
    """LanguageBind's folder in the checkpoint's, or beside it."""
    for name in dict.fromkeys((named.rstrip("/").rpartition("/")[2] or TOWER_FOLDERS[part], TOWER_FOLDERS[part])):
        for folder in (home / name, home.absolute().parent / name):
            if (folder / "config.json").is_file():
                notes.append(f"{part}: {folder} is used")
                return folder
    return None


def _merge_tower(
    tensors: Mapping[str, LazyTensor], config: Json | None, notes: list[str]
) -> tuple[dict[str, LazyTensor], Json]:
    """The image tower's LoRA merged. Its rank is in the tensors; alpha in LanguageBind's config."""
    prefix = _prefix("image_tower")
    pairs = _lora_keys(key for key in tensors if key.startswith(prefix))
    if not pairs:
        return dict(tensors), {}
    rank, alpha = lora_of(config)
    if rank is None:
        rank = tensors[f"{pairs[0]}.lora_A.weight"].shape[0]
        notes.append(f"image_tower has LoRA and no config.json: its tensors' rank {rank} and alpha {alpha:g} are used")
    return _merge(tensors, pairs, rank, alpha), {"r": rank, "alpha": alpha}


def _merge_adapter(tensors: Mapping[str, LazyTensor], folder: Path) -> tuple[dict[str, LazyTensor], Json]:
    """A peft adapter merged into what it was trained on."""
    file = folder / ADAPTER_CONFIG
    config = read_json(file)
    asked = {name: config.get(name, plain) for name, plain in ADAPTER_EXTRAS.items()}
    asked |= {name: config.get(name) or None for name in ADAPTER_PATTERNS}
    plain = {**ADAPTER_EXTRAS, **dict.fromkeys(ADAPTER_PATTERNS), "peft_type": "LORA"}
    for name, value in {**asked, "peft_type": config.get("peft_type", "LORA")}.items():
        if value != plain[name]:
            raise SourceError(f"{file}: {name} {value!r} is not supported: only {plain[name]!r} is")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise SourceError(f"{file}: r {rank!r} and lora_alpha {alpha!r} are not numbers: copy it again")
    weights = folder / "adapter_model.safetensors"
    adapter = _named(open_file(weights if weights.is_file() else folder / "adapter_model.bin"), "adapter")
    pairs = _lora_keys(adapter)
    if stray := [key for key in adapter if key.partition(".lora_")[0] not in pairs]:
        raise SourceError(f"{folder}: {stray[0]} of the adapter is no LoRA tensor: put it in non_lora_trainables.bin")
    return _merge({**tensors, **adapter}, pairs, rank, float(alpha)), {"r": rank, "alpha": float(alpha)}


def _lora_keys(keys: Iterable[str]) -> list[str]:
    """The names of the modules that have LoRA tensors."""
    return list(dict.fromkeys(key.partition(".lora_")[0] for key in keys if ".lora_" in key))


def _merge(tensors: Mapping[str, LazyTensor], modules: list[str], rank: int, alpha: float) -> dict[str, LazyTensor]:
    """W + (alpha / rank) B A in the place of every such W, computed in float32 when it is looked at."""
    result = dict(tensors)
    for module in modules:
        names = [f"{module}.{name}.weight" for name in ("lora_A", "lora_B")]
        a, b = (result.pop(name, None) for name in names)
        weight = result.get(f"{module}.weight")
        if a is None or b is None or weight is None:
            absent = next(n for n, t in zip([*names, f"{module}.weight"], (a, b, weight), strict=True) if t is None)
            raise SourceError(f"{absent} is missing, but {module} has other LoRA tensors: copy the files again")
        out, inner = weight.shape if len(weight.shape) == 2 else (0, 0)
        if (b.shape, a.shape) != ((out, rank), (rank, inner)):
            raise SourceError(
                f"{module}: lora_B {b.shape} and lora_A {a.shape} do not fit a weight of {weight.shape} and the rank "
                f"{rank} of the config: correct the rank or copy the files again"
            )
        for name, tensor in zip(names, (a, b), strict=True):
            if tensor.dtype not in DTYPES:
                raise SourceError(f"{name} is {tensor.dtype}: save it as one of {', '.join(DTYPES)}")
        result[f"{module}.weight"] = replace(weight, view=_Merged(weight, a, b, alpha / rank))
    return result


@dataclass(frozen=True)
class _Merged:
    weight: LazyTensor
    a: LazyTensor
    b: LazyTensor
    scale: float

    def __call__(self) -> np.ndarray:
        product: np.ndarray = self.b.view().astype(np.float32) @ self.a.view().astype(np.float32)
        product *= np.float32(self.scale)
        product += self.weight.view()
        return product


def _tokenizer(src: Path, home: Path) -> tuple[Path, ...]:
    folder = src if (src / TOKENIZER_FILES[0]).is_file() else home
    if not (folder / TOKENIZER_FILES[0]).is_file():
        raise SourceError(f"{folder / TOKENIZER_FILES[0]} is missing: copy the tokenizer beside the weights")
    return tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
