"""What MetaIO says on standard error is kept from users; what anybody else says afterwards is not."""

import contextlib
import os
import threading

import numpy as np
import pytest
import SimpleITK

from ccella.imaging.errors import InputError
from ccella.imaging.itk import read_itk_file


def damaged(path):
    """A compressed MetaImage whose stream begins with bytes that no stream begins with."""
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32))
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    data = bytearray(path.read_bytes())
    start = data.index(b"LOCAL\n") + 6
    data[start : start + 4] = b"\xff" * 4
    path.write_bytes(data)
    return path


def misread(path):
    """A MetaImage whose header holds all that is due, but in an order that the library cannot read."""
    image = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    SimpleITK.WriteImage(image, str(path))
    size, kind = b"DimSize = 6 5 4\n", b"ElementType = MET_FLOAT\n"
    data = path.read_bytes()
    assert size in data and kind in data
    path.write_bytes(data.replace(size, b"").replace(kind, b"ElementX\n" + size + kind))
    return path


def read(path):
    try:
        read_itk_file(path)
    except InputError:
        return True
    return False


@pytest.mark.parametrize(("spoil", "word"), [(damaged, "Uncompress failed"), (misread, "Cannot parse file")])
def test_a_library_says_nothing_on_standard_error(spoil, word, tmp_path, capfd):
    path = spoil(tmp_path / "x.mha")
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    with contextlib.suppress(RuntimeError):
        reader.Execute()
    # Otherwise what follows shows nothing.
    assert word in capfd.readouterr().err
    assert read(path)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_compressed_voxels_that_are_damaged_are_no_image(tmp_path):
    """SimpleITK gives an image of them, whatever it holds."""
    path = damaged(tmp_path / "x.mha")
    assert SimpleITK.ReadImage(str(path)).GetSize() == (10, 9, 8)
    with pytest.raises(InputError, match="compressed voxels are damaged"):
        read_itk_file(path)
    # Whole streams of too few voxels, and of too many, are none either.
    whole = tmp_path / "y.mha"
    image = SimpleITK.GetImageFromArray(np.random.default_rng(1).normal(size=(8, 9, 10)).astype(np.float32))
    SimpleITK.WriteImage(image, str(whole), useCompression=True)
    assert np.array_equal(read_itk_file(whole).data, SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0))
    path.write_bytes(whole.read_bytes().replace(b"NDims = 3\n", b"NDims = 3\nHeaderSize = 9\n"))
    with pytest.raises(InputError, match="behind a header of '9' bytes"):
        read_itk_file(path)
    for size in (b"10 9 9", b"10 9 7"):
        path.write_bytes(whole.read_bytes().replace(b"10 9 8", size))
        with pytest.raises(InputError, match="bytes came out of them"):
            read_itk_file(path)


def test_threads_that_read_at_once_give_standard_error_back(tmp_path, capfd):
    paths = [misread(tmp_path / f"{i}.mha") for i in range(4)]
    threads = [threading.Thread(target=lambda: [read(path) for path in paths * 5]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capfd.readouterr() == ("", "")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_process_without_standard_error_reads(tmp_path):
    whole = tmp_path / "whole.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.float32)), str(whole))
    child = os.fork()
    if child == 0:
        os.close(2)
        try:
            os._exit(0 if read_itk_file(whole).data.shape == (6, 5, 4) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
