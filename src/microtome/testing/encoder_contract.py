"""What every encoder must do; subclass :class:`EncoderContract` and give it the ``encoder`` fixture."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from jaxtyping import Shaped

from microtome.encoders.base import Card, Encoder
from microtome.encoders.registry import list_encoders, load_encoder, read_card
from microtome.errors import ConfigError, ModalityError
from microtome.storage import digest

RGB_MODALITIES = ("brightfield",)


class EncoderContract:
    """Tests that hold for every encoder. The default tiles are 8-bit RGB; override :meth:`tiles` for others.

    Subclass it as ``TestMine(EncoderContract)`` with a fixture ``encoder``. An encoder that is not in the registry
    (one of a plug-in, say) overrides ``registered``.
    """

    registered = True
    tolerance = 0.0
    """Largest difference between a tile's vector alone and in a batch, relative to the vector's largest value."""

    @pytest.fixture
    def encoder(self) -> Encoder:
        """The encoder under test."""
        raise NotImplementedError("give the encoder fixture")

    def tiles(self, card: Card, n: int, seed: int = 0) -> Shaped[np.ndarray, "n h w c"]:
        """Distinct tiles of the kind that the card says: smooth colour under noise of different strength."""
        rng = np.random.default_rng(seed)
        side = card.tile_px
        base = (
            rng.uniform(90, 250, (n, 1, 1, 3)) + rng.normal(0, 20, (n, side, 1, 3)) * np.linspace(0, 1, side)[:, None]
        )
        noise = rng.normal(0, 1, (n, side, side, 1)) * rng.uniform(0, 40, (n, 1, 1, 1))
        tiles: np.ndarray = np.clip(base + noise, 0, 255).astype(np.uint8)
        return tiles

    def check_same(self, actual: np.ndarray, expected: np.ndarray) -> None:
        """Within the declared tolerance; bitwise where it is 0."""
        if self.tolerance == 0:
            np.testing.assert_array_equal(actual, expected)
        else:
            limit = self.tolerance * float(np.abs(expected).max(initial=0.0))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)

    def test_gives_one_finite_float32_vector_per_tile(self, encoder: Encoder) -> None:
        features = encoder.encode(self.tiles(encoder.card, 3))
        assert features.shape == (3, encoder.card.dim)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()

    def test_tells_tiles_apart(self, encoder: Encoder) -> None:
        features = encoder.encode(self.tiles(encoder.card, 3))
        assert len(np.unique(features, axis=0)) == 3

    def test_a_tile_does_not_depend_on_its_batch(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 5)
        together = encoder.encode(tiles)
        self.check_same(np.concatenate([encoder.encode(tile[None]) for tile in tiles]), together)
        self.check_same(encoder.encode(tiles[::-1])[::-1], together)

    def test_says_the_same_twice(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 3)
        self.check_same(encoder.encode(tiles.copy()), encoder.encode(tiles))

    def test_leaves_the_tiles_as_they_were(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 2)
        tiles.setflags(write=False)  # a batch may be a view of a ring or of a file
        before = tiles.copy()
        encoder.encode(tiles)
        np.testing.assert_array_equal(tiles, before)

    def test_memory_layout_does_not_matter(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 4)
        planar = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
        wide = np.concatenate([tiles, tiles], axis=2)[:, :, : tiles.shape[2]]
        for same in (planar, wide):
            self.check_same(encoder.encode(same), encoder.encode(tiles))

    def test_an_empty_batch_gives_no_vectors(self, encoder: Encoder) -> None:
        features = encoder.encode(self.tiles(encoder.card, 0))
        assert features.shape == (0, encoder.card.dim)
        assert features.dtype == np.float32

    def test_other_dtypes_are_refused(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 1)
        others: list[Any] = [np.float32, np.int16, np.bool_]
        for other in others:
            with pytest.raises(ModalityError, match=encoder.card.name):
                encoder.encode(tiles.astype(other))

    def test_other_channels_are_refused(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 1)
        for other in (tiles[..., :1], tiles[..., :0], np.concatenate([tiles, tiles], axis=-1)):
            with pytest.raises(ModalityError, match=encoder.card.name):
                encoder.encode(other)

    def test_other_numbers_of_axes_are_refused(self, encoder: Encoder) -> None:
        tiles = self.tiles(encoder.card, 1)
        for other in (tiles[0], tiles[None]):
            with pytest.raises(ModalityError, match=encoder.card.name):
                encoder.encode(other)

    def test_a_refusal_of_rgb_encoders_says_what_would_help(self, encoder: Encoder) -> None:
        if encoder.card.modality not in RGB_MODALITIES:
            pytest.skip("takes other than RGB")
        tiles = self.tiles(encoder.card, 1)[..., :2].astype(np.uint16)
        with pytest.raises(ModalityError, match="--channels"):
            encoder.encode(tiles)

    def test_threads_may_share_it(self, encoder: Encoder) -> None:
        batches = [self.tiles(encoder.card, 2, seed) for seed in range(6)]
        alone = [encoder.encode(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            shared = list(pool.map(encoder.encode, batches))
        for one, other in zip(shared, alone, strict=True):
            self.check_same(one, other)

    def test_pickling_keeps_it_or_is_refused_in_words(self, encoder: Encoder) -> None:
        try:
            copy = pickle.loads(pickle.dumps(encoder))  # noqa: S301 - our own bytes
        except TypeError as error:
            assert encoder.card.name in str(error)  # noqa: PT017 - either outcome is allowed
            return
        tiles = self.tiles(encoder.card, 2)
        self.check_same(copy.encode(tiles), encoder.encode(tiles))
        assert digest(copy.recipe) == digest(encoder.recipe)

    def test_every_field_of_the_card_decides_the_recipe(self, encoder: Encoder) -> None:
        before = digest(encoder.recipe)
        assert before == digest(encoder.recipe)
        original, kinds = encoder.card, get_type_hints(Card)
        seen = {before}
        for field in fields(original):
            other = _perturbed(getattr(original, field.name), kinds[field.name])
            encoder.card = replace(original, **{field.name: other})
            seen.add(digest(encoder.recipe))
        encoder.card = original
        assert len(seen) == 1 + len(fields(original))

    def test_weights_and_precision_decide_the_recipe(self, encoder: Encoder) -> None:
        before = digest(encoder.recipe)
        weights, precision = encoder.weights_hash, encoder.precision
        encoder.weights_hash = weights + "0"
        assert digest(encoder.recipe) != before
        encoder.weights_hash, encoder.precision = weights, precision + "x"
        assert digest(encoder.recipe) != before
        encoder.precision = precision

    def test_the_card_says_enough(self, encoder: Encoder) -> None:
        card = encoder.card
        assert card.name
        assert card.dim > 0
        assert card.tile_px > 0
        assert card.size_policy in {"any", "error", "resize", "interpolate"}
        assert all(0 < mpp < 50 for mpp in card.mpp)
        assert len(card.mean) == len(card.std)
        for said in ("licence", "citation", "paper", "intended_use", "modality", "precision"):
            assert getattr(card, said), f"the card of {card.name} must state its {said}"
        if card.repo:
            admitted = any("SHA-256" in what for what in card.unconfirmed)
            assert (card.revision and card.sha256) or admitted, "weights are pinned, or the card says that they are not"

    def test_the_registry_knows_it(self, encoder: Encoder) -> None:
        if not self.registered:
            pytest.skip("not in the registry")
        assert encoder.card.name in list_encoders()
        assert read_card(encoder.card.name) == encoder.card
        with pytest.raises(ConfigError, match="abacus"):
            load_encoder(encoder.card.name, device="abacus")
        with pytest.raises(ConfigError, match="fp1"):
            load_encoder(encoder.card.name, device="cpu", precision="fp1")


def _perturbed(value: Any, kind: Any) -> Any:  # noqa: ANN401 - any field of a card
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, "x" if str in get_args(kind) else 0.125)
    return 1 if value is None else value + 1
