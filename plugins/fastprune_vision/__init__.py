"""Vision families: ViT, DeiT, DINOv2, CLIP, SigLIP, Swin."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.units import Architecture
from fastprune_vision.clip import CLIP
from fastprune_vision.swin import SWIN
from fastprune_vision.vit import DINOV2, VIT


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (VIT, DINOV2, CLIP, SWIN):
        register(architecture)
