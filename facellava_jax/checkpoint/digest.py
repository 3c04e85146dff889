"""What tells one checkpoint from another."""

import hashlib
import os
from pathlib import Path

from .read import read_manifest

CHECKSUM_BYTES = 4  # CRC-32C, which every piece of an array ends with on the disk


def digest_checkpoint(folder: Path) -> str:
    """A SHA-256 of a checkpoint folder: of its config, manifest and tokenizer, and of the checksums of its weights.

    Quick, whatever the size. Raises CheckpointError for a folder that holds no checkpoint.
    """
    digest = hashlib.sha256()
    for name in sorted(read_manifest(folder)["files"]):
        digest.update((folder / name).read_bytes())
    digest.update((folder / "manifest.json").read_bytes())
    for array in sorted((folder / "params").iterdir()):
        for piece in sorted(path for path in (array / "c", *(array / "c").rglob("*")) if path.is_file()):
            with piece.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - CHECKSUM_BYTES))
                digest.update(f"{piece.relative_to(folder).as_posix()} {size} ".encode() + file.read())
    return digest.hexdigest()
