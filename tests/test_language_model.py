# Not adapted: taken as they were from tests/test_model.py, for the model in lm/.
"""The language model's loss: closed forms of the heads, and heads of one's own."""
import pytest
import torch
from torch.nn import functional as F

from model import HEADS, CEHead, EncoderConfig, LanguageModel, make_head


class ScaledHead(CEHead):
    """Cross-entropy on logits of its own making."""

    def forward(self, x):
        return 2 * self.linear(x)


class DoubledHead(CEHead):
    """A loss of its own, beside the closed form that it inherits."""

    def loss(self, logits, labels):
        return 2 * super().loss(logits, labels)


def test_a_forward_of_its_own_is_refused(monkeypatch):
    monkeypatch.setitem(HEADS, 'scaled', ScaledHead)
    shape = {'vocab_size': 5, 'n_class': 5, 'n_embd': 8, 'causal': True}
    with pytest.raises(ValueError, match='scaled has a forward of its own'):
        LanguageModel(EncoderConfig(head='scaled', **shape), tied=False)
    LanguageModel(EncoderConfig(head='ce', **shape), tied=False)


def test_a_loss_of_its_own_is_that_of_a_language_model(monkeypatch):
    monkeypatch.setitem(HEADS, 'doubled', DoubledHead)
    shape = {'vocab_size': 5, 'n_class': 5, 'n_embd': 8, 'causal': True}
    losses = []
    for name in 'ce', 'doubled':
        torch.manual_seed(0)
        model = LanguageModel(EncoderConfig(head=name, **shape), tied=False)
        torch.manual_seed(1)
        losses.append(model.loss(torch.randn(6, 8), torch.arange(6) % 5))
    torch.testing.assert_close(losses[1], 2 * losses[0])


def test_the_closed_form_of_cross_entropy_is_exact_where_p_underflows():
    """In float32 the smallest p has a loss of 87.3; PyTorch's loss and gradient go on."""
    torch.manual_seed(0)
    z = torch.cat([torch.tensor([[0.0, 200, -50], [3e4, 0, 1]]), 5 * torch.randn(6, 3)])
    y = torch.tensor([0, 1, 0, 1, 2, 0, 1, 2])
    for label_smoothing in (0.0, 0.1):
        head = make_head('ce', 4, 3, label_smoothing=label_smoothing)
        loss, gradient = head.loss_and_gradient(z, y)
        expected = z.double().requires_grad_()
        F.cross_entropy(expected, y, reduction='sum', label_smoothing=label_smoothing).backward()
        assert loss.item() == pytest.approx(F.cross_entropy(
            z.double(), y, reduction='sum', label_smoothing=label_smoothing).item(), rel=1e-6)
        torch.testing.assert_close(gradient, expected.grad.float())
