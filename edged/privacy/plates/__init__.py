"""Licence plates: the detector. See README.md beside this file for the weights' origin and figures."""

from edged.privacy.plates.detector import PlateDetector
from edged.privacy.plates.strokes import find

__all__ = ["PlateDetector", "find"]
