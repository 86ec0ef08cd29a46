"""The laws of a net in training: what zero convolutions, the locked base and equation 2 promise."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from controlnet_core import objective
from controlnet_core.base import TextEmbeddings
from controlnet_core.config import LossWeighting, Prediction, UNetConfig
from controlnet_core.control.stack import Control, ControlStack
from controlnet_core.control.step import StepInput
from controlnet_core.model.attention import TransformerBlock
from controlnet_core.model.blocks import ResidualBlock
from controlnet_core.model.controlnet import ControlNet, ControlNetBlock
from controlnet_core.model.hint import HintEncoderKind
from controlnet_core.model.layers import LayerFactory
from controlnet_core.model.recompute import Recomputable, recomputing
from controlnet_core.model.residuals import Residuals
from controlnet_core.model.unet import Features, UNet
from controlnet_core.objective import Batch, accumulate_gradients, control_loss, loss_weights
from controlnet_core.schedule import NoiseSchedule
from tests.support.bases import SMALL
from tests.support.bits import same_bits
from tests.support.reduced import REDUCED, noise, randomised

SCHEDULE = NoiseSchedule.scaled_linear()
# With 32 channels each group of a norm is one channel, and such a norm removes every bias and time embedding before it,
# so that these have no gradient at all. With 64 channels they have one.
WIDE = replace(SMALL.unet, model_channels=64, head_channels=64)
DEEP = replace(REDUCED["SDXL"].unet, transformer_depth=(0, 1, 2))


def make_batch(config: UNetConfig, dtype: torch.dtype = torch.float32, rows: int = 2) -> Batch:
    """Rows that differ in everything."""
    return Batch(
        latents=noise(rows, 4, 4, 4, seed=1).to(dtype),
        noise=noise(rows, 4, 4, 4, seed=2).to(dtype),
        timesteps=torch.tensor([120, 740, 3, 999, 500][:rows]),
        hints=noise(rows, 3, 32, 32, seed=3).sigmoid().to(dtype),
        text=TextEmbeddings(
            noise(rows, 5, config.context_dim, seed=4).to(dtype),
            None if config.vector_dim is None else noise(rows, config.vector_dim, seed=5).to(dtype),
        ),
    )


@pytest.mark.parametrize("hint_encoder", ["reference", "paper"])
@torch.no_grad()
def test_a_fresh_net_changes_no_bit(hint_encoder: HintEncoderKind) -> None:
    unet, given = randomised(UNet(SMALL.unet)), make_batch(SMALL.unet)
    net = ControlNet.from_unet(unet, hint_encoder=hint_encoder)
    inputs = given.latents, given.timesteps, given.text.context
    residuals = net(inputs[0], given.hints, *inputs[1:])
    assert residuals.middle is not None and len(residuals.skips) == len(SMALL.unet.skip_channels)
    for residual in (*residuals.skips, residuals.middle):
        assert residual.count_nonzero() == 0, f"a residual of {residual.abs().max()}"
    assert same_bits(unet(*inputs, residuals=residuals), unet(*inputs))


def test_gradients_arrive_in_order() -> None:
    unet = randomised(UNet(WIDE).double()).requires_grad_(False)
    net, given = ControlNet.from_unet(unet), make_batch(WIDE, torch.float64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0)
    steps = []
    for _ in range(3):
        optimizer.zero_grad()
        control_loss(unet, net, given, SCHEDULE, "eps").backward()
        steps.append({name: largest_gradient(parameter) for name, parameter in net.named_parameters()})
        optimizer.step()

    output = ("zero_convolutions.", "middle_zero_convolution.")
    one_layer_before = ("encoder.", "hint_encoder.zero_convolution.")
    prefixes = (output, output + one_layer_before, "")
    expected = ({name for name in steps[0] if name.startswith(prefix)} for prefix in prefixes)
    for number, (sizes, names) in enumerate(zip(steps, expected, strict=True), start=1):
        floor = 1e-9 * max(sizes.values())  # rounding leaves about 1e-16 of the largest
        assert {name for name in sizes if sizes[name] > floor} == names, f"trained in step {number}"
        assert not any(sizes[name] for name in sizes.keys() - names), f"not exactly 0 in step {number}"


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def largest_gradient(parameter: nn.Parameter) -> float:
    return gradient_of(parameter).abs().max().item()


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_skipping_the_locked_encoders_graph_changes_no_gradient(prediction: Prediction) -> None:
    unet, net = randomised(UNet(WIDE), seed=1).double(), randomised(ControlNet(WIDE), seed=2).double()
    given = make_batch(WIDE, torch.float64)
    context, parameters = given.text.context, list(net.parameters())

    share = SCHEDULE.alphas_cumprod[given.timesteps][:, None, None, None]
    x = share.sqrt() * given.latents + (1 - share).sqrt() * given.noise
    wanted = given.noise if prediction == "eps" else share.sqrt() * given.noise - (1 - share).sqrt() * given.latents
    output = unet(x, given.timesteps, context, residuals=net(x, given.hints, given.timesteps, context))
    naive = functional.mse_loss(output, wanted)
    naive_gradients = torch.autograd.grad(naive, [*unet.encoder.parameters(), *parameters])[-len(parameters) :]

    unet.requires_grad_(False)
    loss = control_loss(unet, net, given, SCHEDULE, prediction)
    gradients = torch.autograd.grad(loss, parameters)
    pairs = zip((loss, *gradients), (naive, *naive_gradients), strict=True)
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    assert worst <= 1e-10, f"largest relative error {worst}"


@pytest.mark.parametrize("hint_encoder", ["reference", "paper"])
@pytest.mark.parametrize("config", [WIDE, DEEP], ids=lambda config: config.family)
def test_checkpointed_activations_change_no_gradient(config: UNetConfig, hint_encoder: HintEncoderKind) -> None:
    unet = randomised(UNet(config), seed=1).double().requires_grad_(False)
    net = randomised(ControlNet(config, hint_encoder=hint_encoder), seed=2).double()
    given = make_batch(config, torch.float64)

    def computed() -> tuple[list[Tensor], int]:
        """The loss and its gradients, and how many numbers were kept for the backward pass."""
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = control_loss(unet, net, given, SCHEDULE, "eps")
        return [loss, *torch.autograd.grad(loss, list(net.parameters()))], sum(kept.values())

    wanted, all_kept = computed()
    with recomputing(net, unet.decoder):
        found, kept = computed()
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, wanted, strict=True))
    print(f"\n{worst:.1e}; {kept:,} of {all_kept:,} bytes are kept")
    assert worst <= 1e-10 and kept < 0.5 * all_kept
    parts = [*net.modules(), *unet.modules()]
    assert not any(part.recomputed for part in parts if isinstance(part, Recomputable)), "it is not left on"


@pytest.mark.parametrize("weighting", ["plain", "v", "min_snr"])
@torch.no_grad()
def test_a_weighting_multiplies_the_error_of_each_row(weighting: LossWeighting) -> None:
    unet, net = randomised(UNet(WIDE), seed=1).double(), randomised(ControlNet(WIDE), seed=2).double()
    given = make_batch(WIDE, torch.float64)
    rows = [
        Batch(
            latents=given.latents[[row]],
            noise=given.noise[[row]],
            timesteps=given.timesteps[[row]],
            hints=given.hints[[row]],
            text=given.text[row : row + 1],
        )
        for row in range(2)
    ]
    alone = torch.stack([control_loss(unet, net, row, SCHEDULE, "eps") for row in rows])
    wanted = (loss_weights(weighting, "eps", SCHEDULE.sigma(given.timesteps)) * alone).mean()
    found = control_loss(unet, net, given, SCHEDULE, "eps", weighting)
    assert abs(found / wanted - 1) < 1e-12, f"{found} in place of {wanted}"


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize(("rows", "parts"), [(4, 2), (4, 4), (5, 2), (5, 4), (2, 8)])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(rows: int, parts: int, prediction: Prediction) -> None:
    """Also where parts differ in length, and where there are fewer pairs than parts."""
    unet, net = randomised(UNet(WIDE), seed=1).double(), randomised(ControlNet(WIDE), seed=2).double()
    unet.requires_grad_(False)
    given, sizes = make_batch(WIDE, torch.float64, rows), []

    def loss_of(batch: Batch) -> Tensor:
        sizes.append(len(batch))
        return control_loss(unet, net, batch, SCHEDULE, prediction, "v")

    def computed(parts: int) -> tuple[Tensor, ...]:
        net.zero_grad()
        loss = accumulate_gradients(loss_of, given, parts)
        return loss, *(gradient_of(parameter).clone() for parameter in net.parameters())

    wanted, found = computed(1), computed(parts)
    assert sizes[0] == sum(sizes[1:]) == rows and max(sizes[1:]) == -(-rows // parts)
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, wanted, strict=True))
    print(f"\n{rows} in {sizes[1:]}: {worst:.1e}")
    assert worst <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_locked_base_in_half_precision_gives_the_same_gradients(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where gradients are so small that float16 rounds them to zero, as the mean over a large picture's are."""
    unet, net = randomised(UNet(WIDE), seed=1).requires_grad_(False), randomised(ControlNet(WIDE), seed=2)
    unet.get_parameter("decoder.output_convolution.weight").mul_(1e-3)
    half, given = copy.deepcopy(unet).to(dtype), make_batch(WIDE)

    def gradients(base: UNet) -> Tensor:
        loss = control_loss(base, net, given, SCHEDULE, "eps")
        assert loss.dtype == torch.float32
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(net.parameters()))])

    def error(base: UNet) -> float:
        return float((gradients(base) - wanted).norm() / wanted.norm())

    wanted, rounding = gradients(unet), torch.finfo(dtype).eps
    found = error(half)
    monkeypatch.setattr(objective, "_gradient_scale", lambda *given: 1.0)
    print(f"\n{dtype}: {found:.1e} from float32; {error(half):.1e} where the gradient is not scaled")
    assert found <= 8 * rounding
    assert dtype == torch.bfloat16 or error(half) > 2 * found, "nothing is lost, so the test shows nothing"


def test_a_net_under_autocast_gives_the_same_gradients() -> None:
    """Its weights and their gradients stay in float32; so do those of no activation."""
    unet, net = randomised(UNet(WIDE), seed=1).requires_grad_(False), randomised(ControlNet(WIDE), seed=2)
    given, kept = make_batch(WIDE), set[torch.dtype]()

    def gradients(base: UNet, autocast: torch.dtype | None) -> Tensor:
        loss = control_loss(base, net, given, SCHEDULE, "eps", autocast=autocast)
        assert loss.dtype == torch.float32
        found = torch.autograd.grad(loss, list(net.parameters()))
        assert {one.dtype for one in found} == {torch.float32}
        return torch.cat([one.flatten() for one in found])

    net.middle_zero_convolution.register_forward_hook(lambda layer, given, output: kept.add(output.dtype))
    wanted = gradients(unet, None)
    found = gradients(copy.deepcopy(unet).to(torch.bfloat16), torch.bfloat16)
    error = float((found - wanted).norm() / wanted.norm())
    print(f"\n{error:.1e} from float32")
    assert kept == {torch.float32, torch.bfloat16} and 0 < error <= 8 * torch.finfo(torch.bfloat16).eps


@torch.no_grad()
def test_two_nets_add_and_strength_0_is_no_control() -> None:
    unet, nets = randomised(UNet(SMALL.unet)), [randomised(ControlNet(SMALL.unet), seed) for seed in (5, 6)]
    given = make_batch(SMALL.unet)
    step = StepInput(given.latents, given.timesteps, given.text.context, None, 1.0, ("conditional",))
    inputs = step.x, step.timesteps, step.context

    def controlled(strength: float) -> Tensor:
        controls = [Control(net, given.hints, strength=strength) for net in nets]
        stack = ControlStack(controls, SCHEDULE, torch.tensor([1.0, 0.0]), step.x.shape, step.sides)
        output: Tensor = unet(*inputs, residuals=stack.residuals(step))
        return output

    first_net, second_net = (net(step.x, given.hints, *inputs[1:]) for net in nets)
    features = unet.encode(*inputs)
    rows = zip(features.skips, first_net.skips, second_net.skips, strict=True)
    middle = features.middle + (first_net.middle + second_net.middle)
    summed = Features(tuple(skip + (a + b) for skip, a, b in rows), middle, features.embedding)
    plain, both = unet(*inputs), controlled(1.0)
    worst = (both - unet.decode(summed, step.context)).abs().max().item()
    assert worst == 0, f"largest difference {worst}"
    assert (both - plain).abs().max() > 1e-2, "the nets change nothing, so the test shows nothing"
    assert same_bits(controlled(0.0), plain)
    nothing: Residuals = (first_net + second_net).scaled(0.0)
    assert same_bits(unet(*inputs, residuals=nothing), plain)


class SelfAttention(nn.Module):
    """`torch.nn.MultiheadAttention` of a sequence to itself, as the paper's block has one input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output


@dataclass(frozen=True)
class Case:
    """A block, the channels of its input and output, the shape of `x`, and its further arguments."""

    block: nn.Module
    channels: tuple[int, int]
    shape: tuple[int, ...]
    zero_layer: type[nn.Module] | None = None
    others: tuple[Tensor, ...] = ()


BLOCKS = {
    "perceptron": Case(nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 5)), (6, 5), (3, 6), nn.Linear),
    "conv-bn-relu": Case(
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()), (4, 6), (2, 4, 5, 5)
    ),
    "resnet block": Case(
        ResidualBlock(32, 64, LayerFactory(), embedding_dim=8),
        (32, 64),
        (2, 32, 5, 5),
        others=(noise(2, 8, seed=9).double(),),
    ),
    "multi-head attention": Case(SelfAttention(), (32, 32), (2, 7, 32), nn.Linear),
    "multi-head attention to a text": Case(
        nn.MultiheadAttention(32, 4, dropout=0.5, batch_first=True),
        (32, 32),
        (2, 7, 32),
        nn.Linear,
        others=(noise(2, 5, 32, seed=8).double(), noise(2, 5, 32, seed=9).double()),
    ),
    "transformer": Case(
        nn.TransformerEncoderLayer(32, 4, 64, dropout=0.5, batch_first=True), (32, 32), (2, 7, 32), nn.Linear
    ),
    "transformer block of Stable Diffusion": Case(
        TransformerBlock(32, SMALL.unet, LayerFactory()),
        (32, 32),
        (2, 7, 32),
        nn.Linear,
        others=(noise(2, 5, SMALL.unet.context_dim, seed=8).double(),),
    ),
}


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def frozen(block: nn.Module) -> nn.Module:
    """The block alone, locked: torch's attention rounds differently where gradients are needed."""
    return randomised(copy.deepcopy(block)).double().train(False).requires_grad_(False)


def controlled_block(case: Case, original: nn.Module) -> ControlNetBlock:
    return ControlNetBlock(copy.deepcopy(original), *case.channels, case.zero_layer).double()


@pytest.mark.parametrize("kind", BLOCKS)
def test_equation_2_holds_for_any_block(kind: str) -> None:
    case = BLOCKS[kind]
    original = frozen(case.block)
    controlled = controlled_block(case, original).train(False)
    x, condition = noise(*case.shape, seed=6).double(), noise(*case.shape, seed=7).double()
    plain = first(original(x, *case.others))
    assert same_bits(first(controlled(x, condition, *case.others)), plain), "control at the start"

    for number, part in enumerate((controlled.trainable_copy, controlled.zero_in, controlled.zero_out)):
        randomised(part, seed=10 + number)
    theta_c: dict[str, Tensor] = dict(controlled.trainable_copy.named_parameters())
    steered = x + by_hand(controlled.zero_in, condition)
    copied = first(functional_call(original, theta_c, (steered, *case.others)))
    expected = plain + by_hand(controlled.zero_out, copied)
    found = first(controlled(x, condition, *case.others))
    worst = (found - expected).abs().max().item()
    assert worst <= 1e-12, f"largest difference {worst}"
    assert (found - plain).abs().max() > 0.1, "no control, so the test shows nothing"

    found.square().mean().backward()
    with_gradient = {name for name, parameter in controlled.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in controlled.named_parameters() if not name.startswith("locked.")}
    assert all(largest_gradient(controlled.get_parameter(name)) > 0 for name in with_gradient)


@pytest.mark.parametrize("kind", BLOCKS)
def test_locked_means_locked_while_everything_around_it_trains(kind: str) -> None:
    case = BLOCKS[kind]
    original = frozen(case.block)
    controlled = controlled_block(case, original)
    before = {name: value.clone() for name, value in controlled.locked.state_dict().items()}
    x, condition = noise(*case.shape, seed=6).double(), noise(*case.shape, seed=7).double()
    optimizer = torch.optim.SGD(controlled.parameters(), lr=1e-2)

    nn.Sequential(controlled).train()  # as a whole model is set
    torch.manual_seed(0)  # for the copy's dropout
    assert controlled.trainable_copy.training
    assert same_bits(first(controlled(x, condition, *case.others)), first(original(x, *case.others))), "at the start"
    for _ in range(3):
        optimizer.zero_grad()
        first(controlled(x, condition, *case.others)).square().mean().backward()
        optimizer.step()
    moved = {name for name, value in controlled.locked.state_dict().items() if not same_bits(value, before[name])}
    assert not moved, f"the locked block changed: {moved}"
    copied = dict(controlled.trainable_copy.state_dict())
    assert any(not same_bits(value, before[name]) for name, value in copied.items()), "nothing was trained"
    assert not any(module.training for module in controlled.locked.modules())
    controlled.train(False)
    assert not controlled.trainable_copy.training


def by_hand(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer, or a 1x1 convolution."""
    weight, bias = layer.parameters()
    if weight.ndim == 2:
        return torch.einsum("...i,oi->...o", x, weight) + bias
    return torch.einsum("bihw,oi->bohw", x, weight[:, :, 0, 0]) + bias[:, None, None]
