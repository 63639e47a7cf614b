# SPDX-License-Identifier: Apache-2.0
"""The native library is built once, whole, and its absence is said; the smaller kernels in it are right."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from coltran import checkpoint, colorize, networks
from coltran_kernels import SamplingOptions, axial_attention, cached_attention, decode_row, dispatch, native, reference
from tests.forked import run_forked
from tests.operations import needs_native, random_row
from tests.tiny import colorizer_config
from tests.tiny_training import write_photo

BUILT = native.load()._name if native.unavailable() is None else ""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A process that has not looked for the library yet, with an empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._attempt.cache_clear()
    dispatch._warn_once.cache_clear()
    yield tmp_path
    native._attempt.cache_clear()
    dispatch._warn_once.cache_clear()


def _arguments(dtype: torch.dtype = torch.float32):
    q, cache = torch.randn(2, 3, 2, 5, dtype=dtype), torch.randn(2, 2, 3, 9, 2, 5, dtype=dtype)
    keys, values = cache.transpose(2, 3)[:, :, :7]
    return q, keys, values, torch.randn(2, 18, dtype=dtype)[:, 4:11]


def _compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a compiler into a folder, which is found there; a script of which the last argument is $last."""
    (folder / "c++").write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
    (folder / "c++").chmod(0o755)
    monkeypatch.setattr(native.shutil, "which", lambda name: str(folder / "c++"))


@needs_native
def test_the_library_is_built_whole_and_once_and_that_is_said(fresh, monkeypatch, caplog):
    """By what gives the library that the other tests use: compiling it takes half a minute."""
    _compiler(fresh, monkeypatch, f'[ "$last" = --version ] || cp {BUILT} "$last"')
    caplog.set_level("INFO", "coltran")
    assert native.unavailable() is None
    (library,) = (fresh / "coltran").glob("kernels-*.so")
    built = library.stat().st_mtime_ns
    native._attempt.cache_clear()
    assert native.targets()[0] == "plain"
    assert caplog.messages == ["Compiling the kernels for this processor, once: about half a minute."]
    assert [(file, file.stat().st_mtime_ns) for file in (fresh / "coltran").glob("kernels-*.so")] == [(library, built)]


@pytest.mark.parametrize("left", [b"", b"ju", b"something else"])
def test_a_library_that_is_not_what_was_built_is_built_again(fresh, monkeypatch, left):
    _compiler(fresh, monkeypatch, '[ "$last" = --version ] || echo junk > "$last"')
    for _ in range(2):
        assert "cannot be loaded" in str(native.unavailable())  # as it is no library, but whole
        (library,) = (fresh / "coltran").glob("kernels-*.so")
        assert library.read_text() == "junk\n"
        library.write_bytes(left)
        native._attempt.cache_clear()


def test_programs_that_start_together_build_it_once(fresh, monkeypatch):
    _compiler(fresh, monkeypatch, f'[ "$last" = --version ] && exit; echo >> {fresh}/calls; echo junk > "$last"')
    ended = run_forked([lambda: print(native.unavailable())] * 2, fresh / "said")
    assert all("cannot be loaded" in end.said for end in ended)
    assert len((fresh / "calls").read_text().splitlines()) == len(native.units()) + 1


def test_checkouts_with_the_same_sources_share_it(fresh, monkeypatch):
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("there is no C++ compiler")
    key = native._key(compiler)
    shutil.copytree(native.SOURCES, fresh / "elsewhere")
    monkeypatch.setattr(native, "SOURCES", fresh / "elsewhere")
    assert native._key(compiler) == key
    (fresh / "elsewhere" / "decode_row" / "row.cpp").write_text("// another")
    assert native._key(compiler) != key


def test_without_a_compiler_torch_serves_and_says_so_once(fresh, monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    arguments = _arguments()
    with pytest.warns(RuntimeWarning, match="plain torch.*no C\\+\\+ compiler"):
        found = cached_attention(*arguments)
    assert torch.equal(found, reference.cached_attention(*arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_attention(*arguments)
    with pytest.raises(NotImplementedError, match="cannot serve: there is no C\\+\\+ compiler"):
        cached_attention(*arguments, implementation="cpu")


def test_without_a_compiler_programs_work_and_say_so_once(fresh, monkeypatch, program, capsys):
    """What happens on a machine without one, such as most with Windows."""
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    checkpoint.save(networks.build(colorizer_config(8, 8)), fresh / "runs" / "colorizer")
    photo, out = write_photo(fresh / "old.png", 0), fresh / "out"
    arguments = ("--checkpoint", fresh / "runs", "--stage", "coarse", "--samples", "2")
    assert program(colorize.main, photo, "-o", out, *arguments) == 0
    assert capsys.readouterr().err.count("without the native kernels") == 1
    assert (out / "old-1.png").exists()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(fresh, monkeypatch):
    _compiler(fresh, monkeypatch, '[ "$last" = --version ] || { echo "no such luck" >&2; exit 1; }')
    with pytest.raises(NotImplementedError, match="no such luck"):
        cached_attention(*_arguments(), implementation="cpu")
    assert not list((fresh / "coltran").glob("kernels-*"))


@pytest.fixture(params=[torch.bfloat16, torch.float64])
def other_default(request):
    before = torch.get_default_dtype()
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(before)


def test_the_kernels_write_what_they_should_whatever_the_default_type(other_default):
    arguments, operands = _arguments(), [t.squeeze(0) for t in torch.randn(3, 1, 2, 9, 5, 2, 8).unbind(0)]
    row = random_row(2, 5, 32, 32, 2, 40, 2)

    def results():
        q, k, v = (t.detach().requires_grad_() for t in operands)
        out = axial_attention(q, k, v, torch.ones(2, 10, dtype=torch.float32), axis="row", causal=True)
        with torch.no_grad():
            alone = axial_attention(*operands, axis="row", causal=True)
        drawn = decode_row(*row, SamplingOptions(return_probabilities=True))
        return [out.detach(), alone, *torch.autograd.grad(out.sum(), (q, k, v)), cached_attention(*arguments), *drawn]

    expected = results()
    other_default()
    for found, there in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, there, rtol=0, atol=0)
