"""Licence plates: the detector. README.md beside this file says where the weights come from and what they manage."""

from edged.privacy.plates.detector import PlateDetector

__all__ = ["PlateDetector"]
