"""The library's laws as functions that raise AssertionError: for our own tests, and for layers of your own."""

from flowgroup.testing.transforms import (
    assert_batch_broadcasting,
    assert_bijection,
    assert_compiles,
    assert_context_broadcasting,
    assert_deepcopy,
    assert_flow,
    assert_gradients_finite,
    assert_invertible,
    assert_log_det,
    assert_log_dets_cancel,
    assert_pickle,
    assert_sampling,
    assert_state_dict_round_trip,
    assert_transform,
    assert_vmap,
)

__all__ = [
    "assert_batch_broadcasting",
    "assert_bijection",
    "assert_compiles",
    "assert_context_broadcasting",
    "assert_deepcopy",
    "assert_flow",
    "assert_gradients_finite",
    "assert_invertible",
    "assert_log_det",
    "assert_log_dets_cancel",
    "assert_pickle",
    "assert_sampling",
    "assert_state_dict_round_trip",
    "assert_transform",
    "assert_vmap",
]
