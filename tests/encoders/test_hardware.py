import os

import pytest
import torch

from microtome.encoders import hardware
from microtome.encoders.hardware import (
    Choice,
    cpu_flags,
    has_cpu_bf16,
    read_flags,
    read_quota,
    resolve_device,
    resolve_runtime,
    runtime_version,
    usable_cores,
)
from microtome.errors import ConfigError

AMX, AVX512_BF16, AVX2 = {"avx512f", "amx_bf16"}, {"avx512f", "avx512_bf16"}, {"avx2"}


@pytest.fixture
def machine(monkeypatch):
    """Pretend: CPU flags, GPUs by capability, Metal, whether OpenVINO is installed."""

    def pretend(flags, gpus=(), *, mps=False, openvino=True):
        monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr(hardware, "has_openvino", lambda: openvino)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpus[torch.device(device).index])
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("flags", "gpus", "mps", "openvino", "expected"),
    [
        (AMX, (), False, True, Choice("openvino", "cpu", "bf16")),
        (AVX512_BF16, (), False, True, Choice("openvino", "cpu", "bf16")),
        (AMX, (), False, False, Choice("torch", "cpu", "bf16")),
        (AVX2, (), False, True, Choice("torch", "cpu", "fp32")),
        ((), (), False, True, Choice("torch", "cpu", "fp32")),
        (AMX, ((9, 0),), False, True, Choice("torch", "cuda:0", "bf16")),
        (AMX, ((7, 5),), False, True, Choice("torch", "cuda:0", "fp32")),
        (AMX, (), True, True, Choice("torch", "mps", "fp32")),
    ],
)
def test_auto_takes_what_the_hardware_is_best_at(machine, flags, gpus, mps, openvino, expected):
    machine(flags, gpus, mps=mps, openvino=openvino)
    assert resolve_runtime() == expected
    assert resolve_runtime("auto", "auto", "auto") == expected
    assert resolve_runtime(expected.device, expected.precision, expected.runtime) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("cpu", "fp32", "auto"), Choice("torch", "cpu", "fp32")),
        (("cpu", "bf16", "torch"), Choice("torch", "cpu", "bf16")),
        (("cpu", "fp32", "openvino"), Choice("openvino", "cpu", "fp32")),
        (("cpu", None, "torch"), Choice("torch", "cpu", "bf16")),
        (("cuda", "fp16", "auto"), Choice("torch", "cuda:0", "fp16")),
        (("cuda:1", None, "auto"), Choice("torch", "cuda:1", "fp32")),
        (("cuda:1", "bf16", "auto"), Choice("torch", "cuda:1", "bf16")),
    ],
)
def test_what_is_asked_for_is_had(machine, asked, expected):
    machine(AMX, ((8, 6), (7, 0)))
    assert resolve_runtime(*asked) == expected


def test_bf16_without_the_hardware_is_torchs(machine):
    machine(AVX2)
    assert resolve_runtime("cpu", "bf16") == Choice("torch", "cpu", "bf16")
    with pytest.raises(ConfigError, match="AMX"):
        resolve_runtime("cpu", "bf16", "openvino")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("abacus", None, "auto"), "abacus"),
        (("cpu:0", None, "auto"), "cpu:0"),
        (("cuda:x", None, "auto"), "cuda:x"),
        (("cuda:-1", None, "auto"), "cuda:-1"),
        (("cuda:", None, "auto"), "cuda:"),
        (("", None, "auto"), "''"),
        (("cpu", "fp1", "auto"), "fp1"),
        (("cpu", "", "auto"), "precision ''"),
        (("cpu", None, "onnx"), "onnx"),
        (("cpu", "fp16", "auto"), "fp16 is for GPUs"),
        (("cpu", "fp16", "openvino"), "fp16 is for GPUs"),
        (("cuda", None, "openvino"), "OpenVINO is for the CPU"),
        (("cuda:2", None, "auto"), "cuda:0 to cuda:1"),
        (("mps", None, "auto"), "Metal"),
    ],
)
def test_what_cannot_be_had_is_refused(machine, asked, words):
    machine(AMX, ((8, 0), (8, 0)))
    with pytest.raises(ConfigError, match=words):
        resolve_runtime(*asked)


def test_no_gpu_is_said(machine):
    machine(AMX)
    with pytest.raises(ConfigError, match=r"finds no GPU.*--device cpu"):
        resolve_device("cuda")
    with pytest.raises(ConfigError, match="finds no GPU"):
        resolve_device("cuda:0")


def test_openvino_that_is_not_installed_is_said_with_how_to_install_it(machine, monkeypatch):
    machine(AMX, openvino=False)
    with pytest.raises(ConfigError, match=r"pip install 'microtome\[cpu\]'"):
        resolve_runtime("cpu", "bf16", "openvino")
    assert resolve_runtime("cpu", "bf16").runtime == "torch"
    with pytest.raises(ConfigError, match=r"pip install 'microtome\[cpu\]'"):
        runtime_version("openvino-that-nobody-wrote")


def test_versions_are_those_of_the_libraries():
    assert runtime_version("torch").split("+")[0] == torch.__version__.split("+")[0]
    assert runtime_version("openvino")[:2] == "20"


def test_flags_count_only_if_all_cores_have_them():
    text = "flags\t\t: fpu amx_bf16 avx2\nbugs\t\t: x\n\nflags\t\t: fpu avx2\nvmx flags\t: amx_bf16\n"
    assert read_flags(text) == {"fpu", "avx2"}
    assert read_flags("") == frozenset()
    assert read_flags("Features\t: fp asimd bf16\n") == frozenset()


def test_bf16_is_more_than_avx512(machine):
    machine({"avx512f", "avx512_vnni", "amx_int8", "amx_tile"})
    assert not has_cpu_bf16()
    machine(AMX)
    assert has_cpu_bf16()


def test_flags_of_this_machine_can_be_read():
    if os.uname().machine == "x86_64":
        assert "sse2" in cpu_flags()


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2.0), ("50000 100000", 0.5), ("", None), ("1 0", None), ("x y", None)],
)
def test_a_containers_share_of_time(text, cores):
    assert read_quota(text) == cores


def test_cores_are_those_that_the_process_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "read_quota", lambda text: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8}, raising=False)
    assert usable_cores() == 3
    quota = tmp_path / "cpu.max"
    quota.write_text("150000 100000", encoding="ascii")
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(hardware, "_QUOTA", quota)
    assert usable_cores() == 2
    quota.write_text("20000 100000", encoding="ascii")
    assert usable_cores() == 1
    monkeypatch.setattr(hardware, "_QUOTA", tmp_path / "absent")
    assert usable_cores() == 64
