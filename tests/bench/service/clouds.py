"""Bodies to send: clouds of any size in several formats, sound and damaged."""

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

Cloud = npt.NDArray[np.float32]  # (N, 3)

MODELNET40 = Path("modelnet40/modelnet40_test.npz")


def ball(points: int, seed: int = 0) -> Cloud:
    return np.random.default_rng(seed).normal(size=(points, 3)).astype("<f4")


def street(points: int, seed: int = 0, half_m: float = 15.0) -> Cloud:
    """What a LiDAR sees of a ground, a wall and a post, in metres. half_m: how far the ground goes each way."""
    rng = np.random.default_rng(seed)
    few = points // 10
    ground = rng.uniform([-half_m, -half_m, -1.8], [half_m, half_m, -1.7], (points - 4 * few, 3))
    wall = rng.uniform([-half_m, 6, -1.8], [half_m, 6.2, 2], (3 * few, 3))
    post = rng.uniform([3, -2, -1.8], [3.2, -1.8, 3], (few, 3))
    return rng.permutation(np.concatenate([ground, wall, post])).astype("<f4")


def ply(xyz: Cloud) -> bytes:
    """Binary PLY."""
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n"
    return (header + "property float x\nproperty float y\nproperty float z\nend_header\n").encode() + xyz.astype("<f4").tobytes()


def text(xyz: Cloud) -> bytes:
    """XYZ: a line a point."""
    return b"".join(b"%.4f %.4f %.4f\n" % tuple(point) for point in xyz.tolist())


def off(xyz: Cloud) -> bytes:
    """OFF with a triangle for each three points."""
    faces = len(xyz) // 3
    triangles = b"".join(b"3 %d %d %d\n" % (3 * face, 3 * face + 1, 3 * face + 2) for face in range(faces))
    return b"OFF\n%d %d 0\n" % (len(xyz), faces) + text(xyz) + triangles


def npy(xyz: Cloud) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, xyz)
    return buffer.getvalue()


def npz(xyz: Cloud) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, xyz=xyz)
    return buffer.getvalue()


def kitti(xyz: Cloud) -> bytes:
    """x, y, z, intensity."""
    return np.column_stack([xyz, np.full(len(xyz), 0.25)]).astype("<f4").tobytes()


FORMATS = {"ply": ply, "xyz": text, "off": off, "npy": npy, "npz": npz, "bin": kitti}  # name as of input_format -> writer


def objects(count: int, points: tuple[int, int] = (1024, 4096), seed: int = 0) -> list[Cloud]:
    """Clouds of objects with sizes between these: ModelNet40's test split where FIP_DATA has it, else balls."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(points[0], points[1] + 1, count)
    data = os.environ.get("FIP_DATA")
    if data and (Path(data) / MODELNET40).is_file():
        from tests import stored_modelnet40  # needs the training package

        stored = stored_modelnet40.read(Path(data), "test", lambda labels: rng.choice(len(labels), count, replace=count > len(labels)))
        return [resized(xyz, int(size), rng) for xyz, size in zip(stored.xyz, sizes, strict=True)]
    return [ball(int(size), seed=number) for number, size in enumerate(sizes)]


def resized(xyz: Cloud, size: int, rng: np.random.Generator) -> Cloud:
    """So many of its points; where it has fewer, again with a little noise."""
    more = xyz[rng.integers(0, len(xyz), max(0, size - len(xyz)))]
    noise = rng.normal(scale=0.002, size=more.shape)
    return rng.permutation(np.concatenate([xyz[rng.permutation(len(xyz))[:size]], (more + noise).astype(np.float32)])).astype("<f4")
