"""Which label file belongs to which image, by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from vol3d.errors import ConfigError
from vol3d.io.formats import split_suffix
from vol3d.io.names import split_name

_WORDS = (
    "sparse|dense|labels?|seg|segm|segmentations?|masks?|gt|annotations?|annotated|paint|painted|values?|targets?|instances?|"
    "panoptic|weights?|images?|img|im|raw|scan"
)
_WORD = re.compile(rf"(?:^|[/_\-. ])(?:{_WORDS})$", re.IGNORECASE)
_CHANNEL = re.compile(r"_000\d$")


def pair(images: Sequence[str], labels: Sequence[str], what: str = "label file(s)") -> list[tuple[str, str]]:
    """Image and label names that belong together, in the order of `images`.

    One image and one label always pair. Otherwise the names must agree: as they are, without words such as
    `_sparse`, `_label`, `_weight`, `_image`, or without the image's `_0000`; or every pair has its own folder.
    Raises `ConfigError` naming what is left over.
    """
    if len(images) == len(labels) == 1:
        return [(images[0], labels[0])]
    for first, second in ((_exact, _exact), (_bare, _bare), (_without_channel, _bare), (_folder, _folder)):
        chosen = _joined([first(name) for name in images], [second(name) for name in labels])
        if chosen is not None:
            return [(image, labels[i]) for image, i in zip(images, chosen, strict=True)]
    known = {_bare(name) for name in images} | {_without_channel(name) for name in images}
    wanted = {_bare(name) for name in labels}
    alone = [name for name in images if not {_bare(name), _without_channel(name)} & wanted]
    alone += [name for name in labels if _bare(name) not in known]
    twice = [name for group in (images, labels) for name in group if Counter(map(_bare, group))[_bare(name)] > 1]
    cause = f"no partner for {_some(alone)}" if alone else f"more than one partner for {_some(twice or list(images))}"
    raise ConfigError(
        f"{len(images)} image(s) and {len(labels)} {what} do not pair by name: {cause}. "
        "Name them alike (a.nii.gz, a_label.nii.gz)."
    )


def _joined(images: list[str], labels: list[str]) -> list[int] | None:
    """For every image the index of its label, if each name occurs once on both sides."""
    places = {name: index for index, name in enumerate(labels)}
    if len(places) != len(labels) or len(set(images)) != len(images) or set(images) != set(places):
        return None
    return [places[name] for name in images]


def _exact(name: str) -> str:
    path, dataset = split_name(name)
    return f"{split_suffix(path)[0]}:{_strip(dataset or '')}"


def _bare(name: str) -> str:
    path, dataset = split_name(name)
    return f"{_strip(split_suffix(path)[0])}:{_strip(dataset or '')}"


def _without_channel(name: str) -> str:
    path, dataset = split_name(name)
    return f"{_CHANNEL.sub('', _strip(split_suffix(path)[0]))}:{_strip(dataset or '')}"


def _folder(name: str) -> str:
    return str(split_name(name)[0].parent.name)


def _strip(stem: str) -> str:
    """Without the words at its end that say what a file is for; a stem that is nothing else stays empty."""
    while (shorter := _WORD.sub("", stem)) != stem:
        stem = shorter
    return stem


def _some(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:4]) + (", …" if len(distinct) > 4 else "")
