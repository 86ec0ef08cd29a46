"""What can go wrong between a workflow and its server."""

from __future__ import annotations

from ..errors import ControlNetCoreError


class ServerError(ControlNetCoreError):
    """A server that cannot be reached, does not answer, or answers what no ComfyUI server does."""


class JobLostError(ServerError):
    """A job that the server no longer knows."""


class ExecutionError(ControlNetCoreError):
    """A workflow that the server refuses or that failed while it ran."""
