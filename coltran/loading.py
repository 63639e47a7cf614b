# SPDX-License-Identifier: Apache-2.0
"""From a name to the networks: a folder, the weights in the package, the published ones, or the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from coltran import checkpoint, hub
from coltran.checkpoint import CheckpointError
from coltran.original import download
from coltran.pipeline import NETWORKS, Pipeline

PRETRAINED = Path(__file__).resolve().parent / "pretrained"


def find_networks(source: str | Path | None = None, revision: str | None = None) -> Path:
    """The folder of the networks that `from_pretrained` is asked for; see there."""
    if source is None:
        if not PRETRAINED.is_dir():
            raise CheckpointError("No weights come with this installation, so a checkpoint has to be named.")
        return PRETRAINED
    folder = Path(source)
    if str(source) == "published" and not folder.is_dir() and revision is None:
        if not download.is_installed(download.cached()):
            raise CheckpointError("The published networks are not here yet: python -m coltran.download fetches them.")
        return download.cached()
    on_hub = hub.repository(folder.as_posix(), revision)
    if folder.is_dir() or on_hub is None:
        if revision is not None:
            raise CheckpointError(f"{folder} is no name on the Hub, so it has no revision {revision}.")
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder {folder}.")
        return folder
    return hub.fetch(on_hub)


def from_pretrained(source: str | Path | None = None, *, revision: str | None = None) -> Pipeline:
    """The pipeline of the trained networks `colorizer/`, `color_upsampler/`, `spatial_upsampler/`, and `guide/`.

    Each may be a training's log directory too, of which the newest checkpoint is taken. All but the first may be
    absent. The published networks are steered by the guide in the package.

    Args:
        source: a folder; or, where there is no such folder, "published" for the original's authors' networks, which
            `python -m coltran.download` fetches, or a name on the Hugging Face Hub, "owner/name" or
            "owner/name@revision"; None takes the weights that come with the package.
        revision: a branch, tag or commit on the Hub; the newest where None.

    Raises:
        CheckpointError: no such folder or repository, no colorizer in it, a damaged checkpoint, or one of another
            network.
    """
    folder = find_networks(source, revision)
    if not (folder / "colorizer").is_dir():
        raise CheckpointError(f"{folder} holds no folder named colorizer with that network's checkpoint.")
    networks: dict[str, nn.Module] = {}
    for name, kind in NETWORKS.items():
        place = folder / name
        if name == "guide" and folder == download.cached():
            place = PRETRAINED / name
        if place.is_dir():
            networks[name] = checkpoint.load(place)
            if not isinstance(networks[name], kind):
                found = next(other for other, its in NETWORKS.items() if isinstance(networks[name], its))
                raise CheckpointError(f"{place} is the checkpoint of a {found}.")
    try:
        return Pipeline(**networks)  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(f"The networks in {folder} do not go together: {error}.") from error
