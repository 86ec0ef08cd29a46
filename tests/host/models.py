"""Models of random weights that ComfyUI takes for SD1.5, SD2.1 and SDXL: real widths where it looks, little depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from controlnet_core.config import FAMILIES as ALL_FAMILIES
from controlnet_core.config import SD15, SD21, SDXL, Family, UNetConfig
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.weights.layouts import ldm, ldm_base
from controlnet_core.weights.layouts.kinds import ControlNetConfig
from controlnet_core.weights.safetensors_file import write_tensor_file
from controlnet_core.weights.save import save_controlnet
from tests.support.reduced import randomised

FAMILIES: dict[str, UNetConfig] = {
    "sd15": replace(SD15, channel_mult=(1, 2), num_res_blocks=1, transformer_depth=(1, 0)),
    "sd21": replace(SD21, channel_mult=(1, 2), num_res_blocks=1, transformer_depth=(1, 0)),
    # ComfyUI tells SDXL by its depths: these are Segmind-Vega's.
    "sdxl": replace(SDXL, channel_mult=(1, 1, 1), transformer_depth=(0, 1, 2), transformer_depth_middle=2),
}
BASES: dict[str, Family] = {
    "sd15": ALL_FAMILIES["SD1.5"],
    "sd21": ALL_FAMILIES["SD2.1"],
    "sdxl": ALL_FAMILIES["SDXL"],
}
ZERO_SNR = ("v_pred", "ztsnr")
"""The markers of an SDXL that predicts v and was trained with no signal at the last timestep."""
RESIDUAL_SIZE = 0.3
"""What the zero convolutions' weights are scaled by, so that random nets neither vanish nor drown the picture."""


@dataclass(frozen=True)
class Models:
    """Where the models are.

    Attributes:
        folder: Holds `diffusion_models` and `controlnet`.
    """

    folder: Path

    def net(self, name: str) -> Path:
        """The file of a net."""
        return self.folder / "controlnet" / name


def write_models(folder: Path) -> Models:
    """Write a UNet and two nets of each family, the first net also in the diffusers layout and as a pickle."""
    for number, (name, config) in enumerate(FAMILIES.items()):
        keymap = ldm.unet_keymap(config).prefixed(ldm_base.UNET_PREFIX)
        tensors = keymap.to_theirs(random_unet(name).state_dict())
        write_tensor_file(folder / "diffusion_models" / f"{name}.safetensors", tensors, {})
        for which in ("a", "b"):
            net = random_net(config, seed=10 * number + ord(which))
            save_controlnet(net, folder / "controlnet" / f"{name}_{which}.safetensors")
            if which == "a":
                save_controlnet(net, folder / "controlnet" / f"{name}_diffusers.safetensors", layout="diffusers")
                state = ldm.controlnet_keymap(ControlNetConfig(config)).prefixed("control_model.")
                torch.save(state.to_theirs(net.state_dict()), folder / "controlnet" / f"{name}_a.pth")
    return Models(folder)


def write_checkpoint(
    path: Path, name: str, markers: tuple[str, ...] = (), dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Write a whole random base of a family, whose UNet alone is reduced; its tensors.

    Arguments:
        path: The file.
        name: The family, "sd15", "sd21" or "sdxl".
        markers: Empty tensors that say something by their names.
        dtype: The dtype of all others.
    """
    family = replace(BASES[name], unet=FAMILIES[name])
    autoencoder = ldm.autoencoder_keymap(family.autoencoder).prefixed(ldm_base.AUTOENCODER_PREFIX)
    unet = ldm.unet_keymap(family.unet).prefixed(ldm_base.UNET_PREFIX)
    tensors = dict(unet.to_theirs(random_unet(name).state_dict()))
    tensors |= dict(autoencoder.to_theirs(randomised(Autoencoder(family.autoencoder), seed=5).state_dict()))
    for config, keymap in zip(family.text_encoders, ldm_base.text_keymaps(family), strict=True):
        tensors |= dict(keymap.to_theirs(randomised(TextEncoder(config), seed=4).state_dict()))
    # SD2's files have a further layer that is never run.
    last = ".resblocks.22."
    if name == "sd21":
        tensors |= {key.replace(last, ".resblocks.23."): tensor for key, tensor in tensors.items() if last in key}
    stored = {key: tensor.to(dtype).contiguous() for key, tensor in tensors.items()}
    stored |= {marker: torch.tensor([]) for marker in markers}
    write_tensor_file(path, stored, {})
    return stored


def random_unet(family: str) -> UNet:
    """A UNet of random weights, the same each time."""
    return randomised(UNet(FAMILIES[family]), seed=10 * list(FAMILIES).index(family))


def random_net(config: UNetConfig, seed: int) -> ControlNet:
    """A net of random weights, its zero convolutions included."""
    net = randomised(ControlNet(config), seed)
    with torch.no_grad():
        for layer in (*net.zero_convolutions, net.middle_zero_convolution):
            for parameter in layer.parameters():
                parameter.mul_(RESIDUAL_SIZE)
    return net
