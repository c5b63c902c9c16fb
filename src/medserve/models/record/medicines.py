"""Medicines of a visit: a recurrent network over the visits that can also repeat, and repeating alone.

    net = MODELS["medicine-net"](channels=F, size=(), outputs=K, blocks=[...], medicines=[["atc|C09AA05"], ...])
    plain = MODELS["repeat-last"](channels=F, size=(), outputs=K, blocks=[...], medicines=[...])

Most of what is prescribed at a visit was prescribed at the one before. A network that must carry every code through its
state learns that late, so it is given here: the logit of a medicine is that of the case's view, and, where the medicine
stood at the last visit with prescriptions or ever before, an amount more that the view decides on.
Source for repeating under a gate: See et al., ACL 2017; the baseline is that of Shang et al., AAAI 2019 (GAMENet).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.errors import BadPackage
from medserve.models.nets import MODELS, Features
from medserve.models.record import as_blocks, take_block
from medserve.models.record.casenet import CaseNet
from medserve.types import Samples

STAYS = 3.0  # logits that a medicine of the last visit is given before anything is learnt
MOST_LOGIT = 6.0  # of a share that is fitted or started from


class Repeated(nn.Module):
    """(B, F) records -> which labels stood at the last visit with any of them, and which ever did; both (B, K), 0 or 1.

    Args:
        medicines: of each label the codes of its channels.
    """

    def __init__(self, blocks: Sequence[Block], medicines: Sequence[Sequence[str]]) -> None:
        super().__init__()
        found = [b for b in blocks if b.kind == "timeline" and b.facts.get("visits")]
        if len(found) != 1:
            raise BadPackage("package-spec", "model.json repeats visits and has no history in visits.")
        self.block = found[0]
        place = {str(code): at for at, code in enumerate(self.block.facts["codes"])}
        member = np.zeros((len(medicines), len(place)), np.float32)
        for row, codes in enumerate(medicines):
            member[row, [place[code] for code in codes if code in place]] = 1
        self.member: Tensor
        self.register_buffer("member", torch.from_numpy(member), persistent=False)
        self.order: Tensor
        self.register_buffer("order", torch.arange(1.0, self.block.shape[1]), persistent=False)

    def forward(self, record: Tensor) -> tuple[Tensor, Tensor]:
        grid = take_block(record, self.block)[:, :, :-1]  # the last column is the present visit
        there = (self.member @ (~torch.isnan(grid)).to(record.dtype)).clamp_max(1.0)
        visit = there.amax(1) * self.order
        last = visit.amax(1, keepdim=True)
        chosen = ((visit == last) & (visit > 0)).to(record.dtype)
        return (there * chosen.unsqueeze(1)).sum(2), there.amax(2)


class MedicineNet(CaseNet):
    """A case-net whose labels can be repeated from the visits before."""

    def __init__(
        self, blocks: Sequence[Block], outputs: int, encoders: Mapping[str, Any], dropout: float, hide: float,
        medicines: Sequence[Sequence[str]],
    ) -> None:  # fmt: skip
        super().__init__(blocks, outputs, encoders, dropout, hide)
        self.repeated = Repeated(blocks, medicines)
        self.keep = nn.Linear(self.head.in_features, outputs)
        self.again = nn.Parameter(torch.zeros(outputs))
        nn.init.zeros_(self.keep.weight)
        nn.init.constant_(self.keep.bias, STAYS)

    def fit(self, train: Samples) -> None:
        """Scaling of every encoder; and each label starts from its share among visits, as if nothing were known."""
        super().fit(train)
        share = np.nan_to_num(np.nanmean(np.asarray(train.targets, np.float64), axis=0), nan=0.5)
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(_logit(share)))

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        joined = self.view(record)
        seen = self.joint(joined)
        last, ever = self.repeated(record)
        logits = self.head(seen) + last * self.keep(seen) + ever * self.again
        return Features(logits, self._known(joined), None)


class RepeatLast(nn.Module):
    """The medicines of the last visit with prescriptions, and none where there was no such visit.

    on, off: the logit of a medicine that stood there, above 0, and of one that did not, below 0: their shares on the
    training part. The decision at one half is to repeat, whatever they are.
    """

    def __init__(self, blocks: Sequence[Block], medicines: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.repeated = Repeated(blocks, medicines)
        self.on: Tensor
        self.off: Tensor
        self.register_buffer("on", torch.tensor(1.0))
        self.register_buffer("off", torch.tensor(-1.0))

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        last, ever = self.repeated(record)
        return Features(last * self.on + (1 - last) * self.off, torch.cat([last, ever], 1), None)


def _logit(share: Any) -> Any:
    """As float32, kept within +-`MOST_LOGIT`."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(share) - np.log1p(-share), -MOST_LOGIT, MOST_LOGIT).astype(np.float32)


@MODELS.register("medicine-net")
def medicine_net(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    encoders: Mapping[str, Any] | None = None,
    dropout: float = 0.2,
    hide: float = 0.0,
    medicines: Sequence[Sequence[str]] = (),
) -> nn.Module:
    """
    Args:
        encoders, dropout, hide: as of "case-net". medicines: of each label the codes that the history writes it by.
    """
    return MedicineNet(as_blocks(blocks), outputs, encoders or {}, dropout, hide, medicines)


@MODELS.register("repeat-last")
def repeat_last(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    medicines: Sequence[Sequence[str]] = (),
) -> nn.Module:
    """medicines: as of "medicine-net"."""
    return RepeatLast(as_blocks(blocks), medicines)
