"""Models that are loaded once for all tests; torch is only imported by who asks for one."""

# ruff: noqa: PLC0415
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from generation.engine.engine import Engine
    from generation.models.flux2_klein import Flux2Klein
    from generation.models.stable_diffusion import StableDiffusion
    from generation.models.stable_diffusion_3 import StableDiffusion3
    from generation.models.stable_diffusion_xl import StableDiffusionXL
    from generation.models.z_image import ZImage

    from .flux2_klein import Flux2KleinPipelines
    from .pipelines import Pipelines
    from .sd3 import SD3Pipelines
    from .sdxl import SDXLPipelines
    from .z_image import ZImagePipelines

# How long an example takes says nothing on a machine that others use as well.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def starter() -> StableDiffusion:
    """The networks of the model that comes with the package."""
    from generation.models.loading import load
    from generation.models.locate import locate

    return load(locate("starter"), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def engine(starter: StableDiffusion) -> Engine:
    """An engine on the starter model."""
    from generation.engine.engine import Engine

    return Engine(starter)


@pytest.fixture(scope="session")
def pipelines() -> Pipelines:
    """The pipelines of diffusers on the starter model."""
    from generation.models.locate import starter_folder

    from .pipelines import Pipelines

    return Pipelines.load(starter_folder())


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model in the shape of Stable Diffusion 1.5."""
    from .pipelines import save_small_sd15

    folder = tmp_path_factory.mktemp("models") / "small-sd15"
    save_small_sd15(folder)
    return folder


@pytest.fixture(scope="session")
def sd15(sd15_folder: Path) -> StableDiffusion:
    """The networks of that tiny model."""
    from generation.models.loading import load
    from generation.models.locate import locate

    return load(locate(str(sd15_folder)), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def sd15_pipelines(sd15_folder: Path) -> Pipelines:
    """The pipelines of diffusers on that tiny model."""
    from .pipelines import Pipelines

    return Pipelines.load(sd15_folder)


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion XL."""
    from .sdxl import make_sdxl

    folder = tmp_path_factory.mktemp("models") / "small-sdxl"
    make_sdxl(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl(sdxl_folder: Path) -> StableDiffusionXL:
    """The networks of that tiny model."""
    from generation.models.loading import load
    from generation.models.locate import locate

    return load(locate(str(sdxl_folder)), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def sdxl_pipelines(sdxl_folder: Path) -> SDXLPipelines:
    """The pipelines of diffusers on that tiny model."""
    from .sdxl import reference_sdxl

    return reference_sdxl(sdxl_folder)


@pytest.fixture(scope="session")
def klein_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny FLUX.2 klein, distilled as the release of 4 steps."""
    from .flux2_klein import make_flux2_klein

    folder = tmp_path_factory.mktemp("models") / "klein"
    make_flux2_klein(folder)
    return folder


@pytest.fixture(scope="session")
def klein(klein_folder: Path) -> Flux2Klein:
    """The networks of that model."""
    from generation.models.loading import load
    from generation.models.locate import locate

    return load(locate(str(klein_folder)), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def klein_pipelines(klein_folder: Path) -> Flux2KleinPipelines:
    """The pipelines of diffusers on that model."""
    from .flux2_klein import Flux2KleinPipelines

    return Flux2KleinPipelines.load(klein_folder)


@pytest.fixture(scope="session")
def z_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Z-Image."""
    from .z_image import make_z_image

    folder = tmp_path_factory.mktemp("models") / "small-z-image"
    make_z_image(folder)
    return folder


@pytest.fixture(scope="session")
def z_image(z_image_folder: Path) -> ZImage:
    """The networks of that tiny Z-Image."""
    from generation.models.loading import load
    from generation.models.locate import locate

    return load(locate(str(z_image_folder)), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def z_image_pipelines(z_image_folder: Path) -> ZImagePipelines:
    """The pipelines of diffusers on that tiny Z-Image."""
    from .z_image import reference_z_image

    return reference_z_image(z_image_folder)


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion 3.5."""
    from .sd3 import make_sd3

    folder = tmp_path_factory.mktemp("models") / "small-sd3"
    make_sd3(folder)
    return folder


@pytest.fixture(scope="session")
def sd3(sd3_folder: Path) -> StableDiffusion3:
    """The networks of that tiny model."""
    from generation.models.loading import load
    from generation.models.locate import locate

    return load(locate(str(sd3_folder)), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def sd3_pipelines(sd3_folder: Path) -> SD3Pipelines:
    """The pipelines of diffusers on that tiny model."""
    from .sd3 import reference_sd3

    return reference_sd3(sd3_folder)
