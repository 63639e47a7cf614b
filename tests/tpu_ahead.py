# SPDX-License-Identifier: Apache-2.0
"""Compiles the graphs of a row for a TPU without having one: `make tpu-aot`.

    tpu_ahead.py export FOLDER      with torch_xla: writes the graphs' StableHLO at the paper's size, runs nothing
    tpu_ahead.py compile FOLDER     with jax and libtpu: compiles each for one chip, prints what memory it plans and how
                                    many cycles it counts for one turn of the graph's loop

Two halves in one file: the libraries want environments of their own. The graphs are those that
`coltran.sampling.sample` runs for every row: the row decoder and the outer
decoder's new row with the conditioning.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCHES = (1, 20, 64)
TOPOLOGY = "v5e:2x2"  # of which one chip is compiled for
MEBIBYTE = 1 << 20


def export(folder: Path) -> None:
    """Writes NAME-BATCH.mlir for each graph and batch. All tensors are placeholders without memory."""
    os.environ["PJRT_DEVICE"] = "CPU"
    sys.path[0] = str(ROOT)
    import torch
    from torch.utils._pytree import tree_map
    from torch_xla.core import xla_builder, xla_model

    from coltran import networks
    from coltran.configs import colorizer
    from coltran.sampling import decoding_graphs, xla_rows
    from coltran.sampling.decoding import decoder_weights
    from coltran_kernels import decode_row

    def placeholder(value: Any) -> Any:
        return xla_builder.create_placeholder_tensor(value.shape, value.dtype) if torch.is_tensor(value) else value

    config = networks.model_config(colorizer.get_config())
    with torch.device("meta"):
        network = networks.build(config)
    network = network._apply(placeholder).eval()
    height, width = config["resolution"]
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, batch: int, tensors: list[torch.Tensor]) -> None:
        path = folder / f"{name}-{batch}.mlir"
        path.write_text(xla_model.get_stablehlo(tensors), encoding="utf-8")
        print(f"{path}: {path.stat().st_size} bytes", flush=True)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return xla_builder.create_placeholder_tensor(shape, dtype)

    for batch in BATCHES:
        with torch.no_grad():
            z = empty(batch, height, width, config["hidden_size"])
            decoders, image, rows = xla_rows.start(network, z, norm="exact", implementation=None)
            decoders, image, rows = tree_map(placeholder, (decoders, image, rows))
            terms = decoding_graphs.conditioning(decoders, image, rows)
            uniforms = empty(batch, height, width).index_select(1, rows.state.rows[1:])[:, 0]
            found = decode_row(decoder_weights(network), terms, uniforms)
            write("row decoding", batch, [tensor for tensor in found if tensor is not None])
            labels = empty(batch, width, dtype=torch.int64)
            xla_rows.go_on(network, decoders, image, rows, labels, implementation=None)
            made = [rows.inputs, rows.terms, *rows.caches, rows.state.rows, rows.state.labels, rows.state.previous]
            write("outer decoder", batch, made)


def cycles_of_turn(program: str) -> str:
    """The compiler's estimate for one turn of a program's loop, in thousands: the sum over the body's instructions."""
    body = re.search(r" while\(.*body=%([\w.-]+)", program)
    if body is None:
        return "–"
    instructions = program.split(f"\n%{body[1]} (")[1].split("\n}")[0]
    return f"{sum(map(int, re.findall(r'estimated_cycles.:.([0-9]+)', instructions))) / 1000:.0f}"


def compile_for_tpu(folder: Path) -> None:
    """Compiles every graph of the folder and prints a line of a table for each."""
    # Nobody looks for a TPU to run on.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    import jax
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    chip = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]
    print(f"{chip.device_kind}, jax {jax.__version__}")
    planned = "arguments, MiB | results, MiB | working memory, MiB | code, MiB"
    print(f"| graph | batch | {planned} | a turn of its loop, thousand cycles | compiled in, s |\n{'| --- ' * 8}|")
    for path in sorted(folder.glob("*.mlir"), key=lambda p: (p.stem.split("-")[0], int(p.stem.split("-")[1]))):
        start = time.perf_counter()
        with mlir.make_ir_context():
            module = mlir.module_to_bytecode(ir.Module.parse(path.read_text(encoding="utf-8")))
            options = compiler.get_compile_options(num_replicas=1, num_partitions=1, device_assignment=[[chip.id]])
            devices = xla_client.DeviceList((chip,))
            executable = chip.client.compile(module, executable_devices=devices, compile_options=options)
        seconds = time.perf_counter() - start
        memory = executable.get_compiled_memory_stats()
        sizes = (
            memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes,
            memory.generated_code_size_in_bytes,
        )  # fmt: skip
        name, batch = path.stem.split("-")
        program = executable.hlo_modules()[0].to_string()
        cells = [name, batch, *(f"{size / MEBIBYTE:.1f}" for size in sizes), cycles_of_turn(program), f"{seconds:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        if len(sys.argv) > 3:  # the compiled program, to be read
            path.with_suffix(".hlo").write_text(program, encoding="utf-8")


if __name__ == "__main__":
    {"export": export, "compile": compile_for_tpu}[sys.argv[1]](Path(sys.argv[2]))
