"""A project in small that can be sent to hosts: its environments hold wheels of a few bytes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

TORCH = """
import subprocess
from types import SimpleNamespace
__version__, version = "{version}", SimpleNamespace(cuda="{cuda}")
def _count():
    try:
        return len(subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE).stdout.split(b"\\n")) - 1
    except OSError:
        return 0
cuda = SimpleNamespace(device_count=_count, is_available=lambda: False)
"""
"""What the doctor asks of torch, answered by what the driver lists."""


def small_checkout(directory: Path) -> Path:
    """A project in small: one module, two locks of tiny wheels in `directory`/index, and a wheel for the tokenizer's.

    The locks are for CUDA 13.2 and 12.8, by wheels that only have the names of NVIDIA's.
    """
    folder = directory / "checkout"
    (folder / "aquarat_core").mkdir(parents=True)
    (folder / "aquarat_core/__init__.py").write_text("ANSWER = 42\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "aquarat"\nversion = "1"\n[tool.setuptools.packages.find]\ninclude = ["aquarat_core*"]\n'
    )
    wheel(folder / "rust/target/wheels", "rustbpe_py", "1")
    index = directory / "index"
    common = wheel(index, "locked", "1")
    for lock, cuda, torch in (
        ("requirements-host.lock", ("cuda_toolkit", "13.2.2"), "2.15.0"),
        ("requirements-host-cuda12.lock", ("nvidia_cuda_runtime_cu12", "12.8.90"), "2.10.0"),
    ):
        pins = [
            wheel(index, *cuda),
            common,
            wheel(index, "torch", torch, TORCH.format(version=torch, cuda=cuda[1][:4])),
        ]
        (folder / lock).write_text("".join(pins))
    return folder


def wheel(folder: Path, name: str, version: str, code: str = "") -> str:
    """Makes a wheel of one module; its line in a lock file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{part},,\n" for part in (*content, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for part, text in (content | {f"{about}/RECORD": record}).items():
            archive.writestr(part, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}\n"
