"""Named exceptions. Each message says what was expected, what was found (and in which file), and what to do.

The command line prints the message as one line and exits with `exit_code`.
"""


class Vol3dError(Exception):
    """Base of everything vol3d raises on purpose."""

    exit_code = 2


class FileFormatError(Vol3dError):
    """A file is missing, truncated, corrupt, of an unknown format, or refuses a value we must store."""


class GeometryError(Vol3dError):
    """Grids, affines or orientations disagree."""


class LabelError(Vol3dError):
    """Label codes, unlabeled voxels or class tables do not make sense."""


class ConfigError(Vol3dError):
    """A configuration file, an option or an argument is wrong."""


class ModelError(Vol3dError):
    """A model, checkpoint or run cannot be used, or does not fit the scan."""


class ResourceError(Vol3dError):
    """Memory, disk or a device is missing or too small."""

    exit_code = 1


class TrainingError(Vol3dError):
    """Training cannot go on: the loss is not a number, a data worker died."""

    exit_code = 1
