"""Burned-in text: the detector. README.md beside this file says where the weights come from and what they manage."""

from edged.privacy.text.detector import TextDetector

__all__ = ["TextDetector"]
