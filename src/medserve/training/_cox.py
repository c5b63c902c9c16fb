"""Cox's partial likelihood (Breslow's ties), as a loss for torch and as a gradient for boosting.

    loss = cox_loss(logits, targets)                       # (N,), (N, 2) time and event
    gradient, hessian = cox_gradient(logits, targets)      # numpy, one pair a case

The logit is the log hazard ratio. Source: Cox, JRSS B 1972; Breslow's tie correction, JRSS B 1972.
"""

import numpy as np
import torch
from torch import Tensor

from medserve.types import Array


def cox_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log partial likelihood of one event; 0 where there is none.

    Args:
        logits: (N,) log hazard ratios.
        targets: (N, 2) time, and event (1) or end of observation (0).
    """
    time, event = targets[:, 0], targets[:, 1]
    order = torch.argsort(time, descending=True, stable=True)
    risk = torch.logcumsumexp(logits[order], 0)  # over all who are still observed at that time
    falling = -time[order].contiguous()
    last = torch.searchsorted(falling, falling, right=True) - 1  # tied times share one risk set
    terms = (logits[order] - risk[last]) * event[order]
    return -terms.sum() / event.sum().clamp_min(1)


def cox_gradient(logits: Array, targets: Array) -> tuple[Array, Array]:
    """First and second derivative of the negative log partial likelihood with respect to each logit.

    Returns: (N,), (N,) float64; the second is the diagonal alone, at least 1e-6.
    """
    time, event = np.asarray(targets[:, 0], float), np.asarray(targets[:, 1], float)
    order = np.argsort(time, kind="stable")
    t, d = time[order], event[order]
    hazard = np.exp(logits[order] - np.max(logits))
    at_risk = np.cumsum(hazard[::-1])[::-1]
    first = np.searchsorted(t, t, side="left")
    last = np.searchsorted(t, t, side="right") - 1
    at_risk = at_risk[first]
    once = np.cumsum(d / at_risk)[last]  # events up to and at this time, each over the hazard that stood at risk
    twice = np.cumsum(d / at_risk**2)[last]
    gradient, hessian = np.empty_like(hazard), np.empty_like(hazard)
    gradient[order] = hazard * once - d
    hessian[order] = np.maximum(hazard * once - hazard**2 * twice, 1e-6)
    return gradient, hessian


def martingale(targets: Array) -> Array:
    """(N,) events minus the Nelson-Aalen cumulative hazard at the time: one number a case, high for early events."""
    time, event = np.asarray(targets[:, 0], float), np.asarray(targets[:, 1], float)
    order = np.argsort(time, kind="stable")
    t = time[order]
    left = len(t) - np.searchsorted(t, t, side="left")
    last = np.searchsorted(t, t, side="right") - 1
    found = np.empty(len(t))
    found[order] = np.cumsum(event[order] / left)[last]
    return event - found
