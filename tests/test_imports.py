"""What importing costs, told by which modules it brings, never by the clock."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "timm",
    "umap",
    "sklearn",
    "pandas",
    "cv2",
    "matplotlib",
    "openslide",
    "tifffile",
    "h5py",
    "scipy",
    "numba",
}


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print('\\n'.join(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in out.stdout.splitlines()}


def test_importing_the_package_brings_nothing_heavy():
    assert not modules_after("import microtome") & (HEAVY | {"numpy", "pydantic", "rich"})


def test_help_brings_nothing_heavy():
    code = (
        "import contextlib, io\nfrom microtome.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['run', '--help'])"
    )
    assert not modules_after(code) & HEAVY


@pytest.mark.parametrize(
    "part", ["slides.open", "tissue.find", "tiles.grid", "features.store", "viz.report", "evaluation.clusters"]
)
def test_reading_laying_out_judging_and_drawing_need_no_torch(part):
    assert not modules_after(f"import microtome.{part}") & {"torch", "timm", "umap"}


def test_every_public_name_loads():
    import microtome

    for name in microtome.__all__:
        assert getattr(microtome, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    import microtome

    with pytest.raises(AttributeError, match="nonsense"):
        _ = microtome.nonsense
