# SPDX-License-Identifier: Apache-2.0
"""Drawing labels in plain torch, for one vector of logits and for the rows of B images: the specification.

Sizes: B images of H x W pixels, S labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.types import RowDraws, RowState, SamplingOptions


def draw(logits: Tensor, uniform: Tensor, options: SamplingOptions) -> Tensor:
    """One label for each row of logits [N, S].

    `argmax` takes the first largest. `sample` inverts the cumulative distribution, in the order of the labels, of
    softmax(logits / temperature) restricted to the smallest set of most probable labels that holds at least `top_p`.
    """
    if options.mode == "argmax":
        return logits.argmax(-1)
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / options.temperature).softmax(-1)
    if options.top_p < 1.0:
        probabilities = most_probable(probabilities, options.top_p)
    return invert(probabilities, uniform)


def most_probable(probabilities: Tensor, top_p: float | Tensor) -> Tensor:
    """[N, S] with zeros beyond the smallest set of most probable labels that holds at least `top_p`."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    beyond = ranked.cumsum(-1) - ranked >= top_p  # enough probability lies before this label
    return probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)


def invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The label [N] at which the cumulative sum of probabilities [N, S] passes `uniform` [N] of its end."""
    cumulative = probabilities.cumsum(-1)
    below = cumulative <= uniform[:, None] * cumulative[:, -1:]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)  # rounding may pass the end
    return torch.minimum(below.sum(-1), last)


def _at(x: Tensor, state: RowState) -> Tensor:
    """The row that is drawn of x [B, H, ...]: [B, ...]."""
    return x.index_select(1, state.rows[1:])[:, 0]


def _put(x: Tensor, state: RowState, row: Tensor) -> None:
    x.index_copy_(1, state.rows[1:], row[:, None].to(x.dtype))


def begin_row(state: RowState, draws: RowDraws) -> None:
    """See `coltran_kernels.begin_row`."""
    state.rows.add_(1)
    width = state.labels.shape[2]
    above = state.labels.index_select(1, state.rows[:1].clamp(min=0))[:, 0]
    above = torch.where(state.rows[0] >= 0, above, 0)
    guess = above
    if draws.given is not None:
        given = _at(draws.given, state)
        guess = torch.where(given >= 0, given, guess)
    _put(state.labels, state, guess)
    state.above.copy_(above)
    state.previous.copy_(F.pad(guess[:, : width - 1], (1, 0), value=-1))
    for tensor, value in ((state.final, 0), (state.first, width), (state.arrived, 0), (state.unsettled, len(above))):
        tensor.fill_(value)


def settle(state: RowState, draws: RowDraws, logits: Tensor, *, argmax: bool, nucleus: bool) -> None:
    """See `coltran_kernels.settle`."""
    width, labels = state.labels.shape[2], _at(state.labels, state)
    guided = logits if draws.guidance is None else logits + _at(draws.guidance, state)
    if argmax:
        drawn = guided.argmax(-1)
    else:
        temperature, top_p = draws.knobs
        probabilities = ((guided - guided.amax(-1, keepdim=True)) / temperature).softmax(-1).flatten(0, 1)
        if nucleus:
            probabilities = most_probable(probabilities, top_p)
        drawn = invert(probabilities, _at(draws.uniforms, state).flatten()).view_as(labels)
    if draws.given is not None:
        given = _at(draws.given, state)
        drawn = torch.where(given >= 0, given, drawn)
    column = torch.arange(width, device=labels.device)
    kept = torch.where(column < state.final[:, None], labels, drawn)  # rounding may not move what is final
    changed = torch.where(kept != labels, column, width).amin(1)  # the first column that is
    here = state.final < width  # the others stay as they are
    _put(state.labels, state, torch.where(here[:, None], kept, labels))
    state.previous.copy_(F.pad(_at(state.labels, state)[:, : width - 1], (1, 0), value=-1))
    of_row = [(state.log_prob, _log_prob(logits, kept))]
    if draws.guidance is not None:
        of_row.append((state.guided_log_prob, _log_prob(guided, kept)))
    if state.probabilities is not None:
        of_row.append((state.probabilities, logits.softmax(-1)))
    for tensor, found in of_row:
        where = here.view(-1, *[1] * (found.dim() - 1))
        _put(tensor, state, torch.where(where, found.to(tensor.dtype), _at(tensor, state)))
    _put(state.passes, state, _at(state.passes, state) + here)
    state.final.copy_(torch.where(here, (changed + 1).clamp(max=width), state.final))
    state.unsettled.copy_((state.final < width).sum()[None])


def _log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
