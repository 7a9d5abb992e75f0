"""What moves points: groups and Lie groups."""

# first, because the manifolds that are groups build on groups.base, and groups.base on the contract of manifolds
import flowgroup.manifolds  # noqa: F401
from flowgroup.groups.base import Group, LieGroup, MatrixLieGroup
from flowgroup.groups.pullback import PullbackGroup
from flowgroup.groups.quaternions import UnitQuaternions
from flowgroup.groups.rotations import (
    euler_to_matrix,
    hamilton_product,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    rotation_vector_to_quaternion,
)
from flowgroup.groups.se3 import SE3, matrix_to_pose, pose_to_matrix
from flowgroup.groups.so2 import SO2
from flowgroup.groups.so3 import SO3
from flowgroup.groups.son import SO

__all__ = [
    "SE3",
    "SO",
    "SO2",
    "SO3",
    "Group",
    "LieGroup",
    "MatrixLieGroup",
    "PullbackGroup",
    "UnitQuaternions",
    "euler_to_matrix",
    "hamilton_product",
    "matrix_to_euler",
    "matrix_to_pose",
    "matrix_to_quaternion",
    "pose_to_matrix",
    "quaternion_to_matrix",
    "quaternion_to_rotation_vector",
    "rotation_vector_to_quaternion",
]
