"""Scores of samples by what a classifier says of them: I' of the EBGAN paper and the inception score."""

import torch
from torch import Tensor, nn

CHUNK = 500


@torch.no_grad()
def log_probabilities(classifier: nn.Module, x: Tensor) -> Tensor:
    """(N, K) log p(y | x) of pictures (N, C, H, W) in float64; finite where the classifier's logits are.

    From logits: where a classifier is sure, the probabilities of the other classes round to 0.
    """
    return torch.cat([classifier(chunk).double().log_softmax(1) for chunk in x.split(CHUNK)])


def reversed_score(log_p: Tensor) -> float:
    """I' = E_x KL(p(y) || p(y | x)) of (N, K) (1609.03126, 4.1); higher is better, 0 if all x are alike.

    Its direction is the other way round than the inception score's and its logarithm stays; the surer a
    classifier, the larger: values of two classifiers cannot be compared.
    """
    marginal = log_p.exp().mean(0)
    entropy = -torch.special.entr(marginal).sum()
    return float(entropy - (marginal * log_p).sum(1).mean())


def inception_score(log_p: Tensor) -> float:
    """exp E_x KL(p(y | x) || p(y)) of (N, K) (Salimans et al. 2016), with this classifier; 1 to K."""
    p = log_p.exp()
    marginal = torch.special.entr(p.mean(0)).sum()
    return float((marginal - torch.special.entr(p).sum(1).mean()).exp())
