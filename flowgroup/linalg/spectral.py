"""Functions of symmetric matrices, with derivatives that stay finite and exact at equal eigenvalues.

f(A) = V diag f(w) Vᵀ has the derivative Df(A)[H] = V (f[wᵢ, wⱼ] ∘ VᵀHV) Vᵀ of Daleckii and Krein: divided differences
of f take the place of the gaps between eigenvalues by which the gradient of an eigenvector divides.

The numerical policy of everything here is one rule: for functions of positive numbers, eigenvalues below ε·max|w|, ε
the dtype's rounding, are noise, and taken to be ε·max|w|. Nothing is clamped at an absolute value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup._checks import check_square
from flowgroup.linalg import _closed_functions as closed
from flowgroup.linalg import scalar_functions
from flowgroup.linalg._function import Function
from flowgroup.linalg.eigh import decompose
from flowgroup.linalg.scalar_functions import EXP, INV, INV_SQRT, LOG, SQRT, ScalarFunction


class Spectrum:
    """A = V diag(w) Vᵀ, decomposed once and shared by every function of A.

    Functions are differentiable twice with respect to A (reverse mode), also where eigenvalues are equal. Gradients
    are symmetric, those of f((A + Aᵀ)/2).

    Args:
        A: symmetric matrices (..., n, n), of which the lower triangle is read.

    Attributes:
        matrix: A.
        eigenvalues: w (..., n), ascending, without gradient.
        eigenvectors: V (..., n, n), columns, without gradient.

    Source: Functions of Matrices, 2008, Higham, theorem 3.11; the rule is Daleckii and Krein's, 1965.

    Example:
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> spectrum = Spectrum(A)
        >>> torch.allclose(spectrum.sqrt() @ spectrum.sqrt(), A), torch.allclose(spectrum.log(), logm(A))
        (True, True)
    """

    def __init__(self, A: Tensor):
        check_square("A", A)
        self.matrix = A
        self.eigenvalues, self.eigenvectors = decompose(A)

    @classmethod
    def of(cls, A: Tensor, w: Tensor, V: Tensor) -> Spectrum:
        """The spectrum of A, where A = V diag(w) Vᵀ is known already; w and V carry no gradient."""
        spectrum = object.__new__(cls)
        spectrum.matrix, spectrum.eigenvalues, spectrum.eigenvectors = A, w, V
        return spectrum

    def values(self) -> Tensor:
        """w (..., n) with gradient, for functions that do not depend on the order of eigenvalues: V diag(g) Vᵀ for g.

        One derivative; a second one would divide by gaps, and is refused.
        """
        A, w, V = self.matrix, self.eigenvalues, self.eigenvectors
        if torch.compiler.is_compiling():
            return w + _conjugate(V.mT, _symmetric(A - A.detach())).diagonal(dim1=-2, dim2=-1)
        return _Eigenvalues.apply(A, w, V)

    def log(self) -> Tensor:
        """log A."""
        return self.apply(LOG)

    def exp(self) -> Tensor:
        """exp A."""
        return self.apply(EXP)

    def sqrt(self) -> Tensor:
        """A^½."""
        return self.apply(SQRT)

    def inv_sqrt(self) -> Tensor:
        """A^{−½}."""
        return self.apply(INV_SQRT)

    def inv(self) -> Tensor:
        """A⁻¹."""
        return self.apply(INV)

    def power(self, p: float | Tensor) -> Tensor:
        """Aᵖ; a tensor p of the batch shape, or one that broadcasts against it, gets its gradient."""
        if not isinstance(p, Tensor):
            return self.matrix if p == 1 else self.apply(scalar_functions.power(p))
        p = p.to(self.eigenvalues)
        batch = torch.broadcast_shapes(p.shape, self.matrix.shape[:-2])
        A, w, V = self._expanded(batch)
        if torch.compiler.is_compiling():
            return _power_by_log(A, p.expand(batch), w, V)
        return _Power.apply(A, p.expand(batch), w, V)

    def trace(self, function: ScalarFunction, derivative: ScalarFunction) -> Tensor:
        """tr f(A) = Σ f(wᵢ), of the batch shape, for f and f′; its gradient is f′(A)."""
        A, w, V = self.matrix, self.eigenvalues, self.eigenvectors
        if torch.compiler.is_compiling():
            return function.value(_smooth_part(self.values(), function)).sum(-1)
        return _Trace.apply(A, w, V, function, derivative)

    def _expanded(self, batch: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """A, w and V of this batch shape."""
        n = self.matrix.shape[-1]
        return (
            self.matrix.expand(*batch, n, n),
            self.eigenvalues.expand(*batch, n),
            self.eigenvectors.expand(*batch, n, n),
        )

    def apply(self, function: ScalarFunction) -> Tensor:
        """V diag f(w) Vᵀ."""
        A, w, V = self.matrix, self.eigenvalues, self.eigenvectors
        if torch.compiler.is_compiling():
            # dynamo forgets custom gradients inside functorch's transforms; a term that is zero has the same gradient
            return _value(w, V, function) + _derivative(A - A.detach(), w, V, function)
        return _Value.apply(A, w, V, function)

    def derivative(self, function: ScalarFunction, H: Tensor) -> Tensor:
        """Df(A)[H] for symmetric H (..., n, n); batch shapes broadcast."""
        _, H = torch.broadcast_tensors(self.matrix, H)
        A, w, V = self._expanded(H.shape[:-2])
        if torch.compiler.is_compiling():
            return _derivative(H, w, V, function) + _second_derivative(H, A - A.detach(), w, V, function)
        return _Derivative.apply(A, H, w, V, function)


def logm(A: Tensor) -> Tensor:
    """log A of symmetric positive-definite matrices (..., n, n).

    Example:
        >>> torch.allclose(logm(torch.eye(3)), torch.zeros(3, 3))
        True
    """
    return Spectrum(A).log()


def sqrtm(A: Tensor) -> Tensor:
    """A^½ of symmetric positive-semidefinite matrices (..., n, n).

    Example:
        >>> torch.allclose(sqrtm(4 * torch.eye(3)), 2 * torch.eye(3))
        True
    """
    return Spectrum(A).sqrt()


def invsqrtm(A: Tensor) -> Tensor:
    """A^{−½} of symmetric positive-definite matrices (..., n, n).

    Example:
        >>> torch.allclose(invsqrtm(4 * torch.eye(3)), torch.eye(3) / 2)
        True
    """
    return Spectrum(A).inv_sqrt()


def powm(A: Tensor, p: float | Tensor) -> Tensor:
    """Aᵖ of symmetric positive-definite matrices (..., n, n), p a number or a tensor of the batch shape.

    Example:
        >>> torch.allclose(powm(4 * torch.eye(3), 1.5), 8 * torch.eye(3))
        True
    """
    return A if not isinstance(p, Tensor) and p == 1 else Spectrum(A).power(p)


def funm(A: Tensor, f: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor]) -> Tensor:
    """f(A) of symmetric matrices (..., n, n) for any smooth scalar function given with its derivative.

    Args:
        A: symmetric matrices (..., n, n).
        f, derivative: act element by element; the second derivative, where asked for, comes from autograd.

    Example:
        >>> torch.allclose(funm(torch.zeros(2, 2), torch.cos, lambda x: -x.sin()), torch.eye(2))
        True
    """
    return Spectrum(A).apply(scalar_functions.smooth(f, derivative))


def above_noise(w: Tensor) -> Tensor:
    """Eigenvalues (..., n), those below ε·max|w| raised to it."""
    info = torch.finfo(w.dtype)
    return torch.maximum(w, (info.eps * w.abs().amax(-1, keepdim=True)).clamp(min=info.tiny))


def _smooth_part(w: Tensor, function: ScalarFunction) -> Tensor:
    """Eigenvalues where the derivatives of the function are taken."""
    return w if function.domain == "real" else above_noise(w)


def _value(w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
    w = w.clamp(min=0) if function.domain == "nonnegative" else _smooth_part(w, function)
    return _outer(V, function.value(w))


def _derivative(H: Tensor, w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
    """Df(A)[(H + Hᵀ)/2]."""
    w = _smooth_part(w, function)
    if closed.closed_form_may(V, w, H):
        return closed.derivative(H, w, V, function)
    H = _conjugate(V.mT, _symmetric(H))
    return _conjugate(V, H.mul_(function.divided_difference(w.unsqueeze(-1), w.unsqueeze(-2))))


def _second_derivative(H: Tensor, K: Tensor, w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
    """D²f(A)[H, K] = V M Vᵀ, Mᵢₖ = Σⱼ f[wᵢ, wⱼ, wₖ](H̃ᵢⱼK̃ⱼₖ + K̃ᵢⱼH̃ⱼₖ) in the basis of eigenvectors."""
    w = _smooth_part(w, function)
    curvature = function.second_divided_difference(w[..., :, None, None], w[..., None, :, None], w[..., None, None, :])
    H, K = (_conjugate(V.mT, _symmetric(X)) for X in (H, K))
    half = torch.einsum("...ijk,...ij,...jk->...ik", curvature, H, K)
    return _conjugate(V, half + half.mT)


def _outer(V: Tensor, f: Tensor) -> Tensor:
    """V diag(f) Vᵀ."""
    return closed.value(V, f) if closed.closed_form_may(V, f) else (V * f.unsqueeze(-2)) @ V.mT


def _conjugate(V: Tensor, X: Tensor) -> Tensor:
    return V @ X @ V.mT


def _symmetric(X: Tensor) -> Tensor:
    return torch.lerp(X, X.mT, 0.5)


class _Value(Function):
    @staticmethod
    def forward(A: Tensor, w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
        return _value(w, V, function)

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, w, V, ctx.function = inputs
        ctx.save_for_backward(A, w, V)

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, w, V = ctx.saved_tensors
        if not torch.is_grad_enabled():  # no second derivative is wanted
            return _derivative(grad, w, V, ctx.function), None, None, None
        return _Derivative.apply(A, grad, w, V, ctx.function), None, None, None


class _Trace(Function):
    @staticmethod
    def forward(A: Tensor, w: Tensor, V: Tensor, function: ScalarFunction, derivative: ScalarFunction) -> Tensor:
        return function.value(_smooth_part(w, function)).sum(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, w, V, _, ctx.derivative = inputs
        ctx.save_for_backward(A, w, V)

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, w, V = ctx.saved_tensors
        return grad[..., None, None] * _Value.apply(A, w, V, ctx.derivative), None, None, None, None


def _power_by_log(A: Tensor, p: Tensor, w: Tensor, V: Tensor) -> Tensor:
    """exp(p·log A), whose eigenvectors are known: all derivatives in p and A come from autograd."""
    scaled = p[..., None, None] * Spectrum.of(A, w, V).log()
    return Spectrum.of(scaled, p.detach()[..., None] * above_noise(w).log(), V).exp()


class _Power(Function):
    """(A, p) ↦ Aᵖ for p of the batch shape."""

    @staticmethod
    def forward(A: Tensor, p: Tensor, w: Tensor, V: Tensor) -> Tensor:
        return _outer(V, above_noise(w) ** p.unsqueeze(-1))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, p, w, V = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted
            _, pull = torch.func.vjp(lambda A, p: _power_by_log(A, p, w, V), A, p)
            return *pull(grad), None, None
        w, M = above_noise(w), _conjugate(V.mT, _symmetric(grad))
        in_p = (M.diagonal(dim1=-2, dim2=-1) * w ** p.unsqueeze(-1) * w.log()).sum(-1)
        M.mul_(scalar_functions.power_difference(*_larger_and_smaller(w), p[..., None, None]))
        return _conjugate(V, M), in_p, None, None


def _larger_and_smaller(w: Tensor) -> tuple[Tensor, Tensor]:
    a, b = w.unsqueeze(-1), w.unsqueeze(-2)
    return torch.maximum(a, b), torch.minimum(a, b)


class _Eigenvalues(Function):
    @staticmethod
    def forward(A: Tensor, w: Tensor, V: Tensor) -> Tensor:
        return w.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, _, V = inputs
        ctx.save_for_backward(A, V)

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, V = ctx.saved_tensors
        return _FromEigenbasis.apply(A, grad, V), None, None


class _FromEigenbasis(Function):
    """(A, g) ↦ V diag(g) Vᵀ."""

    @staticmethod
    def forward(A: Tensor, g: Tensor, V: Tensor) -> Tensor:
        return _outer(V, g)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.needs_input_grad[0]:
            raise NotImplementedError("eigenvalues of symmetric matrices have one derivative here, not two")
        (V,) = ctx.saved_tensors
        return None, _conjugate(V.mT, grad).diagonal(dim1=-2, dim2=-1), None


class _Derivative(Function):
    @staticmethod
    def forward(A: Tensor, H: Tensor, w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
        return _derivative(H, w, V, function)

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, H, w, V, ctx.function = inputs
        ctx.save_for_backward(A, H, w, V)

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, H, w, V = ctx.saved_tensors
        # D²f is the third derivative of a trace, so its adjoint in one argument is itself
        in_A = _SecondDerivative.apply(A, H, grad, w, V, ctx.function) if ctx.needs_input_grad[0] else None
        return in_A, _Derivative.apply(A, grad, w, V, ctx.function), None, None, None


class _SecondDerivative(Function):
    @staticmethod
    def forward(A: Tensor, H: Tensor, K: Tensor, w: Tensor, V: Tensor, function: ScalarFunction) -> Tensor:
        return _second_derivative(H, K, w, V, function)

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, H, K, w, V, ctx.function = inputs
        ctx.save_for_backward(A, H, K, w, V)

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.needs_input_grad[0]:
            raise NotImplementedError("functions of symmetric matrices have two derivatives here, not three")
        A, H, K, w, V = ctx.saved_tensors
        in_H, in_K = (
            _SecondDerivative.apply(A, X, grad, w, V, ctx.function) if needed else None
            for X, needed in zip((K, H), ctx.needs_input_grad[1:3])
        )
        return None, in_H, in_K, None, None, None
