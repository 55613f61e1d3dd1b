"""What every aggregator must do. Subclass :class:`AggregatorContract` in a test module and give it a builder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator

Build = Callable[[int, int], Aggregator]
"""From the number of features and of outputs to an aggregator."""

DIM = 16
N_OUTPUTS = (1, 3)
SIZES = (7, 1, 12, 2)


def example_bags(
    sizes: tuple[int, ...] = SIZES, *, n_padded: int = 0, padding: float = 0.0, seed: int = 0
) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
    """Bags of these sizes in one batch, and their mask; the rows after a bag's instances hold ``padding``."""
    generator = torch.Generator().manual_seed(seed)
    each = [torch.randn(size, DIM, generator=generator) for size in sizes]
    features = torch.full((len(sizes), max(sizes) + n_padded, DIM), padding)
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    for i, bag in enumerate(each):
        features[i, : len(bag)] = bag
        mask[i, : len(bag)] = True
    return features, mask


@pytest.mark.parametrize("n_outputs", N_OUTPUTS)
class AggregatorContract(ABC):
    """Tests over an aggregator; ``build`` is the one thing to implement, as a pytest fixture.

    Every test builds a network of :data:`DIM` features, so options should make it small.
    """

    tolerance = 1e-5

    @pytest.fixture
    @abstractmethod
    def build(self) -> Build:
        """Builds a new aggregator."""

    @pytest.fixture(autouse=True)
    def _on_one_thread(self) -> Iterator[None]:
        """Networks this small spend their time on waiting for threads."""
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(n_threads)

    def ready(self, build: Build, n_outputs: int) -> Aggregator:
        """An aggregator without chance: seeded weights, none of them zero, no dropout."""
        torch.manual_seed(0)
        model = build(DIM, n_outputs).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return model

    def assert_same(self, got: Tensor, expected: Tensor) -> None:
        """Equal but for rounding."""
        torch.testing.assert_close(got, expected, rtol=self.tolerance, atol=self.tolerance)

    def test_shapes(self, build: Build, n_outputs: int) -> None:
        """Logits (b, c), attention (b, n, m), 0 where there is no instance; with no mask every row is one."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags(n_padded=3)
        logits, attention = model(features, mask)
        assert logits.shape == (len(SIZES), n_outputs)
        assert attention.shape[:2] == mask.shape
        assert attention.dtype == torch.float32
        assert logits.isfinite().all()
        assert attention.isfinite().all()
        assert not attention[~mask].any()
        whole = features[2:3, : SIZES[2]]
        for got, expected in zip(
            model(whole), model(whole, torch.ones(whole.shape[:2], dtype=torch.bool)), strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)

    def test_logits_depend_on_the_instances(self, build: Build, n_outputs: int) -> None:
        """Other bags, other logits."""
        model = self.ready(build, n_outputs)
        (one, mask), (other, _) = example_bags(), example_bags(seed=1)
        assert (model(one, mask).logits != model(other, mask).logits).all()

    def test_attention_is_a_distribution_where_it_says_so(self, build: Build, n_outputs: int) -> None:
        """Each map sums to one over the instances, and none is negative."""
        model = self.ready(build, n_outputs)
        if not model.sums_to_one:
            pytest.skip("its attention is no distribution")
        features, mask = example_bags(n_padded=2)
        attention = model(features, mask).attention
        self.assert_same(attention.sum(dim=1), torch.ones(len(SIZES), attention.shape[2]))
        assert (attention >= 0).all()

    def test_order_of_the_instances(self, build: Build, n_outputs: int) -> None:
        """It decides nothing, and the attention moves with the instances; positional models say that it does."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags((12,))
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        plain, moved = model(features, mask), model(features[:, order], mask)
        if model.positional:
            assert (plain.logits - moved.logits).abs().max() > self.tolerance
        else:
            self.assert_same(moved.logits, plain.logits)
            self.assert_same(moved.attention, plain.attention[:, order])

    @pytest.mark.parametrize("padding", [0.0, 3.7, 1e30, float("inf"), float("nan")])
    @pytest.mark.parametrize("n_padded", [1, 30])
    def test_padding_has_no_influence(self, build: Build, n_outputs: int, n_padded: int, padding: float) -> None:
        """However much there is of it and whatever it holds."""
        model = self.ready(build, n_outputs)
        plain = model(*example_bags())
        padded = model(*example_bags(n_padded=n_padded, padding=padding))
        self.assert_same(padded.logits, plain.logits)
        self.assert_same(padded.attention[:, : max(SIZES)], plain.attention)

    def test_holes_in_the_mask_are_padding(self, build: Build, n_outputs: int) -> None:
        """Instances that are left out in the middle are as if they had never been there."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags((12,))
        mask[0, [0, 3, 4, 9]] = False
        with_holes = model(features, mask)
        without = model(features[mask][None])
        self.assert_same(with_holes.logits, without.logits)
        self.assert_same(with_holes.attention[mask], without.attention[0])

    def test_a_batch_is_its_bags(self, build: Build, n_outputs: int) -> None:
        """Bags of many sizes in one batch give what each gives alone, one instance included."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags(n_padded=2)
        together = model(features, mask)
        for i, size in enumerate(SIZES):
            alone = model(features[i : i + 1, :size])
            self.assert_same(together.logits[i : i + 1], alone.logits)
            self.assert_same(together.attention[i : i + 1, :size], alone.attention)

    def test_gradients_reach_everything(self, build: Build, n_outputs: int) -> None:
        """Every parameter that the logits depend on, every bag, no padded row; and no gradient is NaN."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags(n_padded=2, padding=float("nan"))
        features.requires_grad_()
        (model(features, mask).logits ** 2).sum().backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()
        assert not features.grad[~mask].any()
        assert features.grad.abs().sum(dim=(1, 2)).all()
        for name, parameter in model.named_parameters():
            if name.startswith(model.aside):
                continue
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.ndim < 2 or parameter.grad.any(), name

    def test_it_trains(self, build: Build, n_outputs: int) -> None:
        """In training, dropout and all, a few steps bring the loss of four bags down."""
        model = self.ready(build, n_outputs).train()
        features, mask = example_bags()
        target = torch.linspace(-1, 1, len(SIZES) * n_outputs).reshape(len(SIZES), n_outputs)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(40):
            loss = ((model(features, mask).logits - target) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])

    def test_half_precision(self, build: Build, n_outputs: int) -> None:
        """In bfloat16, and under autocast, the logits are those of float32 within that format's rounding."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags(n_padded=2, padding=float("nan"))
        with torch.no_grad():
            exact = model(features, mask)
            with torch.autocast("cpu", torch.bfloat16):
                mixed = model(features, mask)
            half = model.to(torch.bfloat16)(features.to(torch.bfloat16), mask)
        assert half.logits.dtype == torch.bfloat16
        assert half.attention.dtype == torch.float32
        scale = float(exact.logits.abs().max())
        for got in (half, mixed):
            assert got.logits.isfinite().all()
            assert float((got.logits.float() - exact.logits).abs().max()) < 0.06 * max(scale, 0.5)

    def test_double_precision(self, build: Build, n_outputs: int) -> None:
        """Nothing inside falls back to float32."""
        model = self.ready(build, n_outputs).double()
        features, mask = example_bags()
        output = model(features.double(), mask)
        assert output.logits.dtype == torch.float64
        assert output.attention.dtype == torch.float64

    def test_weights_come_back(self, build: Build, n_outputs: int) -> None:
        """A new network with the state of another gives the same."""
        model, other = self.ready(build, n_outputs), build(DIM, n_outputs).eval()
        features, mask = example_bags()
        other.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(other(features, mask).logits, model(features, mask).logits, rtol=0, atol=0)

    def test_an_empty_bag_is_refused(self, build: Build, n_outputs: int) -> None:
        """One without an instance, one without a row, a batch without a bag."""
        model = self.ready(build, n_outputs)
        features, mask = example_bags()
        mask[1] = False
        with pytest.raises(ConfigError, match=r"without an instance.*\[1\]"):
            model(features, mask)
        with pytest.raises(ConfigError, match="without an instance"):
            model(torch.zeros(1, 0, DIM))
        with pytest.raises(ConfigError, match="without an instance"):
            model(torch.zeros(0, 4, DIM))

    def test_features_of_another_length_are_refused(self, build: Build, n_outputs: int) -> None:
        """The message has both lengths."""
        with pytest.raises(ConfigError, match=rf"{DIM} features.*{DIM + 1}"):
            self.ready(build, n_outputs)(torch.zeros(1, 4, DIM + 1))
