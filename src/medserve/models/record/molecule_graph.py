"""A directed message-passing network over atoms and bonds, as Chemprop 2 builds it (D-MPNN).

    ENCODERS["molecule-graph"](block, hidden=160, depth=3)          # (B, F) records with a graph -> (B, width)

Each bond carries a message each way; at every step it hears the other bonds that come into the atom where it begins.
What an atom has heard, and what it is, make its view; the mean over atoms is the molecule's. Beside it stand the
descriptors, standardised, where they are wanted.

While training only the atoms and bonds that are there are computed; an exported graph computes as many places as the
largest molecule of the batch takes, and leaves the empty ones out of the sums, which gives the same numbers.
Sources: Yang et al., J Chem Inf Model 59:3370 (2019); Heid et al., J Chem Inf Model 64:9 (2024).
"""

import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.data.molecules.graph import (
    ATOM,
    ATOM_SIZES,
    BOND,
    BONDS,
    STEREO,
    WIDE_ATOM,
    WIDE_BOND,
    bonds_for,
    graph_size,
)
from medserve.errors import Usage
from medserve.models.record import ENCODERS, Standardise
from medserve.models.record.text import to_longest


@ENCODERS.register("molecule-graph")
class MoleculeGraph(nn.Module):
    """hidden: numbers a message. depth: steps of messages. descriptors: whether RDKit's stand beside the graph."""

    def __init__(
        self, block: Block, hidden: int = 160, depth: int = 3, dropout: float = 0.1, descriptors: bool = True
    ) -> None:
        super().__init__()
        self.atoms = int(block.facts.get("atoms", 0))
        if not self.atoms:
            raise Usage("graph-missing", f"{block.name}: its records hold no graph.", hint="Train with this recipe.")
        self.depth, self.hidden = depth, hidden
        self.start = int(block.facts["bits"]) + len(block.facts["descriptors"])
        self.into = nn.Linear(WIDE_ATOM + WIDE_BOND, hidden, bias=False)
        self.between = nn.Linear(hidden, hidden, bias=False)
        self.out = nn.Linear(WIDE_ATOM + hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.bits, self.beside = int(block.facts["bits"]), len(block.facts["descriptors"]) if descriptors else 0
        self.scale = Standardise(self.beside)
        joined = hidden + 2 * self.beside
        self.body = nn.Sequential(nn.Dropout(dropout), nn.Linear(joined, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.width = hidden

    def fit(self, x: Tensor) -> None:
        if self.beside:
            self.scale.fit(x[:, self.bits : self.bits + self.beside])

    def forward(self, x: Tensor) -> Tensor:
        graph = x[:, self.start : self.start + graph_size(self.atoms)]
        view = self._every(graph) if torch.compiler.is_exporting() else self._there(graph)
        if self.beside:
            view = torch.cat([view, self.scale(x[:, self.bits : self.bits + self.beside])], 1)
        found: Tensor = self.body(view)
        return found

    def _split(self, graph: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V, ATOM) and (B, E, BOND)."""
        cut = self.atoms * ATOM
        return graph[:, :cut].reshape(-1, self.atoms, ATOM), graph[:, cut:].reshape(-1, bonds_for(self.atoms), BOND)

    def _every(self, graph: Tensor) -> Tensor:
        """Every place up to the last one taken; sums over bonds that come in are products with a table of ends."""
        atoms, bonds = (to_longest(part) for part in self._split(graph))
        here, there = torch.isfinite(atoms[..., :1]), torch.isfinite(bonds[..., :1])
        atoms, bonds = torch.where(here, atoms, 0.0), torch.where(there, bonds, 0.0)
        v, e = wide_atoms(atoms) * here, wide_bonds(bonds) * there
        ends = torch.cat([bonds[..., :1], bonds[..., 1:2]], 1)  # (B, 2E, 1): the atom where each direction begins
        known = torch.cat([there, there], 1).to(v.dtype)
        places = torch.arange(v.shape[1], device=v.device, dtype=v.dtype)
        begins = (ends == places).to(v.dtype) * known  # (B, 2E, V)
        ends_in = torch.cat([begins[:, bonds.shape[1] :], begins[:, : bonds.shape[1]]], 1)
        first = self.into(torch.cat([begins @ v, torch.cat([e, e], 1)], 2))
        h = torch.relu(first) * known
        for _ in range(1, self.depth):
            heard = begins @ (ends_in.transpose(1, 2) @ h) - _turned(h)
            h = torch.relu(first + self.between(heard)) * known
        told = torch.relu(self.out(torch.cat([v, ends_in.transpose(1, 2) @ h], 2))) * here
        return told.sum(1) / here.to(v.dtype).sum(1).clamp_min(1)

    def _there(self, graph: Tensor) -> Tensor:
        """Only atoms and bonds that are there, of the whole batch in one row."""
        atoms, bonds = self._split(graph)
        here, there = torch.isfinite(atoms[..., 0]), torch.isfinite(bonds[..., 0])
        number = here.flatten().cumsum(0) - 1  # of each place, which atom of the batch it is
        of = torch.arange(len(graph), device=graph.device)[:, None].expand(-1, self.atoms)[here]
        v, e, two = wide_atoms(atoms[here]), wide_bonds(bonds[there]), bonds[there][:, :2].long()
        case = torch.arange(len(graph), device=graph.device)[:, None].expand(-1, bonds.shape[1])[there]
        two = number[case[:, None] * self.atoms + two]
        begin, end = torch.cat([two[:, 0], two[:, 1]]), torch.cat([two[:, 1], two[:, 0]])
        half = len(two)
        first = self.into(torch.cat([v[begin], torch.cat([e, e])], 1))
        h = torch.relu(first)
        for _ in range(1, self.depth):
            summed = v.new_zeros(len(v), self.hidden).index_add(0, end, h)
            heard = summed[begin] - torch.cat([h[half:], h[:half]])
            h = self.dropout(torch.relu(first + self.between(heard)))
        summed = v.new_zeros(len(v), self.hidden).index_add(0, end, h)
        told = self.dropout(torch.relu(self.out(torch.cat([v, summed], 1))))
        total = v.new_zeros(len(graph), self.hidden).index_add(0, of, told)
        return total / here.sum(1, keepdim=True).clamp_min(1)


def _turned(h: Tensor) -> Tensor:
    """Each direction's message in the place of the other's."""
    half = h.shape[1] // 2
    return torch.cat([h[:, half:], h[:, :half]], 1)


def wide_atoms(atoms: Tensor) -> Tensor:
    """(..., ATOM) numbers as Chemprop's multi-hot features, (..., WIDE_ATOM)."""
    hot = [_hot(atoms[..., k : k + 1], size) for k, size in enumerate(ATOM_SIZES)]
    return torch.cat([*hot, atoms[..., len(ATOM_SIZES) :]], -1)


def wide_bonds(bonds: Tensor) -> Tensor:
    """(..., BOND) numbers as Chemprop's multi-hot features, (..., WIDE_BOND); the first is for a bond that is none."""
    none = torch.zeros_like(bonds[..., :1])
    kind, stereo = _hot(bonds[..., 2:3], len(BONDS)), _hot(bonds[..., 5:6], STEREO + 1)
    return torch.cat([none, kind, bonds[..., 3:5], stereo], -1)


def _hot(place: Tensor, size: int) -> Tensor:
    """(..., 1) whole numbers -> (..., size), 1 at the place; none where it lies beyond."""
    return (place == torch.arange(size, device=place.device, dtype=place.dtype)).to(place.dtype)
