"""The features of the trunk `Windows` (model.py) on a CPU, computed fast."""
import torch
from torch.nn import functional as F

WINDOWS_AT_ONCE = 2048  # windows per chunk: about 2 MB of hidden states


class WindowsMax(torch.autograd.Function):
    """The same function and gradient as `Windows.plain_features`.

    embedding_bag adds up the vectors of a window without copying them first. The maximum sends the
    gradient of a feature to one window, so backward touches window * n_embd numbers per text.
    """

    @staticmethod
    def forward(ctx, table, bias, tokens, counts, sparse):
        """table [n_tokens, window * n_embd], bias [n_embd], tokens and counts int64 [B, T] ->
        features [B, n_embd]. sparse: whether the gradient of the table is sparse."""
        B, T = tokens.shape
        n_embd = len(bias)
        window = table.shape[1] // n_embd
        # the rows that each window adds up, in a table with a row per token and place in a window;
        # rows of places outside the text have weight 0
        real = counts > 0
        tokens = torch.where(real, tokens, tokens[:, :1])  # padding adds no row to the gradient
        place = torch.arange(window)
        position = torch.arange(T)[:, None] + place - (window - 1) // 2  # [T, window]
        inside = (position >= 0) & (position < real.sum(1)[:, None, None])  # [B, T, window]
        position = position.clamp(0, T - 1)
        rows = tokens[:, position] * window + place
        # padding repeats the first window, which does not change the maximum
        inside = torch.where(real[..., None], inside, inside[:, :1])
        rows = torch.where(real[..., None], rows, rows[:, :1]).flatten(0, 1)
        weights = inside.to(table.dtype).flatten(0, 1)

        # a few texts at a time, so that their windows fit the cache
        maxima = []
        n_windows = max(1, WINDOWS_AT_ONCE // T) * T
        for begin in range(0, B * T, n_windows):
            chunk = slice(begin, begin + n_windows)
            h = F.embedding_bag(rows[chunk], table.view(-1, n_embd), mode='sum',
                                per_sample_weights=weights[chunk])
            h = h.view(-1, T, n_embd)
            maxima.append(h.max(1) if ctx.needs_input_grad[0] else (h.amax(1), tokens[:0]))
        values, winners = map(torch.cat, zip(*maxima))
        features = F.relu(values + bias)
        ctx.save_for_backward(features, winners, rows.view(B, T, window), inside, tokens)
        ctx.shape = table.shape
        ctx.sparse = sparse
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        features, winners, rows, inside, tokens = ctx.saved_tensors
        gradient = torch.where(features > 0, gradient, 0)
        window = rows.shape[2]
        n_embd = gradient.shape[1]
        # add the gradient to each row of the winning window
        known, index = torch.unique(rows // window, return_inverse=True)
        table = gradient.new_zeros(len(known), window, n_embd)
        column = torch.arange(n_embd)
        for place in range(window):
            row = index[..., place].gather(1, winners) * window + place
            g = gradient * inside[..., place].gather(1, winners)
            table.view(-1).index_add_(0, (row * n_embd + column).flatten(), g.flatten())
        table = torch.sparse_coo_tensor(known[None], table.flatten(1), ctx.shape,
                                        check_invariants=False, is_coalesced=True)
        return table if ctx.sparse else table.to_dense(), gradient.sum(0), None, None, None
