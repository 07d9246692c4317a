"""Loading: the settings of a backbone, as one value for commands, stores, results and actors.

    Backbone.load("Qwen/Qwen2.5-VL-7B-Instruct", Loading(dtype="bfloat16", frames=4))
    Backbone.load("Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16", frames=4)       # the same

Nothing here imports torch: the command line reads these settings before it loads anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from probes.arguments import check_choice, check_count
from probes.errors import BadSetting

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["none", "8bit", "4bit"]
COUNTS = ("max_pixels", "frames", "max_tokens", "token_budget")
OTHER_NAMES = {"attn_implementation": "attn"}
"""Settings by their names in transformers."""


@dataclass(frozen=True)
class Loading:
    """Settings of `Backbone.load`; None leaves the choice to the model and the device.

    All values can be written as JSON: a `torch.dtype` or `torch.device` is replaced by its name.

    Raises:
        BadSetting: A setting does not take its value.
    """

    device: str | None = None
    """Device of the model, such as cuda, cuda:1 or cpu; by default the first GPU, else the CPU."""
    dtype: Dtype | None = None
    """Number format of the weights; by default float32 on a CPU, and elsewhere that of the
    checkpoint (bfloat16 instead of float16 where the GPU supports it)."""
    attn: str | None = None
    """Attention implementation by its name in transformers, such as sdpa, eager or
    flash_attention_2."""
    device_map: Any = None
    """How layers are spread over several GPUs, and over CPU and disk where they do not fit: auto,
    balanced or sequential."""
    quantize: Quantize = "none"
    """Store the weights of linear layers in 8 or 4 bits (needs bitsandbytes)."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""
    max_pixels: int | None = None
    """Most pixels (width × height) of a picture; a larger one is scaled down before it is read."""
    frames: int | None = None
    """Frames that are sampled from a video, evenly in time; by default 8."""
    images: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model's image processor; see `probes.MediaOptions`."""
    videos: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model's video processor."""
    max_tokens: int | None = None
    """Most tokens of one prompt, its item included; longer texts are cut at their end."""
    token_budget: int | None = None
    """Most padded tokens of one batch; by default 2,048 on a CPU, and 16,384 on a GPU or as many as
    its free memory allows. Results differ by float rounding only."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            plain = _plain(entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, plain)
        if self.dtype is not None:
            check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("quantize", self.quantize, get_args(Quantize))
        for name in COUNTS:
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.device is not None and self.device_map is not None:
            raise BadSetting("device and device_map both say where the model goes; give one")

    @classmethod
    def of(cls, loading: "Loading | None", settings: Mapping[str, Any]) -> "Loading":
        """Combine a value with settings by name, which take precedence.

        Raises:
            BadSetting: There is no such setting, or it does not take its value.
        """
        if not isinstance(loading, Loading | None):
            raise BadSetting(f"loading must be a probes.Loading, not {loading!r}")
        named = {OTHER_NAMES.get(name, name): value for name, value in settings.items()}
        names = [entry.name for entry in fields(cls)]
        if unknown := [name for name in named if name not in names]:
            raise BadSetting(
                f"there is no loading setting {unknown[0]!r}; there are {', '.join(names)}"
            )
        plain = {name: _plain(name, value) for name, value in named.items()}
        return replace(loading or cls(), **plain)

    def updated(self, other: "Loading") -> "Loading":
        """These settings, overridden by those of `other` that are not left at their defaults."""
        changes = other.given()
        if changes.keys() & {"device", "device_map"}:  # a new place replaces the old one
            changes = {"device": None, "device_map": None, **changes}
        return replace(self, **changes)

    def given(self) -> dict[str, Any]:
        """The settings that are not left at their defaults, as JSON values."""
        default = vars(Loading())
        return {name: value for name, value in vars(self).items() if value != default[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Loading":
        """Read the result of `given`, which another version of this project may have written."""
        return cls(**{e.name: data[e.name] for e in fields(cls) if e.name in data})


def _plain(setting: str, value: Any) -> Any:
    """A dtype or device of torch as its name, a mapping as a dict."""
    if isinstance(value, Mapping):
        return {
            key: _plain("device", v) if setting == "device_map" else v for key, v in value.items()
        }
    if value is None or isinstance(value, int) or setting not in ("device", "dtype", "device_map"):
        return value
    return str(value).removeprefix("torch.")
