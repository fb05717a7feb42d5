"""The cells of a survey as large as `sdss-sn`, planned as a build plans them, from a synthetic exposure index.

The real index cannot be had without the internet. There are as many runs in it as give the 0.85 million frames that
the survey's candidates are known to lie on.
"""

from __future__ import annotations

import numpy as np

from benchmarks.index import objects, stripe82
from benchmarks.support.schedule import CellCost
from pipeline.catalog import Catalog, Target
from pipeline.costs import CUT_CPU_S, FRAME_MB, MASK_MB, TABLE_MB, VERIFY_CPU_S
from pipeline.plan import Cell, Plan, make_plan
from pipeline.survey import load_survey

N_RUNS = 242


def plan_sdss_sn(seed: int = 82) -> tuple[Plan, str]:
    """The plan, and which objects they are; ids, and so seasons, are drawn."""
    survey = load_survey("sdss-sn")
    ra_deg, dec_deg, which = objects()
    rng = np.random.default_rng(seed)
    known = [np.arange(one.first_cid, one.last_cid + 1) for one in survey.selection.seasons if one.first_cid]
    ids = rng.choice(np.concatenate(known), len(ra_deg), replace=False)
    targets = tuple(
        Target(str(cid), float(ra), float(dec), "", "", "")
        for cid, ra, dec in zip(ids.tolist(), ra_deg, dec_deg, strict=True)
    )
    return make_plan(survey, Catalog(targets, (), ""), stripe82(N_RUNS)), which


def cost_of(cell: Cell, n_bands: int = 5) -> CellCost:
    """From the constants that `s82 plan` counts with: means over real files."""
    layouts = [visit.exposure.layout for visit in cell.visits]
    megabytes = sum(n_bands * (FRAME_MB[layout] + MASK_MB[layout]) + TABLE_MB[layout] for layout in layouts)
    core_s = sum(n_bands * (CUT_CPU_S[layout] + VERIFY_CPU_S[layout]) for layout in layouts)
    return CellCost(megabytes, core_s)
