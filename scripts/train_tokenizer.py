"""Train a small Llama-style SentencePiece model (BPE with byte fallback) on the conversations of lists of records.

facellava data render --out faces --samples 1500 --frames 1
python scripts/train_tokenizer.py faces/data.json --out facellava_jax/nano/tokenizer
"""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from facellava_jax.extras import require
from facellava_jax.text import IMAGE_PLACEHOLDER, TEMPLATES, VIDEO_PLACEHOLDER


@dataclass(frozen=True)
class Arguments:
    lists: tyro.conf.Positional[tuple[Path, ...]]
    """Lists in FaceInstruct-1M's format."""
    out: Path
    """The folder for tokenizer.model and tokenizer_config.json."""
    pieces: int = 1000
    """Of the vocabulary, bytes and special ones counted in."""


def main(arguments: Arguments) -> None:
    model = io.BytesIO()
    require("sentencepiece", "predict").SentencePieceTrainer.train(
        sentence_iterator=read_texts(arguments.lists),
        model_writer=model,
        vocab_size=arguments.pieces,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": False}
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    sys.stdout.write(f"{len(model.getvalue()):,} bytes in {arguments.out / 'tokenizer.model'}\n")


def read_texts(lists: tuple[Path, ...]) -> Iterator[str]:
    """Every conversation as training writes it out, without the places of its media."""
    for file in lists:
        for record in json.loads(file.read_text()):
            turns = [turn["value"] for turn in record["conversations"]]
            for placeholder in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER):
                turns = [turn.replace(placeholder, "") for turn in turns]
            text = TEMPLATES["v1"].render(turns)
            yield from (line for line in text.replace("</s>", "\n").splitlines() if line.strip())


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
