"""Explorers: controls around pictures of real traces."""

from attnlib.course.explore.backward_walk import BackwardWalk, walk_backward
from attnlib.course.explore.base import Explorer, Quiz, Stepper
from attnlib.course.explore.fit import WillItFit
from attnlib.course.explore.fold import (
    BlockStepper,
    RescalingExplorer,
    eight_blocks,
    trace_row,
    trace_scores,
    trace_tree,
)
from attnlib.course.explore.masks import MaskExplorer, view_mask
from attnlib.course.explore.sweep import SweepStepper, sweep_keys
from attnlib.course.explore.tile_walk import TileWalk, walk_tiles
from attnlib.course.explore.travel import HowMuchTravels
from attnlib.course.explore.workbench import Workbench, haul_loop, haul_standard
