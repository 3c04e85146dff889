"""conversion/verify.py: every recorded case holds, and what is off, missing or unknown is never called ok."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CASES

from conversion import verify as module
from conversion.__main__ import main
from conversion.convert import import_checkpoint
from conversion.verify import NOT_RESULTS, TOLERANCES, Case, Row, VerifyError, render_table, verify

GoldenCase = Callable[[str], Path]
# Of training; their forward passes are those of the other cases.
SLOW = {name: pytest.mark.slow for name in CASES if "_train_" in name}
# The case whose outputs are tampered with: it has the most arrays of those that are committed.
TAMPERED = "03_video_landmarks_simple"
STEPS = ("_run_branches", "_run_prompts", "_run_generation")


def verdicts(rows: list[Row], verdict: str) -> set[str]:
    return {row.array for row in rows if row.verdict == verdict}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CASES])
def test_every_array_of_a_case_is_ok(name: str, golden_case: GoldenCase, tmp_path: Path) -> None:
    case = golden_case(name)
    import_checkpoint(case / "checkpoint", tmp_path / "checkpoint", dtype="float32")
    rows = verify(tmp_path / "checkpoint", case)
    assert not verdicts(rows, "FAIL"), render_table(rows)
    with np.load(case / "outputs.npz") as outputs:
        expected = set(outputs) - set(NOT_RESULTS)
    assert verdicts(rows, "ok") == expected
    # Layers that no answer depends on, and nothing else.
    assert all(
        re.fullmatch(r"(image|video)_tower_hidden_all\[[4-9]\]", each) for each in verdicts(rows, "not computed")
    )


@pytest.fixture(scope="module")
def checkpoint_32(golden_case: GoldenCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "checkpoint"
    import_checkpoint(golden_case(TAMPERED) / "checkpoint", out, dtype="float32")
    return out


@pytest.fixture(scope="module")
def computed(golden_case: GoldenCase, checkpoint_32: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the model computes for the case, which does not depend on the outputs that are tampered with."""
    kept: dict[str, dict[str, np.ndarray]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for step in STEPS:
            run = getattr(module, step)
            patch.setattr(module, step, lambda *args, step=step, run=run: kept.setdefault(step, run(*args)))
        verify(checkpoint_32, golden_case(TAMPERED))
    return kept


@pytest.fixture
def verify_with(
    golden_case: GoldenCase,
    checkpoint_32: Path,
    computed: dict[str, dict[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., list[Row]]:
    """`verify_with(name=array, ...)` compares a copy of the case in which these outputs are others."""
    for step in STEPS:
        monkeypatch.setattr(module, step, lambda *_, step=step: computed[step])

    def run(**changes: Any) -> list[Row]:
        return verify(checkpoint_32, copy_case(golden_case(TAMPERED), tmp_path / "case", **changes))

    return run


def copy_case(case: Path, to: Path, **changes: Any) -> Path:
    """The case's recordings with other outputs."""
    to.mkdir()
    for name in ("meta.json", "inputs.npz"):
        shutil.copyfile(case / name, to / name)
    np.savez(to / "outputs.npz", **{**outputs_of(case), **changes})
    return to


def outputs_of(case: Path) -> dict[str, np.ndarray]:
    with np.load(case / "outputs.npz") as outputs:
        return dict(outputs.items())


ARRAYS = (
    "video_tower_hidden_all",
    "video_tower_out",
    "video_mm_proj_out",
    "video_lm_local",
    "video_lm_global",
    "video_lm_tokens",
    "video_cross_attn_out",
    "video_features",
    "inputs_embeds",
    "attention_mask_merged",
    "labels_merged",
    "loss",
    "logits",
    "llm_hidden_states",
    "gen_ids",
    "gen_step_logits",
)


def test_the_untouched_copy_is_ok(verify_with: Callable[..., list[Row]], golden_case: GoldenCase) -> None:
    rows = verify_with()
    assert verdicts(rows, "ok") == set(ARRAYS) == outputs_of(golden_case(TAMPERED)).keys() - set(NOT_RESULTS)
    assert verdicts(rows, "FAIL") == set()


@pytest.mark.parametrize("name", ARRAYS)
def test_one_number_that_is_off_fails_its_array_alone(
    name: str, verify_with: Callable[..., list[Row]], golden_case: GoldenCase
) -> None:
    """By 1e-3, and ids, masks and labels by 1."""
    array = outputs_of(golden_case(TAMPERED))[name]
    step = 1e-3 if array.dtype.kind == "f" else 1
    array.reshape(-1)[0] += step
    rows = verify_with(**{name: array})
    assert verdicts(rows, "FAIL") == {name}
    (row,) = [row for row in rows if row.array == name]
    assert row.error > row.tolerance
    assert f"{name} " in next(line for line in render_table(rows).splitlines() if line.endswith("FAIL"))


def test_a_number_within_the_tolerance_is_ok(verify_with: Callable[..., list[Row]], golden_case: GoldenCase) -> None:
    logits = outputs_of(golden_case(TAMPERED))["logits"]
    logits.reshape(-1)[0] += 1e-4
    assert verdicts(verify_with(logits=logits), "FAIL") == set()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["video_tower_out", "logits", "loss"])
def test_a_number_that_is_none_fails(
    name: str, value: float, verify_with: Callable[..., list[Row]], golden_case: GoldenCase
) -> None:
    array = outputs_of(golden_case(TAMPERED))[name]
    array.reshape(-1)[-1] = value
    assert verdicts(verify_with(**{name: array}), "FAIL") == {name}


def test_nan_in_what_is_computed_fails(
    verify_with: Callable[..., list[Row]], computed: dict[str, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {**computed["_run_prompts"], "logits": computed["_run_prompts"]["logits"] * np.nan}
    monkeypatch.setattr(module, "_run_prompts", lambda *_: broken)
    assert verdicts(verify_with(), "FAIL") == {"logits"}


def test_what_is_not_computed_is_never_ok(verify_with: Callable[..., list[Row]], golden_case: GoldenCase) -> None:
    """An array of a part that this model lacks, or of another shape, fails; unbuilt layers are only named."""
    outputs = outputs_of(golden_case(TAMPERED))
    rows = verify_with(video_distance_mask=np.zeros((1, 17, 9), np.float32), logits=outputs["logits"][:, :-1])
    assert verdicts(rows, "FAIL") == {"video_distance_mask", "logits"}
    hidden = outputs["video_tower_hidden_all"]
    assert verdicts(rows, "not computed") == {f"video_tower_hidden_all[{len(hidden) - 1}]"}
    assert not render_table(rows).splitlines()[-1].endswith("ok")
    assert Row("any", None, 1.0).verdict == "not computed"
    assert Row("any", float("nan"), 1.0).verdict == "FAIL"
    assert (Row("any", 1.0, 1.0).verdict, Row("any", 1.1, 1.0).verdict) == ("ok", "FAIL")


def test_a_layer_beyond_the_selected_one_does_not_count(
    verify_with: Callable[..., list[Row]], golden_case: GoldenCase
) -> None:
    hidden = outputs_of(golden_case(TAMPERED))["video_tower_hidden_all"]
    hidden[-1] += 1
    assert verdicts(verify_with(video_tower_hidden_all=hidden), "FAIL") == set()


def test_an_unknown_array_is_named(verify_with: Callable[..., list[Row]]) -> None:
    with pytest.raises(VerifyError, match=r"outputs\.npz: array 'video_mystery' is not known here: leave it out"):
        verify_with(video_mystery=np.zeros(3))


def test_every_tolerance_is_used(goldens: Path, golden_case: GoldenCase) -> None:
    golden_case("11b_train_stage1_masked")  # the only case with the logits' sums and maxima
    recorded = {name for path in goldens.glob("*/outputs.npz") for name in outputs_of(path.parent)}
    assert {name.removeprefix("image_").removeprefix("video_") for name in recorded} >= TOLERANCES.keys()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta.json", None, "no meta.json there: name the folder of a recorded case"),
        ("inputs.npz", None, "no inputs.npz there"),
        ("outputs.npz", None, "no outputs.npz there"),
        ("meta.json", b"{", "a damaged case"),
        ("inputs.npz", b"PK\x03\x04 cut", "a damaged case"),
        ("outputs.npz", b"", "a damaged case"),
    ],
)
def test_a_folder_that_is_no_case_is_named(
    name: str, content: bytes | None, message: str, golden_case: GoldenCase, checkpoint_32: Path, tmp_path: Path
) -> None:
    case = copy_case(golden_case(TAMPERED), tmp_path / "case")
    if content is None:
        (case / name).unlink()
    else:
        (case / name).write_bytes(content)
    with pytest.raises(VerifyError, match=message) as raised:
        verify(checkpoint_32, case)
    assert str(case) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["input_ids", "attention_mask", "video_0"])
def test_an_input_that_is_missing_is_named(
    missing: str, golden_case: GoldenCase, checkpoint_32: Path, tmp_path: Path
) -> None:
    case = copy_case(golden_case(TAMPERED), tmp_path / "case")
    with np.load(case / "inputs.npz") as inputs:
        kept = {name: array for name, array in inputs.items() if name != missing}
    np.savez(case / "inputs.npz", **kept)
    with pytest.raises(VerifyError, match=rf"inputs\.npz: no array '{missing}': record it, too"):
        verify(checkpoint_32, case)


def test_media_that_meta_does_not_name_are_missed(golden_case: GoldenCase, checkpoint_32: Path, tmp_path: Path) -> None:
    case = copy_case(golden_case(TAMPERED), tmp_path / "case")
    meta = json.loads((case / "meta.json").read_text())
    (case / "meta.json").write_text(json.dumps({**meta, "images_order": []}))
    with pytest.raises(VerifyError, match=r"meta\.json names fewer media than input_ids has placeholders"):
        verify(checkpoint_32, case)


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_the_command_prints_the_table_and_fails_where_an_array_fails(
    off: float, golden_case: GoldenCase, checkpoint_32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is replaced here: the model runs."""
    logits = outputs_of(golden_case(TAMPERED))["logits"]
    case = copy_case(golden_case(TAMPERED), tmp_path / "case", logits=logits + np.float32(off))
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["verify", str(checkpoint_32), str(case)]))
    table = capsys.readouterr().out.splitlines()
    assert ended.value.code == (1 if off else 0)
    assert [line.split()[0] for line in table if line.endswith("FAIL")] == (["logits"] if off else [])
    assert {line.split()[0] for line in table if line.endswith(" ok")} == set(ARRAYS) - ({"logits"} if off else set())


@pytest.mark.parametrize(
    ("meta", "cause"),
    [([], "images_order is no list"), ({"images_order": [{"key": "video_0", "kind": "clip"}]}, "a key and a kind")],
)
def test_a_case_that_says_too_little(golden_case: GoldenCase, tmp_path: Path, meta: object, cause: str) -> None:
    case = copy_case(golden_case(TAMPERED), tmp_path / "case")
    (case / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(VerifyError, match=cause):
        Case.read(case)


def test_a_case_without_results_is_refused(
    golden_case: GoldenCase, checkpoint_32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = copy_case(golden_case(TAMPERED), tmp_path / "case")
    np.savez(case / "outputs.npz", gen_margin=np.zeros(3))
    for step in STEPS:
        monkeypatch.setattr(module, step, lambda *_: {})
    with pytest.raises(VerifyError, match="holds no result to compare"):
        verify(checkpoint_32, case)
