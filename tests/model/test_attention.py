"""Every kernel of attention gives what the formula gives, forward and backward, and is refused where it cannot run.

FlexAttention's own code refuses to differentiate on a CPU, where only its compiled backward pass is missing; these
tests lift that and take its uncompiled form. FlashAttention-3 cannot be installed without its GPU: `flash_attn_func`
here is a stand-in by the package's own signature that refuses what the package refuses.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from aquarat_core.model import attention, fused
from aquarat_core.model.attention import attend, block_mask, unavailable
from tests.factories import CPU, random_model

CASES = {  # query heads, key/value heads, tokens, window
    "whole": (4, 4, 160, 160),
    "window": (4, 4, 160, 48),
    "window of one": (2, 2, 130, 1),
    "groups": (4, 2, 160, 160),
    "groups and window": (6, 2, 160, 128),
}
H100 = (9, 0)


def flash_attn_func(
    q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
    window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0,
    return_attn_probs=False,
):  # fmt: skip
    """What the package documents: [B, T, heads, D] in 16 bits, keys from i - left to i + right of each query i."""
    B, T, H, D = q.shape
    for x in (q, k, v):
        if x.dtype not in (torch.bfloat16, torch.float16) or x.dtype != q.dtype:
            raise RuntimeError("FlashAttention only supports fp16, bf16, and fp8_e4m3 data type")
        if x.stride(-1) != 1:
            raise RuntimeError("Input tensor must have contiguous last dimension")
    if D > 256 or D % 8 or k.shape != (B, T, k.size(2), D) or v.shape != k.shape or H % k.size(2):
        raise RuntimeError("shapes")
    if (softmax_scale, qv, q_descale, k_descale, v_descale, attention_chunk, softcap) != (*[None] * 5, 0, 0.0):
        raise NotImplementedError("the model asks for none of these")
    left, right = window_size
    distance = torch.arange(T)[:, None] - torch.arange(T)
    seen = (left < 0) | (distance <= left)
    if causal or right >= 0:
        seen = seen & (-distance <= (0 if causal else right))
    k, v = (x.repeat_interleave(H // x.size(2), dim=2).transpose(1, 2).float() for x in (k, v))
    scores = (q.transpose(1, 2).float() @ k.mT) * D**-0.5
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).to(q.dtype).transpose(1, 2)


def formula(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Row by row in float64."""
    groups, T = q.size(1) // k.size(1), q.size(2)
    out = []
    for t in range(T):
        first = max(0, t - window + 1)
        k_t, v_t = (x[:, :, first : t + 1].repeat_interleave(groups, dim=1) for x in (k, v))
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k_t) * q.size(-1) ** -0.5
        out.append(torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v_t))
    return torch.stack(out, dim=2)


def tensors(heads: int, kv_heads: int, T: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values and a gradient of the output: laid out as the model does, [B, T, heads, D] in memory."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, T, n, 16) for n in (heads, kv_heads, kv_heads, heads)]
    made = [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes]
    return [*(x.requires_grad_() for x in made[:3]), made[3]]


def values_and_gradients(function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, d_out: Tensor) -> list:
    out = function(q, k, v)
    return [out, *torch.autograd.grad(out, (q, k, v), d_out)]


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A host with a Hopper GPU and the package of FlashAttention-3, as far as they are asked."""
    package = ModuleType(attention.FA3_MODULES[1])
    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn_3", ModuleType("flash_attn_3"))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setattr(attention, "_flash_attn_func", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: H100)
    return torch.device("cuda")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["fused", "sdpa", "flex", "fa3"])
def test_every_kernel_is_the_formula(
    backend: str, case: str, hopper: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, kv_heads, T, window = CASES[case]
    dtype = torch.bfloat16 if backend == "fa3" else torch.float32
    q, k, v, d_out = tensors(heads, kv_heads, T, dtype)
    asked = "sdpa" if backend == "fused" else backend
    if backend != "fused":
        monkeypatch.setattr(fused, "enabled", False)
        monkeypatch.setattr(fused, "causal_attention", None)
    if backend == "flex":
        import torch.nn.attention.flex_attention as flex

        monkeypatch.setattr(flex, "_validate_device", lambda *given: None)
    if backend == "fa3":
        assert unavailable("fa3", hopper, dtype, 16) is None
    kernel = functools.partial(attend, window=window, backend=asked)
    if backend == "flex" and window < T:
        # As `attend` calls it in compiled code, which the next test shows.
        kernel = functools.partial(attention._flex_attention, blocks=block_mask(T, window, CPU))
    found = values_and_gradients(kernel, q, k, v, d_out)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    for name, mine, theirs in zip(
        ("out", "dq", "dk", "dv"),
        found,
        values_and_gradients(lambda *x: formula(*x, window), *wide, d_out.double()),
        strict=True,
    ):
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: n + m)


def test_where_sums_must_repeat_flex_attention_serves_whole_contexts_too() -> None:
    model = random_model(window_pattern="SL", sequence_len=512)
    model.set_kernels("flex")
    assert [block.attention.blocks is not None for block in model.blocks] == [True, False]
    model.set_kernels("flex", deterministic=True)
    whole = model.blocks[1].attention
    assert whole.blocks is block_mask(512, whole.window, CPU) and whole.window == 512
    model.set_kernels("sdpa")
    assert not any(block.attention.blocks for block in model.blocks)


def test_flex_attention_compiles_with_the_model_and_outside_of_compiled_code_is_sdpa() -> None:
    T, window = 256, 128
    q, k, v, _ = (x.detach() for x in tensors(4, 2, T, torch.float32))
    blocks = block_mask(T, window, CPU)
    assert block_mask(T, window, CPU) is blocks
    assert float(blocks.sparsity()) == pytest.approx(25.0)
    expected = attend(q, k, v, window)
    graph = []

    def keep(module: torch.fx.GraphModule, inputs: list) -> Callable:
        graph.append(module.code)
        return module.forward

    compiled = torch.compile(lambda: attend(q, k, v, window, "flex", blocks), fullgraph=True, backend=keep)
    with torch.no_grad():
        torch.testing.assert_close(compiled(), expected, atol=1e-5, rtol=1e-5)
    assert "flex_attention" in graph[0]
    # Rows of another length than the blocks are for.
    shorter = [x[:, :, :100] for x in (q, k, v)]
    torch.testing.assert_close(attend(*shorter, 64, "flex", blocks), attend(*shorter, 64))


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "head_size", "capability", "reason"),
    [
        ("flex", "cpu", torch.bfloat16, 64, H100, "it needs a GPU, but this is cpu"),
        ("fa3", "cpu", torch.bfloat16, 64, H100, "it needs a GPU, but this is cpu"),
        ("fa3", "cuda", torch.bfloat16, 64, (8, 0), "made for Hopper (compute capability 9), but this GPU has 8.0"),
        ("fa3", "cuda", torch.bfloat16, 64, (10, 0), "but this GPU has 10.0"),
        ("fa3", "cuda", torch.float32, 64, H100, "it computes in bfloat16, not in float32"),
        ("fa3", "cuda", torch.bfloat16, 260, H100, "head_size 260 is not a multiple of 8 up to 256"),
    ],
)
def test_what_a_kernel_cannot_do_is_said(
    backend, device, dtype, head_size, capability, reason, hopper: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = unavailable(backend, torch.device(device), dtype, head_size)
    assert found is not None and reason in found
    assert unavailable("sdpa", torch.device(device), dtype, head_size) is None
    assert unavailable("fa3", hopper, torch.bfloat16, 128) is None or capability != H100


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: H100)
    for module in attention.FA3_MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    found = unavailable("fa3", torch.device("cuda"), torch.bfloat16, 128)
    assert found == "none of its modules (flash_attn_interface, flash_attn_3.flash_attn_interface) can be imported"
