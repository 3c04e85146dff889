"""The two sides of bench_first_token.py, ours and transformers', with the same weights, clip and prompt.

Fresh processes that are timed import this file: its top asks for nothing that the two sides do not ask for anyway.
"""

import importlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

QUESTION = "What emotion is shown in the video?"
CLIP_FRAMES, CLIP_HEIGHT, CLIP_WIDTH = 48, 360, 640


class Ours:
    """A Predictor about to answer the question."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from facellava_jax import Predictor

        self.clip = folder / "clip.mp4"
        self.predictor = Predictor.load(folder / "ours", dtype=dtype)  # type: ignore[arg-type]

    def read(self) -> None:
        """The clip and the prompt."""
        from facellava_jax import Request

        self.prepared = self.predictor.prepare(Request(self.clip, QUESTION))

    def answer(self, tokens: int) -> int:
        """How many tokens the answer has, at most `tokens`."""
        from facellava_jax import Options

        prepared = self.prepared._replace(options=Options(max_new_tokens=tokens))
        return self.predictor.answer([prepared])[0].tokens


class Peer:
    """transformers' model about to answer the question. Its clip and prompt are read as `Predictor.prepare` does."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import VideoLlavaForConditionalGeneration

        self.folder = folder
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = VideoLlavaForConditionalGeneration.from_pretrained(folder / "peer", dtype=getattr(torch, dtype))
        self.model = model.to(device).eval()

    def read(self) -> None:
        import torch

        from facellava_jax.config import Config
        from facellava_jax.media import load_video
        from facellava_jax.pixels import preprocess_video
        from facellava_jax.text import PLACEHOLDER_ID, Medium, Tokenizer, build_prompt, encode_with_images

        config = Config.load(self.folder / "ours/config.json")
        tower = config.model.video_tower
        assert tower
        clip = load_video(self.folder / "clip.mp4", tower.num_frames)
        self.pixels = preprocess_video(clip.frames, tower.image_size, config.media)
        prompt = build_prompt(QUESTION, [Medium("video", tower.num_frames)], config.text.template)
        frame = [self.model.config.video_token_id] * tower.tokens_per_frame
        ids: list[int] = []
        for token in encode_with_images(Tokenizer.load(self.folder / "ours/tokenizer"), prompt.text):
            ids += frame if token == PLACEHOLDER_ID else [token]
        input_ids = torch.tensor([ids], device=self.model.device)
        self.inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values_videos": torch.from_numpy(self.pixels.transpose(0, 3, 1, 2)[None]).to(
                self.model.device, self.model.dtype
            ),
        }

    def answer(self, tokens: int) -> int:
        return len(self.generate(tokens).sequences[0].tolist()) - self.inputs["input_ids"].shape[1]

    def generate(self, tokens: int, **options: Any) -> Any:
        """Greedy; what transformers returns."""
        return self.model.generate(
            **self.inputs,
            **options,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
        )


SIDES: dict[str, type[Ours] | type[Peer]] = {"facellava_jax": Ours, "transformers": Peer}
CLASSES = {"facellava_jax": "Predictor", "transformers": "VideoLlavaForConditionalGeneration"}


def start(side: str, folder: str, dtype: str) -> None:
    """What a fresh process does up to its first token; writes when each stage ended."""
    moments = {}
    getattr(importlib.import_module(side), CLASSES[side])
    moments["import"] = time.monotonic()
    model = SIDES[side](Path(folder), dtype)
    moments["load"] = time.monotonic()
    model.read()
    moments["read clip and prompt"] = time.monotonic()
    model.answer(1)
    moments["first token"] = time.monotonic()
    assert side == "facellava_jax" or "jax" not in sys.modules, "the peer is charged with importing JAX"
    json.dump(moments, sys.stdout)


def serve(side: str, folder: str, dtype: str) -> None:
    """Answers with as many tokens as each line of standard input says, and writes the seconds that this took."""
    model = SIDES[side](Path(folder), dtype)
    model.read()
    for line in sys.stdin:
        begun = time.monotonic()
        tokens = model.answer(int(line))
        seconds = time.monotonic() - begun
        assert tokens == int(line), f"the answer ended after {tokens} tokens"
        sys.stdout.write(f"{seconds}\n")
        sys.stdout.flush()


def build(folder: Path, tokenizer: Path) -> None:
    """Writes the clip, a random checkpoint in the original's format, and what each side loads."""
    import torch
    from random_checkpoint import Drawer
    from safetensors.numpy import save_file
    from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

    from conversion.configuration import original_config, original_tower_config
    from conversion.convert import import_checkpoint
    from conversion.rules import TOWER_FOLDERS, entries
    from facellava_jax.config import tiny
    from facellava_jax.text import Tokenizer

    write_clip(folder / "clip.mp4")
    config = tiny()
    image_tower, video_tower = config.model.image_tower, config.model.video_tower
    assert image_tower and video_tower
    video_tower = replace(video_tower, add_time_attn=False)
    # The peer marks visual tokens by ids of their own, which must lie in the vocabulary.
    decoder = replace(config.model.decoder, vocab_size=len(Tokenizer.load(tokenizer)) + 2)
    config = replace(config, model=replace(config.model, video_tower=video_tower, decoder=decoder, landmarks=None))
    drawer = Drawer("float32", seed=0)
    tensors = {entry.key: drawer.draw(entry) for entry in entries(config)}

    original = folder / "original"
    original.mkdir()
    save_file(tensors, original / "model.safetensors")
    (original / "config.json").write_text(json.dumps(original_config(config, {})))
    for name, tower in zip(TOWER_FOLDERS.values(), (image_tower, video_tower), strict=True):
        (original / name).mkdir()
        (original / name / "config.json").write_text(json.dumps(original_tower_config(tower, None)))
    for file in tokenizer.iterdir():
        (original / file.name).write_bytes(file.read_bytes())
    import_checkpoint(original, folder / "ours")

    vision = {name: value for name, value in asdict(video_tower).items() if hasattr(CLIPVisionConfig(), name)}
    text = {name: value for name, value in asdict(decoder).items() if hasattr(LlamaConfig(), name)}
    peer_config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_token_index=decoder.vocab_size - 2,
        video_token_index=decoder.vocab_size - 1,
        vision_feature_layer=video_tower.select_layer,
    )
    peer = VideoLlavaForConditionalGeneration(peer_config)
    # Rotary frequencies are saved by the original alone.
    kept = {peer_name(key): torch.from_numpy(array) for key, array in tensors.items() if "rotary_emb" not in key}
    peer.load_state_dict(kept)
    peer.save_pretrained(folder / "peer")


def peer_name(key: str) -> str:
    """transformers' name of a tensor of the original."""
    for old, new in (
        ("model.image_tower.image_tower.", "model.image_tower."),
        ("model.video_tower.video_tower.", "model.video_tower."),
        ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
        ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
        ("model.", "model.language_model."),
    ):
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def write_clip(file: Path) -> None:
    """Waves of colour that move, so that frames differ."""
    import cv2
    import numpy as np

    y, x, phase = np.ogrid[:CLIP_HEIGHT, :CLIP_WIDTH, :3]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 24, (CLIP_WIDTH, CLIP_HEIGHT))
    for t in range(CLIP_FRAMES):
        writer.write((127 + 127 * np.sin(x / 40 + y / 25 + 2 * phase + t / 5)).astype(np.uint8))
    writer.release()
