# SPDX-License-Identifier: Apache-2.0
"""Times axial attention beside torch's own on the same inputs, and the paper's colorizer beside plain torch.

    python bench/attention.py                    lines of 64 and of 256, forward, and forward and backward
    python bench/attention.py --networks         the colorizer's forward and training step too (minutes)

Every result is compared with the specification before it is timed. The sides take turns; each figure is the median.
"Share" is of the rate of a large matrix product, measured in the same run. Peers are `scaled_dot_product_attention`
with the bias expanded to a mask, and FlexAttention, compiled, with the bias read by a score_mod (forward only on the
CPU, where it has no backward). The last line is the record, as JSON. What the Triton kernels need of a GPU:
`python bench/kernel_figures.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine, setting, tables
from bench.timing import synchronize
from coltran import cli
from coltran.cli import at_least
from coltran.configs import colorizer as paper
from coltran.networks import layers
from coltran.networks.dense import Dense
from coltran.networks.losses import compute_losses
from coltran_kernels import affine, axial_attention, reference
from coltran_kernels.ops import IMPLEMENTATIONS
from coltran_kernels.reference import relative_bias

HEADS, CHANNELS = 4, 128
SDPA, FLEX = "torch SDPA", "FlexAttention"
Attention = Callable[[Tensor, Tensor, Tensor, Tensor, str], Tensor]


def heads_first(x: Tensor, axis: str) -> Tensor:
    """[B, H, W, h, C] -> [lines, h, L, C]; a view where torch can make one."""
    return (x if axis == "row" else x.transpose(1, 2)).flatten(0, 1).transpose(1, 2)


def heads_last(x: Tensor, like: Tensor, axis: str) -> Tensor:
    """The inverse of `heads_first`."""
    batch = like.shape[0]
    x = x.transpose(1, 2).unflatten(0, (batch, -1))
    return x if axis == "row" else x.transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, axis: str) -> Tensor:
    """Attention written directly with torch's own."""
    out = F.scaled_dot_product_attention(
        heads_first(q, axis), heads_first(k, axis), heads_first(v, axis), attn_mask=relative_bias(bias)
    )
    return heads_last(out, q, axis)


def flex() -> Attention:
    """FlexAttention, which is compiled at its first call."""
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, axis: str) -> Tensor:
        length = bias.shape[1] // 2

        def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + bias[head, key - query + length - 1]

        out = compiled(heads_first(q, axis), heads_first(k, axis), heads_first(v, axis), score_mod=add_bias)
        return heads_last(out, q, axis)

    return attend


def sides(device: torch.device) -> dict[str, Attention]:
    """Everyone who can attend here, by name."""

    def ours(name: str) -> Attention:
        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, axis: str) -> Tensor:
            return axial_attention(q, k, v, bias, axis=axis, causal=False, implementation=setting.named(name))

        return attend

    small = torch.zeros(1, 2, 2, 1, 8, device=device)
    answers = setting.ask(
        lambda name: axial_attention(small, small, small, axis="row", causal=False, implementation=name)
    )
    serving = [name for name in (setting.DEFAULT, *IMPLEMENTATIONS) if answers[name] is None]
    return {name: ours(name) for name in serving} | {SDPA: sdpa, FLEX: flex()}


def medians(calls: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Median, least and most seconds of each call; they take turns, and the first round does not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if round_ > 0:
                found[name].append(time.perf_counter() - start)
    return {name: [statistics.median(times), min(times), max(times)] for name, times in found.items()}


def measure_attention(
    length: int, batch: int, axis: str, train: bool, device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each side on queries, keys and values that are parts of one product, as in the networks."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(batch, length, length, 3, HEADS, CHANNELS, generator=generator).to(device)
    q, k, v = (t.requires_grad_(train) for t in whole.unbind(3))
    bias = torch.randn(HEADS, 2 * length, generator=generator).to(device).requires_grad_(train)
    weights = torch.randn(q.shape, generator=generator).to(device)

    def run(attend: Attention) -> tuple[Tensor, ...]:
        out = attend(q, k, v, bias, axis)
        return (out, *torch.autograd.grad(out, (q, k, v, bias), weights)) if train else (out,)

    here = sides(device)
    if train and device.type == "cpu":
        del here[FLEX]
    expected = run(sdpa)
    for attend in here.values():
        for found, correct in zip(run(attend), expected, strict=True):
            torch.testing.assert_close(found, correct, rtol=1e-3, atol=1e-3 * float(correct.abs().max()))
    del expected
    return medians({name: partial(run, attend) for name, attend in here.items()}, device, repeats)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, axis: str, causal: bool, **terms: Any) -> Tensor:
    """What `coltran.networks.layers` calls, written directly with torch's own attention."""
    terms.pop("implementation")
    q, k, v = (
        affine(x, terms.get(f"{name}_scale"), terms.get(f"{name}_shift"))
        for name, x in zip("qkv", (q, k, v), strict=True)
    )
    mask = relative_bias(bias)
    if causal:
        mask = mask.masked_fill(torch.ones_like(mask[0], dtype=torch.bool).triu(1), float("-inf"))
    out = F.scaled_dot_product_attention(
        heads_first(q, axis), heads_first(k, axis), heads_first(v, axis), attn_mask=mask
    )
    return heads_last(out, q, axis)


def plain_norm(x: Tensor, residual: Tensor | None, scale: Tensor, shift: Tensor, eps: float, **_: Any) -> Tensor:
    """The same for the norm."""
    x = x if residual is None else x + residual
    if scale.dim() == 1:
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), scale)


def plain_dense(layer: Dense, x: Tensor, *, relu: bool = False, **_: Any) -> Tensor:
    """The same for the dense layer."""
    return reference.linear(x, layer.weight, layer.bias, relu)


def measure_colorizer(batch: int, train: bool, device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of the paper's colorizer as it is, and with its operations written directly in plain torch."""
    config = paper.get_config()
    network = setting.build(config.model, device, torch.float32)
    rgb = setting.random_colors(batch, config.model, device)

    def run() -> Tensor:
        with torch.set_grad_enabled(train):
            loss = compute_losses(network, {"rgb": rgb}, config, training=train)["total_loss"]
            if train:
                network.zero_grad()
                loss.backward()
            return loss.detach()

    def run_plain() -> Tensor:
        with (
            mock.patch.object(layers, "axial_attention", plain_attention),
            mock.patch.object(layers, "add_layer_norm", plain_norm),
            mock.patch.object(Dense, "forward", plain_dense),
        ):
            return run()

    torch.testing.assert_close(run(), run_plain(), rtol=1e-4, atol=1e-4)
    return medians({setting.DEFAULT: run, "plain torch": run_plain}, device, repeats)


def show(title: str, found: dict[str, list[float]], share: Callable[[float], float] | None) -> tables.Table:
    """One comparison."""
    rows = [
        (
            name,
            *(tables.number(1000 * value) for value in seconds),
            tables.percent(share(seconds[0])) if share else tables.ABSENT,
            tables.number(found[setting.DEFAULT][0] / seconds[0]),
        )
        for name, seconds in found.items()
    ]
    return tables.Table(title, ("", "median, ms", "least", "most", "share", "default's time over this"), rows)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=at_least(1), nargs="+", default=[64, 256])
    parser.add_argument("--batch", type=at_least(1), nargs="+", default=[1])
    parser.add_argument("--repeats", type=at_least(1), default=5)
    parser.add_argument("--networks", action="store_true", help="the paper's colorizer too, at batches of 1 and 2")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console = tables.console()
    limits = machine.measure_limits(device)
    record: dict[str, Any] = {"machine": machine.describe(device), "limits": limits._asdict(), "seconds": {}}

    def report(title: str, found: dict[str, list[float]], flops: float | None) -> None:
        rate = limits.flops["float32"]
        share = None if flops is None else lambda seconds: flops / rate / seconds
        console.print(tables.to_rich(show(title, found, share)))
        record["seconds"][title] = found

    for train in (False, True):
        for length in options.lengths:
            for batch in options.batch:
                for axis in ("row", "column"):
                    kind = "forward and backward" if train else "forward"
                    found = measure_attention(length, batch, axis, train, device, options.repeats)
                    products = 6 if train else 2
                    flops = 2 * products * batch * HEADS * CHANNELS * length**3
                    report(f"attention, {axis}, L {length}, batch {batch}, {kind}", found, flops)
        if options.networks:
            for batch in (1, 2):
                kind = "training step without its optimizer" if train else "forward"
                found = measure_colorizer(batch, train, device, options.repeats)
                report(f"the paper's colorizer, batch {batch}, {kind}", found, None)
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    cli.run(main)
