"""A model that writes molecules, moved towards what scores well and held near what it learned.

    agent = Agent(net, seed=0)
    texts = agent.write(64)                   # and then, once they are scored:
    agent.learn(texts, scores, replay)        # one step

The agent's log-likelihood of a text is drawn to the prior's plus SIGMA times its score ("augmented likelihood"), over
the better half of what it just wrote and some of the best molecules so far. Everything random is of (seed, step).

Sources: Olivecrona et al., J Cheminform 9:48 (2017) (REINVENT); Blaschke et al., J Chem Inf Model 60:5918 (2020);
Thomas et al., J Cheminform 14:68 (2022) (learning from the better half); Gao et al., NeurIPS 2022 (replay, budgets).
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.models.record.letters import END, LettersRnn
from medserve.training import checkpoint

SIGMA = 120.0
RATE = 5e-4
CLIP = 3.0
BETTER = 0.5  # share of a step's texts that are learned from


class Agent:
    """net: fitted, "letters-rnn". Texts that hold a letter it does not know are not learned from."""

    def __init__(self, net: nn.Module, *, seed: int = 0, rate: float = RATE) -> None:
        assert isinstance(net, LettersRnn)
        self.prior = copy.deepcopy(net).eval().requires_grad_(False)
        self.net = copy.deepcopy(net).eval().requires_grad_(True)  # eval: what it writes is what it is scored for
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=rate)
        self.alphabet = str(net.letters.block.facts["alphabet"])
        self.longest = int(net.letters.block.facts["length"])
        self.seed, self.step = seed, 0

    @torch.no_grad()
    def write(self, count: int) -> list[str]:
        """Texts, valid or not."""
        random = torch.Generator().manual_seed(1_000_003 * self.seed + self.step)
        letters = torch.full((count, self.longest), END, dtype=torch.int64)
        rows, letter, state = torch.arange(count), torch.zeros(count, dtype=torch.int64), self.net.start(count)
        for place in range(self.longest):
            logits, state = self.net.step(letter, state)
            letter = torch.multinomial(logits[:, :-1].softmax(1), 1, generator=random)[:, 0]
            letters[rows, place] = letter
            going = letter != END
            rows, letter, state = rows[going], letter[going], state[going]
            if not len(rows):
                break
        return ["".join(self.alphabet[i - 1] for i in row if i != END) for row in letters.tolist()]

    def learn(self, texts: Sequence[str], scores: Sequence[float], replay: Sequence[tuple[str, float]] = ()) -> float:
        """One step. scores: 0 to 1. replay: (text, score) of earlier molecules. Returns: the loss."""
        if not len(texts):
            self.step += 1
            return 0.0
        order = np.argsort(-np.asarray(scores), kind="stable")[: max(1, round(BETTER * len(texts)))]
        chosen = [(texts[i], float(scores[i])) for i in order] + list(replay)
        chosen = [(text, score) for text, score in chosen if self._known(text)]
        self.step += 1
        if not chosen:
            return 0.0
        ids = self._ids([text for text, _ in chosen])
        count = (ids != END).sum(1)
        wanted = torch.tensor([score for _, score in chosen])
        with torch.no_grad():
            target = _total(self.prior, ids, count) + SIGMA * wanted
        loss = (target - _total(self.net, ids, count)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, Tensor]:
        """What a stopped run goes on from."""
        net = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return net | checkpoint.optimizer_tensors(self.optimizer)

    def restore(self, tensors: dict[str, Any], step: int) -> None:
        self.net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
        checkpoint.restore_optimizer(self.optimizer, tensors)
        self.step = step

    def _known(self, text: str) -> bool:
        return 0 < len(text) < self.longest and not set(text) - set(self.alphabet)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        index = {letter: i for i, letter in enumerate(self.alphabet, 1)}
        ids = torch.full((len(texts), max(map(len, texts))), END, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor([index[letter] for letter in text])
        return ids


def _total(net: LettersRnn, ids: Tensor, count: Tensor) -> Tensor:
    """(B,) log-likelihood of whole texts, their end included."""
    each, _ = net.log_probs(ids)
    inside = torch.arange(each.shape[1]).unsqueeze(0) <= count.unsqueeze(1)
    return torch.where(inside, each, 0.0).sum(1)
