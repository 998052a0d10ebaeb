"""The command line's grammar. Imports nothing heavy: `vol3d --help` must be quick."""

from __future__ import annotations

from vol3d.cli.arguments import Parser, codes, count
from vol3d.version import __version__

TASKS = ("semantic", "instances", "panoptic", "regression")
NETWORKS = ("unet", "fcn", "unet_plus_plus", "unet3plus", "deeplab_v3_plus", "encoder_unet")
EXPERIMENTS = ("folds", "slices", "batchnorm", "dimensions", "volumes", "paper")
_FILES = "NIfTI (.nii, .nii.gz), HDF5 (file.h5 or file.h5:dataset), TIFF, NRRD, MHA or MHD"


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="vol3d",
        description="Dense 3-D segmentation from a few annotated slices.",
        epilog="vol3d COMMAND --help tells more. Research software, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"vol3d {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _train(commands.add_parser("train", help="learn from scans with sparse labels", description=_TRAIN))
    _predict(commands.add_parser("predict", help="segment scans with a trained model", description=_PREDICT))
    _evaluate(commands.add_parser("evaluate", help="score a prediction against a reference", description=_EVALUATE))
    _check(commands.add_parser("check", help="do an image and its labels fit together?", description=_CHECK))
    _info(commands.add_parser("info", help="what a file, model or run holds", description=_INFO))
    _suggest(commands.add_parser("suggest", help="which slices to paint next", description=_SUGGEST))
    _experiment(commands.add_parser("experiment", help="compare trainings on your own data", description=_EXPERIMENT))
    return parser


_TRAIN = f"""Learn from scans with sparse labels: {_FILES}.

Without a config and without files, ./vol3d.yaml is used if it is there, else the embedded demo is trained.
Say what the codes mean with --unlabeled, --annotated-slices or --dense: background is not unlabeled."""
_PREDICT = "Segment scans with a trained model. The label map keeps the scan's grid, orientation and header."
_EVALUATE = """Score predictions on the labeled voxels of their references: overlap per class, and distances in mm.

PREDICTION and REFERENCE are two files, or two folders or quoted globs whose files are paired by name; several cases
give mean ± standard deviation. Surfaces, instances and panoptic segments need references without unlabeled voxels."""
_CHECK = """Do an image and its labels fit together, what do the labels cover, and what will hurt?

Prints geometry, values, coverage per class and axis, what code 0 seems to be, and one line per finding: problem (train
would refuse), warning (training works, the result will suffer) or note. Slices are named in the file's own axes, as
`vol3d info` prints them, counted from 0. Warnings are for --task semantic: classes painted in one slice only or in few
voxels, slices left half painted or copied, slices that contradict each other where they cross, image slices that occur
twice, large unpainted gaps, annotated slices that hold only background, and 0 taken for what it hardly is.

Exit codes: 0 nothing found, or warnings and notes only; 1 warnings, with --strict; 2 train would refuse."""
_LENGTH = "end after this time, as in 90s or 1.5h (default: 10m on a CPU, 1h on a GPU, 1m with --resume and -l)"
_INFO = "What a volume, model, checkpoint or run folder holds, read from its header."

_SUGGEST = """The slices whose painting should help most: where the model is unsure, far from what is painted.

A painted slice settles the voxels in it and, the less the farther they lie, those around it; rare classes count more.
Written are a label file to paint in, SCAN_paint, with what is painted so far and the slices marked by a code named "to
paint", and a picture of each slice: scan, prediction, uncertainty. What is painted so far are the labels that the run
had of this scan, or LABELS. Paint the marked voxels, background too, then train on the file. What stays marked counts
as unlabeled where the file names the codes; else give `vol3d train` the two --unlabeled that are printed."""

_EXPERIMENT = """The experiments of the 3D U-Net's paper on your own labels; every row is a training of its own.

folds       train on most annotated slices, score on the rest, fold by fold
slices      IoU against the number of annotated slices
batchnorm   with BatchNorm and without
dimensions  3-D against 2-D
volumes     leave one volume out after another
paper       all of it, as far as the data allow

Rows are kept as they finish (results.csv); --resume FOLDER goes on with what is missing."""


def _common(parser: Parser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _reading(parser: Parser) -> None:
    parser.add_argument(
        "--channel", type=count(0), metavar="N", help="take this channel of a multi-channel scan (0-based)"
    )
    parser.add_argument("--nan", type=float, metavar="VALUE", help="replace NaN and Inf voxels by VALUE")
    parser.add_argument("--xform", choices=["sform", "qform"], help="which to trust where a NIfTI's two disagree")


def _meaning(parser: Parser) -> None:
    parser.add_argument(
        "--unlabeled",
        type=count(0),
        action="append",
        metavar="CODE",
        help="this code means: nobody annotated the voxel",
    )
    parser.add_argument(
        "--annotated-slices",
        nargs="+",
        metavar="AXIS=N,N",
        help="in these slices everything is annotated and 0 is background: z=10,20 y=5 (0-based, axes as in `info`)",
    )
    parser.add_argument("--dense", action="store_true", help="every voxel is annotated; 0 is background")
    parser.add_argument(
        "--one-of", nargs="+", metavar="CODE=CODES", help="a code that means one of several classes, as in 250=0,1,2"
    )
    parser.add_argument(
        "--not-painted",
        nargs="+",
        metavar="FILE=CODES",
        help="classes that nobody painted in a label file, whose background may be one of these: scan_b=3",
    )


def _train(parser: Parser) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file; the rest has defaults")
    parser.add_argument("-i", "--images", nargs="+", action="extend", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument("-l", "--labels", nargs="+", action="extend", metavar="LABELS", help="paired by name")
    parser.add_argument("-w", "--weights", nargs="+", action="extend", metavar="WEIGHTS", help="loss weight per voxel")
    parser.add_argument("-o", "--output", metavar="RUN", help="run folder (default: runs/DATE-NAME)")
    _meaning(parser)
    _reading(parser)
    parser.add_argument("--task", choices=TASKS, help="what to learn (default: semantic, a class for every voxel)")
    parser.add_argument("--network", choices=NETWORKS, help="a kind of network, sized for the data (default: unet)")
    parser.add_argument(
        "--dimensions", type=int, choices=[2, 3], help="a 2-D network goes slice by slice (default: planned)"
    )
    parser.add_argument("--planes", nargs="+", choices=["x", "y", "z"], help="axes across which a 2-D network goes")
    parser.add_argument("--width", type=count(1), metavar="N", help="channels of the network's finest level")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--time-budget", metavar="TIME", help=_LENGTH)
    length.add_argument("--iterations", type=count(1), metavar="N", help="optimise for exactly N iterations")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--seed", type=count(0), metavar="N", help="the same data, config and seed give the same run")
    parser.add_argument("--workers", type=count(0), metavar="N", help="processes that cut patches (default: planned)")
    parser.add_argument("--no-refit", action="store_true", help="never train on the held-out slices")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a value of the config")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with an interrupted run; with -l: from its model, on new labels"
    )
    parser.add_argument("--dry-run", action="store_true", help="a few iterations, then plan, memory and time")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run folder")
    _common(parser)


def _predict(parser: Parser) -> None:
    parser.add_argument("scans", nargs="+", metavar="SCAN", help="files, folders or globs")
    parser.add_argument("-m", "--model", metavar="MODEL", help="model file or run folder (default: newest in ./runs)")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="label map (one scan) or folder; default SCAN_seg beside it"
    )
    _reading(parser)
    parser.add_argument("--probabilities", action="store_true", help="also write the class probabilities")
    parser.add_argument("--tta", action="store_true", help="average over flips of the whole volume (8 × the time)")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write where it is unsure; averages over flips as --tta does (8 × the time)",
    )
    for flag, told in (
        ("--keep-drawn", "what was drawn by hand stands as drawn"),
        ("--provenance", "the same, and write which voxels were drawn"),
    ):
        parser.add_argument(flag, nargs="?", const="", metavar="LABELS", help=f"{told} (default: the run's labels)")
    _meaning(parser)
    parser.add_argument(
        "--tile", nargs=3, type=count(1), metavar=("X", "Y", "Z"), help="input size of a tile in voxels"
    )
    parser.add_argument("--prune", type=count(1), metavar="DEPTH", help="use a U-Net++ only this deep: faster")
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="memory to plan with, such as 8GB; a scan that takes more goes in parts"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision",
        choices=["float32", "bf16", "int8"],
        default="float32",
        help="bf16 and int8 are quicker, and used if they give float32's labels on parts of the scan",
    )
    parser.add_argument("--no-preview", action="store_true", help="write no PNG beside the label map")
    parser.add_argument("--dry-run", action="store_true", help="tell memory and time, and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    _common(parser)


def _panoptic(parser: Parser) -> None:
    parser.add_argument("--divisor", type=count(2), metavar="N", help="panoptic: code = class × N + object (1000)")
    parser.add_argument(
        "--things",
        type=codes,
        metavar="CODES",
        help="panoptic: classes of single objects, such as 1,4 (default: those with an object number other than 0)",
    )


def _evaluate(parser: Parser) -> None:
    parser.add_argument("prediction", metavar="PREDICTION", help="a file, a folder or a quoted glob")
    parser.add_argument("reference", metavar="REFERENCE", help="the same kind, paired by name")
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="semantic",
        help="what the voxels hold: class codes (default), object numbers, class × divisor + object number, values",
    )
    parser.add_argument(
        "--except", dest="leave_out", metavar="LABELS", help="leave out the voxels labeled in this file"
    )
    _meaning(parser)
    parser.add_argument("--xform", choices=["sform", "qform"], help="which to trust where a NIfTI's two disagree")
    parser.add_argument(
        "--surface", action="store_true", help="add Hausdorff (HD, HD95) and average surface distance, surface Dice"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="MM", help="of the surface Dice (default: the longest edge of a voxel)"
    )
    _panoptic(parser)
    parser.add_argument("--csv", metavar="FILE", help="write a line per case and class, all metrics")
    parser.add_argument("--plot", metavar="FILE", help="write a box plot over the cases (PNG)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing CSV file or plot")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _common(parser)


def _check(parser: Parser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("labels", metavar="LABELS")
    parser.add_argument("--task", choices=TASKS, default="semantic", help="what the labels are for (default: semantic)")
    _panoptic(parser)
    _meaning(parser)
    _reading(parser)
    parser.add_argument("--json", action="store_true", help="print all of it as JSON, exit codes included")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where there are warnings")
    _common(parser)


def _info(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help=f"{_FILES}, a model, a checkpoint or a run folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    _common(parser)


def _suggest(parser: Parser) -> None:
    parser.add_argument("scan", metavar="SCAN", help=_FILES)
    parser.add_argument("-m", "--model", metavar="MODEL", help="model file or run folder (default: newest in ./runs)")
    parser.add_argument("-l", "--labels", metavar="LABELS", help="what is painted (default: as the run had it)")
    parser.add_argument("-n", "--slices", type=count(1), default=3, metavar="N", help="how many slices (default: 3)")
    parser.add_argument("-o", "--output", metavar="OUT", help="label file to paint in (default: SCAN_paint beside it)")
    parser.add_argument("--axes", nargs="+", choices=["x", "y", "z"], help="across which axes (default: all)")
    parser.add_argument("--reach", type=float, metavar="MM", help="how far a slice tells (default: 1/5 of the extent)")
    parser.add_argument("--per-voxel", action="store_true", help="choose by gain per voxel to paint, not per slice")
    meaning = parser.add_mutually_exclusive_group()
    meaning.add_argument(
        "--unlabeled", type=count(0), action="append", metavar="CODE", help="this code of LABELS: nobody annotated"
    )
    meaning.add_argument(
        "--annotated-slices", nargs="+", metavar="AXIS=N,N", help="only these slices of LABELS are annotated"
    )
    _reading(parser)
    parser.add_argument("--tta", action="store_true", help="average over flips of the whole volume (8 × the time)")
    parser.add_argument("--max-memory", metavar="SIZE", help="memory to plan with, such as 8GB")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--no-preview", action="store_true", help="write no pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing label file and its pictures")
    _common(parser)


def _experiment(parser: Parser) -> None:
    parser.add_argument("kind", nargs="?", choices=EXPERIMENTS, metavar="KIND", help="one of the above")
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file as for train")
    parser.add_argument("-i", "--images", nargs="+", action="extend", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument("-l", "--labels", nargs="+", action="extend", metavar="LABELS", help="paired by name")
    parser.add_argument("-w", "--weights", nargs="+", action="extend", metavar="WEIGHTS", help="loss weight per voxel")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="results (default: experiments/DATE-KIND)")
    _meaning(parser)
    _reading(parser)
    parser.add_argument("--folds", type=count(2), metavar="N", help="folds of annotated slices (default: 3)")
    parser.add_argument(
        "--slices", nargs="+", metavar="X,Y,Z", help="slices across each axis, as in: --slices 1,1,1 3,3,2 5,5,3"
    )
    parser.add_argument("--seeds", type=count(1), metavar="N", help="trainings of each, N seeds on (default: 3)")
    parser.add_argument("--batchnorm", choices=["on", "off", "both"], help="of folds, slices, dimensions and volumes")
    parser.add_argument("--network", choices=NETWORKS, help="a kind of network, sized for the data (default: unet)")
    parser.add_argument("--dimensions", type=int, choices=[2, 3], help="a 2-D network goes slice by slice (default: 3)")
    parser.add_argument("--planes", nargs="+", choices=["x", "y", "z"], help="of 2-D networks (default: all, averaged)")
    parser.add_argument("--width", type=count(1), metavar="N", help="channels of the network's finest level")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--time-budget", metavar="TIME", help="of every training, such as 90s or 5m (default: 5m)")
    length.add_argument("--iterations", type=count(1), metavar="N", help="of every training")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--seed", type=count(0), metavar="N", help="the first of the seeds (default: 0)")
    parser.add_argument("--workers", type=count(0), metavar="N", help="processes that cut patches (0: this one)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a value of the config")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with an experiment; its rows are kept")
    parser.add_argument("--keep-runs", action="store_true", help="keep the run folder of every row: FOLDER/runs")
    parser.add_argument("--dry-run", action="store_true", help="list the rows and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing experiment")
    _common(parser)
