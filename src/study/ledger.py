"""The deviations ledger: where paper, authors' code, re-implementations and this study differ, and what each does.

An effect is a template: its numbers stand as references to what the notebooks measured, so that none is typed by hand.

``{04.issa_pinned}``
    a claim of ``figures/claims.json``, as printed there
``{02_ladder:adam/rmse}``, ``{01_mistakes_cost:min–max stretched/error|median}``
    a number of ``figures/02_ladder.json`` by its path of names and places; of a list the mean, or another of
    ``STATISTICS``

An effect without a reference says "Not measured" and why, or in which notebook's text it is printed. What could not be
held against its source is marked *unverified*.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioface import paths
from bioface.errors import DataError, unknown_name
from study import claims

REFERENCE = re.compile(r"\{([^{}]+)\}")
STATISTICS: dict[str, Callable[[Any], Any]] = {
    "mean": np.nanmean,
    "median": np.nanmedian,
    "low": lambda values: np.nanquantile(values, 0.05),
    "worst": np.nanmax,
}
COLUMNS = ("topic", "paper", "code", "ours", "effect", "source")
HEADS = ("what", "paper", "code", "ours", "effect measured", "source")


@dataclass(frozen=True)
class Deviation:
    """One row: a choice that is not the same everywhere.

    Attributes
    ----------
    topic : what differs
    paper : what the paper says; "–": nothing, or nothing that we found
    code : what the authors' public code does, or a re-implementation where it says so
    ours : what this study does
    effect : what the difference does, a template with references to measured numbers
    source : where the two columns are from
    """

    topic: str
    paper: str
    code: str
    ours: str
    effect: str
    source: str

    @property
    def notebooks(self) -> list[str]:
        """Numbers of the notebooks that measured the effect."""
        return sorted({reference[:2] for reference in REFERENCE.findall(self.effect)})


Ledger = Mapping[str, tuple[Deviation, ...]]

PAPER = "the paper (arXiv 1908.10578)"
BIOFACES = "ssma502/BioFaces"  # its README names a later paper: it may differ from the code of the BMVC paper
SKINMODEL = "ssma502/SkinModel"
PORTS = "five public PyTorch re-implementations"
NFE = "zhixinshu/NeuralFaceEditing"

#: Every deviation, by what it belongs to.
LEDGER: Ledger = {
    "Training": (
        Deviation(
            "scale of the colours",
            "[0, 1], linear",
            "[0, 255], minus (129.19, 104.76, 93.59)",
            "[0, 1], minus the code's mean / 255 at the network's input",
            "Alone it makes a step {02_deviations:steps/scale_255/measured} times the paper's; after the ladder's "
            "steps still noise: luminance correlation {02_ladder:scale_255/luminance}, the paper's "
            "{02_ladder:paper_literal/luminance}.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "curve from display to linear",
            "–",
            "x to the power 2.2",
            "the sRGB curve",
            "Linear values differ by {02_deviations:gamma} at most.",
            f"{BIOFACES}; IEC 61966-2-1",
        ),
        Deviation(
            "reduction of the appearance loss",
            "mean over the foreground",
            "sum over batch and pixels, / 224²",
            "mean over the foreground",
            "With that scale a step {02_deviations:steps/summed/measured} times the paper's. Summed alone: RMSE "
            "{02_ladder:only_summed/rmse}, as the paper's {02_ladder:paper_literal/rmse}.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "optimiser and rate",
            "SGD, 1e-5",
            "SGD, 1e-5",
            "Adam, 2e-3",
            "RMSE {02_ladder:layered_skin/rmse} with SGD, {02_ladder:adam/rmse} with Adam at the same rate, "
            "{02_ladder:adam_fast/rmse} at ours. {02.ladder_still} recipes with SGD at the paper's rate and scale "
            "stand still: their first step changes a share of {02.stuck} of the weights.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "momentum",
            "–",
            "0.9, the trainer's default",
            "none (Adam has its own)",
            "With scale and sum a step {02_deviations:steps/momentum/measured} times the paper's, and RMSE "
            "{02_ladder:summed/rmse} becomes {02_ladder:momentum/rmse}. Alone it stands still: "
            "{02_ladder:only_momentum/rmse}.",
            BIOFACES,
        ),
        Deviation(
            "weight decay",
            "–",
            "5e-4, the trainer's default",
            "none",
            "RMSE {02_ladder:momentum/rmse} without, {02_ladder:weight_decay/rmse} with.",
            BIOFACES,
        ),
        Deviation(
            "batch and length",
            "–",
            "64 faces, 200 epochs",
            "16 faces, 450 steps (overfit); 64 × 64 pixels",
            "The authors' recipe after all its epochs, of one step each here: {02.code_converges} of a constant "
            "colour's RMSE. `working` after its steps: {02.working_rmse} in linear RGB.",
            BIOFACES,
        ),
        Deviation(
            "weights of the losses",
            "1e-3, 1e-4, 1e-5, 1e-5",
            "the same",
            "`working`: 1e-3 for the shading too",
            "Correlation of the diffuse shading with the truth {02_ladder:skin_start/diffuse_correlation}, with ours "
            "{02_ladder:working/diffuse_correlation}.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "schedule of the rate",
            "–",
            "constant (unverified)",
            "falls to 0 along half a cosine",
            "After the ladder's few steps no gain: RMSE {02_ladder:adam_fast/rmse} constant, {02_ladder:cosine/rmse} "
            "cosine.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "start of the output layers",
            "–",
            "random, as any layer",
            "plain skin in plain light: weights a tenth, biases 0, highlights exp(−2)",
            "RMSE {02_ladder:cosine/rmse} from a random start, {02_ladder:skin_start/rmse} from plain skin.",
            f"{BIOFACES}; `recipes`",
        ),
        Deviation(
            "batch norm",
            "–",
            "a re-implementation: left in evaluation mode",
            "in training mode",
            "Frozen: RMSE {02_ladder:batch_norm_frozen/rmse} for {02_ladder:working/rmse}, melanin correlation "
            "{02_ladder:batch_norm_frozen/melanin_correlation} for {02_ladder:working/melanin_correlation}.",
            PORTS,
        ),
        Deviation(
            "activation of the shadings",
            "exp",
            "a re-implementation: ReLU",
            "exp",
            "ReLU: RMSE {02_ladder:relu_for_exp/rmse} for {02_ladder:working/rmse}, diffuse correlation "
            "{02_ladder:relu_for_exp/diffuse_correlation} for {02_ladder:working/diffuse_correlation}: no worse.",
            f"{PAPER}; {PORTS}",
        ),
        Deviation(
            "backward pass",
            "–",
            "a re-implementation never calls backward()",
            "called",
            "Without it the network stays at its start: RMSE {02_working:start}, with it {02_working:rmse}.",
            PORTS,
        ),
        Deviation(
            "the shading copied from the grey photo, × 1",
            "–",
            "a re-implementation's diagnostic",
            "not used; × k and a fitted factor are tried",
            "Noise stays: {03.literal_copy_rmse} of the first RMSE after training. The least possible is "
            "{03.ceiling_code} of a constant colour's with the code's rows.",
            "the report of the failed re-implementation (not public)",
        ),
        Deviation(
            "width of the network",
            "32 filters",
            "–",
            "8 (`PROFILE=full`: 32)",
            "Not measured: at full width the ladder takes hours.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "training faces",
            "50 765 of CelebA with fitted normals (NFE)",
            "the same",
            "256 rendered ones (the twin); NFE where its files are in `data/nfe`",
            "Not measured: NFE's files are not part of the study.",
            f"{PAPER}; {NFE}",
        ),
    ),
    "Decoder, camera and light": (
        Deviation(
            "rows of raw to XYZ",
            "sum to 1",
            "0.3253, 0.3425, 0.3723",
            "D65 with Y = 1",
            "White is ({02_deviations:white/paper/0}, {02_deviations:white/paper/1}, {02_deviations:white/paper/2}) "
            "with the paper's, {02_deviations:white/code} with the code's, one with ours. In `working` the paper's "
            "change little: RMSE {02_ladder:rows_sum_1/rmse} for {02_ladder:working/rmse}.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "brightness that skin can reach",
            "–",
            "as its rows make it",
            "three times as bright",
            "With the code's rows the brightest tabulated skin is {02_deviations:brightest/0} in linear red, "
            "mid-table ({02_deviations:middle/0}, {02_deviations:middle/1}, {02_deviations:middle/2}), white "
            "{02_deviations:white/code}: a photo takes shadings of several.",
            f"{BIOFACES}; computed",
        ),
        Deviation(
            "table of raw to XYZ",
            "–",
            "row b₁, column b₂; every re-implementation looks it up transposed",
            "computed from the camera, no table",
            "Transposed, at b = (one, minus one): ΔE₀₀ of skin {02_deviations:colour/raw to XYZ transposed/skin}, a "
            "shift of {02_deviations:colour/raw to XYZ transposed/chroma} in chromaticity; white stays white.",
            f"{BIOFACES}; {PORTS}",
        ),
        Deviation(
            "matrix from XYZ to sRGB",
            "the standard's",
            "a re-implementation: transposed",
            "the standard's",
            "White becomes red, ΔE₀₀ {02_deviations:colour/XYZ to sRGB transposed/white}. True maps come back with an "
            "error of {02_deviations:decoded/transposed_matrix} in display values for "
            "{02_deviations:decoded/true maps}; trained, RMSE {02_ladder:transposed_matrix/rmse} for "
            "{02_ladder:working/rmse}.",
            PORTS,
        ),
        Deviation(
            "white balance",
            "divides by the camera's answer to the light",
            "a re-implementation: the light is dropped",
            "as the paper",
            "Under a filament lamp white is off by ΔE₀₀ {02_deviations:colour/balance without the light/white}. "
            "Trained, camera and maps make up for it: RMSE {02_ladder:no_white_balance/rmse} for "
            "{02_ladder:working/rmse}, diffuse correlation {02_ladder:no_white_balance/diffuse_correlation} for "
            "{02_ladder:working/diffuse_correlation}.",
            f"{PAPER}, section 3.4; {PORTS}",
        ),
        Deviation(
            "daylight",
            "CIE daylight",
            "a table: row t is D at (3 + t) · 1000 K, t in [1, 22]",
            "the CIE formula at any temperature, 4 000–25 000 K",
            "Between two rows skin is off by ΔE₀₀ {02_deviations:colour/daylight between two rows/skin}.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "index of the daylight table",
            "–",
            "a re-implementation: detached and rounded",
            "continuous, with a gradient",
            "Rounded at its worst, ΔE₀₀ of skin is {02_deviations:colour/daylight rounded to 1 000 K/skin}. That no "
            "gradient reaches the temperature was not trained.",
            PORTS,
        ),
        Deviation(
            "index of the skin table, rounded",
            "–",
            "a re-implementation: nearest entry, no gradient",
            "interpolated",
            "Melanin correlation {02_ladder:rounded_index/melanin_correlation} for "
            "{02_ladder:working/melanin_correlation}: the pigments never move. RMSE {02_ladder:rounded_index/rmse} "
            "for {02_ladder:working/rmse}.",
            PORTS,
        ),
        Deviation(
            "index of the skin table, mis-scaled",
            "–",
            "a re-implementation: a pixel index where the sampler wants −1 to 1",
            "−1 to 1",
            "True maps come back with an error of {02_deviations:decoded/misscaled_index}; trained, RMSE "
            "{02_ladder:misscaled_index/rmse} for {02_ladder:working/rmse}, melanin correlation "
            "{02_ladder:misscaled_index/melanin_correlation}.",
            PORTS,
        ),
        Deviation(
            "order of the axes",
            "–",
            "a re-implementation: reshape for permute",
            "channels last throughout",
            "True maps come back with an error of {02_deviations:decoded/reshape_for_permute}; trained, RMSE "
            "{02_ladder:reshape_for_permute/rmse} for {02_ladder:working/rmse}.",
            PORTS,
        ),
        Deviation(
            "spectra of all pixels",
            "bands per pixel through the network's gradients",
            "–",
            "the table integrated once per image, then looked up",
            "Colours differ by {04.table_colour} at most, gradients by the pigments by {04.table_gradient_pigment}.",
            f"{PAPER}; {BIOFACES}",
        ),
        Deviation(
            "variance that two camera components explain",
            "97 %",
            "the shipped components",
            "a table derived again from 28 cameras",
            "Centred {04.camera_centred}; with the mean counted as variance {04.camera_uncentred}, as the paper says.",
            "the paper, section 3.2 (a centred share of 54.7 %, from an unpublished account, did not come out again)",
        ),
    ),
    "Skin": (
        Deviation(
            "the published table of skin",
            "256 × 256 × 33",
            "could not be found",
            "made from the public constants",
            "Not measured: the published chart of it is not part of the study.",
            "from an unpublished account, unverified: the public constants miss the chart by a mean colour error of "
            ".049; melanin × 1.26, epidermal blood × .22, dermal blood × 2.9 get to .007",
        ),
        Deviation(
            "`published`, what the public code computes",
            "Eqs. of section 3.1",
            "SkinModel, run unmodified",
            "the same constants",
            "Spectra agree to {04.published_skin}.",
            SKINMODEL,
        ),
        Deviation(
            "units: `layered` for `published`",
            "–",
            "blood and baseline over 1 cm of epidermis, melanin over 0.02 cm",
            "every epidermal absorption over 0.02 cm; the faces are made with it, too",
            "Inside the paper's bounds the public constants leave {04.issa_published} times the residual on measured "
            "faces. In `working` they reconstruct better, RMSE {02_ladder:published_skin/rmse} for "
            "{02_ladder:working/rmse}: reconstruction is no evidence.",
            f"{SKINMODEL}; `skin`",
        ),
        Deviation(
            "blood in the epidermis",
            "–",
            "a quarter of the dermis's, saturation applied twice",
            "none",
            "`layered` with it: median RMSE {02_deviations:constants/blood in the epidermis/rmse} for "
            "{02_deviations:constants/as it is/rmse} on measured faces, over its thin epidermis.",
            f"{SKINMODEL}; `skin`",
        ),
        Deviation(
            "baseline of bloodless skin",
            "–",
            "figures in mm⁻¹ in a sum of cm⁻¹",
            "in cm⁻¹",
            "Residual {02_deviations:constants/baseline in mm⁻¹/rmse} for {02_deviations:constants/as it is/rmse}; "
            "median haemoglobin {02_deviations:constants/baseline in mm⁻¹/haemoglobin} for "
            "{02_deviations:constants/as it is/haemoglobin}.",
            f"{SKINMODEL}; Jacques (1998)",
        ),
        Deviation(
            "Kubelka–Munk's K of the dermis",
            "–",
            "the absorption coefficient",
            "twice that",
            "Median haemoglobin {02_deviations:constants/K once/haemoglobin} for "
            "{02_deviations:constants/as it is/haemoglobin}; residual {02_deviations:constants/K once/rmse} for "
            "{02_deviations:constants/as it is/rmse}.",
            f"{SKINMODEL}; Kubelka (1948)",
        ),
        Deviation(
            "oxygen saturation",
            "–",
            "0.75",
            "0.65, chosen on half of the people of ISSA",
            "Residual {02_deviations:constants/saturation as published/rmse} for "
            "{02_deviations:constants/as it is/rmse}; together with the vessels {04.issa_constants} times lower on "
            "people that it was not chosen on.",
            SKINMODEL,
        ),
        Deviation(
            "blood in vessels",
            "–",
            "spread evenly",
            "in vessels of 10 µm, which shade their inside",
            "Residual {02_deviations:constants/blood spread evenly/rmse} for {02_deviations:constants/as it is/rmse}.",
            f"{SKINMODEL}; van Veen et al. (2002)",
        ),
        Deviation(
            "molar mass of haemoglobin",
            "–",
            "66 500 g/mol",
            "64 500 g/mol, as Prahl's tables",
            "Median haemoglobin {02_deviations:constants/molar mass/haemoglobin} for "
            "{02_deviations:constants/as it is/haemoglobin}.",
            SKINMODEL,
        ),
        Deviation(
            "bounds of the pigments",
            "melanin 1.3–43 %, haemoglobin 2–7 %",
            "upper ends of its table",
            "free in fits of spectra; the table starts near 0",
            "The public constants pin a share of {04.issa_pinned} of measured faces at the lowest haemoglobin; "
            "`layered`, left free, puts {04.issa_outside} outside the bounds.",
            "the paper, section 3.1",
        ),
        Deviation(
            "cheeks of the paper's own data base",
            "–",
            "–",
            "read where the file is at hand",
            "Not measured: the file is not part of the study; notebook 04 fits it where it is at hand.",
            "ISETCam; from an unpublished account, unverified: relative RMSE 2.4 % free, 4.1 % in the bounds",
        ),
    ),
    "Multispectral fit": (
        Deviation(
            "the 2019 model (arXiv 1902.06557)",
            "its full text could not be read",
            "–",
            "its Eq. 3 inferred from BioFaceNet's Eqs. 9 and 12",
            "Not measured: there is nothing to hold it against.",
            "unverified",
        ),
        Deviation(
            "solver",
            "–",
            "the report: SGD on raw fractions, clamped, one thousand steps",
            "variable projection",
            "SGD's haemoglobin map then correlates {04.sgd_shading} with the shading; melanin RMSE "
            "{04_maps_by_solver:rmse/sgd, first steps/0}, ours {04_maps_by_solver:rmse/varpro/0}. To come within a "
            "few per cent of our residual it takes {04.sgd_time} times as long, Adam {04.adam_time} times.",
            "the report of the failed re-implementation (not public)",
        ),
        Deviation(
            "coordinates of the pigments",
            "–",
            "u³, by its table",
            "u³ in the network, fractions in the fit",
            "Printed in notebook 04: the condition number of JᵀJ hardly differs between the two.",
            f"{SKINMODEL}; {BIOFACES}",
        ),
        Deviation(
            "bands at 400 and 410 nm",
            "33 bands",
            "ISET fills them with zeros when it resamples",
            "dropped",
            "Kept as zeros, the residual of a face is {02_deviations:bands/zeros/residual} for "
            "{02_deviations:bands/dropped/residual}, haemoglobin RMSE {02_deviations:bands/zeros/haemoglobin} for "
            "{02_deviations:bands/dropped/haemoglobin}.",
            "ISET; a cube of the twin",
        ),
    ),
    "Shading from the data set": (
        Deviation(
            "normals",
            "–",
            "three re-implementations: left as stored, (n + 1) / 2",
            "decoded",
            "Correlation with the right shading {01_mistakes_cost:normals not decoded/correlation|median}, low end "
            "{01.undecoded}; error {01.undecoded_error} of its deviation. Trained: diffuse correlation "
            "{02_ladder:undecoded_normals/diffuse_correlation} for {02_ladder:working/diffuse_correlation}.",
            PORTS,
        ),
        Deviation(
            "files of lights",
            "–",
            "a re-implementation: images of file 20, lights of file 05",
            "refused by name",
            "Correlation {01_mistakes_cost:light of another face/correlation|median}, error "
            "{01_mistakes_cost:light of another face/error|median} deviations, where a constant has one.",
            PORTS,
        ),
        Deviation(
            "a normal's component as shading",
            "–",
            "a re-implementation",
            "normals and light",
            "Correlation {01_mistakes_cost:a normal component (z)/correlation|median}, error "
            "{01_mistakes_cost:a normal component (z)/error|median} deviations.",
            PORTS,
        ),
        Deviation(
            "shading stretched from its least to its largest value",
            "–",
            "a re-implementation",
            "as it is",
            "Correlation {01_mistakes_cost:min–max stretched/correlation|median}, yet an error of "
            "{01_mistakes_cost:min–max stretched/error|median} deviations after the best scale.",
            PORTS,
        ),
        Deviation(
            "channels 7 to 9 as lighting",
            "–",
            "a re-implementation",
            "a coordinate map, not used",
            "Correlation {01_mistakes_cost:coordinate map as shading/correlation|median}, error "
            "{01_mistakes_cost:coordinate map as shading/error|median} deviations.",
            PORTS,
        ),
        Deviation(
            "space in which shading multiplies albedo",
            "linear",
            "NFE: display values",
            "linear",
            "Display taken for linear: correlation {01_mistakes_cost:display taken for linear/correlation|median}, "
            "error {01_mistakes_cost:display taken for linear/error|median} deviations.",
            f"{PAPER}; {NFE}",
        ),
        Deviation(
            "normals that do not fit mouth and nose",
            "taken as they are",
            "the same",
            "found by a score, kept as known labels on the twin",
            "Found with an area under the curve of {01.auc}; left in, they put a floor of {01.floor} under the mean "
            "diffuse RMSE.",
            f"{PAPER}; {NFE}",
        ),
    ),
    "New faces and Table 1": (
        Deviation(
            "scale of the maps before the RMSE",
            "not stated",
            "–",
            "diffuse after its best scale; pigments in [−1, 1] (the likely reading, unverified)",
            "Raw or scaled is not a detail: a constant scores {05_table1:predict 0/melanin/0} in melanin, the mean of "
            "the training faces {05_table1:training mean/melanin/0}, the network trained as published "
            "{05_table1:published/melanin/0}.",
            "the paper, section 4",
        ),
        Deviation(
            "test faces",
            "25 multispectral ones (ISET)",
            "–",
            "64 of the twin; ISET's where they are in `data/iset`",
            "Not measured: the faces are not ours to pass on.",
            "the paper, section 4",
        ),
        Deviation(
            "what stands for the truth",
            "a fit of all bands",
            "–",
            "exact truth; the fit beside it, on 31 noisy bands",
            "The fit's own error is {05.pseudo} of the network's at most, of five columns.",
            "the paper, section 4",
        ),
        Deviation(
            "losses that see no scale",
            "appearance, and shading up to a factor",
            "the same",
            "also a prior of measured skin, or the truth of rendered faces",
            "As published the mean shading is off {05.ambiguity} times as far as with truth, in octaves, and "
            "{05.a_level} times as far as the training mean's, most of it on dark skin; melanin has a skill of "
            "{05.a_no_skill} over the training mean, with measured skin every column at least {05.b_skill}, with truth "
            "melanin {05.c_melanin_skill}.",
            f"{PAPER}, section 3.3",
        ),
        Deviation(
            "appearance loss beside the truth",
            "–",
            "–",
            "left out of `supervised`",
            "Printed in notebook 05: it buys reconstruction with melanin, albedo and highlights.",
            "`recipes`",
        ),
        Deviation(
            "recoloured faces, mirrored, exposed as the twin's",
            "–",
            "–",
            "in the trainings for new faces",
            "Printed in notebook 05: not shown to help.",
            "`augmentation`",
        ),
        Deviation(
            "first steps at half the size",
            "–",
            "–",
            "in the trainings for new faces",
            "Printed in notebook 05: the same time at full size leaves highlights and haemoglobin behind.",
            "`generalisation`",
        ),
    ),
    "Editing": (
        Deviation(
            "what the maps do not explain",
            "not stated",
            "–",
            "follows the skin as it becomes darker or lighter",
            "With more melanin the error is {06.rest} of that with a rest that stays.",
            "the paper, Fig. 4",
        ),
        Deviation(
            "how an edit is judged",
            "by eye",
            "–",
            "against renderings of the edited truth",
            "Error over that of no edit: melanin {06.melanin_edit}, haemoglobin {06.haemoglobin_edit}, highlights "
            "{06.specular_edit}.",
            "the paper, Fig. 4",
        ),
    ),
}


def resolved(ledger: Ledger = LEDGER, figures: str | Path | None = None, only: str | None = None) -> Ledger:
    """The ledger with the numbers in place of their references, and with their notebooks among the sources.

    Parameters
    ----------
    figures : the folder of figures and claims; left out, the project's own
    only : a notebook's number: effects that another one measured say in which, without numbers, so that the table
        does not change with notebooks that run later

    Raises
    ------
    DataError, BiofaceError : a reference to what is not there
    """
    figures = Path(figures or paths.figures())

    def row(d: Deviation) -> Deviation:
        where = ", ".join(f"notebook {number}" for number in d.notebooks)
        if only is not None and set(d.notebooks) - {only}:
            effect = f"Measured in {where}."
        else:
            effect = REFERENCE.sub(lambda found: measured(found[1], figures), d.effect)
        source = f"{d.source}; effect: {where}" if where else d.source
        return dataclasses.replace(d, effect=effect, source=source)

    return {part: tuple(map(row, rows)) for part, rows in ledger.items()}


def measured(reference: str, figures: Path) -> str:
    """A measured number as text, by its reference.

    Raises
    ------
    DataError : no such file, claim or number, or one that was not measured
    BiofaceError : an unknown statistic
    """
    name, colon, rest = reference.partition(":")
    if not colon:
        known = {claim.id: claim for claim in claims.read(figures / claims.FILE)}
        if name not in known or known[name].measured is None:
            raise DataError(figures / claims.FILE, f"a measured claim {name}", "none")
        return f"{known[name].shown} {known[name].unit}".strip()
    path, _, statistic = rest.partition("|")
    if statistic and statistic not in STATISTICS:
        raise unknown_name("statistic", statistic, STATISTICS)
    file = figures / f"{name}.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))["numbers"]
        for step in path.split("/"):
            value = value[int(step) if isinstance(value, list) else step]
        values = np.asarray(value, float)
        if not np.isfinite(values).any():
            raise ValueError("not a finite number")
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(file, f"a number {path}", f"{type(error).__name__}: {error}") from error
    return claims.number(float(STATISTICS[statistic or "mean"](values)), 2).replace("-", "−")


def as_html(ledger: Ledger) -> str:
    """A resolved ledger as one HTML table: a group of rows for each part, `code` set as code."""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADS)
    lines = [f'<table class="ledger">\n<thead><tr>{head}</tr></thead>']
    for part, rows in ledger.items():
        group = f'<th colspan="{len(HEADS)}" scope="rowgroup">{_marked(part)}</th>'
        lines.append(f'<tbody>\n<tr class="group" id="{anchor(part)}">{group}</tr>')
        for row in rows:
            topic, *cells = (_marked(getattr(row, column)) for column in COLUMNS)
            lines.append(f'<tr><th scope="row">{topic}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


def anchor(part: str) -> str:
    """Where a part of the ledger is on a page.

    >>> anchor("Decoder, camera and light")
    'ledger-decoder-camera-and-light'
    """
    return "ledger-" + re.sub(r"[^a-z0-9]+", "-", part.lower())


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def as_text(ledger: Ledger) -> str:
    """A resolved ledger as plain text: what differs, and what it does."""
    lines = []
    for part, rows in ledger.items():
        lines += ["", part.upper()]
        for row in rows:
            said = f"{row.topic}: paper {row.paper}; code {row.code}; ours {row.ours}. {row.effect} [{row.source}]"
            lines += textwrap.wrap(said, 118, subsequent_indent="    ")
    return "\n".join(lines[1:])


@dataclass(frozen=True)
class Table:
    """What :func:`table` gives: HTML where a page can show it, else text."""

    ledger: Ledger

    def _repr_html_(self) -> str:
        style = ".ledger th, .ledger td { text-align: left; vertical-align: top; }"  # JupyterLab's is to the right
        return f"<style>{style}</style>\n{as_html(self.ledger)}"

    def __repr__(self) -> str:
        return as_text(self.ledger)


def table(only: str | None = None, figures: str | Path | None = None) -> Table:
    """The ledger to be shown in a notebook; parameters and errors as in :func:`resolved`."""
    return Table(resolved(LEDGER, figures, only))
