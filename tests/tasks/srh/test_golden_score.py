"""From TIFF files in OpenSRH's layout and a checkpoint of the published layout to scores, against the original's."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml

from microtome.cli.app import main
from microtome.config.srh import ScoreConfig, SrhConvertConfig
from microtome.tasks.score import score
from microtome.tasks.srh.convert import srh_convert
from tests.conftest import golden_cases, require_case
from tests.encoders.golden import fill, patch, read_case, tolerance

KINDS = {"normal": "normal_patches", "tumor": "tumor_patches", "nondiagnostic": "nondiagnostic_patches"}


def write_study(root: Path, slides) -> Path:
    """The case's slides on disk."""
    meta: dict[str, dict[str, object]] = {}
    for slide in slides:
        patient = meta.setdefault(
            slide["patient"], {"patient_id": slide["patient"], "class": slide["class"], "slides": {}}
        )
        lists: dict[str, list[str]] = {name: [] for name in KINDS.values()}
        for one in slide["patches"]:
            name = f"studies/{slide['patient']}/{slide['slide']}/patches/{one['file']}"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / name, patch(one["seed"], one["hi"]), photometric="minisblack")
            lists[KINDS[one["kind"]]].append(name)
        patient["slides"][slide["slide"]] = {"slide_id": slide["slide"], **lists}  # type: ignore[index]  # of JSON
    (root / "meta").mkdir()
    (root / "meta" / "opensrh.json").write_text(json.dumps(meta))
    return root


def infer_yaml(root: Path, checkpoint: Path, case) -> Path:
    """The original's configuration for this case."""
    low = case["inputs"]["patch_input"] == "lowres"
    path = root / "infer.yaml"
    transformer = {"embed_dim": 512, "depth": 2, "num_heads": 4, "pos_emb_type": "FFPEG", "prefix_len": 8}
    backbone = {"which": "resnet34", "params": {"num_channel_in": 1 if low else 3}}
    values = {
        "infra": {
            "log_dir": str(root / "logs"),
            "exp_name": "fastglioma/",
            "comment": "inference",
            "seed": 1000,
            "hf_repo": "mlinslab/fastglioma",
        },
        "data": {
            "db_root": str(root),
            "studies": ["NIO_T1000"],
            "use_patient_class": True,
            "patch_input": case["inputs"]["patch_input"],
        },
        "model": {
            "patch": {"backbone": backbone, "mlp_hidden": [], "num_embedding_out": 128},
            "slide": {"mil": {"which": "transformer", "params": transformer}, "mlp_hidden": [512]},
        },
        "eval": {"predict_batch_size": 4, "ckpt_path": str(checkpoint)},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*golden_cases("fastglioma_highres"), *golden_cases("fastglioma_lowres")], ids=lambda c: c.name
)
def test_golden_fastglioma_from_files_to_scores(case, tmp_path, capsys):
    """With the original's own configuration file, on its command line."""
    torch.set_num_threads(1)
    description, expected = read_case(require_case(case))
    atol, rtol = tolerance(description["tolerance"]["embeddings, logit, score"])
    root = write_study(tmp_path / "data", description["inputs"]["slides"])
    checkpoint = tmp_path / "published.ckpt"
    wrapper = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "1.8.4"}
    torch.save({"state_dict": fill(case), **wrapper}, checkpoint)
    assert main(["score", "--config", str(infer_yaml(root, checkpoint, description)), "--save-embeddings"]) == 0
    assert "NIO_T1000.2" in capsys.readouterr().out

    def close(found, name):
        np.testing.assert_allclose(found, expected[name], atol=atol, rtol=rtol, err_msg=name)

    run = next((root / "logs" / "fastglioma").iterdir())
    found = torch.load(run / "predictions" / "predictions.pt", weights_only=True)
    assert found["slide"] == ["NIO_T1000/1", "NIO_T1000/2"]
    assert found["label"] == ["gbm", "gbm"]
    close(found["logits"], "out_predict_logits")
    close(found["scores"], "out_predict_scores")
    close(found["embeddings"], "out_predict_embeddings")
    for i, slide in enumerate(("1", "2")):
        with np.load(run / "slides" / f"NIO_T1000.{slide}.npz") as kept:
            np.testing.assert_array_equal(kept["grid"], expected[f"out_s{i}_coords"])
            close(kept["features"], f"out_s{i}_patch_embeddings")
            attention = expected[f"out_s{i}_attention_last_block"][0, :, 0, 8:].mean(axis=0)
            np.testing.assert_allclose(kept["attention"], attention, atol=atol, rtol=rtol)

    converted = srh_convert(
        SrhConvertConfig(model=checkpoint, patch_input=description["inputs"]["patch_input"], out=tmp_path / "model")
    )
    dumps = (str(run / "embeddings"),)
    again = score(ScoreConfig(slides=dumps, model=str(converted), out=tmp_path / "out", quiet=True))
    close([slide["logit"] for slide in again.slides], "out_predict_logits")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "1p/19q-codeleted" in card
