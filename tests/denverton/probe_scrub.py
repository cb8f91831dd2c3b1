"""One scrub: a JPEG decoded, faces and plates looked for, encoded and cut again, by the code of the scrub child."""

from __future__ import annotations

from edged.clock import stopwatch
from edged.engine import patterns
from edged.privacy.faces import FaceDetector
from edged.privacy.picture import Scrubber, encode
from edged.privacy.talk import Request

PX = 128  # a tiny picture: emulation makes the network some hundred times slower


def main() -> None:
    begin = stopwatch()
    scrubber = Scrubber([FaceDetector()])
    print(f"  detector ready {stopwatch() - begin:.1f} s", flush=True)
    begin = stopwatch()
    jpeg = encode(patterns.picture(1, PX), 90)
    done = scrubber.scrub(Request(1, "cam", "roi", PX, PX, (), jpeg))
    assert done.width == PX
    assert len(done.crops) == 1
    print(f"  scrubbed {stopwatch() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
