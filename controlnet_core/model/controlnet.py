"""ControlNet (Zhang et al. 2023): a trainable copy of the encoder, joined to the UNet through zero convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..config import BlockLevels, UNetConfig
from ..errors import SettingError, TensorShapeError
from ..expect import expect
from ..hint_statistics import HintStatistics
from .encoder import Encoder
from .hint import HINT_ENCODERS, HintEncoderKind
from .layers import AttentionFunction, LayerFactory, Operations, scaled_dot_product_attention, zero_, zero_convolution
from .residuals import Residuals
from .unet import UNet, check_inputs


class ControlNetBlock(nn.Module):
    """Any block with a ControlNet, by the block equation (Zhang et al. 2023, section 3.1, equation 2).

    `y_c = F(x; T) + Z(F(x + Z(c; Tz1); Tc); Tz2)`

    F(.; T) is the locked block, F(.; Tc) its trainable copy, Z(.; Tz1) and Z(.; Tz2) are the zero layers. The paper
    names a residual block, a convolution with batch normalisation and ReLU, multi-head attention and a transformer.

    Locked means locked: the locked block has no gradient, and it stays in evaluation mode when everything around it is
    in training mode, so that neither the statistics of its norms nor its dropout change what the base does.

    Arguments:
        block: The block to lock; a copy of it is trained. If it returns a tuple, the first element is controlled.
        inputs: Channels of the block's input, and of the condition.
        outputs: Channels of the block's output.
        zero_layer: `zero_layer(inputs, outputs)` makes a layer, whose parameters are then set to zero:
            a 1x1 convolution for images (the default), `torch.nn.Linear` for vectors and sequences.
    """

    def __init__(
        self,
        block: nn.Module,
        inputs: int,
        outputs: int,
        zero_layer: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        make_zero = zero_layer or (lambda before, after: zero_convolution(LayerFactory(), before, after))
        self.trainable_copy = copy.deepcopy(block).requires_grad_(True)
        self.locked = block.requires_grad_(False)
        self.zero_in = make_zero(inputs, inputs)
        self.zero_out = make_zero(outputs, outputs)
        zero_(self.zero_in)
        zero_(self.zero_out)
        self.train(self.training)

    def train(self, mode: bool = True) -> ControlNetBlock:
        """Set the mode of the trainable copy; the locked block stays in evaluation mode."""
        super().train(mode)
        self.locked.train(False)
        return self

    def forward(
        self, x: Tensor, condition: Tensor, *others: Tensor | None, **named: Tensor | bool | None
    ) -> Tensor | tuple[Tensor, ...]:
        """Map `x` with a `condition` to the block's controlled output.

        Arguments:
            x: The block's input.
            condition: What steers it, of the same shape.
            others: Further arguments of the block, such as a time embedding or a text; the copy gets the same.
            named: Further keyword arguments, likewise.
        """
        output: Tensor | tuple[Tensor, ...] = self.locked(x, *others, **named)
        copied = self.trainable_copy(x + self.zero_in(condition), *others, **named)
        if isinstance(output, tuple):
            return output[0] + self.zero_out(copied[0]), *output[1:]
        controlled: Tensor = output + self.zero_out(copied)
        return controlled


class ControlNet(nn.Module):
    """The ControlNet of a Stable Diffusion UNet: encoder, hint encoder and zero convolutions (section 3.2).

    It is `ControlNetBlock` over the whole encoder. Each of the 12 encoder blocks and the middle block is locked in the
    UNet and has a trainable copy here; together they are 10 residual blocks, 7 transformers, 3 downsamplings and a
    convolution. The condition enters once, through the zero convolution of the hint, since each copy hands it on to the
    next; it leaves 13 times, through the zero convolution after each block. The UNet adds these outputs to what its
    locked blocks give: to the 12 skips that its decoder reads, and to the middle.

    With `torch.nn` it is ready for training from scratch, its zero convolutions at zero; `from_unet` starts as the
    paper does. With a host's operations its weights have to be loaded.

    Arguments:
        config: The family's sizes.
        hint_channels: Channels of the hint image.
        hint_encoder: "reference" (the released nets') or "paper" (as the text describes it).
        operations: Where Linear, Conv2d, GroupNorm, LayerNorm and Embedding come from.
        device: Where to make the weights ("meta" makes none).
        dtype: Their dtype.
        attention: `attention(query, key, value, heads)`.
        pooled: Whether its residuals are averaged over the picture when it is applied, as those of shuffle nets are,
            which give style and not position; such a net acts on the conditional side unless told otherwise.

    Attributes:
        hint_statistics: What its hints look like; None if that is not known.

    Raises:
        SettingError: If the hint encoder is unknown or there are no hint channels.
    """

    def __init__(
        self,
        config: UNetConfig,
        hint_channels: int = 3,
        hint_encoder: HintEncoderKind = "reference",
        *,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: AttentionFunction = scaled_dot_product_attention,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if hint_encoder not in HINT_ENCODERS:
            raise SettingError(f"hint encoder {hint_encoder!r}", " or ".join(HINT_ENCODERS), "choose one of these")
        if hint_channels < 1:
            raise SettingError(f"{hint_channels} hint channels", "at least 1", "give the channels of the hint image")
        layers = LayerFactory(operations, device, dtype, attention)
        self.config = config
        self.hint_channels = hint_channels
        self.pooled = pooled
        self.hint_statistics: HintStatistics | None = None
        self.hint_encoder_kind = hint_encoder
        self.encoder = Encoder(config, layers)
        self.hint_encoder = HINT_ENCODERS[hint_encoder](hint_channels, config.model_channels, layers)
        self.zero_convolutions = nn.ModuleList(
            zero_convolution(layers, channels, channels) for channels in config.skip_channels
        )
        self.middle_zero_convolution = zero_convolution(
            layers, config.level_channels[-1], config.level_channels[-1]
        )
        if operations is nn:
            self.initialise(torch.Generator().manual_seed(0))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return next(self.parameters()).dtype

    @property
    def family(self) -> str:
        """The name of the model family it is for."""
        return self.config.family

    @property
    def joints(self) -> Mapping[str, object]:
        """The sizes in which it and a UNet must agree."""
        return self.config.joints

    @property
    def block_levels(self) -> BlockLevels:
        """The levels of the blocks that it gives residuals for."""
        return self.config.block_levels

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the hint encoder's weights and set every zero convolution to zero."""
        self.hint_encoder.initialise(generator)
        zero_(self.zero_convolutions)
        zero_(self.middle_zero_convolution)

    @classmethod
    def from_unet(
        cls,
        unet: UNet,
        hint_channels: int = 3,
        hint_encoder: HintEncoderKind = "reference",
        *,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> ControlNet:
        """Start as the paper does: a strict copy of the UNet's encoder, and zero convolutions.

        Arguments:
            unet: The base to copy from; it is not changed.
            hint_channels: Channels of the hint image.
            hint_encoder: "reference" or "paper".
            seed: Draws the hint encoder's weights, the only ones that are not copied or zero.
            dtype: The net's dtype; None takes the UNet's.

        Returns:
            A net on the UNet's device that changes no bit of what the UNet predicts.
        """
        net = cls(unet.config, hint_channels, hint_encoder, device="meta", dtype=torch.float32)
        net.to_empty(device="cpu").initialise(torch.Generator().manual_seed(seed))
        net.to(next(unet.parameters()).device, dtype or unet.dtype)
        net.encoder.load_state_dict(unet.encoder.state_dict())
        return net

    def embed_hint(self, hint: Tensor) -> Tensor:
        """Encode a hint, which is the same at every step and can be kept.

        Arguments:
            hint: Pixels from 0 to 1, shape (B, hint_channels, 8h, 8w).

        Returns:
            Shape (B, model_channels, h, w).

        Raises:
            TensorShapeError: If the hint has other channels.
        """
        expect(hint, "B C H W", "the hint", C=self.hint_channels)
        embedded: Tensor = self.hint_encoder(hint)
        return embedded

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
        """Compute the residuals for one step.

        Arguments:
            x: Noisy latents, shape (B, in_channels, h, w).
            hint: Pixels from 0 to 1, shape (B or 1, hint_channels, 8h, 8w); None if `embedded_hint` is given.
            timesteps: Shape (B,), 0 to 999, fractions allowed.
            context: Text embedding, shape (B, L, context_dim).
            y: Vector condition, shape (B, vector_dim), for families that have one.
            embedded_hint: What `embed_hint` gave, to save encoding it again.
            blocks: Compute only the residuals of the first `blocks` encoder blocks, without the middle block's.

        Returns:
            The residuals of all encoder blocks and the middle block, or of the first `blocks`.

        Raises:
            TensorShapeError: If a shape does not fit, or the hint is not eight times the latents' size.
            FamilyMismatchError: If the text embedding or vector is another family's.
        """
        check_inputs(self.config, x, timesteps, context, y)
        if embedded_hint is None:
            embedded_hint = self._embed_checked(hint, x)
        embedding = self.encoder.embed(timesteps, y, x.dtype)
        walk = self.encoder.walk(x, embedding, context, embedded_hint)
        skips = tuple(zero(next(walk)) for zero in list(self.zero_convolutions)[:blocks])
        return Residuals(skips, self.middle_zero_convolution(next(walk)) if blocks is None else None)

    def _embed_checked(self, hint: Tensor | None, x: Tensor) -> Tensor:
        """Encode the hint and check that it then has the latents' size."""
        if hint is None:
            raise TensorShapeError("neither a hint nor an embedded hint", "one of the two", "give the hint's pixels")
        embedded = self.embed_hint(hint)
        if embedded.shape[-2:] != x.shape[-2:]:
            height, width = x.shape[-2:]
            raise TensorShapeError(
                found=f"a hint of {hint.shape[-2]}x{hint.shape[-1]} pixels (height x width)",
                expected=f"{8 * height}x{8 * width} for latents of {height}x{width}",
                do="resize the hint",
            )
        return embedded
