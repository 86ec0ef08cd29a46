"""Applied nets while sampling: sums, windows, sides, masks, counted forwards, and warnings."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from controlnet_core.config import TINY
from controlnet_core.control.curves import Side
from controlnet_core.control.notes import ControlWarning
from controlnet_core.control.stack import Control, ControlRun, ControlStack, check_family
from controlnet_core.control.step import GuidanceSide, StepInput
from controlnet_core.errors import FamilyMismatchError, HintError, SettingError
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.residuals import Residuals
from controlnet_core.model.unet import UNet
from controlnet_core.schedule import NoiseSchedule, Spacing, sampling_sigmas

CONFIG = replace(TINY, model_channels=32, head_channels=32, context_dim=8)
COUNT = len(CONFIG.block_levels.skips) + 1
SCHEDULE = NoiseSchedule.scaled_linear()
BOTH: tuple[GuidanceSide, ...] = ("unconditional", "conditional")
SIGMAS = sampling_sigmas(SCHEDULE, 20)


class RecordingNet(ControlNet):
    """A small net without zeros that notes the rows and blocks of each forward."""

    def __init__(self, seed: int) -> None:
        super().__init__(CONFIG)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.requires_grad_(False).normal_(0, 0.1, generator=generator)
        self.calls: list[tuple[int, int | None]] = []

    def forward(
        self,
        x: Tensor,
        hint: Tensor | None,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        *,
        embedded_hint: Tensor | None = None,
        blocks: int | None = None,
    ) -> Residuals:
        self.calls.append((len(x), blocks))
        return super().forward(x, hint, timesteps, context, y, embedded_hint=embedded_hint, blocks=blocks)


@pytest.fixture
def net() -> RecordingNet:
    return RecordingNet(seed=1)


@cache
def hint(seed: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def step(pictures: int = 1, sigma: float = 2.0) -> StepInput:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(pictures, 4, 8, 8, generator=generator).repeat(2, 1, 1, 1)
    context = torch.randn(len(x), 5, 8, generator=generator)
    return StepInput(x, torch.full((len(x),), 500.0), context, None, sigma, BOTH)


def stack(*controls: Control, pictures: int = 1, sides: tuple[GuidanceSide, ...] = BOTH) -> ControlStack:
    return ControlStack(controls, SCHEDULE, SIGMAS, (pictures, 4, 8, 8), sides)


def largest_difference(a: Residuals | None, b: Residuals | None) -> float:
    assert a is not None and b is not None and a.middle is not None and b.middle is not None
    pairs = zip((*a.skips, a.middle), (*b.skips, b.middle), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def direct(net: ControlNet, given: StepInput, pixels: Tensor) -> Residuals:
    """The net, called directly."""
    return net.forward(given.x, pixels, given.timesteps, given.context)


def test_residuals_are_the_nets_own_times_strength_and_weight(net: RecordingNet) -> None:
    given, factors = step(), [0.1 * index for index in range(1, COUNT + 1)]
    found = stack(Control(net, hint(0), strength=0.5, curve=tuple(factors))).residuals(given)
    worst = largest_difference(found, direct(net, given, hint(0)).scaled([0.5 * factor for factor in factors]))
    assert worst < 1e-6, f"largest difference {worst}"


def test_nets_are_added_and_order_does_not_count(net: RecordingNet) -> None:
    a, b = Control(net, hint(0), strength=0.7), Control(RecordingNet(seed=2), hint(1))
    both = stack(a, b).residuals(step())
    assert largest_difference(both, stack(b, a).residuals(step())) == 0
    only_a, only_b = stack(a).residuals(step()), stack(b).residuals(step())
    assert only_a is not None and only_b is not None
    assert largest_difference(both, only_a + only_b) == 0
    assert largest_difference(both, only_a) > 1e-3, "the second net changes nothing, so the test shows nothing"


@pytest.mark.parametrize(
    ("spacing", "counts"), [("normal", {0.3: 6, 0.5: 10, 0.8: 16}), ("karras", {0.3: 7, 0.5: 9, 0.8: 12})]
)
def test_window_holds_the_hosts_steps(net: RecordingNet, spacing: Spacing, counts: dict[float, int]) -> None:
    sigmas = sampling_sigmas(SCHEDULE, 20, spacing)[:-1].tolist()
    for bound, count in counts.items():
        early = ControlRun(Control(net, hint(0), end=bound), SCHEDULE, (8, 8))
        late = ControlRun(Control(net, hint(0), start=bound), SCHEDULE, (8, 8))
        assert [early.window.holds(sigma) for sigma in sigmas] == [True] * count + [False] * (20 - count)
        assert [late.window.holds(sigma) for sigma in sigmas] == [False] * count + [True] * (20 - count)


def test_a_step_on_the_bound_is_inside_whatever_the_rounding(net: RecordingNet) -> None:
    sigmas = sampling_sigmas(SCHEDULE, 4, "normal")  # timesteps 999, 666, 333, 0
    run = ControlRun(Control(net, hint(0), start=1 / 3, end=2 / 3), SCHEDULE, (8, 8))
    for levels in (sigmas, sigmas.float()):
        assert [run.window.holds(sigma) for sigma in levels[:-1].tolist()] == [False, True, True, False]


def test_a_side_that_is_off_is_zero_and_not_computed(net: RecordingNet) -> None:
    given = step(pictures=2)
    both = stack(Control(net, hint(0)), pictures=2).residuals(given)
    assert both is not None and both.middle is not None
    cases: list[tuple[Side, slice, slice]] = [
        ("conditional", slice(0, 2), slice(2, 4)),
        ("unconditional", slice(2, 4), slice(0, 2)),
    ]
    for side, off, on in cases:
        single = stack(Control(net, hint(0), side=side), pictures=2).residuals(given)
        assert net.calls[-1] == (2, None)
        assert single is not None and single.middle is not None
        for part, whole in zip((*single.skips, single.middle), (*both.skips, both.middle), strict=True):
            assert not part[off].any(), f"control in rows that are not of the {side} side"
            worst = float((part[on] - whole[on]).abs().max())
            assert worst < 1e-5, f"largest difference {worst} on the {side} side"


def test_conditional_control_leaves_the_unconditional_rows_of_the_unet_bitwise_alone(net: RecordingNet) -> None:
    unet, given = UNet(CONFIG), step(pictures=2)
    with torch.no_grad():
        residuals = stack(Control(net, hint(0), curve="guess"), pictures=2).residuals(given)
        plain = unet(given.x, given.timesteps, given.context)
        controlled = unet(given.x, given.timesteps, given.context, None, residuals)
    assert torch.equal(controlled[:2], plain[:2]), f"differs by {(controlled[:2] - plain[:2]).abs().max()}"
    assert not torch.equal(controlled[2:], plain[2:])


@pytest.mark.parametrize(
    "idle", [{"strength": 0.0}, {"curve": (0.0,) * COUNT}, {"start": 0.0, "end": 0.2}, {"start": 0.9}]
)
def test_a_net_that_does_not_act_is_not_run(net: RecordingNet, idle: dict[str, Any]) -> None:
    idle_stack = stack(Control(net, hint(0), **idle))
    assert idle_stack.residuals(step(sigma=SCHEDULE.sigma_at(0.5))) is None
    assert net.calls == [] and idle_stack.runs[0].forwards == 0 and idle_stack.runs[0].hint_encodings == 0


def test_counters_one_encoding_and_one_forward_for_each_step_of_the_window(net: RecordingNet) -> None:
    applied = stack(Control(net, hint(0), end=0.5), Control(net, hint(0), start=0.5), Control(net, hint(1)))
    for sigma in SIGMAS[:-1].tolist():
        applied.residuals(step(sigma=sigma))
    assert [run.hint_encodings for run in applied.runs] == [1, 0, 1], "one net and one hint are encoded once"
    assert [run.forwards for run in applied.runs] == [9, 11, 20]
    assert len(net.calls) == 40


def test_encoder_stops_after_the_last_block_with_weight(net: RecordingNet) -> None:
    given, weights = step(), [0.0] * COUNT
    weights[1] = 2.0
    found = stack(Control(net, hint(0), curve=tuple(weights))).residuals(given)
    assert net.calls == [(2, 2)]
    assert found is not None and found.middle is None and len(found.skips) == 2
    full = Control(RecordingNet(seed=2), hint(1))
    whole = direct(net, given, hint(0)).scaled(weights)
    expected = stack(full).residuals(given)
    assert expected is not None
    stacked = stack(Control(net, hint(0), curve=tuple(weights)), full).residuals(given)
    worst = largest_difference(stacked, whole + expected)
    assert worst < 1e-6, f"largest difference {worst}"


def test_mask_keeps_control_where_it_is_one(net: RecordingNet) -> None:
    left = torch.zeros(64, 64)
    left[:, :32] = 1
    plain = stack(Control(net, hint(0))).residuals(step())
    everywhere = stack(Control(net, hint(0), mask=torch.ones(64, 64))).residuals(step())
    masked = stack(Control(net, hint(0), mask=left)).residuals(step())
    assert largest_difference(plain, everywhere) == 0
    assert plain is not None and masked is not None
    for whole, part in zip(plain.skips, masked.skips, strict=True):
        middle = whole.shape[-1] // 2
        assert torch.equal(part[..., :middle], whole[..., :middle])
        assert not part[..., middle:].any()


def test_mask_finer_than_the_latents_counts_by_its_area(net: RecordingNet) -> None:
    stripes = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(64, 16)
    striped = stack(Control(net, hint(0), mask=stripes)).residuals(step())
    worst = largest_difference(striped, stack(Control(net, hint(0), strength=0.25)).residuals(step()))
    assert worst < 1e-6, f"largest difference {worst}"


def test_hint_i_steers_picture_i_on_both_sides(net: RecordingNet) -> None:
    given, hints = step(pictures=2), torch.cat([hint(0), hint(1)])
    found = stack(Control(net, hints), pictures=2).residuals(given)
    worst = largest_difference(found, direct(net, given, hints.repeat(2, 1, 1, 1)))
    assert worst < 1e-5, f"largest difference {worst}"


@pytest.mark.parametrize(
    ("settings", "pictures", "sides", "message"),
    [
        ({"start": 0.01, "end": 0.02}, 1, BOTH, "no step falls between start 0.01 and end 0.02"),
        ({"hint": torch.rand(3, 32, 64)}, 1, BOTH, "another aspect than the picture's 64 x 64"),
        ({"mask": torch.zeros(32, 64)}, 1, BOTH, "the mask has 64 x 32 pixels"),
        ({"hint": torch.rand(3, 3, 64, 64)}, 2, BOTH, "3 hints for 2 pictures: the last one is not used"),
        ({"hint": torch.rand(2, 3, 64, 64)}, 3, BOTH, "2 hints for 3 pictures: they are repeated"),
        ({"side": "unconditional"}, 1, ("conditional",), "not computed at guidance 1"),
    ],
)
def test_control_that_does_not_act_as_expected_is_warned_about(
    net: RecordingNet, settings: dict[str, Any], pictures: int, sides: tuple[GuidanceSide, ...], message: str
) -> None:
    control = Control(net, **{"hint": hint(0), **settings})
    with pytest.warns(ControlWarning, match=message):
        warned = stack(control, pictures=pictures, sides=sides)
    assert len(warned.warnings) == 1 and message in warned.warnings[0]


def test_ordinary_control_is_not_warned_about(net: RecordingNet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stack(Control(net, hint(0), end=0.8), Control(net, hint(1, 2)), pictures=2).warnings == ()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"strength": float("inf")}, SettingError, "strength = inf"),
        ({"start": 0.6, "end": 0.5}, SettingError, "0 <= start <= end <= 1"),
        ({"end": 1.5}, SettingError, "0 <= start <= end <= 1"),
        ({"side": "cond"}, SettingError, "both, conditional, unconditional"),
        ({"curve": (1.0, 2.0)}, SettingError, f"found 2 weights; expected {COUNT}"),
        ({"hint": torch.full((3, 64, 64), 255.0)}, HintError, "divide by 255"),
        ({"mask": torch.full((64, 64), -1.0)}, HintError, "from -1 to -1"),
    ],
)
def test_impossible_settings_are_errors(
    net: RecordingNet, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Control(net, **{"hint": hint(0), **settings})


def test_a_net_of_another_family_is_an_error_before_it_runs(net: RecordingNet) -> None:
    check_family(Control(net, hint(0)), CONFIG)
    message = r"found a net of TINY \(context_dim 8\); expected one of SD9 \(context_dim 16\)"
    with pytest.raises(FamilyMismatchError, match=message):
        check_family(Control(net, hint(0)), replace(CONFIG, family="SD9", context_dim=16))
