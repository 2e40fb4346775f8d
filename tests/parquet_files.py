"""Parquet files as others write them: any columns, images as encoded bytes."""

import io

import pyarrow
import pyarrow.parquet
from PIL import Image

IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def image(color: str, kind: str = "PNG", **options) -> dict:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(content, kind, **options)
    return {"bytes": content.getvalue(), "path": None}


def write(path, *, group: int = 2, **columns):
    """A parquet file of these columns; dicts are images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {name: IMAGE if isinstance(values[0], dict) else None for name, values in columns.items()}
    arrays = {name: pyarrow.array(values, types[name]) for name, values in columns.items()}
    pyarrow.parquet.write_table(
        pyarrow.table(arrays), path, row_group_size=group, compression="none", write_page_checksum=True
    )
    return path


def published(path, count: int = 5):
    """The layout of `primecai/dsd_data`, as far as it is known."""
    return write(
        path,
        conditioning=[image("red", "JPEG")] * count,
        image=[image("blue", "JPEG")] * count,
        caption=[f"words {i}" for i in range(count)],
    )
