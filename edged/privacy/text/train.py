"""The recipe of text.onnx: `python -m edged.privacy.text.train` with the options of plates/train.py, frames aside."""

from edged.privacy.plates import train
from edged.privacy.text import scenes

if __name__ == "__main__":
    train.main("text", scenes.drawn, narrowest=3)
