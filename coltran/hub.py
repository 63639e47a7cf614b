# SPDX-License-Identifier: Apache-2.0
"""Networks on the Hugging Face Hub: a repository with the folders of a pipeline and a model card.

    README.md                                                      the card
    colorizer/ color_upsampler/ spatial_upsampler/                 config.yaml and model.safetensors each

Nothing else is fetched, so nothing that could run. The package huggingface_hub does the rest: its cache, HF_HOME,
HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT mean what they mean there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from coltran import checkpoint
from coltran.checkpoint import CheckpointError

FILES = ("config.yaml", "model.safetensors")
_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


class Repository(NamedTuple):
    """A repository on the Hub, at a branch, tag or commit; the newest where None."""

    name: str
    revision: str | None


def repository(text: str, revision: str | None = None) -> Repository | None:
    """What "owner/name" or "owner/name@revision" stands for; None where the text is of neither form."""
    match = _NAME.fullmatch(text)
    return Repository(match["name"], revision or match["revision"]) if match else None


def fetch(wanted: Repository) -> Path:
    """The folder with a repository's networks, in the cache; fetched where it is not there, or not the newest.

    Raises:
        CheckpointError: huggingface_hub is not installed; no such repository or revision; no connection, and no copy in
            the cache.
    """
    with _one_sentence(wanted, "read") as hub:
        patterns = ["README.md", *(f"*/{file}" for file in FILES)]
        return Path(hub.snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=patterns))


def push(networks: Sequence[Path], name: str, *, private: bool = False) -> str:
    """Uploads networks as one commit, and a card where the repository has none; returns its address.

    Args:
        networks: checkpoints, each to be a folder of the same name; what else lies beside them stays here.
        name: owner/name.
        private: of a repository that is made.

    Raises:
        CheckpointError: huggingface_hub is not installed, `name` is no name, or the Hub refuses.
    """
    wanted = repository(name)
    if wanted is None or wanted.revision:
        raise CheckpointError(f"{name!r} is no name of a repository, which is owner/name.")
    text = card(networks, name).encode()
    with _one_sentence(wanted, "written") as hub:
        api = hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        added = [hub.CommitOperationAdd(f"{path.name}/{file}", str(path / file)) for path in networks for file in FILES]
        if not api.file_exists(name, "README.md"):
            added.append(hub.CommitOperationAdd("README.md", text))
        api.create_commit(name, added, commit_message="Add the networks of a coltran pipeline")
    return str(address)


def card(networks: Sequence[Path], name: str) -> str:
    """A model card of these networks: what they are, their sizes, how to use them."""
    rows = []
    for path in networks:
        network = checkpoint.load(path)
        size = sum(parameter.numel() for parameter in network.parameters())
        height, width = network.resolution  # type: ignore[misc]
        rows.append(f"| `{path.name}` | {size / 1e6:.2f} M | {height} x {width} |")
    return f"""---
library_name: coltran
pipeline_tag: image-to-image
tags: [image-colorization, colorization-transformer]
---
# {name.split("/")[1]}

Networks of a Colorization Transformer (Kumar, Weissenborn, Kalchbrenner, ICLR 2021), which colour photographs.

| network | weights | pixels |
| --- | --- | --- |
{chr(10).join(rows)}

    pip install coltran[hub]
    python -m coltran.colorize old.jpg -o coloured --checkpoint {name}

```python
import coltran

result = coltran.from_pretrained("{name}")("old.jpg", samples=4, seed=7)
```
"""


@contextmanager
def _one_sentence(wanted: Repository, done: str) -> Iterator[Any]:
    """Gives huggingface_hub; what goes wrong becomes a CheckpointError of one sentence."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(f"{wanted.name} is on the Hub, which needs: pip install coltran[hub].") from error
    try:
        yield huggingface_hub
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"There is no folder {wanted.name}, and no such repository on the Hub.") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{wanted.name} has no revision {wanted.revision} on the Hub.") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(f"{wanted.name} is not in the cache, and the Hub cannot be reached.") from error
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise CheckpointError(f"{wanted.name} cannot be {done} on the Hub: {reason}.") from error
