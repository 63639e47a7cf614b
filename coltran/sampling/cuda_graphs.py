# SPDX-License-Identifier: Apache-2.0
"""Drawing images on a GPU by replaying a few CUDA graphs: nothing else is issued, and one flag is read.

    begin     the encoder, all projections of the gray image, the first row's conditioning
    pass      the inner decoder on a row, draw, compare; again until the row settles (Jacobi decoding)
    advance   the outer decoder on the row that has settled, the next row's conditioning and guess

They are captured at the first call for a batch size and options, and kept. Whether a row has settled is known from a
number in pinned memory that the host reads one pass behind: it never waits for what it has issued last, and a pass over
a row that has settled returns at once.

Without a GPU, interpreted, a graph is the function that it would be captured from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coltran.networks.colorizer import Colorizer
from coltran.networks.dense import made_once
from coltran.networks.layers import EPS
from coltran.sampling import decoding_graphs as graphs
from coltran.sampling.encoding import encode_gray
from coltran_kernels import RowDraws, SamplingOptions, decode_row, row_pass, row_state
from coltran_kernels.decode_row import passes_win

KEPT = 4  # sets of graphs of a network that stay captured, the last used ones
AfterRow = Callable[[Tensor, Tensor], "Tensor | None"]


def capture(function: Callable[[], object]) -> Callable[[], None]:
    """What repeats everything that the function issues: a CUDA graph's replay, after a call that warms up."""
    if not torch.cuda.is_available():
        return lambda: (function(), None)[1]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class Flag:
    """A number on the GPU as the host sees it, one replay behind."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.on_gpu = torch.cuda.is_available()
        self.host = torch.zeros(1, dtype=value.dtype, pin_memory=self.on_gpu)
        self.seen = self.host.numpy()
        self.events = [torch.cuda.Event() for _ in range(2)] if self.on_gpu else []

    def publish(self) -> None:
        """Copies the number to the host; part of a graph."""
        self.host.copy_(self.value, non_blocking=True)

    def mark(self, replay: int) -> None:
        """To be called after each replay, with its number."""
        if self.on_gpu:
            self.events[replay % 2].record()

    def read(self, replay: int) -> int:
        """The number after that replay or the one after it: waits for the former."""
        if self.on_gpu:
            self.events[replay % 2].synchronize()
        return int(self.seen[0])


class Key(NamedTuple):
    """What a set of graphs is captured for."""

    batch: int
    norm: str
    argmax: bool
    nucleus: bool
    given: bool
    guided: bool
    probabilities: bool
    precision: str
    implementation: str
    one_launch: tuple[float, float] | None  # temperature and top-p where rows are drawn by `decode_row`


class Drawing:
    """The graphs for one key, and the memory that they work in."""

    def __init__(self, colorizer: Colorizer, decoders: graphs.Decoders, key: Key) -> None:
        self.colorizer, self.decoders, self.key = colorizer, decoders, key
        embedding = colorizer.embedding.weight
        device, dtype = embedding.device, torch.promote_types(decoders.dtype, torch.float32)
        size = colorizer.outer_decoder.position.size
        shape, labels = (key.batch, *size), len(embedding)
        self.gray = torch.zeros(shape, dtype=torch.uint8, device=device)
        draws = RowDraws(
            torch.zeros(shape, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device) if key.given else None,
            torch.zeros(*shape, labels, device=device) if key.guided else None,
            torch.ones(2, dtype=dtype, device=device),
        )
        state = row_state(
            key.batch, size, labels, device, guided=key.guided, probabilities=key.probabilities, dtype=dtype
        )
        self.rows = graphs.empty_rows(colorizer, decoders, state, draws, norm=key.norm)
        self.flag = Flag(state.unsettled)
        self.begin = capture(self._begin)
        self.draw = capture(self._pass if key.one_launch is None else self._row)
        self.advance = capture(self._advance) if size[0] > 1 else None

    def _begin(self) -> None:
        z = encode_gray(self.colorizer, self.gray, implementation=self.key.implementation)
        self.image = graphs.image_terms(self.colorizer, self.decoders, z, norm=self.key.norm)
        graphs.begin(self.colorizer, self.decoders, self.image, self.rows, implementation=self.key.implementation)

    def _advance(self) -> None:
        graphs.advance(self.colorizer, self.decoders, self.image, self.rows, implementation=self.key.implementation)

    def _pass(self) -> None:
        row_pass(
            self.decoders.inner, graphs.conditioning(self.decoders, self.image, self.rows), self.rows.state,
            self.rows.draws, argmax=self.key.argmax, nucleus=self.key.nucleus, eps=EPS,
            implementation=self.key.implementation,
        )  # fmt: skip
        self.flag.publish()

    def _row(self) -> None:
        state, draws = self.rows.state, self.rows.draws
        row = state.rows[1:]
        given, guidance, uniforms = (
            None if t is None else t.index_select(1, row)[:, 0] for t in (draws.given, draws.guidance, draws.uniforms)
        )
        assert self.key.one_launch is not None and uniforms is not None
        mode = "argmax" if self.key.argmax else "sample"
        options = SamplingOptions(mode, *self.key.one_launch, given, guidance, self.key.probabilities, EPS)
        conditioning = graphs.conditioning(self.decoders, self.image, self.rows)
        found = decode_row(self.decoders.inner, conditioning, uniforms, options, implementation=self.key.implementation)
        drawn = [(state.labels, found.labels), (state.log_prob, found.log_prob)]
        if self.key.guided:
            drawn.append((state.guided_log_prob, found.guided_log_prob))
        if state.probabilities is not None and found.probabilities is not None:
            drawn.append((state.probabilities, found.probabilities))
        for whole, of_row in drawn:
            whole.index_copy_(1, row, of_row[:, None].to(whole.dtype))

    def draw_row(self) -> None:
        """All labels of the present row: passes until it has settled, or one launch."""
        self.draw()
        if self.key.one_launch is not None:
            return
        self.flag.mark(0)
        for replay in range(1, self.gray.shape[2] + 1):
            self.draw()
            self.flag.mark(replay)
            if self.flag.read(replay - 1) == 0:
                return

    def run(
        self,
        gray: Tensor,
        uniforms: Tensor,
        given: Tensor | None,
        guidance: Tensor | None,
        knobs: tuple[float, float],
        *,
        after_row: AfterRow | None,
        progress: Callable[[int, int], None] | None,
        finished: Callable[[str], None],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Draws B images: labels, log-probabilities, those with guidance, and the probabilities if they are kept."""
        state, draws, height = self.rows.state, self.rows.draws, gray.shape[1]
        for static, value in (
            (self.gray, gray), (draws.uniforms, uniforms), (draws.given, given), (draws.guidance, guidance),
            (draws.knobs, torch.tensor(knobs)),
        ):  # fmt: skip
            if static is not None and value is not None:
                static.copy_(value, non_blocking=True)
        self.begin()
        finished("encoder")
        for row in range(height):
            if row:
                assert self.advance is not None
                self.advance()
                finished("outer decoder")
            self.draw_row()
            finished("row decoding")
            if after_row is not None:
                origin = after_row(state.labels[:, : row + 1], state.guided_log_prob[:, : row + 1])
                if origin is not None:
                    graphs.reorder(self.rows, origin)
            if progress is not None:
                progress(row + 1, height)
        found = (state.labels, state.log_prob, state.guided_log_prob)
        labels, log_prob, guided = (t.clone() for t in found)
        return (
            labels,
            log_prob,
            guided if self.key.guided else log_prob,
            (None if state.probabilities is None else state.probabilities.clone()),
        )


_kept: WeakKeyDictionary[nn.Module, tuple[threading.RLock, OrderedDict[Any, Any]]] = WeakKeyDictionary()
_lock = threading.Lock()
Captured = TypeVar("Captured")


def with_graphs(network: nn.Module, key: Any, made_of: object, make: Callable[[], Captured]) -> tuple[Any, Captured]:
    """A network's lock, to be held while its graphs are replayed, and those for a key.

    They are captured anew when what they were made of is not the same object any more: weights have changed.
    """
    with _lock:
        lock, kept = _kept.setdefault(network, (threading.RLock(), OrderedDict()))
    with lock:
        found = kept.pop(key, None)
        if found is None or found[0] is not made_of:
            found = (made_of, make())
        kept[key] = found
        while len(kept) > KEPT:
            kept.popitem(last=False)
    return lock, found[1]


def draw_images(
    colorizer: Colorizer,
    gray: Tensor,
    uniforms: Tensor,
    options: SamplingOptions,
    *,
    norm: str,
    precision: str,
    implementation: str,
    **watching: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`coltran.sampling.sample`'s labels, log-probabilities, those with guidance, and probabilities.

    Args:
        colorizer: the network.
        gray: integers [B, H, W].
        uniforms: [B, H, W].
        options: how it is drawn, `given` and `guidance` of whole images, [B, H, W] and [B, H, W, 512].
        norm, precision: of `coltran.sampling.sample`.
        implementation: of the operations.
        watching: `after_row`, `progress` and `finished` of `coltran.sampling.sample`.
    """
    weight = colorizer.embedding.weight
    dtype = torch.bfloat16 if precision == "bfloat16" else weight.dtype
    tensors = [*colorizer.parameters(), *colorizer.buffers()]
    decoders = made_once(colorizer, ("rows", dtype), tensors, lambda: graphs.prepare(colorizer, dtype))
    knobs = (options.temperature, options.top_p)
    jacobi = passes_win(decoders.inner, len(gray), gray.shape[2])
    key = Key(
        len(gray), norm, options.mode == "argmax", options.top_p < 1, options.given is not None,
        options.guidance is not None, options.return_probabilities, precision, implementation,
        None if jacobi else knobs,
    )  # fmt: skip
    lock, drawing = with_graphs(colorizer, key, decoders, lambda: Drawing(colorizer, decoders, key))
    with lock:
        return drawing.run(gray, uniforms, options.given, options.guidance, knobs, **watching)
