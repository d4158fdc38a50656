"""Restormer and PromptIR in plain PyTorch for comparison, as spandrel lacks both.

Written as a PyTorch user would, without tuning. Parameters have the names of the reference, for
Restormer those of the original publication (no `body` below the levels), so that the result of
`dcpt_jax.to_torch(params, model, layout="original", force=True)` can be loaded.

Zamir et al., Restormer (CVPR 2022); Potlapalli et al., PromptIR (NeurIPS 2023).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [b, c, h, w]; "bias_free" does not subtract the mean."""

    def __init__(self, channels: int, norm: str, epsilon: float):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if norm == "with_bias" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> the same."""
        if self.bias is None:
            variance = x.var(1, unbiased=False, keepdim=True)
            return x / torch.sqrt(variance + self.epsilon) * self.weight[:, None, None]
        last = F.layer_norm(
            x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.epsilon
        )
        return last.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Attention between the channels of each head; "relu" or "softmax"."""

    def __init__(self, channels: int, heads: int, bias: bool, attention: str):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> the same."""
        b, c, h, w = x.shape
        query, key, value = (
            part.reshape(b, self.heads, c // self.heads, h * w)
            for part in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        )
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        weights = query @ key.transpose(-2, -1) * self.temperature
        weights = weights.relu() if self.attention == "relu" else weights.softmax(dim=-1)
        return self.project_out((weights @ value).reshape(b, c, h, w))


class FeedForward(nn.Module):
    """Gated feed-forward network."""

    def __init__(self, channels: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> the same."""
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(first) * second)


class Block(nn.Module):
    """Transformer block: attention and feed-forward network, both residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        expansion: float,
        bias: bool,
        norm: str,
        epsilon: float,
        attention: str,
    ):
        super().__init__()
        self.norm1 = _inside("body", ChannelNorm(channels, norm, epsilon))
        self.attn = Attention(channels, heads, bias, attention)
        self.norm2 = _inside("body", ChannelNorm(channels, norm, epsilon))
        self.ffn = FeedForward(channels, expansion, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Prompts(nn.Module):
    """Learned prompts, weighted by the mean of the features and resized to them."""

    def __init__(self, dim: int, count: int, size: int, features: int):
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, count, dim, size, size))
        self.linear_layer = nn.Linear(features, count)
        self.conv3x3 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, c + dim, h, w]: features and prompt, concatenated."""
        weights = self.linear_layer(x.mean(dim=(2, 3))).softmax(dim=1)
        prompt = (weights[:, :, None, None, None] * self.prompt_param).sum(dim=1)
        prompt = F.interpolate(prompt, x.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([x, self.conv3x3(prompt)], dim=1)


class Restormer(nn.Module):
    """Restormer with the keyword arguments of `create_model("restormer", ...)`."""

    def __init__(
        self,
        *,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        bias: bool = False,
        norm: str = "bias_free",
        attention: str = "relu",
    ):
        super().__init__()
        style = dict(
            expansion=ffn_expansion,
            bias=bias and attention == "softmax",
            norm=norm,
            epsilon=1e-6 if attention == "relu" else 1e-5,
            attention=attention,
        )
        _add_encoder(self, dim, num_blocks, heads, style)
        self.up4_3 = _up(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = _level(4 * dim, num_blocks[2], heads[2], style)
        self.up3_2 = _up(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = _level(2 * dim, num_blocks[1], heads[1], style)
        self.up2_1 = _up(2 * dim)
        self.decoder_level1 = _level(2 * dim, num_blocks[0], heads[0], style)
        self.refinement = _level(2 * dim, num_refinement_blocks, heads[0], style)
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[b, 3, h, w] -> the same; h and w are multiples of 8."""
        level_1, level_2, level_3, x = _encode(self, image)
        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), level_3], dim=1))
        x = self.decoder_level3(x)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level_2], dim=1))
        x = self.decoder_level2(x)
        x = self.decoder_level1(torch.cat([self.up2_1(x), level_1], dim=1))
        return self.output(self.refinement(x)) + image


class PromptIR(nn.Module):
    """PromptIR with the keyword arguments of `create_model("promptir", ...)`."""

    def __init__(
        self,
        *,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        bias: bool = False,
        norm: str = "with_bias",
        prompt_dims: Sequence[int] = (64, 128, 320),
        prompt_sizes: Sequence[int] = (64, 32, 16),
        prompt_len: int = 5,
    ):
        super().__init__()
        style = dict(
            expansion=ffn_expansion, bias=bias, norm=norm, epsilon=1e-5, attention="softmax"
        )
        _add_encoder(self, dim, num_blocks, heads, style)
        for level, kept in ((3, 4 * dim), (2, 4 * dim), (1, 2 * dim)):
            features, prompt_dim = dim * 2**level, prompt_dims[level - 1]
            prompts = Prompts(prompt_dim, prompt_len, prompt_sizes[level - 1], features)
            setattr(self, f"prompt{level}", prompts)
            joined = features + prompt_dim
            setattr(self, f"noise_level{level}", Block(joined, heads[2], **style))
            setattr(self, f"reduce_noise_level{level}", nn.Conv2d(joined, kept, 1, bias=bias))
        self.up4_3 = _up(4 * dim)
        self.reduce_chan_level3 = nn.Conv2d(6 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = _level(4 * dim, num_blocks[2], heads[2], style)
        self.up3_2 = _up(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = _level(2 * dim, num_blocks[1], heads[1], style)
        self.up2_1 = _up(2 * dim)
        self.decoder_level1 = _level(2 * dim, num_blocks[0], heads[0], style)
        self.refinement = _level(2 * dim, num_refinement_blocks, heads[0], style)
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[b, 3, h, w] -> the same; h and w are multiples of 8."""
        level_1, level_2, level_3, x = _encode(self, image)
        x = self.reduce_noise_level3(self.noise_level3(self.prompt3(x)))
        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), level_3], dim=1))
        x = self.decoder_level3(x)
        x = self.reduce_noise_level2(self.noise_level2(self.prompt2(x)))
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level_2], dim=1))
        x = self.decoder_level2(x)
        x = self.reduce_noise_level1(self.noise_level1(self.prompt1(x)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), level_1], dim=1))
        return self.output(self.refinement(x)) + image


def _add_encoder(network, dim, num_blocks, heads, style) -> None:
    embedding = nn.Conv2d(3, dim, 3, padding=1, bias=False)
    network.patch_embed = _inside("proj", embedding)
    network.encoder_level1 = _level(dim, num_blocks[0], heads[0], style)
    network.down1_2 = _down(dim)
    network.encoder_level2 = _level(2 * dim, num_blocks[1], heads[1], style)
    network.down2_3 = _down(2 * dim)
    network.encoder_level3 = _level(4 * dim, num_blocks[2], heads[2], style)
    network.down3_4 = _down(4 * dim)
    network.latent = _level(8 * dim, num_blocks[3], heads[3], style)


def _encode(network, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    level_1 = network.encoder_level1(network.patch_embed(image))
    level_2 = network.encoder_level2(network.down1_2(level_1))
    level_3 = network.encoder_level3(network.down2_3(level_2))
    return level_1, level_2, level_3, network.latent(network.down3_4(level_3))


def _inside(name: str, module: nn.Module) -> nn.Sequential:
    """Nests a module under one more level of parameter names."""
    return nn.Sequential(OrderedDict([(name, module)]))


def _level(channels: int, blocks: int, heads: int, style: dict) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, heads, **style) for _ in range(blocks)))


def _down(channels: int) -> nn.Sequential:
    """Downsampling to half the size and twice the channels."""
    conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
    return _inside("body", nn.Sequential(conv, nn.PixelUnshuffle(2)))


def _up(channels: int) -> nn.Sequential:
    """Upsampling to twice the size and half the channels."""
    conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
    return _inside("body", nn.Sequential(conv, nn.PixelShuffle(2)))
