"""Train, compress, re-test, judge. Everything heavy runs in a child process per stage (`python -m edged.retrain STAGE
DIR`).

Light (no torch, no cv2; `edged.improve` imports them): `jobs`, `children`, `limits`, `tidy`, `device`, `gate`, `report`, `nets`,
`tables`, `fits`, `recipes`, `card`, `bring` (its child is `prove`), `weights_file`.
Child side (torch, onnx, cv2 inside): `zoo`, `pictures`, `train`, `export`, `compress`, `trial`.
"""
