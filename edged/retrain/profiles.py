"""The devices that a model can be re-tested for: one frozen row each, every figure with its source (docs/devices.md).

Guarantees: a factor stands here only where a published measurement of that chip founds it; else it is 0 and the re-test
says that the speed is not known. Does not guarantee that a board is clocked, cooled or loaded like the one published.
"""

from __future__ import annotations

from edged.retrain.device import SSE42, Profile

_COVERED_HERE = (
    "the delivered file, run by the camera's own engine and preprocessing",
    "one core (affinity), one inference thread",
)
_NO_AVX = "oneDNN kernels limited to SSE4.1 (ONEDNN_MAX_CPU_ISA); numpy, OpenBLAS and OpenCV without AVX"
_MAY_AVX = "OpenVINO's own (not oneDNN) nodes may still use AVX; onnxruntime has no such switch at all"
_SPEED = "clock, caches and memory speed: speed is estimated from a factor"
_NO_SPEED = "speed: no published measurement of this chip founds a factor, so there is no estimate"
_TDP = "power: the chip's thermal design power stands in for it"
_NO_ARM = (
    "ARM's instructions: answers are computed by x86 kernels of the same width (128 bits), which round differently; only "
    "with --verify-isa and an ARM root are a few pictures run on an emulated core of this kind"
)
_NCNN = "ncnn's benchmark/README.md (github.com/Tencent/ncnn)"
_ONE = "one core limited to SSE4 does 36, 63 and 55 images/s of MobileNetV1, MobileNetV2 and SqueezeNet 1.1 (224 px, float)"
_AMD = "AMD EPYC"
_UNREAD = ", as secondary sources repeat it; not opened, not verified"

PROFILES = (
    Profile(
        id="atom-x5-e3930",
        name="Intel Atom x5-E3930 (Apollo Lake, Goldmont)",
        cores=2,
        ghz=1.3,
        memory_bytes=4 << 30,
        isa="SSE4.2",
        power_w=6.5,
        factor=0.29,
        doubt=0.3,
        basis=(
            "two cores at 1.3 GHz do 0.41 of four at 1.6 GHz, which do 0.71 of one such core limited to SSE4 "
            "(see atom-x5-e3940)"
        ),
        processor="E3930",
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(*_COVERED_HERE, _NO_AVX),
        not_covered=(_SPEED, _MAY_AVX, "two cores at once: the factor holds them", _TDP),
        emulator="Denverton",
        sources=(
            "2 cores, 1.30 GHz (burst 1.80), 6.5 W: Intel ARK" + _UNREAD,
            "0.41: cores times clock of the E3930 over those of the E3940",
        ),
    ),
    Profile(
        id="atom-x5-e3940",
        name="Intel Atom x5-E3940 (Apollo Lake, Goldmont)",
        cores=4,
        ghz=1.6,
        memory_bytes=4 << 30,
        isa="SSE4.2",
        power_w=9.5,
        factor=0.71,
        doubt=0.2,
        basis=(
            "four E3940 cores do 0.71 (fp32) to 0.73 (int8) of one such core limited to SSE4, within 20 %; anchored on "
            "Intel's OpenVINO 2022.3 figures for this chip (mobilenet-v2 45.0 / 81.6, resnet-50 4.5 / 11.1 frames/s)"
        ),
        processor="E3940",
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(*_COVERED_HERE, _NO_AVX),
        not_covered=(_SPEED, _MAY_AVX, "four cores at once: the factor holds them", _TDP),
        emulator="Denverton",
        sources=(
            "4 cores, 1.60 GHz (burst 1.80), 9.5 W: Intel ARK" + _UNREAD,
            "Intel, OpenVINO 2022.3 performance benchmarks: mobilenet-v2 and resnet-50 on this chip",
        ),
    ),
    Profile(
        id="jetson-tx2",
        name="NVIDIA Jetson TX2 (4 Cortex-A57 and 2 Denver cores, 256-core Pascal)",
        cores=6,
        ghz=2.0,
        memory_bytes=8 << 30,
        isa="ARMv8 (NEON)",
        power_w=15,
        factor=0.53,
        doubt=0.6,
        basis=(
            "its four A57 cores alone, as published for such cores (see arm-a57); the two Denver cores and the GPU would "
            "come on top"
        ),
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(*_COVERED_HERE, "kernels of 128 bits, as NEON has"),
        not_covered=(
            _SPEED, _NO_ARM, "the GPU: it takes a process of its own there (TensorRT 8.2), which edged does not run",
            "power: 15 W is the larger of the board's two budgets (7.5 W and 15 W)",
        ),
        emulator="cortex-a57",
        sources=(
            "4 Cortex-A57, 2 Denver 2, 256-core Pascal, 8 GB, 7.5 W / 15 W: NVIDIA's data sheet" + _UNREAD,
            _NCNN,
        ),
    ),
    Profile(
        id="arm-a53",
        name="four Cortex-A53 cores at 1.2 GHz",
        cores=4,
        ghz=1.2,
        memory_bytes=1 << 30,
        isa="ARMv8 (NEON)",
        power_w=0,
        factor=0.25,
        doubt=0.6,
        basis=(
            "ncnn on four such cores (Snapdragon 410): MobileNetV1 90 ms, MobileNetV2 82 ms, SqueezeNet 68 ms; "
            f"{_ONE}: 0.31, 0.19 and 0.27 of it"
        ),
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(*_COVERED_HERE, "kernels of 128 bits, as NEON has"),
        not_covered=(_SPEED, _NO_ARM, "that runtime: ncnn was measured, ONNX runs by onnxruntime there", "power"),
        emulator="cortex-a53",
        sources=(_NCNN + ": Qualcomm MSM8916, 4 threads",),
    ),
    Profile(
        id="arm-a57",
        name="four Cortex-A57 cores at 2.0 GHz",
        cores=4,
        ghz=2.0,
        memory_bytes=4 << 30,
        isa="ARMv8 (NEON)",
        power_w=0,
        factor=0.53,
        doubt=0.6,
        basis=(
            "ncnn on one such core (Snapdragon 810): MobileNetV1 114 ms, MobileNetV2 80 ms, SqueezeNet 73 ms; four do 2.7, "
            f"2.1 and 2.2 times as much (as on four A53); {_ONE}: 0.67, 0.41 and 0.54 of it"
        ),
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(*_COVERED_HERE, "kernels of 128 bits, as NEON has"),
        not_covered=(_SPEED, _NO_ARM, "that runtime: ncnn was measured, ONNX runs by onnxruntime there", "power"),
        emulator="cortex-a57",
        sources=(_NCNN + ": Qualcomm MSM8994, 1 thread on a big core; MSM8916, 1 and 4 threads",),
    ),
    Profile(
        id="movidius-ma2450",
        name="Intel Movidius MA2450 (Myriad 2, Neural Compute Stick)",
        cores=12,
        ghz=0.6,
        memory_bytes=0,
        isa="SHAVE, half precision",
        power_w=1.0,
        factor=0.49,
        doubt=1.0,
        basis=(
            "one published report of the stick: MobileNetV1 38 ms, MobileNetV2 49 ms an image; one core here limited to "
            "SSE4 does 36 and 63 images/s: 0.74 and 0.32 of it"
        ),
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(
            _COVERED_HERE[1],
            "weights and activations rounded to IEEE half precision after every operator",
            "the delivered OpenVINO file: it reads back and answers, in float, as the ONNX file that is rounded",
            "MobileNet-class networks only",
        ),
        not_covered=(
            _SPEED, "sums inside one operator: they are held in single precision here",
            "the stick's 512 MB, its USB link, and its compiler (OpenVINO 2018 R4 was the last for this chip, and reads an "
            "older file than is written here)", _TDP,
        ),
        numbers="float16",
        file="openvino-fp16",
        runtime="OpenVINO 2018 R4's MYRIAD plugin",
        family="mobilenet",
        sources=(
            "12 SHAVE cores, 4 Gbit LPDDR3, about 1 W: Intel" + _UNREAD,
            "github.com/xufeifeiWHU/Mobilenet-v2-on-Movidius-stick, issue 2: 38 and 49 ms",
            "github.com/intel/ros_intel_movidius_ncs, issue 109: OpenVINO up to 2018 R4 takes Myriad 2",
        ),
    ),
    Profile(
        id="raspberry-pi-zero",
        name="Raspberry Pi Zero (BCM2835, ARM1176)",
        cores=1,
        ghz=1.0,
        memory_bytes=512 << 20,
        isa="ARMv6, no vector unit",
        power_w=0,
        factor=0,
        basis="no published figure for this processor was found; calibrate one",
        caps=tuple(SSE42.items()),
        covered=_COVERED_HERE,
        not_covered=(
            _NO_SPEED, "ARMv6's scalar arithmetic: answers are computed by x86 vector kernels, which round differently",
            "the runtime: there are no packages of onnxruntime or OpenVINO for ARMv6", "power",
        ),
        runtime="an onnxruntime built for ARMv6",
        sources=("ARM1176JZF-S, 1 GHz, 512 MB: Raspberry Pi's documentation" + _UNREAD,),
    ),
    Profile(
        id="raspberry-pi-zero-2w",
        name="Raspberry Pi Zero 2 W (BCM2710A1, four Cortex-A53 cores at 1.0 GHz)",
        cores=4,
        ghz=1.0,
        memory_bytes=512 << 20,
        isa="ARMv8 (NEON)",
        power_w=0,
        factor=0.14,
        doubt=0.6,
        basis=(
            "ncnn on that board, four threads: MobileNetV1 163 ms, MobileNetV2 146 ms, SqueezeNet 120 ms; "
            f"{_ONE}: 0.17, 0.11 and 0.15 of it"
        ),
        calibrated_on=_AMD,
        caps=tuple(SSE42.items()),
        covered=(*_COVERED_HERE, "kernels of 128 bits, as NEON has"),
        not_covered=(
            _SPEED, _NO_ARM, "that runtime: ncnn (32 bits) was measured, ONNX runs by onnxruntime or OpenCV there",
            "what the system takes of the 512 MB", "power",
        ),
        emulator="cortex-a53",
        sources=(
            _NCNN + ": Raspberry Pi Zero 2 W, 4 threads, minimum of 8",
            "github.com/Tencent/ncnn, issue 3485: how it was built",
        ),
    ),
    Profile(
        id="iphone-7-plus",
        name="Apple iPhone 7 Plus (A10)",
        cores=2,
        ghz=2.34,
        memory_bytes=3 << 30,
        isa="ARMv8 (NEON) and GPU",
        power_w=0,
        factor=0,
        basis="no published Core ML figure for the A10 was found; calibrate one",
        caps=tuple(SSE42.items()),
        covered=(
            _COVERED_HERE[1],
            "weights and activations rounded to IEEE half precision after every operator, as its GPU computes",
        ),
        not_covered=(
            _NO_SPEED, "the Core ML package itself: it runs on Apple's systems only; here its source, the ONNX file, runs",
            "what Core ML puts on the CPU in single precision", "power",
        ),
        numbers="float16",
        file="coreml",
        runtime="Core ML (iOS 15)",
        sources=("A10 Fusion (2 fast, 2 small cores), 3 GB: Apple's specifications" + _UNREAD,),
    ),
    Profile(
        id="ti-c66x",
        name="Texas Instruments C66x DSP (pending: no board has run it)",
        cores=8,
        ghz=1.25,
        memory_bytes=0,
        isa="C66x: products of 8 bits, sums of 32",
        power_w=0,
        factor=0,
        basis="pending: no published figure for such networks was found and no runtime is written yet; calibrate one",
        caps=tuple(SSE42.items()),
        covered=(
            _COVERED_HERE[1],
            "integers only: int8 by int8 into int32, scales that are powers of two, bit by bit what the file says",
            "that no sum can overflow 32 bits: proven for every output",
        ),
        not_covered=(
            _NO_SPEED, "the device itself: no program that reads the file exists for it yet (pending)", "memory", "power",
        ),
        numbers="int8",
        file="int8-shift",
        runtime="none yet",
        sources=("8 C66x cores, up to 1.25 GHz: TI's data sheet SPRS691" + _UNREAD,),
    ),
    Profile(
        id="this-machine",
        name="this machine, one core",
        cores=1,
        ghz=0,
        memory_bytes=0,
        isa="all it has",
        power_w=0,
        basis="measured on this machine",
        covered=_COVERED_HERE,
        not_covered=("any other device", "memory: not limited", "power: not known"),
    ),
)  # fmt: skip
