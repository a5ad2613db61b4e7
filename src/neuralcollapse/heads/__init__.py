"""Heads: what turns features into logits, learned or fixed."""

from neuralcollapse.heads.class_mean import ClassMeanHead as ClassMeanHead
from neuralcollapse.heads.class_mean import NearestFrameHead as NearestFrameHead
from neuralcollapse.heads.cosine import CosineHead as CosineHead
from neuralcollapse.heads.fixed import FixedHead as FixedHead
from neuralcollapse.heads.fixed import RotatedHead as RotatedHead
from neuralcollapse.heads.fixed import assigned as assigned
from neuralcollapse.heads.head import AbstractHead as AbstractHead
from neuralcollapse.heads.linear import DeepLinearHead as DeepLinearHead
from neuralcollapse.heads.linear import LinearHead as LinearHead

HEADS: tuple[type[AbstractHead], ...] = (
    LinearHead,
    CosineHead,
    FixedHead,
    RotatedHead,
    ClassMeanHead,
    DeepLinearHead,
    NearestFrameHead,
)
