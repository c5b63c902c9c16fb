"""What a model's logits mean while it learns: one loss for each kind of target.

    head = Head(OutputSpec(task="binary", labels=["normal", "pneumonia"]))
    loss = head.loss(logits, targets)                          # scalar
    each = head.loss(logits, targets, per_sample=True)         # (B,)

The columns of the logits are those of `OutputSpec.width`, so that `questions.answers.probabilities` reads the same
numbers back when serving. A missing label is NaN and adds nothing: it is never a negative.
Of medicines, interactions between them cost something too.
Source for survival: Cox 1972, partial likelihood; Breslow 1974 for tied times.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medserve.errors import Usage
from medserve.models.spec import OutputSpec

HUBER_DELTA = 1.0  # in standard deviations of the target: beyond it the loss grows linearly, so that one wrong
# measurement in the table does not steer the fit
INTERACTIONS = 4.0  # weight of the interactions of medicines where their rate is twice the data's, or more
LEAST_RATE = 0.002  # below it a rate is as good as none


@dataclass(frozen=True, slots=True)
class Head:
    """The loss that fits `output`; it has no weights of its own (the last linear layer belongs to the network)."""

    output: OutputSpec

    @property
    def width(self) -> int:
        """Columns that the network must give."""
        return self.output.width

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        per_sample: bool = False,
    ) -> Tensor:
        """Loss of a batch, computed in float32 whatever the logits' precision.

        Args:
            logits: (B, width).
            targets: (B,) int for binary, multiclass and ordinal; (B, K) float with NaN where unknown for multilabel;
                (B,) float in the target's own unit for number; (B, 2) float (time, event) for survival; (B, T) float
                numbers of tags, NaN beyond the last word, for tags.
            weight: (B,) weights >= 0 of the samples; the mean is then the weighted mean.
            label_smoothing: share of the target spread evenly over the labels (none for a number or a time).
            per_sample: return one loss a sample; `weight` is then not applied.

        Returns: scalar, or (B,); of medicines the scalar holds a term for their interactions.
            binary: cross-entropy of one logit. multiclass: cross-entropy. multilabel: mean
            cross-entropy of the known labels; a sample (or batch) with none known gives 0. ordinal: mean
            cross-entropy of the cumulative questions "above level k". number: Huber loss of the standardised
            target. survival: minus the log partial likelihood per event, each event against the cases of this batch
            that were still under observation; 0 without an event. tags: cross-entropy of each word's tag, words taken
            one by one (the scores of one tag after another have no part in it). Of survival a sample's own loss is its
            estimated cumulative hazard plus, where the event happened, its term of the likelihood: their sum is
            (loss + 1) x events.
        Raises: Usage "head-shape": the columns do not fit the output.
        """
        if logits.ndim != 2 or logits.shape[1] != self.width:
            raise Usage(
                "head-shape",
                f"Logits of shape {tuple(logits.shape)}; {self.output.task} with {len(self.output.labels)} labels "
                f"takes (B, {self.width}).",
                hint="Build the network with outputs=OutputSpec.width.",
            )
        if self.output.task == "survival":
            each, total = _partial_likelihood(logits.float()[:, 0], targets, weight)
            return each if per_sample else total
        each, known = self._terms(logits.float(), targets, label_smoothing)
        if per_sample:
            return (each * known).sum(1) / known.sum(1).clamp_min(1.0)
        if weight is not None:
            known = known * weight.to(each.dtype)[:, None]
        plain = (each * known).sum() / known.sum().clamp_min(torch.finfo(each.dtype).tiny)
        return plain + self._interactions(logits.float().sigmoid()) if self.output.medicines is not None else plain

    def _interactions(self, p: Tensor) -> Tensor:
        """What is added for sets of medicines: the expected number of interacting pairs a visit, shared among the
        labels, by as much as their rate lies above that of the training data; 0 up to it.

        Args: p: (B, K) probabilities, taken as independent.
        Source: Yang et al., SafeDrug, IJCAI 2021, section 4.4; the rate of the data is the target.
        """
        told = self.output.medicines
        if told is None or not told.pairs:
            return p.new_zeros(())
        first, second = (torch.tensor(side, device=p.device) for side in zip(*told.pairs, strict=True))
        together = (p[:, first] * p[:, second]).sum()
        every = (p.sum(1).square() - p.square().sum(1)).sum() / 2
        rate = float(together.detach() / every.detach().clamp_min(1e-9))
        above = min(1.0, max(0.0, (rate - told.rate) / max(told.rate, LEAST_RATE)))
        return INTERACTIONS * above * together / p.numel()

    def _terms(self, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """Returns: the loss's terms (B, T) and which of them count (B, T), 1.0 or 0.0."""
        task = self.output.task
        if task == "tags":
            k, words = self.output.tags, self.output.words
            wanted = F.pad(targets[:, :words], (0, max(0, words - targets.shape[1])), value=torch.nan)
            seen = torch.isfinite(wanted)
            scores = logits[:, : words * k].reshape(-1, words, k)
            which = torch.where(seen, wanted, 0.0).long()
            each = F.cross_entropy(scores.transpose(1, 2), which, reduction="none", label_smoothing=smoothing)
            return each, seen.to(logits.dtype)
        if task == "multiclass":
            each = F.cross_entropy(logits, targets.long(), reduction="none", label_smoothing=smoothing)[:, None]
            return each, torch.ones_like(each)
        if task == "generate":  # the target is the molecule itself, which the network has read
            return -logits, torch.ones_like(logits)
        if task == "number":
            wanted = torch.from_numpy(self.output.standard(targets.cpu().numpy())).to(logits)
            each = F.huber_loss(logits[:, 0], wanted, reduction="none", delta=HUBER_DELTA)[:, None]
            return each, torch.ones_like(each)
        if task == "binary":
            wanted = targets.to(logits.dtype)[:, None]
        elif task == "ordinal":
            levels = torch.arange(self.width, device=logits.device)
            wanted = (targets[:, None] > levels).to(logits.dtype)
        else:
            wanted = targets.to(logits.dtype)
        known = torch.isfinite(wanted).to(logits.dtype)
        wanted = torch.nan_to_num(wanted) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), known


def _partial_likelihood(logit: Tensor, targets: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cox's loss of a batch.

    Args:
        logit: (B,) log hazard ratios. targets: (B, 2) time and event. weight: (B,) of the cases, in the loss alone.

    Returns: one loss a sample (B,), unweighted; and the scalar.
    """
    time, event = targets[:, 0].to(logit.dtype), targets[:, 1].to(logit.dtype)
    known = torch.isfinite(time) & torch.isfinite(event)
    time, event = torch.where(known, time, -torch.inf), torch.where(known, event, 0.0)
    order = torch.argsort(time, descending=True)  # unknown cases last: in nobody's risk set
    rising = -time[order]  # ascending: the risk set of place k is everybody up to the last of its own time
    last = torch.searchsorted(rising, rising, right=True) - 1
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)

    def risk_set(heft: Tensor) -> Tensor:
        """(B,) log of the summed hazard ratios of all who were under observation at each case's time."""
        return torch.logcumsumexp((logit + heft)[order], 0)[last][place]

    plain = risk_set(torch.zeros_like(logit))
    steps = (event * torch.exp(-plain.clamp(-60, 60)))[order].flip(0).cumsum(0).flip(0)
    first = torch.searchsorted(rising, rising)  # and its hazard steps are those from the first of its own time on
    spent = steps[first][place] * torch.exp(logit.clamp(-60, 60))
    each = torch.where(known, spent + event * (plain - logit), 0.0)
    if weight is None:
        against, counted = plain, event
    else:
        heft = weight.to(logit.dtype)
        against, counted = risk_set(torch.log(heft.clamp_min(torch.finfo(logit.dtype).tiny))), event * heft
    return each, (counted * (against - logit)).sum() / counted.sum().clamp_min(torch.finfo(logit.dtype).tiny)
