"""Settings of the verbs for stimulated Raman histology, and how the original's infer.yaml says them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from microtome.config.base import Options
from microtome.errors import ConfigError

PatchInput = Literal["highres", "lowres", "three_channels", "ch2_only", "ch3_only", "diff_only"]


class SrhSlideOptions(Options):
    """Which slides, and what their files do not say.

    Attributes:
        slides: Folders of patches of one slide, a patient's or a study's folder, the root of an OpenSRH data set,
            mosaic TIFFs, or saved embeddings (.pt).
        studies: Patients of an OpenSRH data set: all, train, val, or names with commas.
        meta: Name of its metadata under meta/; None for opensrh_withslideclass.json, then opensrh.json.
        channel_order: ch2,ch3 or ch3,ch2. None for the former, and a slide that looks swapped is then refused. A mosaic
            needs it.
        mpp: µm per pixel, for scale bars. A mosaic needs it.
    """

    slides: tuple[str, ...] = ()
    studies: str = "all"
    meta: str | None = None
    channel_order: Literal["ch2,ch3", "ch3,ch2"] | None = None
    mpp: float | None = Field(default=None, gt=0)

    @field_validator("studies", mode="before")
    @classmethod
    def _join_studies(cls, value: object) -> object:
        """A YAML list says the same as text with commas."""
        return ",".join(str(v) for v in value) if isinstance(value, list | tuple) else value

    @field_validator("channel_order", mode="before")
    @classmethod
    def _join_order(cls, value: object) -> object:
        joined = ",".join(str(v) for v in value) if isinstance(value, list | tuple) else value
        return joined.replace(" ", "").lower() if isinstance(joined, str) else joined

    @property
    def study_names(self) -> tuple[str, ...]:
        """The patients or splits, one by one."""
        return tuple(name.strip() for name in self.studies.split(",") if name.strip())


class ScoreConfig(SrhSlideOptions):
    """Settings of `microtome score`.

    Attributes:
        model: fastglioma-highres, fastglioma-lowres, or a file: the published layout, converted safetensors, or a
            scorer from its own training.
        weights: File in place of the published one of a model by name; "none" fills the network by rule, for
            trying things out: such scores mean nothing.
        tokenizer: File of the patch encoder, where the model is a scorer alone.
        patch_input: What the patch encoder sees; None for what the model says. highres and lowres are published.
        hf_repo: Repository of the hub in which a model that is no file here is looked for.
        out: Output folder; slides that were scored there with the same settings are not scored again.
        supports: Patches to compare with, for the few-shot map: a folder with normal/ and tumour/ in it, or the root
            of an OpenSRH data set, of which slides that are scored are left out.
        n_supports: Patches per class to take from a data set.
        region_patches: Side of a region of the regional table, in patches.
        bad_patches: What to do with a slide with patches that are unreadable, saturated or blank: error refuses it,
            skip scores the others and counts.
        max_saturated: Share of a patch's pixels that may be at the end of the scale, 0..1.
        min_coverage: Least share of a slide's patches that must be scored for its score to stand, 0..1.
        save_embeddings: Save the patches' vectors too, in the form that training takes.
        export_pt: Write predictions.pt too, as the original does.
        device: auto, cpu, cuda, cuda:0, mps.
        precision: fp32, bf16 or fp16; fp32 is the reference.
        runtime: What runs the patch encoder: torch, openvino (CPUs; an extra) or auto, the faster one.
        workers: Threads that read.
        use_patient_class: Whether the label in tables is the patient's diagnosis or the slide's degree of infiltration;
            both stand in the table under their own names.
        quiet: Print nothing but errors and the closing summary.
    """

    model: str = "fastglioma-highres"
    weights: Literal["none"] | Path | None = None
    tokenizer: Path | None = None
    patch_input: PatchInput | None = None
    hf_repo: str | None = None
    out: Path = Path("out")
    supports: Path | None = None
    n_supports: int = Field(default=16, ge=1)
    region_patches: int = Field(default=6, ge=1)
    bad_patches: Literal["error", "skip"] = "error"
    max_saturated: float = Field(default=0.05, ge=0, le=1)
    min_coverage: float = Field(default=0.9, ge=0, le=1)
    save_embeddings: bool = False
    export_pt: bool = False
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    workers: int = Field(default=2, ge=1)
    use_patient_class: bool = True
    quiet: bool = False


class SrhStainConfig(SrhSlideOptions):
    """Settings of `microtome srh stain`.

    Attributes:
        out: Folder for the pictures, <slide>.jpg each.
        full: Write each slide at full size, PNG, without a strip below it.
        bad_patches: What to do with unreadable patches: error, or skip, which leaves their places white.
    """

    out: Path = Path("out")
    full: bool = False
    bad_patches: Literal["error", "skip"] = "error"


class SrhConvertConfig(Options):
    """Settings of `microtome srh convert`.

    Attributes:
        model: Checkpoint: published layout, or a scorer of its own training.
        tokenizer: Checkpoint of the patch encoder, where the model is a scorer alone.
        patch_input: What the patch encoder sees; None for what the file says.
        out: Folder for model.safetensors and README.md, the model card.
        validation: Embeddings of validation slides (embeddings.npz of a `microtome score` run) to calibrate the
            out-of-distribution flag on.
        licence: Licence of the weights; None for that of the published ones, which goes over to what is made of them.
        overwrite: Replace what is there.
    """

    model: Path = Path("model.ckpt")
    tokenizer: Path | None = None
    patch_input: PatchInput | None = None
    out: Path = Path("out")
    validation: Path | None = None
    licence: str | None = None
    overwrite: bool = False


_ARCHITECTURE: Mapping[str, object] = {
    "patch.backbone.which": "resnet34",
    "patch.mlp_hidden": [],
    "patch.num_embedding_out": 128,
    "slide.mil.which": "transformer",
    "slide.mil.params.embed_dim": 512,
    "slide.mil.params.depth": 2,
    "slide.mil.params.num_heads": 4,
    "slide.mil.params.prefix_len": 8,
    "slide.mlp_hidden": [512],
}
"""The one network that the original's configuration can name here; its head's lengths are in the file."""

_FREE = ("patch.backbone.params.num_channel_in", "slide.mil.params.pos_emb_type", "slide.mil.params.pos_emb_grad")
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "infra": ("log_dir", "exp_name", "comment", "hf_repo", "seed"),
    "data": ("db_root", "studies", "patch_input", "use_patient_class"),
    "model": ("patch", "slide"),
    "eval": ("predict_batch_size", "ckpt_path", "compare_to_torch"),
}


def is_infer_yaml(values: Mapping[str, Any]) -> bool:
    """Whether a configuration file is one of the original's."""
    return isinstance(values.get("data"), dict) and isinstance(values.get("infra"), dict)


def read_infer_yaml(values: Mapping[str, Any], *, folder_name: str) -> dict[str, Any]:
    """Say the original's infer.yaml in our settings.

    Args:
        values: What the file says.
        folder_name: Of this run, ``<8 hex>-<MonDD-HH-MM-SS>``; the original makes a new folder each time.

    Returns:
        Settings of `microtome score`.

    Raises:
        ConfigError: If a key is unknown, a value contradicts another, or the network is not FastGlioma's.

    References:
        specs FastGlioma sections 2.2 and 2.3. Batch sizes and the seed decide nothing here: slides go one by one, and
        nothing is drawn.
    """
    _check_keys(values)
    infra, data = values["infra"], values["data"]
    evaluated = values.get("eval") or {}
    patch_input = str(data.get("patch_input", "highres"))
    _check_architecture(_flat(values.get("model") or {}), patch_input)
    if "db_root" not in data:
        raise ConfigError("data.db_root, the root of the OpenSRH data set, is not in the file. Add it.")
    out = Path(str(infra.get("log_dir", "./"))) / str(infra.get("exp_name", "fastglioma/"))
    return {
        "slides": (str(data["db_root"]),),
        "studies": data.get("studies", ["NIO_001"]),
        "patch_input": patch_input,
        "use_patient_class": bool(data.get("use_patient_class", True)),
        "model": str(evaluated.get("ckpt_path", f"fastglioma_{patch_input}_model.ckpt")),
        "hf_repo": str(infra.get("hf_repo", "mlinslab/fastglioma")),
        "out": out / f"{folder_name}-{infra.get('comment', 'inference')}_",
        "export_pt": True,
    }


def _check_keys(values: Mapping[str, Any]) -> None:
    for section, inner in values.items():
        if section not in _KNOWN:
            raise ConfigError(f"The original's configuration has no section {section!r}. It has {', '.join(_KNOWN)}.")
        unknown = set(inner or {}) - set(_KNOWN[section])
        if unknown:
            raise ConfigError(
                f"{section}.{min(unknown)} is no key of the original's. {section} has {', '.join(_KNOWN[section])}."
            )


def _check_architecture(said: Mapping[str, object], patch_input: str) -> None:
    for key, value in said.items():
        if key in _FREE:
            continue
        if key not in _ARCHITECTURE or value != _ARCHITECTURE[key]:
            wanted = f"it is {_ARCHITECTURE[key]!r}" if key in _ARCHITECTURE else "there is no such key"
            raise ConfigError(f"model.{key} is {value!r} in the file; in the network that is known here {wanted}.")
    channels = said.get("patch.backbone.params.num_channel_in")
    wanted_channels = 3 if patch_input in ("highres", "three_channels") else 1
    if channels not in (None, wanted_channels):
        raise ConfigError(
            f"data.patch_input is {patch_input}, which gives {wanted_channels} channel(s), but model.patch.backbone."
            f"params.num_channel_in is {channels}. Correct one of them."
        )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat
