"""Ensembles of directed message passing networks, run without a training framework.

    ensemble = Ensemble(tensors, letters)
    scores = ensemble.run(graphs)               # (M, N, K): of each network, each molecule, each output; raw

The networks of one ensemble share their sizes, and all see the same graphs: what an atom or a bond of a kind is to a
network is computed once, and a bond asks only the two or three bonds behind it.
Source: Yang et al., J Chem Inf Model 59:3370 (2019); Chemprop 2, `BondMessagePassing` and `NormAggregation`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medserve.data.molecules.graph import WIDE_ATOM
from medserve.data.molecules.kinds import Graph, Letters
from medserve.types import Array

STEPS = 3  # of message passing; the first is the bond's own
NORM = 100.0  # by which the sum over atoms is divided
TOGETHER = 2_000  # directed bonds of a pass: what a processor's cache holds


class Ensemble:
    """
    Args:
        tensors: by name, networks first: "W_i" (M, H, 86), "W_h" (M, H, H), "W_o" (M, H, 72 + H), "b_o" (M, H),
            "W_1" (M, H, H), "b_1" (M, H), "W_2" (M, K, H), "b_2" (M, K).
        letters: what the numbers in the graphs stand for.
    """

    def __init__(self, tensors: Mapping[str, Array], letters: Letters) -> None:
        self._letters = letters
        self._nets = [
            _Net(
                atom=tensors["W_i"][m][:, :WIDE_ATOM].T.astype(np.float64),
                bond=tensors["W_i"][m][:, WIDE_ATOM:].T.astype(np.float64),
                hidden=np.ascontiguousarray(tensors["W_h"][m].T),
                out_atom=tensors["W_o"][m][:, :WIDE_ATOM].T.astype(np.float64),
                out=np.ascontiguousarray(tensors["W_o"][m][:, WIDE_ATOM:].T),
                out_bias=tensors["b_o"][m],
                first=np.ascontiguousarray(tensors["W_1"][m].T),
                first_bias=tensors["b_1"][m],
                last=np.ascontiguousarray(tensors["W_2"][m].T),
                last_bias=tensors["b_2"][m],
            )
            for m in range(len(tensors["W_i"]))
        ]

    def run(self, graphs: Sequence[Graph]) -> Array:
        """(M, N, K) float32. graphs: of these letters, at least one."""
        parts: list[Array] = []
        held: list[Graph] = []
        size = 0
        for graph in graphs:
            if held and size + len(graph.bonds) > TOGETHER:
                parts.append(self._run(_join(held)))
                held, size = [], 0
            held.append(graph)
            size += len(graph.bonds)
        parts.append(self._run(_join(held)))
        return np.concatenate(parts, axis=1)

    def _run(self, batch: "_Batch") -> Array:
        atoms, bonds = self._letters.atoms.astype(np.float64), self._letters.bonds.astype(np.float64)
        return np.stack([_forward(net, batch, atoms, bonds) for net in self._nets])


@dataclass(frozen=True, slots=True)
class _Net:
    """What works on kinds is float64, so that which kinds were met before changes no bit of an answer."""

    atom: Array
    bond: Array
    hidden: Array
    out_atom: Array
    out: Array
    out_bias: Array
    first: Array
    first_bias: Array
    last: Array
    last_bias: Array


@dataclass(frozen=True, slots=True)
class _Batch:
    """Many graphs as one. Bonds stand in the order of how many others lead to their first atom, atoms in that of how
    many lead to them, the most first, so that the k-th of them are a list without gaps.

    atoms: (V,) kinds. kinds: (E,) of atom at the bond's beginning; bonds: (E,) kinds. behind: k -> the k-th bond that
    leads to the beginning of each of the first bonds, its own way back left out. into: k -> the k-th bond that leads to
    each of the first atoms. members: (N, V) float32, 1 where an atom is of a molecule.
    """

    atoms: Array
    kinds: Array
    bonds: Array
    behind: list[Array]
    into: list[Array]
    members: Array


def _join(graphs: Sequence[Graph]) -> _Batch:
    counts = [len(graph.atoms) for graph in graphs]
    shift = np.concatenate([[0], np.cumsum(counts)[:-1]])
    atoms = np.concatenate([graph.atoms for graph in graphs])
    bonds = np.concatenate([graph.bonds for graph in graphs])
    begins = np.concatenate([graph.begins + at for graph, at in zip(graphs, shift, strict=True)])
    ends = np.concatenate([graph.ends + at for graph, at in zip(graphs, shift, strict=True)])
    size, total = len(bonds), len(atoms)
    degree = np.bincount(ends, minlength=total)
    by_end = np.argsort(ends, kind="stable")  # bonds that lead to atom 0, to atom 1, ...
    start = np.cumsum(degree) - degree
    order = np.argsort(-degree[begins], kind="stable")
    place = np.empty(size, np.int64)
    place[order] = np.arange(size)
    behind: list[Array] = []
    back = order ^ 1  # 2k and 2k + 1 are one bond both ways
    rank = np.empty(size, np.int64)
    rank[by_end] = np.arange(size) - np.repeat(start, degree)
    for k in range(int(degree.max(initial=1)) - 1):
        some = order[degree[begins[order]] > k + 1]
        at = k + (rank[back[: len(some)]] <= k)  # step over the way back
        behind.append(place[by_end[start[begins[some]] + at]])
    rows = np.argsort(-degree, kind="stable")
    into = []
    for k in range(int(degree.max(initial=0))):
        some = rows[degree[rows] > k]
        into.append(place[by_end[start[some] + k]])
    owner = np.repeat(np.arange(len(graphs)), counts)[rows]
    members = np.zeros((len(graphs), total), np.float32)
    members[owner, np.arange(total)] = 1
    return _Batch(atoms[rows], atoms[begins[order]], bonds[order], behind, into, members)


def _forward(net: _Net, batch: _Batch, atom_rows: Array, bond_rows: Array) -> Array:
    """(N, K)."""
    own = (atom_rows @ net.atom).astype(np.float32)[batch.kinds]
    own += (bond_rows @ net.bond).astype(np.float32)[batch.bonds]
    state = np.maximum(own, 0)
    heard, work = np.empty_like(own), np.empty_like(own)
    for _ in range(1, STEPS):
        _gather(state, batch.behind, heard, work)
        np.matmul(heard, net.hidden, out=state)
        state += own
        np.maximum(state, 0, out=state)
    total = np.empty((len(batch.atoms), own.shape[1]), np.float32)
    _gather(state, batch.into, total, np.empty_like(total))
    out = total @ net.out
    out += (atom_rows @ net.out_atom + net.out_bias).astype(np.float32)[batch.atoms]
    np.maximum(out, 0, out=out)
    molecule = (batch.members @ out) / np.float32(NORM)
    hidden = np.maximum(molecule @ net.first + net.first_bias, 0)
    scores: Array = hidden @ net.last + net.last_bias
    return scores


def _gather(rows: Array, places: Sequence[Array], into: Array, work: Array) -> None:
    """into[i] = the sum of rows[places[k][i]] over all k that have an i."""
    if not places:
        into[:] = 0
        return
    reached = len(places[0])
    np.take(rows, places[0], axis=0, out=into[:reached], mode="clip")
    into[reached:] = 0
    for place in places[1:]:
        size = len(place)
        np.take(rows, place, axis=0, out=work[:size], mode="clip")
        into[:size] += work[:size]
