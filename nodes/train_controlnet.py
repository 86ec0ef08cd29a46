"""The node that trains a net."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .application_form import ControlNetDataset
from .bridge.host.messages import explains_errors
from .bridge.host.types import HostClip, HostModel, HostVae
from .bridge.training.train import train_in_graph
from .bridge.training.training_data import TrainingData
from .training_form import read_settings, setting_inputs


class TrainControlNet(io.ComfyNode):
    """Trains a ControlNet on the graph's own base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="TrainControlNet",
            display_name="Train ControlNet (Core)",
            category="model/training",
            description="Trains a ControlNet on a locked base: SD1.5, SD2.1, SDXL or the small base. It starts as a "
            "copy of the base's encoder with zero convolutions. Interrupt saves a checkpoint; Run resumes. A finished "
            "run is read back. The net is saved where loaders list it.",
            search_aliases=["controlnet training", "train control net", "finetune controlnet", "trainer"],
            inputs=[
                io.Model.Input("model", tooltip="The base to train on; its LoRAs are merged into a copy."),
                io.Clip.Input("clip", tooltip="Its text encoder. Captions are read literally, without weights."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                ControlNetDataset.Input("dataset", tooltip="From ControlNet Dataset: pictures, hints and captions."),
                io.String.Input(
                    "name",
                    default="my_controlnet",
                    tooltip="The name of the net's file. The run's short name is added after it.",
                ),
                *setting_inputs(),
                io.String.Input(
                    "settings_toml",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="Settings as in a file for `controlnet-core train`; they override those above.",
                ),
            ],
            outputs=[
                io.ControlNet.Output(display_name="control_net", tooltip="The trained net, for any Apply node."),
                io.String.Output(display_name="path", tooltip="The net's file, which loaders list."),
                io.LossMap.Output(display_name="loss_map", tooltip="The loss of each step, for Plot Loss Graph."),
                io.Image.Output(display_name="report", tooltip="How the training went, as a picture."),
                io.String.Output(
                    display_name="settings", tooltip="The run as a settings file, for `controlnet-core train`."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @explains_errors
    def execute(
        cls,
        model: HostModel,
        clip: HostClip,
        vae: HostVae,
        dataset: TrainingData,
        name: str,
        settings_toml: str = "",
        **settings: Any,  # noqa: ANN401 - a widget's value is a number or a string
    ) -> io.NodeOutput:
        """Train."""
        chosen = read_settings(settings, settings_toml)
        trained = train_in_graph((model, clip, vae), dataset, chosen, name, cls.hidden.unique_id)
        return io.NodeOutput(
            trained.control_net,
            str(trained.path),
            {"loss": trained.losses},
            trained.report,
            trained.settings,
            ui=ui.PreviewImage(trained.report, cls=cls),
        )
