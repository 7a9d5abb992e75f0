"""Transforms of images (channels, height, width)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowgroup.flows.transform import Transform, joint_context


class Squeeze(Transform):
    """(C, H, W) → (4C, H/2, W/2): every 2×2 square of pixels becomes four channels.

    Source: Density estimation using Real NVP, 2017, arXiv 1605.08803, Section 3.6.

    Example:
        >>> Squeeze()(torch.zeros(5, 3, 8, 8))[0].shape
        torch.Size([5, 12, 4, 4])
    """

    in_shape = out_shape = (None, None, None)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            raise ValueError(f"x must have even height and width, got shape {tuple(x.shape)}")
        # not pixel_unshuffle, which gives an empty batch back as it came
        y = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).movedim((-3, -1), (-4, -3)).flatten(-5, -3)
        return y, x.new_zeros(x.shape[:-3])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        if y.shape[-3] % 4:
            raise ValueError(f"y must have a multiple of 4 channels, got shape {tuple(y.shape)}")
        x = y.unflatten(-3, (-1, 2, 2)).movedim((-4, -3), (-3, -1)).flatten(-4, -3).flatten(-2)
        return x, y.new_zeros(y.shape[:-3])


class PerPixel(Transform):
    """One transform of vectors (C,) on the channels of every pixel of an image (C, H, W).

    A 1×1 convolution is `PerPixel(LULinear(C))`.

    Args:
        transform: the transform of vectors; its context, if it has one, is the same at every pixel.

    Example:
        >>> from flowgroup import flows
        >>> PerPixel(flows.LULinear(3))(torch.zeros(5, 3, 8, 8))[1].shape
        torch.Size([5])
    """

    def __init__(self, transform: Transform):
        super().__init__()
        self.transform = transform
        self.in_shape = (*transform.in_shape, None, None)
        self.out_shape = (*transform.out_shape, None, None)
        self.domain, self.codomain = transform.domain, transform.codomain
        self.context_features = transform.context_features

    def _apply_to_pixels(self, transform, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if context is not None:
            context = context[..., None, None, :]
        y, logdet = transform(x.movedim(-3, -1), context)
        return y.movedim(-1, -3), logdet.sum((-2, -1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._apply_to_pixels(self.transform, self._checked("x", x, context), context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return self._apply_to_pixels(self.transform.inverse, y, context)


class MultiScale(Transform):
    """Image to vector: after each level half of the channels are done, the other half goes on to the next.

    Args:
        levels: transforms of images, each taking what the one before let through.
        image_shape: (C, H, W) of the data.

    Source: Density estimation using Real NVP, 2017, arXiv 1605.08803, Section 3.6.

    Example:
        >>> MultiScale([Squeeze(), Squeeze()], image_shape=(1, 8, 8))(torch.zeros(5, 1, 8, 8))[0].shape
        torch.Size([5, 64])
    """

    def __init__(self, levels: list[Transform], image_shape: tuple[int, int, int]):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.in_shape = tuple(image_shape)
        self.out_shape = (image_shape[0] * image_shape[1] * image_shape[2],)
        self.context_features = joint_context("levels", levels)
        # the shape each level gives, found by sending an image of zeros through (in evaluation: nothing learns from it)
        self._shapes = []
        x = torch.zeros(self.in_shape)
        context = torch.zeros(self.context_features)
        for i, level in enumerate(levels):
            training = level.training
            with torch.no_grad():
                x = level.eval()(x, context if level.context_features else None)[0]
            level.train(training)
            self._shapes.append(tuple(x.shape))
            if i < len(levels) - 1:
                x = x[: x.shape[0] // 2]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        total: Tensor | float = 0.0
        done = []
        for i, level in enumerate(self.levels):
            x, logdet = level(x, context if level.context_features else None)
            total = total + logdet
            if i < len(self.levels) - 1:
                half = x.shape[-3] // 2
                x, out = x[..., :half, :, :], x[..., half:, :, :]
                done.append(out.flatten(-3))
        done.append(x.flatten(-3))
        return torch.cat(done, -1), total

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        shapes = [(s[0] - s[0] // 2, *s[1:]) for s in self._shapes[:-1]] + [self._shapes[-1]]
        done = y.split([s[0] * s[1] * s[2] for s in shapes], -1)
        total: Tensor | float = 0.0
        x = None
        for level, shape, out in zip(self.levels[::-1], shapes[::-1], done[::-1]):
            out = out.unflatten(-1, shape)
            x = out if x is None else torch.cat((x, out), -3)
            x, logdet = level.inverse(x, context if level.context_features else None)
            total = total + logdet
        return x, total
