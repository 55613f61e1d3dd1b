"""Saved vectors of patches between the stages."""

from pathlib import Path

import numpy as np
import pytest

from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump
from microtome.errors import (
    CohortError,
    CorruptOutputError,
    MissingOutputError,
    ModalityError,
    RecipeMismatchError,
    TileError,
    WeightsError,
)
from microtome.tasks.pretrain.patches import PatchViews
from microtome.tasks.pretrain.tokens import (
    PatchEncoder,
    TokenSlide,
    check_tokens,
    find_tokens,
    list_tokens,
    save_tokens,
)
from microtome.tiles.opensrh import SrhSlide
from tests.tasks.pretrain.material import TinyNet, write_tokens


def slide(patient="P1", n=3, slide_class="2"):
    files = tuple(Path(f"{patient}/1/{patient}-1-0_0_{300 * i}_0.tif") for i in range(n))
    return SrhSlide(patient, "1", "hgg", slide_class, files, (0, n, 0))


def encoder(weights="a", net=None):
    return PatchEncoder(net or TinyNet(), PatchViews(), weights)


@pytest.mark.usefixtures("tiny")
def test_what_is_saved_is_found_with_its_places_and_degree(tmp_path):
    net = TinyNet()
    saved = save_tokens(tmp_path, [slide(), slide("P2")], encoder(net=net))
    assert find_tokens(tmp_path, [slide(), slide("P2")]) == saved
    dump = saved[0].read()
    assert dump.grid.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert (saved[0].grade, saved[0].label) == ("2", "hgg")
    whole = PatchViews()
    expected = [net(whole.read(file)[None])[0].detach().numpy() for file in slide().patches]
    np.testing.assert_allclose(dump.embeddings, expected, rtol=1e-4, atol=1e-5)
    assert [each.name for each in list_tokens(tmp_path)] == ["P1.1", "P2.1"]


@pytest.mark.usefixtures("tiny")
def test_what_is_there_is_not_made_again_and_not_mixed_with_others(tmp_path):
    net = TinyNet()
    save_tokens(tmp_path, [slide()], encoder(net=net))
    n_before = len(net.sides)
    save_tokens(tmp_path, [slide(), slide("P2")], encoder(net=net))
    assert len(net.sides) == n_before + 1
    for other in (encoder("b"), PatchEncoder(TinyNet(), PatchViews("ch2_only"), "a")):
        with pytest.raises(RecipeMismatchError, match="another encoder"):
            save_tokens(tmp_path, [slide()], other)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(CorruptOutputError, match=r"recipe\.json"):
        save_tokens(tmp_path, [slide()], encoder())


@pytest.mark.usefixtures("tiny")
def test_tags_are_changed_anew_and_the_same_again(tmp_path):
    net = TinyNet()
    one = save_tokens(tmp_path / "a", [slide()], encoder(net=net), n_tags=3, seed=1)[0]
    again = save_tokens(tmp_path / "b", [slide()], encoder(net=net), n_tags=3, seed=1)[0]
    other = save_tokens(tmp_path / "c", [slide()], encoder(net=net), n_tags=3, seed=2)[0]
    assert len(one.files) == 3
    assert not np.allclose(one.read(0).embeddings, one.read(1).embeddings)
    np.testing.assert_array_equal(one.read(2).embeddings, again.read(2).embeddings)
    assert not np.allclose(one.read(2).embeddings, other.read(2).embeddings)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(MissingOutputError, match="--save-embeddings"):
        find_tokens(tmp_path, [slide()])
    with pytest.raises(MissingOutputError, match="no saved embeddings"):
        list_tokens(tmp_path)
    with pytest.raises(CohortError, match="no slides"):
        find_tokens(tmp_path, [])


def test_bad_files_are_found_before_training(tmp_path):
    good = write_tokens(tmp_path, n_patients=2, n_tags=2)
    digest = check_tokens(good, least=2)
    assert digest == check_tokens(good)
    assert digest != check_tokens(good[1:])

    def broken(vectors, grid):
        path = dump_path(tmp_path / "bad", "P", "1", str(np.random.default_rng().integers(1 << 40)))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dump(path, SrhDump(np.asarray(vectors, np.float32), np.array(grid, np.int64)))
        return path

    one, two, moved = (
        broken(np.ones((n, 512)), [[i + d, 0] for i in range(n)]) for n, d in ((1, 0), (2, 0), (2, 1))
    )  # fmt: skip
    cases = [
        ((one,), TileError, "1 patch"),
        ((two, moved), TileError, "different patches"),
        ((broken(np.ones((2, 64)), [[0, 0], [1, 0]]),), ModalityError, "64 numbers"),
        ((broken(np.full((2, 512), np.nan), [[0, 0], [1, 0]]),), WeightsError, "NaN"),
        ((tmp_path / "absent.pt",), WeightsError, "absent"),
    ]
    for files, kind, said in cases:
        with pytest.raises(kind, match=said):
            check_tokens([*good, TokenSlide("P", "1", files)], least=2)
    cut = good[0].files[0]
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(WeightsError):
        check_tokens(good)
