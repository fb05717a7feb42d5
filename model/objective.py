"""What training minimises, and what validation measures.

Shapes: B sequences of a batch, V objects of validation, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from model.config import TrainConfig


def loss_of(logit_BC: Tensor, label_B: Tensor, config: TrainConfig) -> Tensor:
    """Loss of each sequence, (B,).

    −Σ_c q_c (1 − p_c)^γ log p_c, with p the softmax and q the label, smoothed if wanted. γ = 0 is cross-entropy.
    """
    if config.loss == "cross-entropy":
        return functional.cross_entropy(logit_BC, label_B, reduction="none", label_smoothing=config.label_smoothing)
    classes = logit_BC.shape[1]
    log_p_BC = logit_BC.log_softmax(dim=1)
    unsure_BC = -torch.expm1(log_p_BC)  # 1 − p, exact where p is nearly 1
    q_BC = (
        functional.one_hot(label_B, classes).to(log_p_BC.dtype) * (1 - config.label_smoothing)
        + config.label_smoothing / classes
    )
    # clamp: the slope of x^γ at 0 is infinite for γ < 1
    return -(q_BC * unsure_BC.clamp(min=torch.finfo(unsure_BC.dtype).tiny) ** config.focal_gamma * log_p_BC).sum(dim=1)


def assess(logit_VC: Tensor, label_V: Tensor) -> dict[str, float | None]:
    """Validation values of one epoch, None where there is no object.

    The loss is the mean over classes, as the sampling of training is. Macro F1 is the mean over the classes that the
    objects have.
    """
    if not len(label_V):
        return dict.fromkeys(_VALUES)
    classes = logit_VC.shape[1]
    count_C = label_V.bincount(minlength=classes)
    weight_V = 1.0 / count_C[label_V]
    weight_V = weight_V / weight_V.sum()
    answer_V = logit_VC.argmax(dim=1)
    right_V = answer_V == label_V
    loss_V = functional.cross_entropy(logit_VC, label_V, reduction="none")
    hits_C = label_V[right_V].bincount(minlength=classes)
    f1_C = 2 * hits_C / (count_C + answer_V.bincount(minlength=classes)).clamp(min=1)
    values = (
        (weight_V * loss_V).sum(),
        right_V.float().mean(),
        (weight_V * right_V).sum(),
        f1_C[count_C > 0].mean(),
    )
    return dict(zip(_VALUES, torch.stack(values).tolist(), strict=True))


_VALUES = ("validation_loss", "validation_accuracy", "validation_balanced_accuracy", "validation_macro_f1")
