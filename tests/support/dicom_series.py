"""Small DICOM series."""

import locale
from pathlib import Path

import numpy as np
import SimpleITK


def write_dicom(folder: Path, heights, series="1.2.826.0.1.3680043.2.1125.1") -> None:
    """Writes axial slices at the given heights in mm, in shuffled file order."""
    folder.mkdir(parents=True, exist_ok=True)
    # The library's writer of DICOM leaves the process in the locale C, in which other tests would read ASCII alone.
    before = locale.setlocale(locale.LC_ALL)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, height in enumerate(heights):
        image = SimpleITK.GetImageFromArray(np.full((1, 4, 3), 100 * number + 7, np.int16))
        image[0, 0, 0] = 1
        image.SetSpacing((2.0, 2.0, 3.0))
        tags = {
            "0008|0060": "MR",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0020|000e": series,
            "0008|0018": f"{series}.{number}",
            "0020|0013": str(number),
            "0020|0032": f"-10\\20\\{height}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{(number * 7) % 10}_{series[-1]}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)
